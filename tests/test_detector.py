"""The five lines of Python: what goes in, what comes out, and what is refused."""

import shutil
from unittest.mock import patch

import numpy as np
import pytest
from conftest import TINY, photos
from PIL import Image

import dumenet
from dumenet.engine import PACKAGES
from dumenet.errors import DumenetError
from dumenet.features import Backbone
from dumenet.methods.padim import PaDiM

SETTINGS = {f"{section}__{key}": value for section, group in TINY.items() for key, value in group.items()}
SHARED = {k: v for k, v in SETTINGS.items() if k.startswith("features__") and k != "features__grid"}  # of any method


@pytest.fixture(scope="module")
def fitted(photographs):
    return dumenet.Detector(**SETTINGS).fit(photographs / "bolt" / "train" / "good")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("detector"))


def test_a_folder_of_normal_photographs_gives_a_detector_that_finds_the_hole(fitted, photographs):
    results = fitted.predict(photographs / "bolt" / "test")
    assert [r.name for r in results] == [f"good/{i:03d}.png" for i in (8, 9, 10)] + [
        f"hole/{i:03d}.png" for i in (11, 12, 13)
    ]
    scores = [r.score for r in results]
    assert max(scores[:3]) < min(scores[3:]) and all(r.anomalous and r.rank == 1 for r in results[3:])
    row, column = np.unravel_index(results[3].map.argmax(), results[3].map.shape)
    assert 12 < row < 44 and 16 < column < 52  # in or at the hole


def test_maps_and_overlays_have_the_photographs_own_shape(fitted, photographs, tmp_path):
    wide = Image.open(photographs / "bolt" / "test" / "hole" / "011.png").resize((200, 90))
    wide.save(tmp_path / "wide.png")
    result = fitted.predict(tmp_path / "wide.png")
    assert result.map.shape == (90, 200) and result.overlay().shape == (90, 200, 3) == result.photograph.shape


def test_arrays_are_converted_by_a_stated_rule(fitted, photographs):
    path = photographs / "bolt" / "test" / "hole" / "011.png"
    image = np.asarray(Image.open(path))
    score = fitted.predict(str(path)).score
    assert fitted.predict(image).score == score
    assert fitted.predict(np.dstack([image, image[:, :, :1]])).score == score  # alpha is dropped
    assert fitted.predict(image[:, :, ::-1], bgr=True).score == score
    grey = image[:, :, 0]
    assert fitted.predict(grey).score == fitted.predict(grey[:, :, None]).score
    assert fitted.predict(grey).score == fitted.predict(np.dstack([grey] * 3)).score
    assert [r.score for r in fitted.predict([image, path])] == pytest.approx([score, score])


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros((64, 64, 3)), "must be uint8, 0 to 255, .* not float64"),
        (np.zeros((64, 64, 3), np.uint16), "not uint16"),
        (np.zeros((64, 64, 2), np.uint8), r"not uint8 of shape \(64, 64, 2\)"),
        (np.zeros((2, 64, 64, 3), np.uint8), r"shape \(2, 64, 64, 3\)"),
        (3, "not int64"),
        (np.zeros((0, 64, 3), np.uint8), r"not uint8 of shape \(0, 64, 3\)"),
        ([], "There are no images to judge"),
        ("nothing.png", "There is no image file nothing.png"),
    ],
)
def test_other_images_get_a_sentence(fitted, bad, says):
    with pytest.raises(DumenetError, match=says):
        fitted.predict(bad)


def test_one_unreadable_image_does_not_end_the_others(fitted, photographs, tmp_path, monkeypatch):
    (tmp_path / "broken.png").write_text("no image")
    good = sorted((photographs / "bolt" / "test").rglob("*.png"))[:4]
    expected = [r.score for r in fitted.predict(good)]
    for batch in (1, 3):
        monkeypatch.setattr(fitted, "batch", batch)
        found = fitted.predict([*good[:2], tmp_path / "broken.png", *good[2:]])
        bad = found.pop(2)
        assert "broken.png is empty, cut short or not an image" in bad.problem and bad.verdict == "unreadable"
        assert bad.anomalous is None and [r.score for r in found] == pytest.approx(expected)


def test_saved_and_loaded_it_says_the_same(fitted, photographs, tmp_path):
    """As an exported graph too: tests/test_engine.py."""
    loaded = dumenet.load(fitted.save(tmp_path / "part.pt"))
    for ours, theirs in zip(*(detector.predict(photographs / "bolt" / "test") for detector in (fitted, loaded))):
        assert theirs.score == pytest.approx(ours.score, rel=1e-3)
        assert (theirs.anomalous, theirs.rank, theirs.threshold) == (ours.anomalous, ours.rank, ours.threshold)


def test_several_categories_are_found(photographs):
    detector = dumenet.Detector(**SETTINGS).fit(photographs)  # MVTec-AD's layout
    found = [detector.predict(photographs / c / "test" / "good" / "008.png").category for c in ("bolt", "felt")]
    assert found == detector.categories == ["bolt", "felt"]
    with pytest.raises(DumenetError, match="Unknown category of this detector 'feld': did you mean 'felt'"):
        detector.predict(photographs / "bolt" / "test", "feld")


