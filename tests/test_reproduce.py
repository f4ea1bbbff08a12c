"""`dumenet reproduce`: what changed runs, what failed is named, the rest still runs."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from dumenet.cli import main
from dumenet.course.reproduce import CELL_TIMEOUT, before, reproduce
from dumenet.errors import DumenetError

PARAMETERS = 'profile = "quick"\ndata = "factory"'


def put(home, name, *cells, parameters=PARAMETERS):
    """A lesson of a parameters cell and others."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    (home / "notebooks").mkdir(exist_ok=True)
    nbformat.write(notebook, home / "notebooks" / f"{name}.ipynb")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place with two lessons; the second leaves a figure that says which parameters it got."""
    put(tmp_path, "00_one", "print(1 + 1)")
    put(
        tmp_path, "01_two", "from pathlib import Path\nPath('../figures').mkdir(exist_ok=True)",
        "Path('../figures/two.txt').write_text(f'{profile} {data} {seed}')",
        parameters=f"{PARAMETERS}\nseed = 0  # of training",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_keeps_and_runs_again_what_changed(home, capfd):
    assert main(["reproduce", "-p", "seed=3", "--data", "photos"]) == 0
    out = capfd.readouterr().out
    assert (home / "figures" / "two.txt").read_text() == "quick photos 3"
    executed = nbformat.read(home / "build" / "notebooks" / "00_one.ipynb", 4)
    assert executed.cells[-1].outputs[0].text == "2\n"
    source = nbformat.read(home / "notebooks" / "00_one.ipynb", 4)
    assert not any(cell.outputs for cell in source.cells)  # the lesson itself stays as it was
    for word in ("00_one (", "01_two (", "    figures/two.txt", "    build/notebooks/01_two.ipynb"):
        assert word in out

    measured = json.loads((home / "build" / "lessons-quick.json").read_text())
    assert set(measured["lessons"]) == {"00_one", "01_two"} and measured["machine"]

    times = {p.name: p.stat().st_mtime_ns for p in (home / "build" / "notebooks").glob("*.ipynb")}
    changed = lambda: sorted(  # noqa: E731
        p.name for p in (home / "build" / "notebooks").glob("*.ipynb") if p.stat().st_mtime_ns != times[p.name]
    )
    assert main(["reproduce", "-p", "seed=3", "--data", "photos"]) == 0
    captured = capfd.readouterr()
    assert not changed() and (captured.out + captured.err).count("unchanged, kept") == 2
    assert "    figures/two.txt" in captured.out  # listed all the same

    put(home, "00_one", "print(2 + 2)")
    assert main(["reproduce", "-p", "seed=3", "--data", "photos"]) == 0
    assert changed() == ["00_one.ipynb"]

    (home / "figures" / "two.txt").unlink()
    assert reproduce(only=["1"], parameters={"seed": 3, "data": "photos"}) == 0  # a lost figure is made again
    assert changed() == ["00_one.ipynb", "01_two.ipynb"] and (home / "figures" / "two.txt").exists()


def test_a_failing_cell_is_named_and_the_others_run(home, capfd):
    put(home, "00_one", "print('fine')", "x = 1\nx / 0")
    assert main(["reproduce"]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1] == (
        "00_one.ipynb: cell 4 failed: ZeroDivisionError: division by zero; see build/notebooks/00_one.ipynb"
    )
    assert (home / "figures" / "two.txt").exists()
    executed = nbformat.read(home / "build" / "notebooks" / "00_one.ipynb", 4).cells
    (failed,) = [c for c in executed if c.get("execution_count") == 4]  # the number that the reader sees there
    assert failed.source == "x = 1\nx / 0" and failed.outputs[-1].output_type == "error"


def test_a_lesson_that_failed_is_not_taken_for_done(home, capfd, monkeypatch):
    """Back at the version that once ran, its executed notebook is still the failed one."""
    ran = []

    def execute(path, home, parameters, bar):
        ran.append(path.stem)
        (home / "build" / "notebooks" / path.name).write_text("executed")
        failed = "bad" in path.read_text()
        return 0.0, f"{path.name}: cell 1 failed" if failed else None

    monkeypatch.setattr("dumenet.course.reproduce._execute", execute)
    (home / "build" / "notebooks").mkdir(parents=True)
    for cell, code in (("1", 0), ("bad", 1), ("1", 0), ("1", 0)):
        put(home, "00_one", cell)
        assert reproduce(only=["00_one"]) == code
    assert ran == ["00_one"] * 3


@pytest.mark.parametrize("change", ["parameters", "package", "checks", "force"])
def test_what_makes_a_lesson_run_again(home, monkeypatch, change):
    ran = []
    monkeypatch.setattr(
        "dumenet.course.reproduce._execute", lambda path, *a, **k: (ran.append(path.stem), (0.0, None))[1]
    )
    reproduce()
    reproduce()
    assert ran == ["00_one", "01_two"]
    if change == "package":
        (home / "dumenet").mkdir()
        (home / "dumenet" / "new.py").write_text("x = 1")
    if change == "checks":
        (home / "notebooks" / "check.py").write_text("x = 1")
    reproduce(parameters={"seed": 1} if change == "parameters" else None, force=change == "force")
    assert ran[2:] == {"parameters": ["01_two"]}.get(change, ["00_one", "01_two"])


@pytest.mark.parametrize("workers", [0, 2])
def test_lessons_that_read_all_results_run_again_when_there_are_others(tmp_path, capfd, workers):
    write = "open(f'../data/results/{number}-run.json', 'w').write('{}')"
    for number in ("00", "10", "11"):
        put(tmp_path, f"{number}_lesson", NOTE.format(number), write)
    (tmp_path / "data" / "results").mkdir(parents=True)

    def ran():
        (tmp_path / "ran").write_text("")
        assert reproduce(home=tmp_path, workers=workers) == 0
        return (tmp_path / "ran").read_text().split()

    assert ran() == ["00", "10", "11"]
    assert ran() == []  # their own results and those of later lessons are none of what they read
    (tmp_path / "data" / "results" / "real-run.json").write_text("{}")  # dumenet train --tag real
    assert ran() == ["10", "11"] and ran() == []
    (tmp_path / "data" / "results" / "real-run.json").unlink()
    assert ran() == ["10", "11"] and ran() == []
    put(tmp_path, "00_lesson", NOTE.format("00"), write, "1")
    assert ran() == ["00", "10", "11"] and ran() == []
    put(tmp_path, "00_lesson", NOTE.format("00"))
    assert ran() == ["00"] and ran() == []  # it left no other results


def test_each_lesson_gets_the_parameters_it_has(home, monkeypatch):
    got = {}
    monkeypatch.setattr(
        "dumenet.course.reproduce._execute", lambda path, h, p, bar: (got.update({path.stem: p}), (0.0, None))[1]
    )
    reproduce(profile="laptop", parameters={"seed": 5})
    assert got == {"00_one": {"profile": "laptop"}, "01_two": {"profile": "laptop", "seed": 5}}


@pytest.mark.parametrize(("only", "expected"), [(["1", "00"], ["00_one", "01_two"]), (["01_two"], ["01_two"])])
def test_lessons_are_chosen_by_number_or_name_and_run_in_order(home, monkeypatch, only, expected):
    ran = []
    monkeypatch.setattr(
        "dumenet.course.reproduce._execute", lambda path, *a, **k: (ran.append(path.stem), (0.0, None))[1]
    )
    reproduce(only=only)
    assert ran == expected


def test_a_hanging_cell_ends_its_lesson_only(home, monkeypatch, capfd):
    put(home, "00_one", "import time\ntime.sleep(60)")
    monkeypatch.setitem(CELL_TIMEOUT, "quick", 1)
    assert reproduce(only=["00"]) == 1
    assert re.search(r"00_one\.ipynb: .*(Timeout|timed out)", capfd.readouterr().out)


def test_a_stamp_holds_what_was_made(home, monkeypatch):
    def execute(path, home, parameters, bar):
        (home / "data" / "results").mkdir(parents=True, exist_ok=True)
        (home / "data" / "results" / f"{path.stem}.json").write_text("{}")
        return 1.25, None

    monkeypatch.setattr("dumenet.course.reproduce._execute", execute)
    reproduce()
    stamp = json.loads((home / "build" / "notebooks" / ".01_two.json").read_text())
    assert stamp["made"] == ["data/results/01_two.json"] and stamp["seconds"] == 1.2


def test_refuses_a_parameter_that_no_lesson_has(home):
    with pytest.raises(DumenetError, match="Unknown notebook parameter 'sed': did you mean 'seed'"):
        reproduce(parameters={"sed": 1})


# --- many workers

NOTE = "import os, signal\nfrom pathlib import Path\nnumber = '{}'\nopen('../ran', 'a').write(number + '\\n')"
WRITE = """
Path('../figures').mkdir(exist_ok=True)
seen = sorted(p.name for p in Path('../figures').iterdir())
Path(f'../figures/{number}_text.txt').write_text('left' if number < '10' else ' '.join(seen))"""
DIE = """
try:
    Path('../died').touch(exist_ok=False)
    os.kill(os.getppid(), signal.SIGKILL)  # the worker that runs this lesson
