"""All settings, one frozen dataclass per concern; YAML, command line and notebooks fill these.

Where the paper's text and its released code differ, the difference is one field of `ModelConfig`.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from dumenet.errors import DumenetError, shown, unknown


@dataclass(frozen=True)
class DataConfig:
    """Which images."""

    source: str = "factory"  # "factory", "digits", or a folder (MVTec layout or CIFAR-10)
    categories: tuple[str, ...] = ("all",)  # MVTec layout: names, or "all"
    normals: str = "01234"  # ten-class protocols: the five classes that count as normal
    per_class_train: int | None = None  # ten-class protocols: random training images a class; None: all
    per_class_test: int | None = None  # ten-class protocols: random test images a class; None: all
    seed: int = 0  # of that choice, and of the digits' split; apart from the seed of training
    contamination: float = 0.0  # share of defective images in the training set: moved there from the test set
    contamination_reserve: float = 0.0  # take at least so many out of the test set; for levels on one test set
    validation_class: str | None = None  # ten-class protocols: a normal class, or "last", that plays the anomaly in a
    # test set of training images, for choosing settings


@dataclass(frozen=True)
class FeatureConfig:
    """Which frozen features."""

    backbone: str = "tf_efficientnet_lite0"  # any timm name; this one's weights come with the install
    weights: str = "pretrained"  # "pretrained", "random" (for a lesson), or a file with a state dict
    stages: tuple[int, ...] = (0, 1, 2, 3)  # timm `out_indices`, strides 2 to 16
    image_size: int = 224  # pixels; images are resized straight to a square
    grid: int = 14  # every stage is resized to grid x grid, then concatenated
    align: Literal["area", "bilinear"] = "area"  # how: the mean over each cell, or the paper's bilinear samples
    batch_size: int = 16  # images a backbone pass
    runtime: Literal["torch", "onnx", "openvino"] = "torch"  # what computes them for the cache: torch as it is, or an
    # inference engine on the CPU (extras `fast`, `openvino`), equal to 1e-3 and cached apart


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and each point on which the paper's text and its released code part ways."""

    name: Literal["dumenet", "uniad", "mlp", "conv", "gaussian"] = "dumenet"
    preset: Literal["described", "released"] = "described"  # the defaults of the four options below it
    decoder_reads: Literal["memory", "encoder"] = "memory"  # what every decoder layer attends to
    spatial_layout: Literal["map", "released"] = "map"  # true 14 x 14 maps, or the release's unpermuted view
    spatial_similarity: Literal["ssim", "dot"] = "ssim"  # of a map and a slot; the paper's, or the channel memory's
    target: Literal["standardised", "raw", "sigmoid"] = "standardised"  # what is reconstructed
    neck: Literal["plain", "cbam"] = "plain"  # cbam: a trainable attention before the target
    memory_mode: Literal["both", "channel", "spatial", "none"] = "both"
    fusion_mode: Literal["concat", "add", "multiply", "attention", "gate", "add_linear", "weighted_sum"] = "concat"
    channel_memory_size: int = 256  # slots M of the channel memory
    spatial_memory_size: int = 256  # slots M of the spatial memory
    hidden_dim: int = 128  # D
    encoder_layers: int = 1
    decoder_layers: int = 2
    heads: int = 4
    ffn_dim: int = 768
    dropout: float = 0.0
    jitter: float = 20.0  # scale of the noise on the input tokens while training; 0: none
    neighbour_mask: tuple[Literal["encoder", "decoder_first", "decoder_second"], ...] = ()  # which attentions
    neighbour_size: int = 7  # a token may not attend to the square of this width around itself


@dataclass(frozen=True)
class TrainConfig:
    """How to train. `recipe` sets the defaults of the fields below it."""

    recipe: Literal["standard", "paper"] = "standard"  # ours, in minutes on a laptop; the published one
    steps: int | None = 3200  # batches; the budget does not depend on how many images there are
    epochs: int | None = None  # passes over the images, where that is the budget; then `steps` is None
    batch_size: int = 8
    lr: float = 1e-3
    schedule: Literal["stable", "onecycle", "step"] = "stable"  # see `train.make_schedule`
    step_epoch: int = 500  # schedule "step": the learning rate is divided by 10 every so many epochs
    clip: float = 1.0  # largest norm of the gradient
    holdout: float = 0.1  # share of normal training images kept out of training, for thresholds
    weight_decay: float = 1e-4
    seed: int = 0
    device: str = "auto"  # "auto", "cpu", "cuda", "mps"
    precision: Literal["auto", "fp32", "bf16"] = (
        "auto"  # of the forward pass; auto: bf16 where the processor is fast at it
    )


