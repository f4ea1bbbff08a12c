"""`dumenet reproduce`: what changed runs, what failed is named, the rest still runs, in one process or several."""

import json
import re

import nbformat
import pytest

from dumenet.cli import main
from dumenet.course.reproduce import CELL_TIMEOUT, reproduce
from dumenet.errors import DumenetError

PARAMETERS = 'profile = "quick"\ndata = "factory"\nnumber = "{}"\n'
RAN = "import os, signal, time\nfrom pathlib import Path\nopen('../ran', 'a').write(number + '\\n')"
FIGURE = """Path('../figures').mkdir(exist_ok=True)
seen = sorted(p.name for p in Path('../figures').iterdir())
Path(f'../figures/{number}_text.txt').write_text(' '.join(seen) if number > '09' else profile + data)"""
RESULT = (
    "Path('../data/results').mkdir(parents=True, exist_ok=True)\nPath(f'../data/results/{number}-run.json').touch()"
)
DIE = """while '02' not in open('../ran').read().split():
    time.sleep(0.1)
if not Path('../died').exists():
    Path('../died').touch()
    os.kill(os.getppid(), signal.SIGKILL)  # the process that runs this lesson"""


def put(home, number, *cells, parameters=PARAMETERS):
    """A lesson that notes that it ran, then runs `cells`."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(parameters.format(number), metadata={"tags": ["parameters"]})]
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in (RAN, *cells)]
    (home / "notebooks").mkdir(exist_ok=True)
    nbformat.write(notebook, home / "notebooks" / f"{number}_lesson.ipynb")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place with two lessons; the second has a parameter of its own, and leaves a figure."""
    put(tmp_path, "00", "print(1 + 1)")
    put(tmp_path, "01", FIGURE, parameters=PARAMETERS + "seed = 0  # of training")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(home):
    """The lessons that ran since the last call."""
    log = home / "ran"
    numbers = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return numbers


def test_runs_keeps_and_runs_again_what_changed(home, capfd):
    assert main(["reproduce", "-p", "seed=3", "--data", "photos"]) == 0
    out = capfd.readouterr().out
    assert ran(home) == ["00", "01"] and (home / "figures" / "01_text.txt").read_text() == "quickphotos"
    executed = nbformat.read(home / "build" / "notebooks" / "00_lesson.ipynb", 4)
    assert executed.cells[-1].outputs[0].text == "2\n"
    source = nbformat.read(home / "notebooks" / "00_lesson.ipynb", 4)
    assert not any(cell.outputs for cell in source.cells)  # the lesson itself stays as it was
    for word in ("00_lesson (", "01_lesson (", "    figures/01_text.txt", "    build/notebooks/01_lesson.ipynb"):
        assert word in out
    measured = json.loads((home / "build" / "lessons-quick.json").read_text())
    assert set(measured["lessons"]) == {"00_lesson", "01_lesson"} and measured["machine"]

    assert main(["reproduce", "-p", "seed=3", "--data", "photos"]) == 0
    captured = capfd.readouterr()
    assert not ran(home) and (captured.out + captured.err).count("unchanged, kept") == 2
    assert "    figures/01_text.txt" in captured.out  # listed all the same

    def again(**options):
        assert reproduce(**{"parameters": {"seed": 3, "data": "photos"}} | options) == 0
        return ran(home)

    put(home, "00", "print(2 + 2)")
    assert again() == ["00"]
    (home / "figures" / "01_text.txt").unlink()
    assert again() == ["01"]
    assert again(parameters={"seed": 4, "data": "photos"}) == ["01"]  # the other lesson has no seed
    (home / "dumenet").mkdir()
    (home / "dumenet" / "new.py").write_text("x = 1")
    only = {"parameters": {"data": "photos"}, "only": ["0"]}
    assert again(**only) == ["00"]
    (home / "notebooks" / "check.py").write_text("x = 1")
    only["only"] = ["00_lesson"]
    assert again(**only) == ["00"] and not again(**only) and again(**only, force=True) == ["00"]


