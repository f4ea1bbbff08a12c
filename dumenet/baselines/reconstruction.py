"""This package's own networks in the protocol: DuMeNet, UniAD, the two shortcut networks and the Gaussian.

Nothing is computed here that `dumenet.experiment.run` would not compute: features from the cache, `train` on those that
are not held out, `score`. The same settings give the same scores, and tables can hold these models beside the others.

| setting | original | ours | why |
|---|---|---|---|
| width | 256 | 128 | minutes on two cores |
| target | UniAD: features as they come; DuMeNet's page: not said, its released code: their sigmoid | standardised, for both | it trains in fewer epochs |
| position embeddings | U(0, 1) | N(0, 1) | the loss falls sooner (docs/ARCHITECTURE.md) |
| UniAD's mask | 7 x 7 of 14 x 14, in all three attentions | the same; 3 x 3 on CIFAR-10's grid of 7 | |
| CIFAR-10 | a fifth stage, 720 channels in all, at 14 x 14 | stage 4 alone at 7 x 7, two + two layers, mean pooling, chosen for DuMeNet, used for both (table `recipe`) | minutes on two cores |
| model, train, evaluation | see `dumenet.config` | the same dataclasses | one place for each setting |
| backbone | EfficientNet-B4 | EfficientNet-Lite0 | its weights come with the installation |
| layers, heads, FFN, dropout | 4 + 4, 8, 1,024, 0.1 | 1 + 2, 4, 768, none | better after the same seconds |
| training | DuMeNet 700 epochs, UniAD 1,000, lr 1e-4 in steps | 3,200 steps, lr 1e-3 up, level, down (`recipe`) | minutes on two cores |
| seed, device | in `train` | `seed` and `device` of the method | every method is asked for a seed in the same way |
| held-out images | none | a tenth, for thresholds | the same training set as in `run` |
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from dumenet.baselines.protocol import Common, Sample, Scores, features_of
from dumenet.checkpoint import Trained
from dumenet.config import Config, EvalConfig, ModelConfig, TrainConfig
from dumenet.errors import DumenetError
from dumenet.score import calibrate, score
from dumenet.train import split_holdout, train


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings(Common):
    """See the table above."""

    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)


class Reconstruction:
    """See the module. `trained` is what `dumenet.train` returns; memory: the model, and a batch of features.

    `on_epoch` is called with the epoch's number, and may `score`: for looking on, never for choosing.
    """

    on_epoch: Callable[[int], None] | None = None

    def __init__(self, settings: ReconstructionSettings = ReconstructionSettings()):
        for name in ("seed", "device"):
            inner, outer = getattr(settings.train, name), getattr(settings, name)
            if inner not in (outer, getattr(TrainConfig(), name)):
                raise DumenetError(
                    f"train.{name} is {inner!r} and {name} is {outer!r}: set {name} alone, it is used for both."
                )
        self.settings = replace(settings, train=replace(settings.train, seed=settings.seed, device=settings.device))
        self.config = Config(
            **{part: getattr(self.settings, part) for part in ("features", "model", "train", "evaluation")}
        )

    def fit(self, samples: Sequence[Sample]) -> None:
        """Train for the fixed number of epochs."""
        features, stage_channels = features_of(samples, self.settings)
        keep, held = split_holdout(features, self.config.train.holdout, self.config.train.seed)

        def look(epoch: int, model: nn.Module) -> None:
            self.trained = Trained(self.config, model, stage_channels)
            self.on_epoch(epoch)

        origin = {"data": hashlib.sha256("".join(s.name for s in samples).encode()).hexdigest()}
        self.trained = train(
            self.config, keep, stage_channels, self.settings.state, look if self.on_epoch else None,
            self.settings.progress, origin,
        )  # fmt: skip
        if self.config.evaluation.error != "norm":
            calibrate(self.trained, keep, held)

    def score(self, test: Sequence[Sample]) -> Scores:
        """Length of the error by `evaluation.error`, upsampled; image scores by `evaluation.pooling`."""
        features, _ = features_of(test, self.settings)
        return score(self.trained, features)
