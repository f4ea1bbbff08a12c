"""Several processes train the model that one would have; and threads, batches and devices change rounding alone."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, photos

from dumenet import parallel
from dumenet.checkpoint import load_checkpoint, save_checkpoint
from dumenet.config import config_from_dict
from dumenet.errors import DumenetError
from dumenet.run import Folders, run
from dumenet.score import calibrate, score
from dumenet.train import train


def test_srun_says_how_many_there_are_and_which_this_is(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert (parallel.count(), parallel.rank()) == (4, 3)


@pytest.mark.parametrize("world", [2, 5])
@pytest.mark.parametrize("size", [1, 7, 8])
def test_every_image_is_taken_once_and_counts_the_same(tiny, world, size):
    losses, taken = np.random.default_rng(0).random(size), []
    for rank in range(world):
        processes = parallel.Processes(torch.device("cpu"), tiny(), 8)
        processes.fabric = SimpleNamespace(world_size=world, global_rank=rank)
        torch.manual_seed(0)
        taken.append(processes.part(torch.arange(size)))
    rows = [losses[part] for part, weight, _ in taken if weight]
    assert np.array_equal(np.concatenate(rows), losses)
    mean = sum(losses[part].mean() * weight for part, weight, _ in taken) / world
    assert mean == pytest.approx(losses.mean())
    assert all(len(losses[part]) for part, _, _ in taken)  # no process is left without work: all must call the others
    torch.manual_seed(0)
    noise = torch.randn(size, 16, 8)
    assert all(torch.equal(own, noise[part]) for part, _, own in taken)  # of the whole batch, cut


def test_two_processes_give_the_result_of_one(tree, tmp_path):
    """With jitter, and a last batch of one image, of which one process gets nothing; only one writes."""
    extra = photos(tmp_path / "more") / "bolt" / "train" / "good" / "000.png"
    extra.rename(tree / "bolt" / "train" / "good" / "100.png")  # 17 images, batches of four
    config = {**TINY, "train": {**TINY["train"], "epochs": 3, "holdout": 0.0}, "data": {"source": str(tree)}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "dumenet.cli", "train", "--config", "two.yaml"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("checkpoint:") == 1
    one = run(config_from_dict(config), Folders(tmp_path / "one"), progress=False)
    (path,) = (tmp_path / "build" / "runs").rglob("checkpoint.pt")
    two = load_checkpoint(path, "cpu")
    assert two.history["loss"] == pytest.approx(one.trained.history["loss"], rel=1e-5)
    found = two.model.state_dict()
    for name, value in one.trained.model.state_dict().items():
        if not name.endswith("key.bias"):  # softmax cancels it: its gradient is rounding, which AdamW enlarges
            assert (found[name] - value).abs().max() < 1e-4, name
    (record,) = (tmp_path / "data" / "results").glob("*.json")
    metrics = json.loads(record.read_text())["metrics"]["mean"]
    assert metrics["pixel_auroc"] == pytest.approx(one.record["metrics"]["mean"]["pixel_auroc"], abs=1e-3)


def test_what_reads_across_a_batch_is_refused_in_several_processes(tiny, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DumenetError, match="^[^\n]*reads across the images of a batch[^\n]*$"):
        parallel.Processes(torch.device("cpu"), tiny(model__spatial_layout="released"), 8)


# --- threads, batches, devices: the bounds of docs/ARCHITECTURE.md


@pytest.mark.parametrize(("optimizer", "bound"), [("adamw", 1e-4), ("muon", 1e-3)])
def test_threads_change_rounding_alone(tiny, make_features, optimizer, bound):
    """A batch of 32 and hidden size 128: less is done by one thread whatever their number."""
    found, test = [], make_features(40, seed=5)
    wide = {"model__hidden_dim": 128, "model__ffn_dim": 256, "train__batch_size": 32, "train__optimizer": optimizer}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            trained = train(tiny(**wide, train__epochs=2), make_features(64), (3, 5), progress=False)
            calibrate(trained, make_features(64), None)
            found.append((np.array(trained.history["loss"]), score(trained, test).maps))
    finally:
        torch.set_num_threads(1)
    (loss, one), (other_loss, two) = found
    assert np.abs(other_loss / loss - 1).max() < 1e-5
    assert np.abs(two - one).max() / one.max() < bound


@pytest.mark.parametrize("name", ["dumenet", "gaussian"])
def test_the_batch_of_an_evaluation_changes_rounding_alone(tiny, make_features, name):
    trained, test = train(tiny(model__name=name), make_features(13), (3, 5), progress=False), make_features(40, seed=5)
    calibrate(trained, make_features(13), None)
    maps = {}
    for size in (1, 7, 32):
        config = replace(trained.config, evaluation=replace(trained.config.evaluation, batch_size=size))
        maps[size] = score(replace(trained, config=config), test).maps
    for size in (1, 7):
        assert np.abs(maps[size] - maps[32]).max() / maps[32].max() < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_scores_as_a_processor_does(tiny, make_features, tmp_path):
    trained, test = train(tiny(), make_features(13), (3, 5), progress=False), make_features(40, seed=5)
    calibrate(trained, make_features(13), None)
    save_checkpoint(trained, tmp_path / "checkpoint.pt")
    here, there = (score(load_checkpoint(tmp_path / "checkpoint.pt", device), test).maps for device in ("cpu", "cuda"))
    assert np.abs(there - here).max() / here.max() < 1e-3
