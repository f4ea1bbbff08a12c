"""This package's own networks as a method: alone they do what a job does."""

import numpy as np
import pytest

from dumenet.data import open_dataset
from dumenet.methods.network import Network, NetworkSettings
from dumenet.run import Folders, run


@pytest.mark.parametrize("name", ["dumenet", "gaussian"])
def test_scores_are_those_of_a_job_and_of_what_it_saved(name, tiny, tree, tmp_path):
    config = tiny(data__source=str(tree), model__name=name, train__seed=3)
    assert NetworkSettings.of(config).config == config
    outcome = run(config, Folders(tmp_path), progress=False)
    dataset, settings = open_dataset(str(tree)), NetworkSettings.of(config)
    fitted, loaded = Network(settings), Network(settings)
    fitted.fit(dataset.train)
    assert loaded.load(tmp_path / outcome.record["files"]["checkpoint"], dataset.train)
    for method in (fitted, loaded):
        scores = method.score(dataset.test)
        assert np.array_equal(scores.image, outcome.scores.image) and np.array_equal(scores.maps, outcome.scores.maps)
    path = tmp_path / outcome.record["files"]["checkpoint"]
    assert not loaded.load(path, dataset.train[1:])  # of other images
    for setting, value, same in (("train__seed", 1, 0), ("model__heads", 1, 0), ("features__runtime", "torch", 1)):
        other = tiny(**{"data__source": str(tree), "model__name": name, "train__seed": 3, setting: value})
        assert Network(NetworkSettings.of(other)).load(path, dataset.train) == same
