"""Exported graphs and the engines that run them: the same numbers as torch, damaged files refused, images read ahead.

Where the packages of the extra `fast` are absent, what needs them is skipped: use pip install -e '.[fast]'.
"""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import photos, rows, write
from PIL import Image
from torch import nn

import dumenet.features as features_module
from dumenet import engine
from dumenet.checkpoint import load_checkpoint, save_checkpoint
from dumenet.cli import main
from dumenet.data import Sample, load_image
from dumenet.detector import Detector, load
from dumenet.engine import Engine
from dumenet.errors import DumenetError
from dumenet.features import Backbone, extract
from dumenet.graph import OUTPUTS, Graph
from dumenet.metrics import image_score
from dumenet.overlay import overlay
from dumenet.predict import GAP, TITLE, predict
from dumenet.run import Folders, evaluate_checkpoint, run
from dumenet.score import calibrate, evaluated
from dumenet.train import train

ROOT = Path(__file__).resolve().parents[1]
ABSENT = [p for p in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(p)]
fast = pytest.mark.skipif(bool(ABSENT), reason=f"absent: {', '.join(ABSENT)}; pip install -e '.[fast]'")
SMALL = {"features__backbone": "test_resnet", "features__stages": (0, 1)}  # exported in a sixth of mobilenet's time


def example(size):
    return {"images": torch.zeros(2, size, size, 3, dtype=torch.uint8)}


def alike(found, expected):
    """Equal to 1e-3 of the expected values' range."""
    return np.abs(np.asarray(found) - np.asarray(expected)).max() <= 1e-3 * np.ptp(np.asarray(expected))


# --- features


@fast
def test_features_of_an_engine_are_torchs_and_cached_alike(tiny, samples, tmp_path, monkeypatch):
    torchs = extract(samples, Backbone(tiny(**SMALL, features__runtime="torch").features), tmp_path / "t", False)
    backbone = Backbone(tiny(**SMALL, features__runtime="onnx", features__batch_size=4).features)
    found = extract(samples, backbone, tmp_path, progress=False)
    assert alike(rows(found), rows(torchs))
    graph = tmp_path / backbone.key / "backbone.onnx"
    assert (tmp_path / "t" / backbone.key).is_dir()
    with pytest.raises(DumenetError, match="holds features and no detector"):
        load(graph)
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-100])  # is made again: in this test from a copy, since that takes seconds
    monkeypatch.setattr(features_module, "export", lambda *a: a[-1].write_bytes(whole))
    new = Sample("new", "a", "good", samples[0].source[::-1])
    again = extract([samples[3], new], backbone, tmp_path, progress=False)
    assert torch.equal(rows(again)[0], rows(found)[3]) and graph.read_bytes() == whole
    monkeypatch.setitem(sys.modules, "onnx", None)  # what is cached needs no package
    assert torch.equal(rows(extract(samples, Backbone(backbone.config), tmp_path, progress=False)), rows(found))


@fast
def test_by_default_many_images_are_left_to_an_engine(tiny, samples, tmp_path, monkeypatch):
    backbone = Backbone(tiny(**SMALL).features)
    extract(samples[:1], backbone, tmp_path, progress=False)
    assert not (tmp_path / backbone.key / "backbone.onnx").exists()  # an export would take longer
    monkeypatch.setattr(features_module, "MANY", (len(samples) - 1) * math.prod(backbone.config.shape))
    extract(samples, backbone, tmp_path, progress=False)  # one is in the cache: just as many pixels as pay
    assert (tmp_path / backbone.key / "backbone.onnx").exists()

    def refused(*args):
        raise DumenetError("This network cannot be exported.")

    monkeypatch.setattr(features_module, "export", refused)
    extract(samples, backbone, tmp_path / "other", progress=False)  # by torch
    with pytest.raises(DumenetError, match="cannot be exported"):
        extract(samples, Backbone(tiny(**SMALL, features__runtime="onnx").features), tmp_path / "third", False)


def test_without_the_packages_a_sentence_says_what_to_install(tiny, samples, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", sys.modules.get("onnx") or nn)  # there, whatever this machine has
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DumenetError, match=r"needs the package onnxscript, .* pip install -e '.\[fast\]'"):
        extract(samples, Backbone(tiny(features__runtime="onnx").features), tmp_path, progress=False)


# --- reading ahead


def test_an_unreadable_image_costs_its_own_batch_only(tiny, samples, tmp_path):
    backbone = Backbone(tiny(features__batch_size=4).features)
    for i, sample in enumerate(samples):
        write(tmp_path / f"{i}.png", sample.source)
    files = [Sample(s.name, "a", "good", tmp_path / f"{s.name}.png") for s in samples]
    whole = (tmp_path / "6.png").read_bytes()
    (tmp_path / "6.png").write_bytes(whole[:60])
    with pytest.raises(DumenetError, match="6.png is empty, cut short"):
        extract(files, backbone, tmp_path / "cache", progress=False)
    assert len(list((tmp_path / "cache" / backbone.key).glob("*.npz"))) == 4
    (tmp_path / "6.png").write_bytes(whole)
    found = rows(extract(files, backbone, tmp_path / "cache", progress=False))
    assert torch.equal(found, rows(extract(samples, backbone, tmp_path / "memory", progress=False)))


