"""The adapter: nothing but what `experiment.run` does."""

import numpy as np
import pytest

from dumenet.baselines.reconstruction import Reconstruction, ReconstructionSettings
from dumenet.config import FeatureConfig, ModelConfig, TrainConfig
from dumenet.data import open_dataset
from dumenet.errors import DumenetError
from dumenet.experiment import Folders, run


@pytest.mark.parametrize("name", ["dumenet", "uniad", "gaussian"])
def test_scores_are_those_of_a_run(name, tiny, tree, tmp_path):
    config = tiny(data__source=str(tree), model__name=name, train__seed=3)
    outcome = run(config, Folders(tmp_path / "run"), progress=False)
    method = Reconstruction(ReconstructionSettings(
        features=config.features, model=config.model, train=config.train, evaluation=config.evaluation, seed=3,
        cache=tmp_path / "other",
    ))  # fmt: skip
    dataset = open_dataset(str(tree))
    method.fit(dataset.train)
    scores = method.score(dataset.test)
    assert np.array_equal(scores.image, outcome.scores.image) and np.array_equal(scores.maps, outcome.scores.maps)


def test_two_seeds_or_devices_at_odds_are_an_error():
    for train in (TrainConfig(seed=5), TrainConfig(device="cuda")):
        with pytest.raises(DumenetError, match="it is used for both"):
            Reconstruction(ReconstructionSettings(train=train, seed=4))


@pytest.mark.parametrize("name", ["dumenet", "uniad", "gaussian"])
def test_finds_defects(parts, judged, name):
    """On parquet: 400 steps of a small network learn a texture, not yet an object's parts and edges."""
    small = {} if name == "gaussian" else {"encoder_layers": 1, "decoder_layers": 1, "ffn_dim": 128, "heads": 4}
    settings = ReconstructionSettings(
        features=FeatureConfig(image_size=128, grid=8), train=TrainConfig(epochs=100, lr=3e-3),
        model=ModelConfig(name=name, channel_memory_size=64, spatial_memory_size=64, **small), cache=parts[1],
    )  # fmt: skip
    judged(Reconstruction(settings), "parquet")
