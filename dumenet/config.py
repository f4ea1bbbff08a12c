"""All settings, one frozen dataclass per concern; YAML, command line and notebooks fill these.

Where the paper's text and its released code differ, the difference is one field of `ModelConfig`.
"""

import dataclasses
import json
import re
import typing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from dumenet.errors import DumenetError, shown, unknown

Several = BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) else [value])  # one is a list of one
Integer = Annotated[int, Field(strict=True)]  # neither 2.5 nor yes
Count = Annotated[Integer, Field(ge=1, le=1_000_000)]
Seed = Annotated[Integer, Field(ge=0, lt=2**32)]
Grid = Annotated[Integer, Field(ge=2, le=256)]
Names = Annotated[tuple[str, ...], Several]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Stages = Annotated[tuple[Annotated[Integer, Field(ge=0, lt=100)], ...], Several]


def up_to(most: float) -> Any:
    """The type of a number from 0 to `most`."""
    return Annotated[float, Field(ge=0, le=most)]


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a square or a rectangle."""
    return (size, size) if isinstance(size, int) else tuple(size)


SOURCES = ("factory", "digits", "elpv")  # data sets that a name stands for, see `dumenet.data.open_dataset`
PLACE = {"identity": False}  # metadata of a setting that says where: results do not depend on it, see `dumenet.run.Job`


class Settings:
    """What every dataclass of settings derives from: a number may stand for text (but quote 01234 in a YAML file, which
    reads it as octal), and no unknown key.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", coerce_numbers_to_str=True, arbitrary_types_allowed=True)


@dataclass(frozen=True)
class DataConfig(Settings):
    """Which images. A result is known by their content, not by how they were found."""

    source: str = field(default="factory", metadata=PLACE)  # one of SOURCES, or a folder or CSV (data/README.md)
    categories: Names = field(default=("all",), metadata=PLACE)  # names, or "all"
    normal_names: Names = field(default=(), metadata=PLACE)  # more names for folders (or labels) of normal images
    pixel_range: tuple[Finite, Finite] | None = None  # values of black and white in files of more than 8 bits; None:
    # 0 and 65535, and floats are refused
    normals: str = field(default="01234", metadata=PLACE)  # ten-class protocols: the five classes that count as normal
    per_class_train: Count | None = None  # ten-class protocols: random training images a class; None: all
    per_class_test: Count | None = None  # ten-class protocols: random test images a class; None: all
    seed: Seed = 0  # of that choice, and of the digits' split; apart from the seed of training
    contamination: up_to(0.5) = 0.0  # share of defective images in the training set: moved there from the test set
    contamination_reserve: up_to(0.5) = 0.0  # take at least so many out of the test set; for levels on one test set
    validation_class: str | None = None  # ten-class protocols: a normal class, or "last", that plays the anomaly in a
    # test set of training images, for choosing settings

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if self.pixel_range and not self.pixel_range[0] < self.pixel_range[1]:
            raise DumenetError(f"data.pixel_range must be [black, white] with black < white, not {self.pixel_range}.")
        return self


