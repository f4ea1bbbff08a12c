"""One run from configuration to results file, and the cases in which something is not there."""

import json
import shutil
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from conftest import photos, write

from dumenet.checkpoint import load_checkpoint
from dumenet.data import contaminate, fingerprint, load_mask, open_dataset
from dumenet.errors import DumenetError
from dumenet.methods import network, protocol
from dumenet.metrics import METRICS, evaluate_scores
from dumenet.run import Folders, by_defect, evaluate_checkpoint, load_data, network_job, run


@pytest.fixture
def go(tiny, tree, tmp_path):
    """Run the tiny settings on the tiny tree, without progress bars."""

    def once(tag=None, **settings):
        return run(tiny(**{"data__source": str(tree)} | settings), Folders(tmp_path), tag, progress=False)

    return once


@pytest.fixture(scope="module")
def first(tiny, tmp_path_factory):
    """A run, and the folder that it was made in. Do not change them."""
    home = tmp_path_factory.mktemp("first")
    return home, run(tiny(data__source=str(photos(home))), Folders(home), "lesson", progress=False)


def test_a_run_leaves_a_checkpoint_and_a_record(first):
    tmp_path, outcome = first
    record = json.loads((tmp_path / "data" / "results" / f"lesson-{outcome.record['name']}.json").read_text())
    assert record["files"]["results"].endswith(f"lesson-{record['name']}.json")
    assert record["tag"] == "lesson" and record["seed"] == 0
    assert record["config"]["train"]["epochs"] == 2 and record["config"]["features"]["grid"] == 4
    config = record["data"].pop("config")
    assert config == record["config"]["data"] and record["method"] == record["config"]["model"]["name"] == "dumenet"
    assert record["data"] == {
        "name": "photos", "train": 16, "test": 12, "fingerprint": fingerprint(open_dataset(str(tmp_path / "photos"))),
    }  # fmt: skip
    assert record["machine"]["versions"]["torch"] and record["device"] == "cpu"
    assert set(record["seconds"]) == {"train features", "train", "train cpu", "score", "metrics"}
    assert all(s >= 0 for s in record["seconds"].values()) and record["peak_memory_mb"] > 50
    assert record["parameters"] == sum(p.numel() for p in outcome.trained.model.parameters())
    assert len(record["history"]["loss"]) == 2
    assert set(record["thresholds"]) == {"bolt", "felt", "all"}
    assert set(record["metrics"]["per_category"]) == {"bolt", "felt"}
    for name in METRICS:
        assert 0 <= record["metrics"]["mean"][name] <= 1
    loaded = load_checkpoint(tmp_path / record["files"]["checkpoint"], "cpu")
    assert loaded.thresholds == record["thresholds"] and loaded.config == outcome.trained.config
    assert outcome.scores.maps.shape == (12, 64, 64) and len(outcome.test) == 12
    assert set(record["image_auroc_by_pooling"]) == {"max", "mean", "std", "top1"}
    assert record["image_auroc_by_pooling"]["max"] == record["metrics"]["mean"]["image_auroc"]
    right = [name == s.category for name, s in zip(outcome.scores.found, outcome.dataset.test)]
    assert record["categories_found"] == np.mean(right) > 0.5
    assert record["precision"] == "fp32" and record["spread_mb"] > 0


def test_scores_find_a_white_rectangle(outcomes):
    """Not a claim about the network, but of labels, masks and maps in one order."""
    metrics = outcomes["gaussian"].record["metrics"]
    assert metrics["mean"]["image_auroc"] == 1 and metrics["mean"]["pixel_auroc"] > 0.8


def test_neither_held_out_nor_test_images_are_seen_in_training(go, monkeypatch):
    """Fixed budget, last epoch: a checkpoint cannot be chosen by the test set."""
    order, seen = [], {}

    def spy(name, which):
        real = getattr(network, name)

        def spied(*args):
            seen[name] = args[which]
            order.append(name)
            return real(*args)

        monkeypatch.setattr(network, name, spied)

    spy("train", 1)
    spy("calibrate", 2)
    real = protocol.extract
    monkeypatch.setattr(protocol, "extract", lambda s, *a: (order.append(s[0].name), real(s, *a))[1])
    go()
    assert order == ["bolt/train/good/000.png", "train", "calibrate", "bolt/test/good/008.png"]
    trained, held = ({s.name for s in seen[part].samples} for part in ("train", "calibrate"))
    assert len(held) == 4 and len(trained) == 12 and not trained & held
    assert all("/train/good/" in name for name in trained | held)