# --- the whole network as one graph


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    """A tiny trained network."""
    home = tmp_path_factory.mktemp("home")
    outcome = run(tiny(data__source=str(photos(home)), **SMALL), Folders(home), progress=False)
    return save_checkpoint(outcome.trained, home / "checkpoint.pt")


@pytest.fixture(scope="module")
def exported(checkpoint):
    """The same as a graph, written by the command."""
    assert main(["export", str(checkpoint)]) == 0
    return checkpoint.with_suffix(".onnx")


@fast
def test_maps_and_scores_of_an_engine_are_torchs(checkpoint, exported):
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    images.setflags(write=False)  # as Pillow's are
    torchs, found = load(checkpoint), load(exported)
    assert found.size == torchs.size == (64, 64) and found.thresholds == torchs.thresholds
    assert found.categories == torchs.categories == ["bolt", "felt"] and found.normal == torchs.normal
    for given in (-1, 1):  # found, and given
        asked = np.full(5, given)
        maps, scores, categories = torchs.run(images, asked)
        assert maps.shape == (5, 64, 64) and scores.shape == categories.shape == (5,)
        for n in (1, 2, 5):  # any batch
            some, values, found_categories = found.run(images[:n], asked[:n])
            assert alike(some, maps[:n]) and np.allclose(values, scores[:n], rtol=1e-3)
            assert np.array_equal(found_categories, categories[:n]) and (given < 0 or (categories == given).all())


@fast
@pytest.mark.parametrize("error", ["norm", "mahalanobis"])
def test_prediction_and_graph_give_the_maps_of_the_evaluation(checkpoint, exported, tmp_path, error):
    outcome = evaluate_checkpoint(checkpoint, {"evaluation.error": error}, Folders(tmp_path))
    images, other = np.stack([load_image(s, 64) for s in outcome.test.samples]), tmp_path / "other.pt"
    save_checkpoint(evaluated(load_checkpoint(checkpoint), {"evaluation.error": error}), other)
    for detector in map(load, (other, exported) if error == "mahalanobis" else (other,)):
        maps, scores, _ = detector.run(images, np.full(len(images), -1))
        assert alike(maps, outcome.scores.maps) and np.allclose(scores, outcome.scores.image, rtol=2e-3)
        assert detector.thresholds == pytest.approx(outcome.trained.thresholds)


def test_a_graph_is_not_written_over_its_checkpoint(checkpoint, capsys):
    content = checkpoint.read_bytes()
    assert main(["export", str(checkpoint), "--out", str(checkpoint)]) == 2
    assert "A graph's file is named .onnx" in capsys.readouterr().err and checkpoint.read_bytes() == content


def test_the_export_takes_another_error(checkpoint, monkeypatch):
    monkeypatch.setattr(engine, "export", export := Mock())  # the graph itself takes seconds
    assert main(["export", str(checkpoint), "--error", "norm"]) == 0
    graph, _, _, metadata, _ = export.call_args.args
    expected = evaluated(load_checkpoint(checkpoint), {"evaluation.error": "norm"})
    assert graph.trained.config == expected.config and metadata["thresholds"] == expected.thresholds


