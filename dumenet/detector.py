"""Five lines of Python: normal photographs in, scores, verdicts and heatmaps of new ones out.

    detector = dumenet.Detector().fit("photos/part/train/good")
    result = detector.predict("new/001.png")
    result.score, result.anomalous, result.map, result.overlay()
    detector.save("part.pt")
    detector = dumenet.load("part.pt")

`dumenet predict` is made of it. The graph of `dumenet export` holds the same computation; to run one takes no torch, so
that a verdict is there in a second.
"""

import inspect
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Picture

from dumenet import engine
from dumenet.config import EvalConfig, FeatureConfig, config_from_dict, merge
from dumenet.data import (  # fmt: skip
    Sample,
    check_range,
    cut,
    find_images,
    joined,
    load_image,
    locate,
    photograph,
    read_ahead,
    read_folder,
)
from dumenet.data.folders import subfolders
from dumenet.errors import DumenetError, unknown
from dumenet.overlay import overlay

if TYPE_CHECKING:
    from dumenet.checkpoint import Trained
    from dumenet.features import Backbone
    from dumenet.methods import Method

BATCH = 8  # images that an engine or a method gets at once
HELD = 10  # of a method without thresholds of its own every tenth normal image is kept out for them; of few images more

Image = str | Path | np.ndarray
Run = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Result:
    """What a detector says of one image; without numbers where `problem` says why it could not be read."""

    name: str  # path of the file, or its place in the list
    sample: Sample = field(repr=False)
    score: float = math.nan
    threshold: float | None = None  # None where there were too few normal images for one
    category: str = "all"
    seen: np.ndarray | None = field(default=None, repr=False)  # (H, W, 3) uint8: the photograph as the network sees it
    grid: np.ndarray | None = field(default=None, repr=False)  # (H, W) float32: its anomaly map
    rank: float | None = None  # share of the normal training images that score lower, 0 to 1
    problem: str = ""

    @property
    def anomalous(self) -> bool | None:
        """Whether the score is above the threshold; None without one."""
        return None if self.threshold is None or self.problem else self.score > self.threshold

    @property
    def verdict(self) -> str:
        """ "anomalous", "normal", "no threshold" or "unreadable"."""
        found = {None: "no threshold", True: "anomalous", False: "normal"}[self.anomalous]
        return "unreadable" if self.problem else found

    @cached_property
    def photograph(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB as it was given."""
        return photograph(self.sample)

    @cached_property
    def map(self) -> np.ndarray:
        """(H, W) float32 anomaly map at the photograph's own shape, in units of the score."""
        height, width = self.photograph.shape[:2]
        return np.array(Picture.fromarray(self.grid).resize((width, height), Picture.Resampling.BILINEAR))

    def overlay(self) -> np.ndarray:
        """(H, W, 3) uint8: the photograph in grey under its map; the middle of the colours is the threshold."""
        return overlay(self.photograph, self.map, 2 * self.threshold if self.threshold else float(self.grid.max()))


class Detector:
    """A method that learns what is normal from photographs, and judges new ones.

    Args:
        method: a name of `dumenet.methods.METHODS`: "dumenet", "uniad", "padim", "patchcore", ...
        settings: of `dumenet train` or of the method, with `__` for the dot: ``Detector(train__steps=400)``,
            ``Detector("padim", seed=1)``; of any method, ``data__pixel_range=[0, 4095]`` for 12-bit images.

    Raises:
        DumenetError: unknown method or setting (names the nearest).
    """

    trained: "Trained | None" = None  # of this package's own networks
    compute: Run | None = None  # what `run` calls
    batch = BATCH
    _method: str | None = None  # none was given: loaded from a graph

    def __init__(self, method: str = "dumenet", **settings: Any):
        from dumenet.methods import METHODS, NETWORKS
        from dumenet.methods.network import NetworkSettings

        if method not in METHODS:
            raise unknown("method", method, METHODS)
        given = {k.replace("__", "."): v for k, v in settings.items()}
        about_data = {k: given.pop(k) for k in list(given) if k.startswith("data.")}
        if strange := [k for k in about_data if k != "data.pixel_range"]:
            raise unknown("setting of a detector's data", strange[0], ["data.pixel_range"])
        self.pixel_range = config_from_dict(merge({}, about_data)).data.pixel_range  # of its images, see `Sample`
        self.thresholds: dict[str, float] = {}  # image score by category, and "all"
        self.categories: list[str] = []  # found at prediction, where there are several
        self.normal: dict[str, list[float]] = {}  # scores of normal training images by category, and "all"
        self._method = method
        if method in NETWORKS:
            self._settings = NetworkSettings.of(
                config_from_dict(merge({}, {"model.name": method} | given | about_data))
            )
        else:
            kind = type(inspect.signature(METHODS[method]).parameters["settings"].default)
            flat = {k: v for k, v in given.items() if "." not in k}
            dotted = {k: v for k, v in given.items() if "." in k}
            self._settings = config_from_dict(merge(flat, dotted), kind, method)
        self._sees(self._settings.features)

    def _sees(self, features: FeatureConfig) -> None:
        self.size = features.shape  # height and width in pixels, to which images, or their tiles, are resized
        self.tiles = features.tiles

    def fit(self, images: Image | Sequence[Image], *, bgr: bool = False) -> "Detector":
        """Learn from normal photographs.

        Args:
            images: a folder of them; a data set, see `read_folder` (its training images, one category or several); or a
                list of paths and arrays, see `predict`.

        Raises:
            DumenetError: no images, one that cannot be read, or too few for the method.
        """
        from dumenet.methods import METHODS, NETWORKS

        if self._method is None:
            raise DumenetError("An exported detector cannot learn: make a new one by dumenet.Detector().")
        samples = [replace(s, pixel_range=self.pixel_range) for s in _normal(images, bgr)]
        check_range(samples)
        self.thresholds, self.normal = {}, {}  # of an earlier fit
        with tempfile.TemporaryDirectory(prefix="dumenet") as cache:
            method = METHODS[self._method](replace(self._settings, cache=Path(cache)))
            if self._method in NETWORKS:
                method.fit(cut(samples, self.tiles))
                self._take(method.trained, method.backbone)
            else:
                every = min(HELD, max(2, len(samples) // 5))
                method.fit(cut([s for i, s in enumerate(samples) if i % every or len(samples) == 1], self.tiles))
                self.compute = partial(_of_method, method)
                self._calibrate(samples[::every] if len(samples) > 1 else [])
        return self

    def predict(
        self, images: Image | Sequence[Image], category: str = "all", *, bgr: bool = False
    ) -> "Result | list[Result]":
        """Judge one image, or several.

        Args:
            images: a path or an array, which gives one result; a folder or a list, which give a list. Arrays are uint8
                RGB, 0 to 255: (H, W, 3), grey (H, W), or RGBA (H, W, 4), whose alpha is dropped; any shape H x W.
            category: of the images, where the detector knows several; "all" finds the category of each.
            bgr: the channels of arrays are in the order of OpenCV.

        Raises:
            DumenetError: not fitted yet, no image, an array of another kind, or a single image that cannot be read; of
                several, the result of such a one has the sentence in `problem`.
        """
        one = not isinstance(images, (list, tuple)) and not (isinstance(images, (str, Path)) and Path(images).is_dir())
        found = list(self.stream([images] if one else images, category, bgr=bgr))
        if one and found[0].problem:
            raise DumenetError(found[0].problem)
        return found[0] if one else found

    def stream(self, images: Image | Sequence[Image], category: str = "all", *, bgr: bool = False) -> Iterator[Result]:
        """As `predict`, result by result: threads decode the next images while these are computed."""
        known = list(dict.fromkeys(["all", *self.categories]))
        if category not in known and (self.categories or self.thresholds):
            raise unknown("category of this detector", category, known)
        number = known.index(category) - 1 if category in known else -1
        samples = [replace(s, pixel_range=self.pixel_range) for s in _samples(images, bgr)]
        if not samples:
            raise DumenetError("There are no images to judge: the list, or the folder, is empty.")

        def read(sample: Sample) -> np.ndarray | DumenetError:
            try:
                return np.stack([load_image(tile, self.size) for tile in cut([sample], self.tiles)])
            except DumenetError as error:
                return error

        count = math.prod(self.tiles)
        for part, decoded in read_ahead(read, samples, max(1, self.batch // count)):
            good = [image for image in decoded if isinstance(image, np.ndarray)]
            made = iter(())
            if good:
                batch = np.concatenate(good)
                maps, scores, found = self.run(batch, np.full(len(batch), number))
                found = [max(row, key=row.count) for row in found.reshape(-1, count).tolist()]  # the most frequent one
                scores = scores.reshape(-1, count).max(1)
                made = zip(joined(batch, self.tiles), joined(maps, self.tiles), scores, found)
            for sample, image in zip(part, decoded):
                if isinstance(image, DumenetError):
                    yield Result(sample.name, sample, problem=str(image))
                else:
                    yield self._result(sample, *next(made))

    def run(self, images: np.ndarray, category: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images (B, H, W, 3) uint8 of the detector's `size`, and the numbers of their categories (B,), -1 where they
        are to be found, to maps (B, H, W), scores (B,) and categories (B,).

        Raises:
            DumenetError: not fitted, or scores that are not finite.
        """
        if self.compute is None:
            raise DumenetError("This detector has seen no normal images yet: call fit first, or dumenet.load.")
        maps, scores, found = self.compute(images, category)
        if not np.isfinite(scores).all():
            raise DumenetError("The detector gives scores that are NaN or infinite: train it again.")
        return maps, scores, found

    def _result(self, sample: Sample, seen: np.ndarray, grid: np.ndarray, score: float, category: int) -> Result:
        name = self.categories[category] if category >= 0 else "all"
        threshold, usual = self.thresholds.get(name), self.normal.get(name)
        rank = float(np.mean(np.array(usual) < score)) ** math.prod(self.tiles) if usual else None  # of all tiles
        return Result(sample.name, sample, float(score), threshold, name, seen, grid, rank)

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint, which `dumenet.load`, `dumenet predict` and `dumenet export` read.

        Raises:
            DumenetError: not fitted, a method that keeps no file, or a disk that cannot take it.
        """
        from dumenet.checkpoint import save_checkpoint
        from dumenet.methods import NETWORKS

        if self.trained is None:
            raise DumenetError(
                f"There is no checkpoint to save: only a fitted or loaded {', '.join(NETWORKS)} has one; fit other "
                "methods where they are needed."
            )
        return save_checkpoint(self.trained, path)

    def _take(self, trained: "Trained", backbone: "Backbone") -> None:
        """Become the detector of a trained network."""
        from dumenet.graph import Graph, eager
        from dumenet.score import scores_of_normal

        self.trained, self.thresholds = trained, trained.thresholds
        self.categories = list(trained.spread.categories) if trained.spread else []
        self.normal = scores_of_normal(trained.normal, trained.config.evaluation) if trained.normal else {}
        self.batch = 1
        self._sees(trained.config.features)
        self.pixel_range = trained.config.data.pixel_range
        self.compute = partial(eager, Graph(trained, backbone))

    def _calibrate(self, held: Sequence[Sample]) -> None:
        """Thresholds from normal images that the method has not seen."""
        from dumenet.checkpoint import Normal
        from dumenet.score import thresholds

        if held:
            scores = []
            for _, images in read_ahead(lambda tile: load_image(tile, self.size), cut(held, self.tiles), BATCH):
                scores += self.run(np.stack(images), np.full(len(images), -1))[1].tolist()
            normal = Normal(["all"] * len(scores), [True] * len(scores), {"norm max": scores})
            self.thresholds = thresholds(normal, EvalConfig(error="norm"), self.tiles)
            self.normal = {"all": scores}


def load(path: str | Path, device: str = "auto") -> Detector:
    """The detector of a checkpoint, which torch runs, or of a file that `dumenet export` wrote, which ONNX Runtime
    runs on the CPU and without torch: maps are equal to 1e-3 of
    their range.

    Args:
        device: of torch.

    Raises:
        DumenetError: the file is missing, damaged or foreign, ONNX Runtime is not installed, or a device that it or
            this machine does not have.
    """
    path = Path(path)
    if path.suffix.lower() != engine.SUFFIX:
        from dumenet.checkpoint import load_backbone, load_checkpoint
        from dumenet.methods.network import NetworkSettings

        trained = load_checkpoint(path, device)
        detector = Detector(trained.config.model.name)
        detector._settings = NetworkSettings.of(trained.config)  # of another `fit`
        detector._take(trained, load_backbone(trained))
        return detector
    if device not in ("auto", "cpu"):
        raise DumenetError(f"{path} is run on the CPU, by ONNX Runtime: for the device {device} give its checkpoint.")
    content, metadata = engine.read(path)
    detector = Detector.__new__(Detector)
    try:
        detector.categories = [str(name) for name in metadata["categories"]]
        detector.thresholds = {str(k): float(v) for k, v in metadata["thresholds"].items()}
        detector.normal = {str(k): [float(x) for x in v] for k, v in metadata.get("normal", {}).items()}
        config = config_from_dict(metadata["config"])
        detector._sees(config.features)
        detector.pixel_range = config.data.pixel_range
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DumenetError(f"{path} holds features and no detector: write one with `dumenet export`.") from None
    session = engine.Engine(content)
    detector.compute = lambda images, category: tuple(session(images=images, category=category))
    return detector


def _of_method(method: "Method", images: np.ndarray, category: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of another method, which has no categories."""
    scores = method.score_arrays(images)
    return scores.maps, scores.image, np.full(len(images), -1)


def _normal(images: Image | Sequence[Image], bgr: bool) -> list[Sample]:
    """The normal photographs that `Detector.fit` is given."""
    if isinstance(images, (str, Path)):
        if not Path(images).is_dir() and Path(images).suffix.lower() != ".csv":
            raise DumenetError(f"{images} is no folder: give the folder of the normal photographs, or a list of them.")
        if any(Path(images).glob("*/train")) or locate(Path(images))[1]:
            return read_folder(images).train
        if (Path(images) / "train").is_dir():
            return [replace(s, category="all") for s in read_folder(images).train]
        if (good := Path(images) / "good").is_dir() and (others := [p.name for p in subfolders(images) if p != good]):
            raise DumenetError(
                f"{images} holds {others[0]} beside good: give {good}, to learn from normal photographs."
            )
    return _samples(images, bgr)


def _samples(images: Image | Sequence[Image], bgr: bool) -> list[Sample]:
    """Images of a folder, or of a list, as samples of one category."""
    if isinstance(images, (str, Path)):
        root, found = Path(images), find_images(Path(images))[0]
        return [Sample(file.relative_to(root).as_posix(), "all", "good", file) for file in found]
    if isinstance(images, np.ndarray) and images.ndim == 3:
        raise DumenetError("An array is one image, and a detector learns from several: give a list of them.")
    arrays = [image if isinstance(image, (str, Path)) else as_rgb(image, bgr) for image in images]
    return [
        Sample(str(k), "all", "good", a) if isinstance(a, np.ndarray) else Sample(str(a), "all", "good", Path(a))
        for k, a in enumerate(arrays)
    ]


def as_rgb(image: np.ndarray, bgr: bool = False) -> np.ndarray:
    """An array as (H, W, 3) uint8 RGB: grey (H, W) or (H, W, 1) is repeated, the alpha of (H, W, 4) dropped.

    Raises:
        DumenetError: an array of another type or shape; its scale could only be guessed.
    """
    image = np.asarray(image)
    fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
    if image.dtype != np.uint8 or not fits or not image.size:
        raise DumenetError(
            f"Image arrays must be uint8, 0 to 255, of shape (H, W, 3), (H, W) or (H, W, 4), not {image.dtype} of "
            f"shape {image.shape}: convert it first, for example (255 * image).round().astype('uint8') from 0..1."
        )
    image = image[:, :, None] if image.ndim == 2 else image
    image = image.repeat(3, axis=2) if image.shape[2] == 1 else image[:, :, :3]
    return image[:, :, ::-1] if bgr else image