def test_one_training_serves_whatever_the_evaluation(first, tiny, monkeypatch):
    home, one = first
    monkeypatch.setattr(network, "train", lambda *a, **k: pytest.fail("trained again"))
    config = {"data__source": str(home / "photos")}
    again = run(tiny(**config), Folders(home), progress=False).record
    assert again["metrics"] == one.record["metrics"] and again["name"] == one.record["name"]
    assert again["seconds"]["train"] == one.record["seconds"]["train"]  # what training took, not loading
    norm = run(tiny(**config, evaluation__error="norm"), Folders(home), progress=False).record
    assert norm["name"] != again["name"] and norm["config"]["evaluation"]["error"] == "norm"
    assert norm["files"]["checkpoint"] == again["files"]["checkpoint"]
    assert norm["metrics"] != again["metrics"] and norm["thresholds"] != again["thresholds"]
    checkpoint = home / norm["files"]["checkpoint"]
    assert load_checkpoint(checkpoint).thresholds == norm["thresholds"]  # `predict` judges as the last run asked
    run(tiny(**config), Folders(home), progress=False)
    assert load_checkpoint(checkpoint).thresholds == again["thresholds"]


def test_other_test_images_evaluation_or_device_need_no_other_training(tiny, tree, tmp_path):
    def job(**settings):
        return network_job(tiny(data__source=str(tree), **settings), Folders(tmp_path))

    first = job()
    assert job(evaluation__pooling="mean").training == job(train__device="auto").training == first.training
    assert job(evaluation__pooling="mean").name != first.name and job(train__device="auto").name == first.name
    assert job(train__lr=0.002).training != first.training
    names = [job(**s).name for s in ({}, {"train__seed": 1}, {"data__categories": ("felt",)})]
    assert len(set(names)) == 3 and "-seed1-" in names[1] and "-felt-" in names[2]
    write(tree / "bolt" / "test" / "good" / "008.png", np.zeros((64, 64, 3), np.uint8))
    assert job().training == first.training and job().name != first.name
    shutil.copytree(tree, tmp_path / "copy" / "photos")
    copy = network_job(tiny(data__source=str(tmp_path / "copy" / "photos")), Folders(tmp_path))
    assert copy.name == job().name  # known by its images, not by their path
    write(tree / "bolt" / "train" / "good" / "000.png", np.zeros((64, 64, 3), np.uint8))
    assert job().training != first.training


def test_a_damaged_checkpoint_is_trained_again(go, tmp_path):
    first = go()
    path = tmp_path / first.record["files"]["checkpoint"]
    path.write_bytes(path.read_bytes()[:1000])
    assert go().record["history"] == first.record["history"] and load_checkpoint(path, "cpu")


def test_training_took_what_all_its_processes_took(go, monkeypatch):
    train = network.train
    monkeypatch.setattr(network, "train", lambda *given: replace(train(*given), earlier=1000.0))
    for _ in range(2):  # trained, and used again
        assert 1000 < go().record["seconds"]["train"] < 1100


def test_settings_of_data_reach_it(tiny, tree, tmp_path):
    given = {"data__pixel_range": [0, 4095], "data__normal_names": ["hole"]}
    made = load_data(tiny(data__source=str(tree), **given), Folders(tmp_path))
    assert {s.pixel_range for s in made.train + made.test} == {(0, 4095)} and not any(s.label for s in made.test)
    few = {"data__source": "digits", "data__per_class_train": 5}
    names = [[s.name for s in load_data(tiny(**few, data__seed=k), Folders(tmp_path)).train] for k in (0, 1)]
    assert names[0] != names[1]


def test_only_normal_photographs(go, tree, tmp_path):
    for category in ("bolt", "felt"):
        shutil.rmtree(tree / category / "test")
        shutil.rmtree(tree / category / "ground_truth")
    outcome = go()
    assert outcome.record["metrics"] is None and outcome.scores is None
    assert outcome.record["thresholds"]["bolt"] > 0
    with pytest.raises(DumenetError, match="has no test images"):
        evaluate_checkpoint(tmp_path / outcome.record["files"]["checkpoint"], {}, Folders(tmp_path))