@dataclass(frozen=True)
class FeatureConfig(Settings):
    """Which frozen features."""

    backbone: str = "tf_efficientnet_lite0"  # any timm name; this one's weights come with the install
    weights: str = "pretrained"  # "pretrained", "random" (for a lesson), or a file with a state dict
    stages: Stages = (0, 1, 2, 3)  # timm `out_indices`, strides 2 to 16
    image_size: Count | tuple[Count, Count] = 224  # pixels: a square, or [height, width]; images are resized straight
    grid: Grid = 14  # cells along the shorter side; every stage is resized to `cells`, then concatenated
    tiles: tuple[Count, Count] = (1, 1)  # rows and columns of tiles that a photograph is cut into; each is an image of
    # its own for the network, and their maps are joined: for defects that are lost when a large photograph is resized
    align: Literal["area", "bilinear"] = "area"  # how: the mean over each cell, or the paper's bilinear samples
    batch_size: Count = 16  # images a backbone pass
    runtime: Literal["auto", "torch", "onnx"] = field(default="auto", metadata=PLACE)  # what computes them for the
    # cache, equal to 1e-3 of their range: torch, or ONNX Runtime on the CPU (extra `fast`); "auto": torch on a GPU and
    # for few images, else ONNX Runtime where it is installed

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels of what the backbone sees."""
        return sides(self.image_size)

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the grid: cells are as square as they get."""
        return tuple(round(self.grid * side / min(self.shape)) for side in self.shape)

    @property
    def whole(self) -> tuple[int, int]:
        """Height and width in pixels of a photograph's anomaly map: that of a tile, or of all of them joined."""
        return tuple(count * side for count, side in zip(self.tiles, self.shape))

    @model_validator(mode="after")
    def _check(self) -> "FeatureConfig":
        stages = list(self.stages)
        if not stages or stages != sorted(set(stages)):
            raise DumenetError(
                f"features.stages must be rising numbers, for example [0, 1, 2, 3], not {shown(stages)}."
            )
        return self


@dataclass(frozen=True)
class ModelConfig(Settings):
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
    channel_memory_size: Count = 256  # slots M of the channel memory
    spatial_memory_size: Count = 256  # slots M of the spatial memory
    hidden_dim: Count = 128  # D
    encoder_layers: Count = 1
    decoder_layers: Count = 2
    heads: Count = 4
    ffn_dim: Count = 768
    dropout: up_to(0.99) = 0.0
    jitter: up_to(1e6) = 20.0  # scale of the noise on the input tokens while training; 0: none
    neighbour_mask: Annotated[
        tuple[Literal["encoder", "decoder_first", "decoder_second"], ...], Several
    ] = ()  # which attentions
    neighbour_size: Count = 7  # a token may not attend to the square of this odd width around itself

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        released = {"decoder_reads": "encoder", "spatial_layout": "released", "target": "sigmoid"}
        return released | values if isinstance(values, dict) and values.get("preset") == "released" else values

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.hidden_dim % (2 * self.heads):
            raise DumenetError(
                f"model.hidden_dim must be a multiple of 2 x heads ({2 * self.heads}), not {self.hidden_dim}."
            )
        return self


# The published recipe, but for its budget of 700 epochs (facts: paper page, released config).
PAPER_RECIPE = {
    "optimizer": "adamw",
    "lr": 1e-4,
    "schedule": "step",
    "step_epoch": 500,
    "clip": 0.1,
    "holdout": 0.0,
    "precision": "fp32",
}


@dataclass(frozen=True)
class TrainConfig(Settings):
    """How to train. `recipe` sets the defaults of the fields below it."""

    recipe: Literal["standard", "paper"] = "standard"  # ours, in minutes on a laptop; the published one
    steps: Count | None = 2400  # batches; the budget does not depend on how many images there are
    epochs: Count | None = None  # passes over the images, where that is the budget; then `steps` is None
    batch_size: Count = 8
    optimizer: Literal["muon", "adamw"] = "muon"  # see dumenet/optimizer.py; the paper's is AdamW
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    schedule: Literal["stable", "onecycle", "step"] = "stable"  # see `train.make_schedule`
    step_epoch: Count = 500  # schedule "step": the learning rate is divided by 10 every so many epochs
    clip: Annotated[float, Field(gt=0, le=1e9)] = 1.0  # largest norm of the gradient
    holdout: up_to(0.9) = 0.1  # share of normal training images kept out of training, for thresholds
    weight_decay: up_to(10) = 1e-4
    seed: Seed = 0
    start: str | None = None  # a checkpoint whose weights training goes on from, by a schedule of its own; the
    # hold-out is drawn anew, so the checkpoint may have seen part of it
    log: Annotated[tuple[Literal["csv", "tensorboard"], ...], Several] = field(default=(), metadata=PLACE)  # loss and
    # learning rate after each epoch, in a folder `log` beside the checkpoint (of a Detector, in build/)
    device: str = field(default="auto", metadata=PLACE)  # "auto", "cpu", "cuda", "mps"
    precision: Literal["auto", "fp32", "bf16"] = (
        "auto"  # of the forward pass; auto: bf16 where the processor is fast at it
    )

    @model_validator(mode="before")
    @classmethod
    def _with_recipe(cls, values: Any) -> Any:
        """The recipe's defaults, and one budget: a given one replaces the recipe's."""
        if not isinstance(values, dict):
            return values
        given = {k for k in ("steps", "epochs") if values.get(k) is not None}
        if len(given) == 2:
            raise DumenetError("train.steps and train.epochs are both set: the budget is one of them.")
        if values.get("recipe") == "paper":
            budget = {} if given else {"epochs": 700}
            values = PAPER_RECIPE | budget | values
            given = given or {"epochs"}
        if not given and "steps" in values:
            raise DumenetError("There is no budget: set train.steps or train.epochs.")
        return {**values, "steps": None} if "epochs" in given else values


