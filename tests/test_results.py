"""Records on disk: whole or not at all, plain numbers only, and readable again."""

import errno
import json
import os
import platform
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
from scipy import stats

from dumenet import results
from dumenet.config import to_dict
from dumenet.errors import DumenetError
from dumenet.results import (
    labels,
    machine,
    markdown,
    peak_memory_mb,
    plus_minus,
    read_results,
    runs,
    summary,
    write_result,
)


def test_round_trip_of_numpy_and_paths(tmp_path):
    record = {
        "auroc": np.float32(0.5), "n": np.int64(3), "ok": np.bool_(True), "curve": np.arange(3.0), "pro": None,
        "interval": (0.25, 1.0), "data": Path("data") / "bottle",
    }  # fmt: skip
    write_result(tmp_path / "new folder" / "run.json", record)
    (read,) = read_results(tmp_path / "new folder")
    assert read == {
        "auroc": 0.5, "n": 3, "ok": True, "curve": [0.0, 1.0, 2.0], "pro": None, "interval": [0.25, 1.0],
        "data": "data/bottle", "schema": results.SCHEMA,
    }  # fmt: skip
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["run.json"]


@pytest.mark.parametrize("bad", [float("nan"), np.float32("inf"), np.array([0.0, np.nan])])
def test_nan_is_refused_by_name_and_nothing_is_written(tmp_path, bad):
    with pytest.raises(DumenetError, match=r"record\.mean\.pro.* is (nan|inf)"):
        write_result(tmp_path / "run.json", {"mean": {"pro": bad}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, step, error):
    path = tmp_path / "run.json"
    write_result(path, {"seed": 0})
    monkeypatch.setattr(results.os, step, Mock(side_effect=error))
    expected, text = (DumenetError, "run.json .No space left") if isinstance(error, OSError) else (type(error), None)
    with pytest.raises(expected, match=text):
        write_result(path, {"seed": 1})
    assert json.loads(path.read_text())["seed"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DumenetError, match="Cannot write"):
        write_result(tmp_path / "file" / "run.json", {})


def test_read_sorted_and_filtered(tmp_path):
    for name, seed in (("b", 1), ("a", 0), ("c", 1)):
        write_result(tmp_path / f"{name}.json", {"name": name, "seed": seed, "size": [2, 2]})
    (tmp_path / "notes.txt").write_text("no result")
    assert [r["name"] for r in read_results(tmp_path)] == ["a", "b", "c"]
    assert [r["name"] for r in read_results(tmp_path, seed=1, size=[2, 2])] == ["b", "c"]
    assert read_results(tmp_path, seed=5) == read_results(tmp_path, sead=1) == []


def test_read_errors_name_the_file(tmp_path):
    with pytest.raises(DumenetError, match="no results folder"):
        read_results(tmp_path / "none")
    for text in ('{"a": 1', "[1, 2]", '{"a": 1}', b"\xff\xfe"):
        (tmp_path / "broken.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DumenetError, match="broken.json is not a readable"):
            read_results(tmp_path)
    (tmp_path / "broken.json").write_text('{"schema": 999}')
    with pytest.raises(DumenetError, match="broken.json has result schema 999"):
        read_results(tmp_path)


# --- summaries over seeds


def record(row, seed, values, ci=None):
    """A record of image AUROC in each part, the same interval in all; and a pixel AUROC that is not defined."""
    parts = {part: {"image_auroc": v, "image_auroc_ci": ci, "pixel_auroc": None} for part, v in values.items()}
    return {"column": row, "seed": seed, "metrics": {"per_category": parts}}


def cell(records, *key):
    return summary(runs(records)).loc[(*key, "image_auroc")]


def test_a_summary_by_hand():
    found = [record("US", s, {"bottle": v, "cable": 0.5}, [0.4, 0.6]) for s, v in enumerate((0.80, 0.84, 0.88))]
    bottle, cable, mean = (cell(found, "US", part) for part in ("bottle", "cable", "mean"))
    seeds = stats.t.ppf(0.975, 2) * 4 / 3**0.5  # of 80, 84, 88
    assert (bottle["mean"], bottle.n) == (pytest.approx(84), 3) and mean["mean"] == pytest.approx(67)
    assert bottle.half == pytest.approx(np.hypot(seeds, 10)) and cable.half == pytest.approx(10)
    assert mean.half == pytest.approx(np.hypot(seeds / 2, np.hypot(10, 10) / 2))
    assert not (summary(runs(found)).index.get_level_values("metric") == "pixel_auroc").any()  # not defined


def test_splits_share_their_test_images_and_perfection_has_no_interval():
    splits = {"{01234}": 0.8, "{56789}": 0.7}
    assert cell([record("US", 0, splits, [0.4, 0.6])], "US", "mean").half == pytest.approx(10)  # not 10 / sqrt(2)
    perfect = [record("US", s, {"bottle": 1.0}, [1.0, 1.0]) for s in (0, 1)]
    assert np.isnan(cell(perfect, "US", "bottle").half)
    assert np.isnan(cell([record("US", 0, {"bottle": 0.9})], "US", "bottle").half)  # one seed, no bootstrap
    assert cell([record("US", 0, {"bottle": 0.99}, [0.98, 1.0])], "US", "bottle").half == pytest.approx(1)


def test_a_mean_needs_every_part():
    found = [record("US", 0, {"bottle": 0.8}), record("US", 0, {"cable": 0.6}), record("US", 1, {"bottle": 0.7})]
    mean = cell(found, "US", "mean")
    assert (mean["mean"], mean.n) == (pytest.approx(70), 1)  # seed 1 has no cable
    found.append(record("PaDiM", 0, {"bottle": 0.9}))
    assert ("PaDiM", "mean", "image_auroc") not in summary(runs(found)).index
    with pytest.raises(DumenetError, match="Two records for US, bottle, seed 0"):
        runs([*found, record("US", 0, {"bottle": 0.5})])


def test_numbers_and_tables_as_text():
    assert [plus_minus(93.44, half) for half in (0.5, None, float("nan"))] == ["93.4 ± 0.5", "93.4", "93.4"]
    assert markdown([["", "a"], ["US", "1.0"]]) == "|  | a |\n| --- | --- |\n| US | 1.0 |"


def test_a_label_names_what_differs(tiny):
    def named(*settings):
        return labels([{"config": to_dict(tiny(**s))} for s in settings])

    assert named({}, {"train__seed": 3}, {"train__device": "auto"}) == ["dumenet"] * 3  # what is small, all share
    assert named({}, {"model__name": "uniad"}, {"model__heads": 1}) == [
        "dumenet, heads 2",
        "uniad, heads 2",
        "dumenet, heads 1",
    ]
    paper = named({"train__recipe": "paper"}, {})
    assert "recipe paper" in paper[0] and "recipe" not in paper[1] and "lr" not in "".join(paper)  # the recipe sets it


def test_machine_is_plain_and_names_no_host(tmp_path):
    found = machine()
    write_result(tmp_path / "run.json", found)
    assert found["versions"]["numpy"] == np.__version__
    assert found["cpu_count"] == os.cpu_count() and found["threads"] >= 1
    assert platform.node() not in json.dumps(found)
    assert machine("cpu")["device"] == "cpu"


def test_commit_is_none_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "__file__", str(tmp_path / "dumenet" / "results.py"))
    assert machine()["commit"] is None


def test_peak_memory_grows_by_what_is_touched():
    before = peak_memory_mb()
    spare = before - psutil.Process().memory_info().rss / 1e6  # a peak never falls: tests before this needed more
    np.ones(int((spare + 100) * 1e6 / 8))
    assert before > 10 and 50 < peak_memory_mb() - before < 150