def test_without_masks_only_images_are_judged(go, tree):
    for category in ("bolt", "felt"):
        shutil.rmtree(tree / category / "ground_truth")
    outcome = go()
    mean = outcome.record["metrics"]["mean"]
    assert mean["image_auroc"] is not None
    assert all(mean[name] is None for name in METRICS if not name.startswith("image"))
    assert outcome.scores.maps is None  # memory does not grow with images x pixels


def test_each_image_has_its_score_on_disk_and_each_kind_of_defect_its_auroc(go, tree, tmp_path):
    (tree / "bolt" / "test" / "bent").mkdir()
    shutil.move(tree / "bolt" / "test" / "hole" / "013.png", tree / "bolt" / "test" / "bent" / "013.png")
    shutil.rmtree(tree / "bolt" / "ground_truth")
    outcome = go()
    table = pd.read_csv(tmp_path / outcome.record["files"]["scores"])
    assert [*table.image] == [s.name for s in outcome.dataset.test] and np.allclose(table.score, outcome.scores.image)
    found = outcome.record["image_auroc_by_defect"]
    assert found == by_defect(outcome.dataset, outcome.scores.image) and found.keys() == {"bolt", "felt"}
    image = np.array([{"good": 2.0, "hole": 3.0, "bent": 1.0}[d] for d in table.defect])
    assert by_defect(outcome.dataset, image) == {"bolt": {"bent": 0.0, "hole": 1.0}, "felt": {"hole": 1.0}}


def test_scored_in_parts_and_kept_on_disk_the_metrics_are_those_in_memory(go, tree, monkeypatch):
    shutil.rmtree(tree / "felt" / "ground_truth")  # a category without pixel metrics
    monkeypatch.setattr("dumenet.run.CHUNK", 5)
    outcome = go()
    maps, images = outcome.scores.maps, outcome.method.score(outcome.dataset.test)
    assert np.array_equal(maps[:], images.maps) and np.array_equal(maps[[3, 1]], images.maps[[3, 1]])
    masks = [load_mask(s, 64) if s.category == "bolt" else None for s in outcome.dataset.test]
    labels, names = zip(*((s.label, s.category) for s in outcome.dataset.test))
    expected = evaluate_scores(labels, images.image, names, masks, images.maps, n_bootstrap=20)
    assert outcome.record["metrics"] == expected and expected["per_category"]["bolt"]["pro"] is not None


def test_neither_a_checkpoint_nor_an_evaluation_replaces_another(go, tree, tmp_path):
    """An image more is another training; two checkpoints evaluated on one folder leave two files."""
    first = go().record["files"]["checkpoint"]
    shutil.copy(tree / "bolt" / "test" / "good" / "008.png", tree / "bolt" / "train" / "good" / "more.png")
    second = go().record["files"]["checkpoint"]
    assert first != second
    files = [
        evaluate_checkpoint(tmp_path / c, {}, Folders(tmp_path)).record["files"]["results"] for c in (first, second)
    ]
    assert len({*files, evaluate_checkpoint(tmp_path / first, {}, Folders(tmp_path)).record["files"]["results"]}) == 2


def test_digits_end_to_end(go):
    few = {"data__per_class_train": 10, "data__per_class_test": 10}
    outcome = go(data__source="digits", data__normals="56789", features__image_size=32, train__epochs=1, **few)
    assert outcome.scores.maps is None and outcome.record["data"]["name"] == "digits"
    assert set(outcome.record["thresholds"]) == {"{56789}", "all"}
    assert outcome.record["metrics"]["pooled"]["n_normal"] == 50


def test_a_checkpoint_is_evaluated_alike_and_elsewhere(first, tmp_path):
    home, first = first
    path = home / first.record["files"]["checkpoint"]
    again = evaluate_checkpoint(path, {}, Folders(tmp_path))
    assert again.record["metrics"] == first.record["metrics"] and again.record["tag"] == "evaluate"
    shutil.copytree(home / "photos", tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "felt")
    elsewhere = evaluate_checkpoint(
        path, {"data.source": str(tmp_path / "copy"), "evaluation.pooling": "mean"}, Folders(tmp_path)
    )
    assert set(elsewhere.record["metrics"]["per_category"]) == {"bolt"}
    assert (elsewhere.scores.image < again.scores.image[:6]).all()  # a mean lies below a maximum
    assert again.record["thresholds"] == first.record["thresholds"]
    assert elsewhere.record["thresholds"]["all"] < first.record["thresholds"]["all"]  # of means
    with pytest.raises(DumenetError, match="model.heads is fixed in a checkpoint"):
        evaluate_checkpoint(path, {"model.heads": 4}, Folders(tmp_path))
    strict = evaluate_checkpoint(path, {"evaluation.quantile": 0.6}, Folders(tmp_path))
    assert strict.record["thresholds"]["all"] < first.record["thresholds"]["all"]


