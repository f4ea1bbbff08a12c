"""This package's own networks as a method: DuMeNet, UniAD, the two shortcut networks and the Gaussian.

`dumenet train` and the tables train them here. One training serves both errors, every pooling and every quantile: the
checkpoint holds the spread and the scores of the normal images.

| setting | original | ours | why |
|---|---|---|---|
| width | 256 | 128 | minutes on two cores |
| target | UniAD: features as they come; DuMeNet's page: not said, its released code: their sigmoid | standardised,
  for both | |
| position embeddings | U(0, 1) | N(0, 1) | the loss falls sooner (docs/ARCHITECTURE.md) |
| UniAD's mask | 7 x 7 of 14 x 14, in all three attentions | the same; 3 x 3 on CIFAR-10's grid of 7 | |
| CIFAR-10 | a fifth stage, 720 channels in all, at 14 x 14 | stage 4 alone at 7 x 7, two + two layers, mean pooling,
  chosen for DuMeNet, used for both (table `recipe`) | minutes on two cores |
| model, train, evaluation | see `dumenet.config` | the same dataclasses | one place for each setting |
| backbone | EfficientNet-B4 | EfficientNet-Lite0 | its weights come with the installation |
| layers, heads, FFN, dropout | 4 + 4, 8, 1,024, 0.1 | 1 + 2, 4, 768, none | better after the same seconds |
| training | DuMeNet 700 epochs, UniAD 1,000, lr 1e-4 in steps | 2,400 steps of Muon, lr 1e-3 up, level, down
  (`recipe`) | |
| held-out images | none | a tenth, for thresholds | |
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dumenet import parallel
from dumenet.checkpoint import Trained, load_checkpoint, save_checkpoint
from dumenet.config import PLACE, Config, DataConfig, EvalConfig, ModelConfig, TrainConfig, counted, to_dict
from dumenet.data import Dataset, fingerprint
from dumenet.errors import DumenetError
from dumenet.methods.protocol import Common, FeatureMethod, Sample, Scores
from dumenet.metrics import image_score
from dumenet.score import calibrate, evaluated, score
from dumenet.train import split_holdout, train


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(Common):
    """A `Config` as the settings of a method: `seed` and `device` stand for those of `train`."""

    square = False

    data: DataConfig = field(default_factory=DataConfig, metadata=PLACE)  # for the checkpoint
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)

    @classmethod
    def of(cls, config: Config) -> "NetworkSettings":
        """The settings that give `config` back."""
        own = replace(config.train, seed=TrainConfig.seed, device=TrainConfig.device)
        return cls(**vars(config) | {"train": own}, seed=config.train.seed, device=config.train.device)

    @property
    def config(self) -> Config:
        """What the network is built, trained and saved with."""
        device = self.device if self.train.device == TrainConfig.device else self.train.device
        own = replace(self.train, seed=self.seed, device=device)
        return Config(self.data, self.features, self.model, own, self.evaluation)


class Network(FeatureMethod):
    """See the module. `trained` is what `dumenet.train` returns; memory: the model, and a batch of features.

    `on_epoch` is called with the epoch's number, and may `score`: for looking on, never for choosing.
    """

    on_epoch: Callable[[int], None] | None = None
    trained: Trained

    def __init__(self, settings: NetworkSettings = NetworkSettings()):
        self.config = settings.config
        self.settings = replace(settings, device=self.config.train.device)
        self.seconds: dict[str, float] = {}

    def fit(self, train_images: Sequence[Sample]) -> None:
        """Train for the fixed budget; then the spread of the errors, and thresholds. No test image is used.

        Of several processes that train together the first one alone ends with a spread.
        """
        # Too small for the pooling? Better said before the training than after it.
        image_score(np.zeros((1, *self.config.features.shape)), self.config.evaluation.pooling)
        start = time.perf_counter()
        features = self.features(train_images)
        trained_from, spent = time.perf_counter(), time.process_time()
        keep, held = split_holdout(features, self.config.train.holdout, self.config.train.seed)

        def look(epoch: int, model: nn.Module) -> None:
            self.trained = Trained(self.config, model, self.backbone.stage_channels)
            self.on_epoch(epoch)

        self.trained = train(
            self.config, keep, self.backbone.stage_channels, self.settings.state, look if self.on_epoch else None,
            self.settings.progress, self._origin(train_images),
        )  # fmt: skip
        if parallel.rank() == 0:
            calibrate(self.trained, keep, held)
        seconds = time.perf_counter() - trained_from + self.trained.earlier
        spent = time.process_time() - spent  # of an interrupted training the last part alone
        self.trained.origin |= {"seconds": seconds, "cpu_seconds": spent}
        self.seconds = {"train features": trained_from - start, "train": seconds, "train cpu": spent}

    def score(self, test: Sequence[Sample]) -> Scores:
        """Length of the error by `evaluation.error`, upsampled; image scores by `evaluation.pooling`."""
        return score(self.trained, self.features(test))

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        save_checkpoint(self.trained, path)

    def load(self, path: Path, train_images: Sequence[Sample]) -> bool:
        """Take the model of an earlier `fit` on the same images with the same settings but evaluation, which the file
        then holds; False: none.
        """
        try:
            trained = load_checkpoint(path, self.config.train.device)
        except DumenetError:
            return False
        theirs, own = (
            [counted(part) for part in (c.features, c.model, c.train)] for c in (trained.config, self.config)
        )
        if theirs != own or any(trained.origin.get(k) != v for k, v in self._origin(train_images).items()):
            return False
        self.trained = evaluated(replace(trained, config=replace(self.config, evaluation=trained.config.evaluation)), {
            f"evaluation.{k}": v for k, v in to_dict(self.config)["evaluation"].items()
        })  # fmt: skip
        if trained.config.evaluation != self.config.evaluation and parallel.rank() == 0:
            self.save(path)  # so that `predict` and `export` judge as the last `train` asked
        self.seconds = {"train": trained.origin["seconds"]}
        if "cpu_seconds" in trained.origin:
            self.seconds["train cpu"] = trained.origin["cpu_seconds"]
        return True

    def facts(self) -> dict[str, Any]:
        """What a record says of the trained network."""
        t = self.trained
        return {
            "precision": t.origin.get("precision"), "backbone": self.backbone.key, "history": t.history,
            "spread_mb": t.spread and round(t.spread.megabytes, 1), "thresholds": t.thresholds,
            "parameters": sum(p.numel() for p in t.model.parameters()),
        }  # fmt: skip

    def _origin(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return {"data": fingerprint(Dataset("", list(samples), [])), "backbone": self.backbone.key}