@dataclass(frozen=True)
class EvalConfig:
    """How to score."""

    error: Literal["mahalanobis", "norm"] = (
        "mahalanobis"  # length of the error: in its normal spread, or the paper's L2
    )
    pooling: Literal["max", "mean", "std", "top1"] = "max"  # from anomaly map to image score
    quantile: float = 0.99  # chance that a normal image scores lower: above it the verdict is "anomalous"
    batch_size: int = 32
    bootstrap: int = 1000  # resamples for the 95 % interval


@dataclass(frozen=True)
class Config:
    """Everything a run needs."""

    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)


CONFIGS = Path(__file__).parent / "configs"  # YAML files that come with the package

# What a preset or recipe sets, unless the user sets the field as well (facts: paper page, released config).
PRESETS: dict[tuple[type, str], dict[str, dict[str, Any]]] = {
    (ModelConfig, "preset"): {
        "described": {},
        "released": {"decoder_reads": "encoder", "spatial_layout": "released", "target": "sigmoid"},
    },
    (TrainConfig, "recipe"): {
        "standard": {},
        "paper": {
            "steps": None,
            "epochs": 700,
            "lr": 1e-4,
            "schedule": "step",
            "step_epoch": 500,
            "clip": 0.1,
            "holdout": 0.0,
            "precision": "fp32",
        },
    },
}


def config_from_dict(values: dict[str, Any], cls: type = Config, where: str = "config") -> Any:
    """Build the dataclass `cls` from nested plain values, presets and recipes applied.

    Raises:
        DumenetError: unknown key (names the nearest), wrong type, or a value outside its choices.
    """
    if not isinstance(values, dict):
        raise DumenetError(f"{where} must be a mapping of settings, not {shown(values)}.")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise unknown(f"setting in {where}", key, hints)
    for (owner, key), presets in PRESETS.items():
        if owner is cls:
            usual = presets.get(str(values.get(key)), {})
            if values.get("steps") is not None:  # a budget of one's own replaces the recipe's
                usual = {k: v for k, v in usual.items() if k != "epochs"}
            values = usual | values
    if cls is TrainConfig:
        if values.get("steps") is not None and values.get("epochs") is not None:
            raise DumenetError(f"{where}.steps and {where}.epochs are both set: the budget is one of them.")
        if values.get("epochs") is not None:
            values = values | {"steps": None}
        elif "steps" in values and values["steps"] is None:
            raise DumenetError(f"{where} needs a budget: set {where}.steps or {where}.epochs.")
    made = {key: convert(value, hints[key], f"{where}.{key}") for key, value in values.items()}
    return _validate(cls(**made), where)


def convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotated type `hint`, or one sentence saying why not."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return config_from_dict(value, hint, where)
    if origin is Literal:
        if value not in args:
            raise unknown(f"value for {where}", value, args)
        return value
    if origin is types.UnionType:  # `int | None`, or a union whose first member is the one that text can give
        return None if value is None and type(None) in args else convert(value, args[0], where)
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(convert(item, args[0], where) for item in items)
    if hint is Path and isinstance(value, str):
        value = Path(value)
    if hint is str and isinstance(value, int) and not isinstance(value, bool):  # YAML reads 56789 as a number
        value = str(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-3 as a string
        try:
            value = float(value)
        except ValueError:
            pass
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e300:
        value = float(value)
    if not isinstance(value, hint) or isinstance(value, bool) and hint is not bool:
        raise DumenetError(f"{where} must be of type {hint.__name__}, not {shown(value)}.")
    return value


_AT_LEAST_ONE = (
    "image_size", "batch_size", "channel_memory_size", "spatial_memory_size", "hidden_dim", "heads",
    "ffn_dim", "neighbour_size", "epochs", "step_epoch", "per_class_train", "per_class_test", "encoder_layers",
    "decoder_layers",
)  # fmt: skip
_AT_MOST = 1_000_000  # of those: more can only be a slip, and would be refused by the memory alone
_RANGES = {
    "dropout": (0, 0.99), "holdout": (0, 0.9), "quantile": (0.5, 0.9999), "lr": (1e-9, 10), "clip": (1e-9, 1e9),
    "weight_decay": (0, 10), "jitter": (0, 1e6), "seed": (0, 2**32 - 1), "grid": (2, 256),
    "contamination": (0, 0.5), "contamination_reserve": (0, 0.5), "bootstrap": (0, 100_000),
}  # fmt: skip


def _validate(config: Any, where: str) -> Any:
    """`config` itself if its numbers make sense."""
    for name, value in vars(config).items():
        if name in _AT_LEAST_ONE and value is not None and value < 1:
            raise DumenetError(f"{where}.{name} must be at least 1, not {shown(value)}.")
        if name in _AT_LEAST_ONE and value is not None and value > _AT_MOST:
            raise DumenetError(f"{where}.{name} must be at most {_AT_MOST:,}, not {shown(value)}.")
        low, high = _RANGES.get(name, (None, None))
        if low is not None and not low <= value <= high:
            raise DumenetError(f"{where}.{name} must lie between {low} and {high}, not {shown(value)}.")
    if isinstance(config, ModelConfig) and config.hidden_dim % (2 * config.heads):
        raise DumenetError(
            f"{where}.hidden_dim must be a multiple of 2 x heads ({2 * config.heads}), not {config.hidden_dim}."
        )
    if isinstance(config, TrainConfig) and config.steps is not None and not 1 <= config.steps <= _AT_MOST:
        raise DumenetError(f"{where}.steps must lie between 1 and {_AT_MOST:,}, not {shown(config.steps)}.")
    if isinstance(config, FeatureConfig):
        stages = list(config.stages)
        if not stages or min(stages) < 0 or max(stages) > 99 or stages != sorted(set(stages)):
            raise DumenetError(
                f"{where}.stages must be rising numbers from 0, for example [0, 1, 2, 3], not {shown(stages)}."
            )
    return config


class _PlainLoader(yaml.SafeLoader):
    """Plain values only; a key given twice is an error, where YAML's reader would keep the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for i, key in enumerate(keys):
            if any(key.value == earlier.value for earlier in keys[:i]):
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def load_config(path: str | Path) -> dict[str, Any]:
    """Plain values of a YAML file, to be merged with overrides and passed to `config_from_dict`.

    Raises:
        DumenetError: no such file, not YAML, or tags that construct objects.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _PlainLoader)
    except FileNotFoundError:
        raise DumenetError(
            f"No configuration file at {path}: give a YAML file, or the name of one in dumenet/configs."
        ) from None
    except OSError as error:
        raise DumenetError(f"Cannot read the configuration {path}: {error.strerror}.") from None
    except RecursionError:
        raise DumenetError(f"{path} is not a plain YAML file: it nests lists or mappings too deep.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2024-13-01
        detail = " ".join(str(error).split())[:300].rstrip(".")
        raise DumenetError(f"{path} is not a plain YAML file: {detail}.") from None
    if not isinstance(values or {}, dict):
        raise DumenetError(f"{path} must hold sections such as train: and model:, not {shown(values)}.")
    return values or {}


def merge(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`values` with dotted `overrides` ("train.epochs": 3) laid over them; the input stays as it was."""
    merged = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
    for dotted, value in overrides.items():
        section, _, key = dotted.partition(".")
        if not key:
            raise DumenetError(f"Setting {dotted!r} needs a section, for example train.epochs.")
        if merged.get(section) is None:  # an empty section of a YAML file is None
            merged[section] = {}
        if not isinstance(merged[section], dict):
            raise DumenetError(f"config.{section} must be a mapping of settings, not {shown(merged[section])}.")
        for other in {"steps", "epochs"} - {key} if dotted in ("train.steps", "train.epochs") else ():
            merged[section] = {k: v for k, v in merged[section].items() if k != other}  # the budget is one of them
        merged[section][key] = value
    return merged


def make_config(**overrides: Any) -> Config:
    """A `Config` from keyword overrides, with `__` for the dot: ``make_config(train__epochs=3)``."""
    return config_from_dict(merge({}, {k.replace("__", "."): v for k, v in overrides.items()}))


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values (tuples as lists) that `config_from_dict` reads back to an equal config."""
    plain = dataclasses.asdict(config)
    return {
        k: {a: list(b) if isinstance(b, tuple) else b for a, b in v.items()} if isinstance(v, dict) else v
        for k, v in plain.items()
    }