def test_nothing_is_lost_between_the_last_epoch_and_the_checkpoint(go, tmp_path, monkeypatch):
    """Killed while the threshold is set: the next run trains no epoch again, and leaves no state behind."""
    interrupted = Mock(side_effect=KeyboardInterrupt)
    with monkeypatch.context() as patch:
        patch.setattr(network, "calibrate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go()
    (state,) = (tmp_path / "build" / "runs").rglob("state.pt")
    monkeypatch.setattr("torch.optim.AdamW.step", interrupted)
    assert len(go().record["history"]["loss"]) == 2 and not state.exists()


# --- defects that nobody noticed, in the training set


def names(samples):
    return [s.name for s in samples]


def test_contamination_moves_defective_images_into_training(tree):
    clean = open_dataset(str(tree))
    dirty = contaminate(clean, 0.2, seed=0)
    moved = dirty.train[len(clean.train) :]
    assert dirty.train[: len(clean.train)] == clean.train  # the normal ones as they were
    assert sorted(s.category for s in moved) == ["bolt"] * 2 + ["felt"] * 2  # 2 / (8 + 2) each
    assert all(s.label == 1 and s in clean.test for s in moved)
    assert not set(names(dirty.train)) & set(names(dirty.test))
    assert sorted(names(dirty.train + dirty.test)) == sorted(names(clean.train + clean.test))
    for sample in dirty.test:  # masks stay with their images
        assert load_mask(sample, 64).any() == bool(sample.label)
    assert contaminate(clean, 0) is clean
    chosen = [tuple(names(contaminate(clean, 0.1, seed=seed).train)[16:]) for seed in (*range(8), 0)]
    assert len(set(chosen)) > 1 and chosen[0] == chosen[-1]  # the seed decides which


def test_levels_with_one_reserve_share_their_test_set_and_are_nested(tree):
    clean = open_dataset(str(tree))
    levels = [contaminate(clean, share, 0.2) for share in (0, 0.1, 0.2)]
    assert [len(d.train) for d in levels] == [16, 18, 20]
    assert all(names(level.test) == names(contaminate(clean, 0.2).test) for level in levels)
    assert set(names(levels[0].train)) < set(names(levels[1].train)) < set(names(levels[2].train))


def test_too_few_defective_images_to_contaminate(tree):
    with pytest.raises(DumenetError, match="bolt has 3 defective test images: a contamination of 0.3 would take 3 of"):
        contaminate(open_dataset(str(tree)), 0.3)
    for folder in ("test/hole", "ground_truth"):
        shutil.rmtree(tree / "felt" / folder)
    with pytest.raises(DumenetError, match="felt has 0 defective"):
        contaminate(open_dataset(str(tree)), 0.1, 0.2)


def test_a_contaminated_run(go, tmp_path):
    settings = {"data__contamination": 0.1, "data__contamination_reserve": 0.2}
    outcome = go(model__name="gaussian", train__holdout=0.0, **settings)
    assert outcome.record["data"]["train"] == 18 and outcome.record["data"]["test"] == 8
    assert outcome.record["config"]["data"]["contamination"] == 0.1
    assert outcome.record["metrics"]["per_category"]["bolt"]["n_anomalous"] == 1
    again = evaluate_checkpoint(tmp_path / outcome.record["files"]["checkpoint"], {}, Folders(tmp_path))
    assert again.record["metrics"] == outcome.record["metrics"]  # on the same test images


@pytest.mark.parametrize("setting", ["train__start", "features__weights"])
def test_another_file_under_the_same_path_is_another_job(tiny, tree, tmp_path, setting):
    file = tmp_path / "file.pt"
    job, names = network_job(tiny(data__source=str(tree), **{setting: str(file)}), Folders(tmp_path)), set()
    for content in (b"one", b"two"):
        file.write_bytes(content)
        names |= {job.name, job.training}
    assert len(names) == 4