def test_other_methods_too(photographs, tmp_path):
    padim = dumenet.Detector("padim", **SHARED).fit(photographs / "bolt")
    good, bad = (padim.predict(photographs / "bolt" / "test" / kind) for kind in ("good", "hole"))
    assert max(r.score for r in good) < min(r.score for r in bad) and all(r.anomalous for r in bad)
    assert padim.categories == [] and padim.thresholds.keys() == {"all"}
    with pytest.raises(DumenetError, match="There is no checkpoint to save: only a fitted or loaded dumenet"):
        padim.save(tmp_path / "padim.pt")


@pytest.mark.parametrize("count", [10, 12, 30])
def test_another_method_keeps_enough_images_out_for_its_threshold(count, monkeypatch):
    learned, fit = [], PaDiM.fit
    monkeypatch.setattr(PaDiM, "fit", lambda self, train: (learned.extend(s.name for s in train), fit(self, train))[1])
    images = list(np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8))
    padim = dumenet.Detector("padim", **SHARED).fit(images)
    assert len(padim.normal["all"]) >= 5 and len(set(learned)) + len(padim.normal["all"]) == count
    assert padim.thresholds["all"] < 10 * max(padim.normal["all"])


def test_another_method_judges_by_the_engine_that_made_its_features(photographs):
    for package in PACKAGES:
        pytest.importorskip(package)
    torchs, engines = (
        dumenet.Detector("patchcore", features__runtime=runtime, **SHARED).fit(photographs / "bolt")
        for runtime in ("torch", "onnx")
    )
    with patch.object(Backbone, "forward", side_effect=AssertionError("computed by torch, or exported twice")):
        found = engines.predict(photographs / "bolt" / "test" / "hole")
    for result, expected in zip(found, torchs.predict(photographs / "bolt" / "test" / "hole"), strict=True):
        assert result.score == pytest.approx(expected.score, rel=1e-3)


def test_what_it_cannot_do_it_says(photographs, tmp_path):
    for make, says in (
        (lambda: dumenet.Detector("padimm"), "Unknown method 'padimm': did you mean 'padim'"),
        (lambda: dumenet.Detector(train__stepz=3), "did you mean 'steps'"),
        (lambda: dumenet.Detector("padim", ridg=3), "did you mean 'ridge'"),
        (lambda: dumenet.Detector().predict(np.zeros((8, 8, 3), np.uint8)), "call fit first"),
        (lambda: dumenet.Detector().fit(tmp_path / "nowhere"), "nowhere is no folder"),
        (lambda: dumenet.Detector().fit([]), "No images"),
        (lambda: dumenet.Detector().fit(tmp_path), "No images"),
        (lambda: dumenet.Detector().fit(photographs / "bolt" / "test"), "test holds hole beside good: give .*good, to"),
        (lambda: dumenet.Detector().fit(np.zeros((8, 8, 3), np.uint8)), "give a list of them"),
    ):
        with pytest.raises(DumenetError, match=says):
            make()


def test_a_category_that_has_one_normal_image_gets_scores_and_no_verdict(photographs, tmp_path):
    shutil.copytree(photographs / "bolt", tmp_path / "set" / "bolt")
    few = tmp_path / "set" / "felt" / "train" / "good"
    few.mkdir(parents=True)
    shutil.copy(photographs / "felt" / "train" / "good" / "000.png", few)
    detector = dumenet.Detector(**SETTINGS).fit(tmp_path / "set")
    felt = detector.predict(photographs / "felt" / "test" / "hole" / "011.png", "felt")
    assert felt.category == "felt" and felt.anomalous is None and felt.rank is None
    assert detector.predict(photographs / "bolt" / "test" / "hole" / "011.png", "bolt").anomalous


def test_a_loaded_detector_learns_again_with_its_own_settings(fitted, photographs, tmp_path):
    again = dumenet.load(fitted.save(tmp_path / "part.pt")).fit(photographs / "bolt" / "train" / "good")
    image = photographs / "bolt" / "test" / "hole" / "011.png"
    assert again.size == fitted.size and again.predict(image).score == pytest.approx(fitted.predict(image).score)


def test_a_second_fit_forgets_the_thresholds_of_the_first(photographs):
    detector = dumenet.Detector("padim", **SHARED).fit(photographs / "bolt" / "train" / "good")
    assert detector.thresholds
    assert not detector.fit([photographs / "bolt" / "train" / "good" / "000.png"]).thresholds


@pytest.mark.parametrize(("setting", "says"), [
    ("features__grid", "features.grid says nothing to this method, .* set grid instead"),
    ("data__normal_names", "Unknown setting of a detector's data"),
])  # fmt: skip
def test_a_setting_that_would_do_nothing_is_refused(setting, says):
    with pytest.raises(DumenetError, match=says):
        dumenet.Detector("padim", **{setting: 7})