@dataclass(frozen=True)
class EvalConfig(Settings):
    """How to score."""

    error: Literal["mahalanobis", "norm"] = (
        "mahalanobis"  # length of the error: in its normal spread, or the paper's L2
    )
    pooling: Literal["max", "mean", "std", "top1"] = "max"  # from anomaly map to image score
    quantile: Annotated[float, Field(ge=0.5, lt=1)] = (
        0.99  # chance that a normal image scores lower: above it the verdict is "anomalous"
    )
    batch_size: Count = 32
    bootstrap: Annotated[Integer, Field(ge=0, le=100_000)] = 1000  # resamples for the 95 % interval


@dataclass(frozen=True)
class Config(Settings):
    """Everything a run needs."""

    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)


_adapter = cache(TypeAdapter)  # to make one takes a tenth of a second
CONFIGS = Path(__file__).parent / "configs"  # YAML files that come with the package


def config_from_dict(values: dict[str, Any], kind: Any = Config, where: str = "config") -> Any:
    """`values` as `kind`: a dataclass of settings from nested plain values, presets and recipes applied, or any type.

    Raises:
        DumenetError: unknown key (names the nearest), wrong type, or a value outside its choices or range.
    """
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        first = errors[-1 if isinstance(errors[0]["input"], list) else 0]  # of a number or several: of what was given
    path = [part for part in first["loc"] if str(part).isalnum() or str(part).isidentifier()]
    *parents, key = path or [""]
    place, value = ".".join([where, *map(str, path)]), first["input"]
    if first["type"] == "unexpected_keyword_argument":
        for parent in parents:
            kind = typing.get_type_hints(kind)[parent]
        raise unknown(f"setting in {'.'.join([where, *parents])}", key, typing.get_type_hints(kind))
    if first["type"] == "literal_error":
        raise unknown(f"value for {place}", value, re.findall("'([^']*)'", first["ctx"]["expected"]))
    raise DumenetError(f"{place} {re.sub('^(Input|Tuple|List) should', 'must', first['msg'])}, not {shown(value)}.")


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
        budget = dotted in ("train.steps", "train.epochs") and value is not None
        for other in {"steps", "epochs"} - {key} if budget else ():
            merged[section] = {k: v for k, v in merged[section].items() if k != other}  # the budget is one of them
        merged[section][key] = value
    return merged


def make_config(**overrides: Any) -> Config:
    """A `Config` from keyword overrides, with `__` for the dot: ``make_config(train__epochs=3)``."""
    return config_from_dict(merge({}, {k.replace("__", "."): v for k, v in overrides.items()}))


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values (tuples as lists) that `config_from_dict` reads back to an equal config."""
    return _adapter(type(config)).dump_python(config, mode="json")


def counted(settings: Any) -> dict[str, Any]:
    """Settings as JSON gives them back, without those that say where (`PLACE`): what a result depends on."""
    found = {}
    for f in dataclasses.fields(settings):
        if f.metadata.get("identity", True):
            value = getattr(settings, f.name)
            plain = dataclasses.is_dataclass(value)
            found[f.name] = counted(value) if plain else json.loads(json.dumps(value, default=str))
    return found