def test_a_failed_lesson_is_named_and_is_not_done(home, capfd):
    put(home, "00", "1")
    assert reproduce(only=["00"]) == 0
    put(home, "00", "print('fine')", "x = 1\nx / 0")
    assert main(["reproduce"]) == 1
    lines, message = capfd.readouterr().out.splitlines(), "failed: ZeroDivisionError: division by zero"
    assert lines[-1] == f"00_lesson.ipynb: cell 5 {message}; see build/notebooks/00_lesson.ipynb"
    executed = nbformat.read(home / "build" / "notebooks" / "00_lesson.ipynb", 4).cells
    (failed,) = [c for c in executed if c.get("execution_count") == 5]  # the number that the reader sees there
    assert failed.source == "x = 1\nx / 0" and failed.outputs[-1].output_type == "error"
    put(home, "00", "1")  # as it once ran, but what is in build/notebooks is the failed one
    assert reproduce() == 0 and ran(home) == ["00", "00", "01", "00"]


def test_a_hanging_cell_fails_its_lesson(home, monkeypatch, capfd):
    put(home, "00", "time.sleep(60)")
    monkeypatch.setitem(CELL_TIMEOUT, "quick", 1)
    assert reproduce(only=["00"]) == 1 and ran(home) == ["00"]
    assert re.search(r"00_lesson\.ipynb: .*(Timeout|timed out)", capfd.readouterr().out)


def test_lessons_that_read_all_results_run_again_when_there_are_others(tmp_path):
    for number in ("00", "10", "11"):
        put(tmp_path, number, RESULT)

    def again():
        assert reproduce(home=tmp_path) == 0
        return ran(tmp_path)

    assert again() == ["00", "10", "11"] and again() == []  # their own results and later ones are not what they read
    (tmp_path / "data" / "results" / "real-run.json").write_text("{}")  # dumenet train --tag real
    assert again() == ["10", "11"]
    (tmp_path / "notebooks" / "11_lesson.ipynb").unlink()
    put(tmp_path, "00", RESULT, "1")  # it writes its results anew
    assert again() == ["00", "10"] and again() == []


def test_two_processes_leave_the_same_files_and_name_what_failed(tmp_path, capfd):
    for number in ("00", "01", "02", "10"):
        put(tmp_path, number, "1 / 0" if number == "02" else FIGURE)
    assert main_in(tmp_path, "reproduce", "--workers", "2") == 1
    left = {p.name: p.read_text() for p in (tmp_path / "figures").iterdir()}
    all_before = "00_text.txt 01_text.txt"  # lesson 10 waited for them
    assert left == {"00_text.txt": "quickfactory", "01_text.txt": "quickfactory", "10_text.txt": all_before}
    stamp = json.loads((tmp_path / "build" / "notebooks" / ".01_lesson.json").read_text())
    assert stamp["made"] == ["build/notebooks/01_lesson.ipynb", "figures/01_text.txt"]
    order = ran(tmp_path)
    assert sorted(order) == ["00", "01", "02", "10"] and order[0] == "00" and order[-1] == "10"
    assert not (tmp_path / "build" / "lessons-quick.json").exists()  # times of lessons side by side are other times
    assert re.search(r"(?m)^02_lesson\.ipynb: cell \d failed: ZeroDivisionError", capfd.readouterr().out)


def test_a_killed_process_is_a_sentence_and_the_same_command_goes_on(tmp_path, capfd):
    for number, cells in (("00", []), ("01", [DIE]), ("02", [])):
        put(tmp_path, number, *cells)
    assert main_in(tmp_path, "reproduce", "--workers", "2") == 2
    assert "was killed" in capfd.readouterr().err and sorted(ran(tmp_path)) == ["00", "01", "02"]
    (tmp_path / "ran").write_text("02\n")
    assert main_in(tmp_path, "reproduce", "--workers", "2") == 0
    assert "01" in (again := ran(tmp_path)) and "00" not in again


def main_in(home, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return main(list(words))


def test_refuses_a_number_of_workers_that_is_none(home):
    with pytest.raises(DumenetError, match="--workers is -1: give the number"):
        reproduce(workers=-1)
