"""`dumenet reproduce`: what changed runs, what failed is named, the rest still runs, in one process or several."""

import json
import re

import nbformat
import papermill
import pytest

from dumenet.cli import main
from dumenet.course import project
from dumenet.course.reproduce import CELL_TIMEOUT, reproduce
from dumenet.errors import DumenetError

PARAMETERS = 'profile = "quick"\ndata = "factory"\nnumber = "{}"\n'
RAN = "import time\nfrom pathlib import Path\nopen('../ran', 'a').write(number + '\\n')"
FIGURE = """Path('../figures').mkdir(exist_ok=True)
seen = sorted(p.name for p in Path('../figures').iterdir())
Path(f'../figures/{number}_text.txt').write_text(' '.join(seen) if number > '09' else profile + data)"""
RESULT = (
    "Path('../data/results').mkdir(parents=True, exist_ok=True)\nPath(f'../data/results/{number}-run.json').touch()"
)


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


@pytest.fixture
def without_kernel(monkeypatch):
    """Papermill, but in this process: a kernel takes a second to start."""

    def execute(path, out, parameters, cwd, **options):
        first, *cells = nbformat.read(path, 4).cells
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(cwd)
            names = {}
            exec(first.source, names)
            names |= parameters
            for cell in cells:
                exec(cell.source, names)
        out.write_text("")

    monkeypatch.setattr(papermill, "execute_notebook", execute)


def ran(home):
    """The lessons that ran since the last call."""
    log = home / "ran"
    numbers = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return numbers


def test_runs_keeps_and_runs_again_what_changed(home, without_kernel, capfd):
    assert main(["reproduce", "-p", "seed=3", "--data", "photos"]) == 0
    out = capfd.readouterr().out
    assert ran(home) == ["00", "01"] and (home / "figures" / "01_text.txt").read_text() == "quickphotos"
    for word in ("00_lesson (", "01_lesson (", "    figures/01_text.txt", "    build/notebooks/01_lesson.ipynb"):
        assert word in out
    measured = json.loads((home / "build" / "lessons-quick.json").read_text())
    assert set(measured["lessons"]) == {"00_lesson", "01_lesson"} and measured["machine"]

    assert main(["reproduce", "-p", "seed=3", "--data", "photos"]) == 0
    out = capfd.readouterr().out
    assert (
        not ran(home) and out.count("unchanged, kept") == 2 and "    figures/01_text.txt" in out
    )  # listed all the same

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
    assert again(**only) == ["00"] and not again(**only)
    assert again(**only | {"only": ["00_lesson"]}, force=True) == ["00"]


def test_lessons_that_read_all_results_run_again_when_there_are_others(tmp_path, without_kernel):
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


def test_a_failed_lesson_is_named_and_is_not_done(home, capfd):
    put(home, "01", "print('fine')", "x = 1\nx / 0")
    assert main(["reproduce"]) == 1
    lines, message = capfd.readouterr().out.splitlines(), "failed: ZeroDivisionError: division by zero"
    assert lines[-1] == f"01_lesson: cell 5 {message}; see build/notebooks/01_lesson.ipynb"
    done, executed = (nbformat.read(home / "build" / "notebooks" / f"{n}_lesson.ipynb", 4).cells for n in ("00", "01"))
    assert done[-1].outputs[0].text == "2\n"
    source = nbformat.read(home / "notebooks" / "00_lesson.ipynb", 4)
    assert not any(cell.outputs for cell in source.cells)  # the lesson itself stays as it was
    (failed,) = [c for c in executed if c.get("execution_count") == 5]  # the number that the reader sees there
    assert failed.source == "x = 1\nx / 0" and failed.outputs[-1].output_type == "error"
    ran(home)
    assert reproduce() == 1 and ran(home) == ["01"]


def test_a_hanging_cell_fails_its_lesson(home, monkeypatch, capfd):
    put(home, "00", "time.sleep(60)")
    monkeypatch.setitem(CELL_TIMEOUT, "quick", 1)
    assert reproduce(only=["00"]) == 1 and ran(home) == ["00"]
    assert re.search(r"00_lesson: .*(Timeout|timed out)", capfd.readouterr().out)


def test_two_processes_leave_the_same_files_and_name_what_failed(tmp_path, capfd):
    for number in ("00", "01", "02", "10"):
        put(tmp_path, number, "1 / 0" if number == "02" else FIGURE)
    assert reproduce(home=tmp_path, workers=2) == 1
    left = {p.name: p.read_text() for p in (tmp_path / "figures").iterdir()}
    all_before = "00_text.txt 01_text.txt"  # lesson 10 waited for them
    assert left == {"00_text.txt": "quickfactory", "01_text.txt": "quickfactory", "10_text.txt": all_before}
    stamp = json.loads((tmp_path / "build" / "notebooks" / ".01_lesson.json").read_text())
    assert stamp["made"] == ["build/notebooks/01_lesson.ipynb", "figures/01_text.txt"]
    order = ran(tmp_path)
    assert sorted(order) == ["00", "01", "02", "10"] and order[0] == "00" and order[-1] == "10"
    assert not (tmp_path / "build" / "lessons-quick.json").exists()  # times of lessons side by side are other times
    assert re.search(r"(?m)^02_lesson: cell \d failed: ZeroDivisionError", capfd.readouterr().out)


def test_refuses_a_number_of_workers_that_is_none(home):
    with pytest.raises(DumenetError, match="--workers is -1: give the number"):
        reproduce(workers=-1)


@pytest.mark.parametrize(
    "place", [".", "notebooks", "build/classroom/student", "build/classroom/nbgrader/autograded/ada/lesson_02"]
)
def test_a_lesson_finds_the_project_from_its_folder_and_from_the_projects(home, monkeypatch, place):
    (home / place).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(home / place)
    for up in {".": ("..", "../../.."), "notebooks": ("..",)}.get(place, ("../../..",)):
        assert project(up, "quick").resolve() == home
    assert project(home / "elsewhere", "paper") == home / "elsewhere"
    with pytest.raises(DumenetError, match="Unknown profile 'fast': .*Known: quick, laptop, paper") as told:
        project("..", "fast")
    assert told.value._render_traceback_() == [str(told.value)]  # what the lesson shows