@fast
def test_a_graph_takes_any_batch_elsewhere_too(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    for n in (1, 3):
        inputs = {"images": np.zeros((n, 64, 64, 3), np.uint8), "category": np.full(n, -1)}
        maps, scores = session.run(["maps", "scores"], inputs)
        assert maps.shape == (n, 64, 64) and np.allclose(scores, image_score(maps, "max"), rtol=1e-4)


class Pixels(nn.Module):
    """In place of a backbone: 8 x 8 images are features of three channels."""

    mean = torch.zeros(1)

    def forward(self, images):
        return images.permute(0, 3, 1, 2).float() / 255


@fast
@pytest.mark.parametrize(
    ("settings", "pooling", "error"),
    [
        ({"name": "uniad", "neighbour_mask": ("encoder", "decoder_second"), "neighbour_size": 3}, "top1", "norm"),
        ({"preset": "released", "neck": "cbam", "fusion_mode": "gate"}, "std", "mahalanobis"),
    ],
)
def test_every_kind_of_network_becomes_a_graph(tiny, make_features, tmp_path, settings, pooling, error):
    given = {f"model__{k}": v for k, v in settings.items()}
    config = tiny(features__grid=8, evaluation__pooling=pooling, evaluation__error=error, **given)
    normal = make_features(8, channels=3, grid=8)
    trained = train(config, normal, (3,), progress=False)
    calibrate(trained, normal, None)
    module, found = Graph(trained, Pixels()), torch.full((1,), -1)
    inputs = example(8) | {"category": torch.full((2,), -1)}
    engine.export(module, inputs, OUTPUTS, {}, tmp_path / "g.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    run = Engine(engine.read(tmp_path / "g.onnx")[0])
    maps, scores, categories = run(images=images, category=np.full(3, -1))
    with torch.no_grad():  # one by one, as the engine does: in the released layout images of a batch see each other
        expected = [module(torch.tensor(image[None]), found) for image in images]
    assert alike(maps, torch.cat([m for m, _, _ in expected]))
    assert np.allclose(scores, torch.cat([s for _, s, _ in expected]), rtol=1e-3)
    assert categories.tolist() == [int(c) for _, _, c in expected]


@fast
def test_a_damaged_graph_is_refused(exported, tmp_path):
    content, path = exported.read_bytes(), tmp_path / "model.onnx"
    end = content.index(b"thresholds")
    for damaged in (
        content[: end - 4],  # cut between two fields
        content[:20_000] + bytes([content[20_000] ^ 1]) + content[20_001:],
        content[:end] + content[end:].replace(b'"all": ', b'"all":9', 1),
        b"PK\x03\x04" * 99,
    ):
        assert damaged != content
        path.write_bytes(damaged)
        with pytest.raises(DumenetError, match="model.onnx is not a whole graph of `dumenet export`"):
            load(path)


def test_sentences_about_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes(b"")
    sentences = {
        "export none.pt": "No checkpoint at",
        "predict model.ONNX image.png --device cuda": "is run on the CPU, by ONNX Runtime: for the device cuda give",
        "predict model.onnx image.png": "model.onnx (No such file or directory): write it with `dumenet export`",
    }
    for command, says in list(sentences.items())[: 2 if ABSENT else None]:
        assert main(command.split()) == 2 and says in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["predict", "model.onnx", "image.png"]) == 2
    assert "needs the package onnx, which is not installed" in capsys.readouterr().err


@fast
def test_predict_gives_the_same_verdicts_whatever_computes(checkpoint, exported, tree, tmp_path):
    torchs, engines = (predict(path, tree / "felt" / "test", tmp_path / "out") for path in (checkpoint, exported))
    for found, expected in zip(engines, torchs, strict=True):
        assert (found.name, found.verdict, found.category) == (expected.name, expected.verdict, expected.category)
        assert found.score == pytest.approx(expected.score, rel=1e-3)


@fast
def test_an_exported_file_judges_without_torch(exported, tree, tmp_path):
    command = ["predict", str(exported), str(tree / "felt" / "test"), "--out", str(tmp_path / "out")]
    code = f"import sys; sys.modules['torch'] = None; from dumenet.cli import main; sys.exit(main({command!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "out").rglob("*.heatmap.png"))) == 6


@fast
def test_the_script_without_this_package_gives_the_same_scores(exported, tree):
    files = sorted(map(str, (tree / "felt" / "test").rglob("*.png")))
    block = "import sys; sys.modules |= {'torch': None, 'dumenet': None}; sys.argv = sys.argv[1:]"
    code = f"{block}; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(ROOT / "docs" / "judge.py"), str(exported), *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for line, expected in zip(done.stdout.splitlines(), load(exported).predict(files), strict=True):
        name, score, category, verdict = line.split(",")
        assert (name, category, verdict) == (expected.name, expected.category, expected.verdict)
        assert float(score) == pytest.approx(expected.score, rel=1e-5)


def test_a_heatmap_stands_beside_its_image_and_the_threshold_in_the_middle_of_its_colours(tmp_path, monkeypatch):
    name, image = "\u00e9\u4e2d" + 100 * "x" + ".png", np.full((112, 112, 3), (200, 100, 0), np.uint8)
    maps = np.zeros((1, 112, 112))
    maps[:, :, 56:] = 2.0
    write(tmp_path / name, image)
    detector = Detector(features__image_size=112)
    detector.thresholds, detector.compute = {"all": 2.0}, lambda _, k: (maps, np.array([2.0]), k)
    monkeypatch.setattr("dumenet.predict.load", lambda *a: detector)
    predict(tmp_path / "none.pt", tmp_path, tmp_path / "out")
    page = np.asarray(Image.open(tmp_path / "out" / f"{name}.heatmap.png"))
    side = (page.shape[1] - 3 * GAP) // 2
    assert side % 112 == 0 and page.shape[0] == TITLE + side + GAP
    for left, panel in ((GAP, image), (2 * GAP + side, overlay(image, maps[0], 4.0))):
        shown = page[TITLE : TITLE + side, left : left + side]
        assert np.array_equal(shown[:: side // 112, :: side // 112], panel)
    assert (page[:TITLE] < 100).any()  # there is a title


@fast
def test_what_cannot_be_exported_says_so(tmp_path):
    class Odd(nn.Module):
        def forward(self, images):
            return images.float() if images.float().mean() > 3 else images.float() + 1

    with pytest.raises(DumenetError, match="cannot be exported to ONNX .*: use its checkpoint"):
        engine.export(Odd(), example(8), ("y",), {}, tmp_path / "odd.onnx")
    assert not (tmp_path / "odd.onnx").exists()


@fast
def test_what_an_engine_cannot_run_says_so():
    with pytest.raises(DumenetError, match="onnxruntime cannot run this graph .*: install a newer one"):
        Engine(b"no graph")(images=np.zeros((1, 8, 8, 3), np.uint8))
