"""Images that are no squares, and large photographs in tiles: maps, masks and scores lie where the photograph's are."""

import numpy as np
import pytest
from conftest import TINY, write

import dumenet
from dumenet.checkpoint import Normal
from dumenet.config import EvalConfig, config_from_dict, merge
from dumenet.data import Sample, cut, joined, load_image, open_dataset, photograph
from dumenet.errors import DumenetError
from dumenet.graph import export
from dumenet.run import Folders, evaluate_checkpoint, run
from dumenet.score import thresholds

TOP, LEFT, HEIGHT, WIDTH = 40, 150, 30, 40  # of the defect, in photographs of 96 x 256 pixels
INSIDE = (slice(TOP, TOP + HEIGHT), slice(LEFT, LEFT + WIDTH))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Wide photographs with a gradient: 12 normal ones to train on, 4 and 4 with a white spot to test on."""
    root, rng = tmp_path_factory.mktemp("wide") / "wide", np.random.default_rng(0)
    for i in range(20):
        image = np.linspace(60, 120, 256)[None, :, None] + rng.normal(0, 6, (96, 256, 3))
        folder = "train/good" if i < 12 else "test/good" if i < 16 else "test/spot"
        if i >= 16:
            image[INSIDE] = 255
            mask = np.zeros((96, 256), np.uint8)
            mask[INSIDE] = 255
            write(root / "belt" / "ground_truth" / "spot" / f"{i:03d}_mask.png", mask)
        write(root / "belt" / folder / f"{i:03d}.png", image.clip(0, 255).astype(np.uint8))
    return root


def config_of(root, **settings):
    settings = {"data__source": str(root), "model__name": "gaussian"} | settings
    return config_from_dict(merge(TINY, {k.replace("__", "."): v for k, v in settings.items()}))


def found(result):
    """Whether the map of a photograph is at its shape and peaks in the defect."""
    row, column = np.unravel_index(result.map.argmax(), result.map.shape)
    return result.map.shape == (96, 256) and TOP <= row < TOP + HEIGHT and LEFT <= column < LEFT + WIDTH


@pytest.mark.parametrize("name", ["dumenet", "uniad", "gaussian", "conv"])
def test_a_network_sees_rectangles(wide, name, tmp_path):
    masked = {"model__neighbour_mask": ["encoder"], "model__neighbour_size": 3} if name == "uniad" else {}
    outcome = run(config_of(wide, features__image_size=[48, 128], model__name=name, **masked), Folders(tmp_path))
    assert outcome.test.batch([0]).shape[2:] == (4, 11)  # four cells along the shorter side, as square as they get
    assert outcome.scores.maps.shape == (8, 48, 128) and outcome.record["metrics"]["mean"]["pixel_auroc"] is not None
    if name == "gaussian":
        assert outcome.record["metrics"]["mean"]["image_auroc"] == 1
        assert outcome.record["metrics"]["mean"]["pixel_auroc"] > 0.9
    path = tmp_path / outcome.record["files"]["checkpoint"]
    by_torch = dumenet.load(path).predict(wide / "belt" / "test" / "spot")
    by_graph = dumenet.load(export(path, tmp_path / "graph.onnx")).predict(wide / "belt" / "test" / "spot")
    for one, other in zip(by_torch, by_graph):
        assert one.map.shape == (96, 256) and np.abs(one.map - other.map).max() < 1e-3 * one.map.max()
    assert name != "gaussian" or all(map(found, by_torch))


@pytest.mark.parametrize("name", ["padim", "patchcore"])
def test_other_methods_see_rectangles_too(wide, name):
    small = {k: v for k, v in TINY["features"].items() if k in ("backbone", "weights")}
    given = {f"features__{k}": v for k, v in small.items()} | {"features__image_size": [48, 128], "grid": 6}
    detector = dumenet.Detector(name, stages=[0, 1], **given).fit(wide / "belt" / "train" / "good")
    assert all(map(found, detector.predict(wide / "belt" / "test" / "spot")))


def test_a_method_for_squares_refuses_a_rectangle():
    with pytest.raises(DumenetError, match=r"image_size \[48, 128\] is for .* square images"):
        dumenet.Detector("draem", features__image_size=[48, 128])


def test_tiles_are_parts_of_the_photograph_and_join_to_it(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    write(tmp_path / "a.png", image)
    for source in (tmp_path / "a.png", image):
        tiles = cut([Sample("a", "", "good", source)] * 2, (2, 3))
        assert [t.name for t in tiles[:4]] == ["a[0,0]", "a[0,1]", "a[0,2]", "a[1,0]"]
        assert np.array_equal(photograph(tiles[4]), image[30:60, 30:60])
        whole = joined(np.stack([load_image(t, 30) for t in tiles]), (2, 3))
        assert np.array_equal(whole, [image, image])


def test_a_detector_of_tiles_judges_whole_photographs(wide, tmp_path):
    config = config_of(wide, features__image_size=32, features__tiles=[2, 3], evaluation__pooling="top1")
    outcome = run(config, Folders(tmp_path))
    record, path = outcome.record, tmp_path / outcome.record["files"]["checkpoint"]
    assert outcome.scores.maps.shape == (8, 64, 96) and len(outcome.trained.normal.held) == 12 * 6
    assert record["metrics"]["mean"]["image_auroc"] == 1 and record["metrics"]["mean"]["pixel_auroc"] > 0.9
    assert record["image_auroc_by_pooling"]["top1"] == 1
    again = evaluate_checkpoint(path, {"evaluation.error": "norm"}, Folders(tmp_path))
    assert again.scores.maps.shape == (8, 64, 96) and again.record["metrics"]["mean"]["image_auroc"] == 1
    detector, folder = dumenet.load(path), wide / "belt" / "test"
    normal, spots = detector.predict(folder / "good"), detector.predict(folder / "spot")
    assert all(map(found, spots)) and all(r.verdict == "anomalous" for r in spots)
    assert [r.verdict for r in normal].count("normal") >= 3 and all(0 <= r.rank <= 1 for r in normal)
    assert np.allclose([r.score for r in normal + spots], outcome.scores.image, rtol=2e-3)
    graph = dumenet.load(export(path, tmp_path / "graph.onnx"))
    assert np.allclose([r.score for r in graph.predict(folder / "spot")], [r.score for r in spots], rtol=1e-3)
    assert graph.thresholds == pytest.approx(detector.thresholds)
    tile = photograph(spots[0].sample)[:48, 85:171]  # the first row's second tile, by hand
    maps, scores, _ = detector.run(np.stack([load_image(Sample("", "", "good", tile), 32)]), np.array([-1]))
    assert np.allclose(spots[0].grid[:32, 32:64], maps[0], rtol=1e-3) and scores[0] <= spots[0].score * 1.001


def test_tiles_of_another_method(wide):
    small = {f"features__{k}": TINY["features"][k] for k in ("backbone", "weights")}
    detector = dumenet.Detector(
        "padim", stages=[0, 1], grid=4, features__image_size=32, features__tiles=[1, 3], **small
    ).fit(wide / "belt" / "train" / "good")
    assert all(map(found, detector.predict(wide / "belt" / "test" / "spot")))
    scores = detector.normal["all"]
    normal = Normal(["all"] * len(scores), [True] * len(scores), {"norm max": scores})
    assert detector.thresholds == thresholds(normal, EvalConfig(error="norm"), (1, 3))


def test_more_tiles_ask_for_a_higher_threshold(wide, tmp_path):
    """Each tile may raise its part of the false alarms that the photograph may."""
    outcome = run(config_of(wide, features__image_size=32, features__tiles=[1, 2]), Folders(tmp_path))
    normal, how = outcome.trained.normal, outcome.trained.config.evaluation
    assert outcome.trained.thresholds == thresholds(normal, how, (1, 2))
    assert thresholds(normal, how, (1, 2))["all"] > thresholds(normal, how)["all"]


def test_more_tiles_than_pixels_are_refused():
    tiles = cut([Sample("a", "", "good", np.zeros((4, 4, 3), np.uint8))], (1, 9))
    with pytest.raises(DumenetError, match="4 x 4 pixels cannot be cut into 1 x 9 tiles: set features.tiles lower"):
        for tile in tiles:
            load_image(tile, 8)


def test_the_data_set_stays_one_of_photographs(wide):
    assert len(open_dataset(str(wide)).test) == 8