except FileExistsError:
    pass"""


def course(home):
    """Four lessons that note that they ran, and leave a figure; the last one's says which others there are."""
    for number in ("00", "01", "02", "10"):
        put(home, f"{number}_lesson", NOTE.format(number), WRITE)


def left(home):
    return {p.name: p.read_text() for p in (home / "figures").iterdir()}


def test_workers_run_each_lesson_once_and_leave_the_same_files(tmp_path, capfd):
    homes = {workers: tmp_path / str(workers) for workers in (0, 1, 2, 4)}
    for workers, home in homes.items():
        home.mkdir()
        course(home)
        assert reproduce(home=home, workers=workers) == 0
        assert sorted((home / "ran").read_text().split()) == ["00", "01", "02", "10"]
        assert left(home) == left(homes[0])
        stamps = {p.name: json.loads(p.read_text())["made"] for p in (home / "build" / "notebooks").glob(".*.json")}
        assert stamps[".01_lesson.json"] == ["build/notebooks/01_lesson.ipynb", "figures/01_text.txt"]
    assert left(homes[0])["10_text.txt"] == "00_text.txt 01_text.txt 02_text.txt"  # it waited for them
    assert (homes[0] / "build" / "lessons-quick.json").exists()
    assert not (homes[2] / "build" / "lessons-quick.json").exists()  # times of lessons side by side are other times
    assert reproduce(home=homes[2], workers=2) == 0
    assert len((homes[2] / "ran").read_text().split()) == 4 and "01_lesson: unchanged, kept" in "".join(
        capfd.readouterr()
    )


