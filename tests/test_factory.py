"""The generated data set: reproducible, exact masks, hard enough to teach with."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from dumenet.data import load_image, make_factory, read_folder
from dumenet.data.factory import LOGICAL, RELIT, SCENES, render
from dumenet.errors import DumenetError

SMALL = {"categories": ["cap", "weave"], "train": 2, "test_good": 1, "per_defect": 1, "size": 64}


@pytest.fixture(scope="module")
def factory():
    """The set that lessons use, made once beside the code (half a minute)."""
    root = Path(__file__).resolve().parents[1] / "data" / "factory"
    return read_folder(make_factory(root))


def test_offers_textures_and_objects_with_exact_counts(factory):
    assert len(factory.categories) >= 6 and factory.has_masks
    for category in factory.categories:
        test = [s for s in factory.test if s.category == category]
        assert sum(s.category == category for s in factory.train) == 50
        assert sum(s.label for s in test) == 25 and len(test) == 50
        assert len({s.defect for s in test} - {"good"}) >= 4
    size = sum(p.stat().st_size for p in Path(factory.train[0].source).parents[3].rglob("*.png"))
    assert size < 60e6


def test_the_readme_names_the_kinds_and_which_are_logical():
    text = (Path(__file__).resolve().parents[1] / "data" / "README.md").read_text(encoding="utf-8")
    rows = {
        c: kinds.split(", ") for c, kinds in re.findall(r"^\| (\w+) \|.*\| (.*) \|$", text, re.MULTILINE) if c in SCENES
    }
    assert {c: sorted(k.strip("*") for k in kinds) for c, kinds in rows.items()} == {
        c: sorted(SCENES[c][1]) for c in SCENES
    }
    assert {k.strip("*") for kinds in rows.values() for k in kinds if k.startswith("*")} == LOGICAL


def test_files_are_what_render_draws(factory):
    for sample in factory.test[::60]:
        image, _, mask = render(sample.category, "test", sample.defect, int(Path(sample.name).stem))
        assert np.array_equal(np.asarray(Image.open(sample.source)), image), "delete data/factory and raise VERSION"
        if sample.mask:
            assert np.array_equal(np.asarray(Image.open(sample.mask)), mask)


def test_distance_to_the_mean_image_does_not_solve_it(factory):
    """The simplest baseline stays under 0.75 image AUROC on average, and under 0.8 on every category."""
    aurocs = []
    for category in factory.categories:
        train = np.stack([load_image(s, 64) for s in factory.train if s.category == category]).astype(np.float32)
        samples = [s for s in factory.test if s.category == category]
        test = np.stack([load_image(s, 64) for s in samples]).astype(np.float32)
        scores = np.abs(test - train.mean(axis=0)).mean(axis=(1, 2, 3))
        aurocs.append(roc_auc_score([s.label for s in samples], scores))
    assert max(aurocs) < 0.8
    assert np.mean(aurocs) < 0.75


def test_one_category_is_lit_differently_in_the_test(factory):
    shifts = {}
    for category in factory.categories:
        good = [s for s in factory.train + factory.test if s.category == category and not s.label]
        warmth = {"train": [], "test": []}
        for s in good:
            mean = load_image(s, 16).reshape(-1, 3).mean(axis=0)
            warmth[s.name.split("/")[1]].append(mean[0] / mean[2])
        shifts[category] = abs(np.mean(warmth["test"]) / np.mean(warmth["train"]) - 1)
    assert max(shifts, key=shifts.get) == RELIT


@pytest.mark.parametrize(("category", "kind"), [(c, k) for c in SCENES for k in SCENES[c][1]])
def test_masks_are_exact(category, kind):
    for index in (0, 3):
        image, twin, mask = render(category, "test", kind, index)
        differs = (image != twin).any(axis=2)
        assert mask.sum() > 30
        assert not differs[~mask].any()
        assert differs[mask].mean() > 0.75  # the rest is gaps of a pixel or two, closed


def test_a_seed_gives_the_same_bytes_every_time(tmp_path):
    trees = []
    for name in ("a", "b"):
        root = make_factory(tmp_path / name, seed=5, **SMALL)
        trees.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert trees[0] == trees[1]
    assert len(trees[0]) == 2 * (2 + 1 + 5 + 5) + 1
    other = make_factory(tmp_path / "c", seed=6, **SMALL)
    assert (other / "cap/train/good/000.png").read_bytes() != trees[0][Path("cap/train/good/000.png")]


def test_a_finished_set_is_used_again_and_nothing_is_overwritten(tmp_path):
    calls = []
    root = make_factory(tmp_path / "f", **SMALL, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (16, 16)
    make_factory(root, **SMALL, progress=lambda *_: pytest.fail("drawn again"))
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    with pytest.raises(DumenetError, match="other settings"):
        make_factory(root, seed=1, **SMALL)
    (root / "cap/train/good/000.png").unlink()
    with pytest.raises(DumenetError, match="incomplete"):
        make_factory(root, **SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(DumenetError, match="something else"):
        make_factory(tmp_path / "mine", **SMALL)


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_factory(tmp_path / "f", **SMALL, progress=stop)
    assert not list(tmp_path.iterdir())


def test_bad_requests_are_one_sentence(tmp_path):
    with pytest.raises(DumenetError, match="did you mean 'weave'"):
        make_factory(tmp_path / "f", categories="weav")
    (tmp_path / "file").write_text("")
    with pytest.raises(DumenetError, match="another folder"):
        make_factory(tmp_path / "file" / "f", **SMALL)
