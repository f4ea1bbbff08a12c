"""Records on disk: whole or not at all, plain numbers only, and readable again."""

import errno
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dumenet import results
from dumenet.errors import DumenetError
from dumenet.results import Cell, csv, machine, markdown, peak_memory_mb, read_results, table, write_result


@dataclass
class Options:
    width: int = 128
    data: Path = Path("data") / "bottle"


def test_round_trip_of_numpy_and_dataclasses(tmp_path):
    record = {
        "auroc": np.float32(0.5),
        "n": np.int64(3),
        "ok": np.bool_(True),
        "curve": np.arange(3.0),
        "pro": None,
        "interval": (0.25, 1.0),
        "options": Options(),
    }
    write_result(tmp_path / "new folder" / "run.json", record)
    (read,) = read_results(tmp_path / "new folder")
    assert read == {
        "auroc": 0.5, "n": 3, "ok": True, "curve": [0.0, 1.0, 2.0], "pro": None, "interval": [0.25, 1.0],
        "options": {"width": 128, "data": "data/bottle"}, "schema": results.SCHEMA,
    }  # fmt: skip
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["run.json"]


@pytest.mark.parametrize("bad", [float("nan"), np.float32("inf"), np.array([0.0, np.nan])])
def test_nan_is_refused_by_name_and_nothing_is_written(tmp_path, bad):
    with pytest.raises(DumenetError, match=r"record\.mean\.pro.* is (nan|inf)"):
        write_result(tmp_path / "run.json", {"mean": {"pro": bad}})
    assert list(tmp_path.iterdir()) == []


def test_foreign_object_is_refused(tmp_path):
    with pytest.raises(DumenetError, match="record.model is a object"):
        write_result(tmp_path / "run.json", {"model": object()})


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, step):
    path = tmp_path / "run.json"
    write_result(path, {"seed": 0})

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(results.os, step, full)
    with pytest.raises(DumenetError, match="run.json .No space left on device"):
        write_result(path, {"seed": 1})
    assert json.loads(path.read_text())["seed"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(results.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_result(tmp_path / "run.json", {})
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DumenetError, match="Cannot write"):
        write_result(tmp_path / "file" / "run.json", {})


def test_read_sorted_and_filtered(tmp_path):
    for name, seed in (("b", 1), ("a", 0), ("c", 1)):
        write_result(tmp_path / f"{name}.json", {"name": name, "seed": seed, "size": [2, 2]})
    (tmp_path / "notes.txt").write_text("no result")
    assert [r["name"] for r in read_results(tmp_path)] == ["a", "b", "c"]
    assert [r["name"] for r in read_results(tmp_path, seed=np.int64(1), size=(2, 2))] == ["b", "c"]
    assert read_results(tmp_path, seed=5) == []
    with pytest.raises(DumenetError, match="did you mean 'seed'"):
        read_results(tmp_path, sead=1)


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


def records():
    values = {("add", "toy", 0): 0.8, ("add", "toy", 1): 0.9, ("gate", "toy", 0): 0.7, ("gate", "digits", 0): None}
    return [{"fusion": f, "data": d, "seed": s, "mean": {"pro": v}} for (f, d, s), v in values.items()]


def test_table_markdown_and_csv():
    pivot = table(records(), "fusion", "data", "mean.pro")
    rows, columns, cells = pivot
    assert (rows, columns) == (["add", "gate"], ["toy", "digits"])
    assert cells[0][0] == pytest.approx(Cell(0.85, np.std([0.8, 0.9], ddof=1), 2))
    assert cells[0][1] is None
    assert cells[1] == [Cell(0.7, None, 1), Cell(None, None, 0)]
    assert markdown(pivot).splitlines() == [
        "|  | toy | digits |",
        "| --- | --- | --- |",
        "| add | 0.850 ± 0.071 (n=2) | – |",
        "| gate | 0.700 (n=1) | not defined |",
    ]
    lines = csv(pivot).splitlines()
    assert lines[0] == "row,column,mean,std,n"
    assert lines[2:] == ["gate,toy,0.7,,1", "gate,digits,,,0"]


def test_table_refuses_what_it_would_hide():
    with pytest.raises(DumenetError, match="Two records for fusion=add, data=toy, seed=0"):
        table(records() + records()[:1], "fusion", "data", "mean.pro")
    with pytest.raises(DumenetError, match="did you mean 'mean'"):
        table(records(), "fusion", "data", "main.pro")


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


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_peak_memory_grows_by_what_is_touched():
    code = """
import numpy
from dumenet.results import peak_memory_mb
before = peak_memory_mb()
numpy.ones(25_000_000)
print(before, peak_memory_mb())
"""  # in a process of its own: a peak never falls, and the tests before this one may have needed more
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert 10 < before < 500 and 190 < after - before < 250
    assert peak_memory_mb() > 10