def test_a_worker_that_dies_and_a_lesson_that_fails_cost_no_other_lesson(tmp_path, capfd):
    course(tmp_path)
    put(tmp_path, "01_lesson", NOTE.format("01"), DIE, WRITE)
    put(tmp_path, "02_lesson", NOTE.format("02"), WRITE, "1 / 0")
    assert main_in(tmp_path, "reproduce", "--workers", "2") == 1
    assert re.search(r"(?m)^02_lesson\.ipynb: cell \d failed: ZeroDivisionError", capfd.readouterr().out)
    assert (tmp_path / "died").exists() and left(tmp_path)["10_text.txt"] == "00_text.txt 01_text.txt 02_text.txt"
    ran = (tmp_path / "ran").read_text().split()
    assert {n: ran.count(n) for n in ran} == {"00": 1, "01": 2, "02": 1, "10": 1} and ran[0] == "00" and ran[-1] == "10"


def main_in(home, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return main(list(words))


def test_a_lesson_that_another_process_is_at_is_waited_for(home, monkeypatch):
    """By the time that its lock is free it is done."""
    from filelock import FileLock

    ran = []
    monkeypatch.setattr(
        "dumenet.course.reproduce._execute", lambda path, *a, **k: (ran.append(path.stem), (0.0, None))[1]
    )
    assert reproduce(only=["00"]) == 0
    stamp = home / "build" / "notebooks" / ".00_one.json"
    done = stamp.read_text()
    stamp.unlink()

    class Other(FileLock):
        def acquire(self, *args, **kwargs):
            stamp.write_text(done)
            return super().acquire(*args, **kwargs)

    monkeypatch.setattr("dumenet.course.reproduce.FileLock", Other)
    assert reproduce(only=["00"]) == 0
    assert ran == ["00_one"]


def test_what_a_lesson_waits_for():
    lessons = sorted(p.stem for p in (Path(__file__).parents[1] / "notebooks").glob("[0-9]*.ipynb"))
    waits = {name[:2]: {n[:2] for n in before(name, lessons)} for name in lessons}
    assert waits["00"] == set() and waits["01"] == {"00"} and waits["07"] == {"00", "05"}
    assert waits["12"] == {name[:2] for name in lessons} - {"12"}
    used_again = set()
    for path in (Path(__file__).parents[1] / "notebooks").glob("[0-9]*.ipynb"):
        used = set(re.findall(r"lesson (\d\d)'s network: (?:used|trained)", path.read_text(encoding="utf-8")))
        assert used <= waits[path.stem[:2]], f"{path.stem} uses again what a lesson trains that it does not wait for"
        used_again |= used
    assert used_again == {"05"}


def test_refuses_a_number_of_workers_that_is_none(home):
    with pytest.raises(DumenetError, match="--workers is -1: give the number"):
        reproduce(workers=-1)
