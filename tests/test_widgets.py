"""A moved control draws anew; a broken drawing fails where the control is moved."""

import matplotlib.pyplot as plt
import pytest

widgets = pytest.importorskip("ipywidgets", reason="an extra: pip install -e '.[notebooks]'")
pytest.importorskip("anywidget", reason="an extra: pip install -e '.[notebooks]'")

from dumenet.course.explorer import Session  # noqa: E402
from dumenet.course.widgets import Explorer, live  # noqa: E402
from dumenet.errors import DumenetError  # noqa: E402
from dumenet.run import Folders, run  # noqa: E402


def draw(level, flip=False):
    if level > 0.9:
        raise ValueError("broken callback")
    fig, ax = plt.subplots()
    ax.axhline(-level if flip else level)
    ax.set_ylim(-1, 1)
    return fig


def test_each_control_changes_the_picture():
    level, flip = widgets.FloatSlider(0.2, min=0, max=1), widgets.Checkbox(False)
    *controls, picture = live(draw, level=level, flip=flip).children
    assert controls == [level, flip]
    seen = [(picture.png, picture.alt)]
    for control, value in ((level, 0.8), (flip, True)):
        control.value = value
        seen.append((picture.png, picture.alt))
    assert len({png for png, _ in seen}) == 3 and all(png.startswith(b"\x89PNG") for png, _ in seen)
    assert seen[-1][1] == "The figure for level 0.8, flip True"
    assert not plt.get_fignums(), "no figure stays open"


def test_an_error_in_the_drawing_is_raised_at_the_control():
    level = widgets.FloatSlider(0.2, min=0, max=1)
    live(draw, level=level)
    with pytest.raises(ValueError, match="broken callback"):
        level.value = 0.95


# --- the explorer


@pytest.fixture(scope="module")
def session(outcomes):
    return Session({name: outcomes[name] for name in ("both", "gaussian")})


@pytest.fixture
def app(session):
    return Explorer({"photos": session})


def shots(app):
    """Everything that the explorer shows now."""
    return {k: p.png for k, p in app.pictures.items()} | {"words": app.status.value, "scale": app.scale.value}


MAP, REPORT = (1, "map"), (1, "report")
MOVES = [  # control, value, what must change
    ("category", "felt", {(0, "map"), MAP, REPORT, "words", "scale"}),
    ("image", "bolt/test/good/008.png", {(0, "map"), MAP, REPORT, "words", "scale"}),
    ("model", "gaussian", {MAP, REPORT, "words", "scale"}),
    ("other", "gaussian", {MAP, (2, "map"), (2, "report"), "words", "scale"}),  # the scale is that of both
    ("stage", 2, {MAP, "words", "scale"}),
    ("error", "mahalanobis", {MAP, "words", "scale"}),
    ("threshold", 3.0, {MAP, "words", "scale"}),
    ("opacity", 0.2, {MAP}),
    ("colour_map", "cividis", {MAP, "scale"}),
    ("row", 2, {REPORT, "words"}),
    ("column", 1, {REPORT, "words"}),
    ("memory", "spatial", {REPORT, "words"}),
    ("hidden", "mean", {REPORT, "words"}),
]


def test_each_control_of_the_explorer_changes_what_it_should_and_no_more(app):
    start = {name: control.value for name, control in app.controls.items()}
    start |= {"category": "bolt", "image": "bolt/test/hole/011.png", "row": 0, "column": 0, "error": "norm"}
    for name, value, changed in MOVES:
        for control, old in (start | {"memory": "spatial" if name == "hidden" else "channel"}).items():
            app.controls[control].value = old  # category before image, image before row and column
        before = shots(app)
        assert app.controls[name].value != value and app.controls[name].description
        app.controls[name].value = value
        after = shots(app)
        assert {k for k in after if after[k] != before[k]} == changed, name
        assert getattr(app.state, name, value) == value


def test_it_opens_on_its_first_state_and_goes_back_to_it(app, session):
    opened = shots(app)
    assert app.state == session.state()
    app.show(
        image=session.images("felt")[-1], model="gaussian", other="both", error="norm", threshold=2.5, memory="spatial"
    )
    assert app.controls["category"].value == "felt" and app.state.threshold == 2.5 and shots(app) != opened
    app.show()
    assert app.state == session.state() and {k: v for k, v in shots(app).items() if k[0] != 2} == {
        k: v for k, v in opened.items() if k[0] != 2
    }
    with pytest.raises(DumenetError, match="did you mean 'threshold'"):
        app.show(treshold=2)


def test_a_data_set_of_a_smaller_grid_and_fewer_images_takes_over(session, tiny, tree, tmp_path):
    small = tiny(data__source=str(tree), data__categories=("felt",), features__grid=2, model__name="gaussian")
    app = Explorer({"one": session, "two": Session({"only": run(small, Folders(tmp_path), progress=False)})})
    assert app.pictures[1, "map"].grid == 4
    app.controls["category"].value = "bolt"  # which the other one lacks
    app.controls["row"].value = app.controls["column"].value = 3
    app.controls["data"].value = "two"
    assert app.state.image.startswith("felt") and app.state.model == "only" and app.pictures[1, "map"].grid == 2
    assert app.controls["row"].max == 1 and app.state.row <= 1 and app.state.column <= 1


def test_a_click_chooses_its_position(app):
    report = app.pictures[1, "report"].png
    row, column = (app.state.row + 1) % 4, (app.state.column + 2) % 4
    app.pictures[0, "map"].place = [row, column]
    assert (app.controls["row"].value, app.controls["column"].value) == (row, column)
    assert app.pictures[1, "map"].place == [row, column] and app.pictures[1, "report"].png != report
    app.controls["row"].value = (row + 1) % 4
    assert app.pictures[0, "map"].place == [(row + 1) % 4, column]


def test_a_new_image_opens_at_its_peak_and_a_stage_alone_has_no_choice_of_error(app, session):
    app.controls["category"].value = "felt"
    assert (app.state.row, app.state.column) == session.peak("both", app.state.image)
    for stage, fixed in ((1, True), ("all", False)):
        app.controls["stage"].value = stage
        assert app.controls["error"].disabled == fixed


def test_every_picture_has_words_and_names_are_text_not_markup(session):
    named = Session({"<b>x</b>": session.outcomes["both"], "gaussian": session.outcomes["gaussian"]})
    app = Explorer({"photos": named})
    app.controls["other"].value = "gaussian"
    for picture in app.pictures.values():
        assert not picture.png or len(picture.alt) > 20
    assert "role='status'" in app.status.value and "precision" in app.status.value
    assert "<b>x</b>" not in app.status.value and "&lt;b&gt;x" in app.status.value
