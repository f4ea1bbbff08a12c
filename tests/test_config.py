"""Settings: one set of dataclasses, however they are filled, and what is refused."""

import pytest
import yaml

from dumenet.cli import main
from dumenet.config import CONFIGS, config_from_dict, load_config, make_config, merge, to_dict
from dumenet.errors import DumenetError, unknown


def test_yaml_keywords_and_command_line_give_the_same(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("train: {epochs: 3, lr: 1e-3}\nfeatures: {stages: [0, 2]}\n")
    made = []
    monkeypatch.setattr("dumenet.run.run", lambda config, **_: made.append(config))
    for words in (f"--config {tmp_path}/a.yaml", "--set train.epochs=3 train.lr=1e-3 features.stages=[0,2]"):
        main(["train", *words.split()])
    from_yaml, from_line = made
    assert from_yaml == from_line == make_config(train__epochs=3, train__lr=1e-3, features__stages=(0, 2))
    assert from_yaml.train.lr == 0.001 and from_yaml.features.stages == (0, 2)  # YAML reads 1e-3 as text
    main(["train", "--set", "data.normals=01234"])
    assert made[2].data.normals == "01234"  # a split keeps its leading zero


def test_plain_values_give_an_equal_config_back():
    config = make_config(
        model__preset="released", model__neighbour_mask=["encoder"], train__recipe="paper", data__per_class_test=4
    )
    assert config_from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


def test_presets_set_the_points_on_which_text_and_release_differ():
    points = lambda m: (m.decoder_reads, m.spatial_layout, m.target, m.neck)  # noqa: E731
    assert points(make_config().model) == ("memory", "map", "standardised", "plain")
    assert points(make_config(model__preset="released").model) == ("encoder", "released", "sigmoid", "plain")
    mixed = make_config(model__preset="released", model__target="raw").model
    assert points(mixed) == ("encoder", "released", "raw", "plain")  # what the user sets stays


def test_recipes():
    paper = make_config(train__recipe="paper", train__epochs=3).train
    assert (paper.epochs, paper.lr, paper.schedule, paper.step_epoch, paper.clip) == (3, 1e-4, "step", 500, 0.1)
    assert paper.steps is None and make_config(train__recipe="paper").train.epochs == 700
    assert make_config(train__recipe="standard").train == make_config().train


def test_the_budget_is_steps_or_epochs_and_the_later_one_counts():
    assert make_config(train__epochs=3).train.steps is None and make_config(train__steps=7).train.epochs is None
    paper = make_config(train__recipe="paper", train__steps=7).train
    assert (paper.steps, paper.epochs, paper.lr) == (7, None, 1e-4)
    values = load_config(CONFIGS / "cifar10.yaml")
    assert config_from_dict(merge(values, {"train.steps": 9})).train.epochs is None
    assert make_config(train__epochs=3, train__steps=None).train.epochs == 3  # None sets no budget
    assert merge({"train": {"steps": 5}}, {"train.epochs": 2}) == {"train": {"epochs": 2}}
    for both, says in (
        ({"steps": 1, "epochs": 1}, "are both set: the budget is one of them"),
        ({"steps": None}, "There is no budget"),
    ):
        with pytest.raises(DumenetError, match=says):
            config_from_dict({"train": both})


PAPER = {"mvtec_ad": (700, 500, 133, "max"), "cifar10": (1000, 800, 131, "mean")}


@pytest.mark.parametrize("name", PAPER)
def test_packaged_configs_follow_the_paper(name):
    assert {p.stem for p in CONFIGS.glob("*.yaml")} == set(PAPER)
    config = config_from_dict(load_config(CONFIGS / f"{name}.yaml"))
    assert config.features.backbone == "tf_efficientnet_b4.aa_in1k"
    assert (config.train.lr, config.train.batch_size, config.train.weight_decay) == (1e-4, 8, 1e-4)
    assert (config.train.steps, config.features.align, config.evaluation.error) == (None, "bilinear", "norm")
    m = config.model
    assert (m.encoder_layers, m.decoder_layers, m.heads, m.ffn_dim, m.dropout) == (4, 4, 8, 1024, 0.1)
    assert (config.train.epochs, config.train.step_epoch, config.train.seed, config.evaluation.pooling) == PAPER[name]


def test_merge_leaves_its_input_alone_and_fills_empty_sections():
    values = {"train": {"epochs": 1}, "model": None}
    assert merge(values, {"train.epochs": 2, "model.heads": 4}) == {"train": {"epochs": 2}, "model": {"heads": 4}}
    assert values == {"train": {"epochs": 1}, "model": None}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"model__preset": ["described"]}, "config.model.preset"),
        ({"data__contamination": 0.6}, "contamination must be less than or equal to 0.5, not 0.6"),
        ({"features__image_size": [64, 128, 3]}, "config.features.image_size must have at most 2 items"),
        ({"features__image_size": [64, 0]}, "config.features.image_size.1 must be greater than or equal to 1"),
        ({"train__epochs": True}, "config.train.epochs must be a valid integer"),
        ({"train__lr": "fast"}, "config.train.lr must be a valid number"),
        ({"train__lr": float("nan")}, "config.train.lr must be less than or equal to 10, not nan"),
        ({"features__stages": []}, "features.stages must be rising"),
        ({"features__stages": [0, 0]}, "features.stages must be rising"),
        ({"features__stages": ["a"]}, "config.features.stages.0 must be a valid integer"),
        ({"features__stages": [0, 10**30]}, "config.features.stages"),
    ],
)
def test_refuses(overrides, says):
    """What the command line refuses: tests/test_bad_input.py."""
    with pytest.raises(DumenetError) as error:
        make_config(**overrides)
    assert says in str(error.value)


def test_refuses_overrides_of_what_is_no_section():
    with pytest.raises(DumenetError, match="config.train must be a mapping"):
        merge({"train": 5}, {"train.epochs": 3})
    with pytest.raises(DumenetError, match="config.train must be a dictionary"):
        config_from_dict({"train": 5})


def test_unknown_names_the_nearest_or_none():
    assert str(unknown("fruit", "aple", ["apple", "pear"])) == (
        "Unknown fruit 'aple': did you mean 'apple'? Known: apple, pear."
    )
    assert "did you mean 'kiWi'?" in str(unknown("fruit", "KIWI", ["apple", "kiWi"]))
    assert "Known: apple, 'pear, ripe'." in str(unknown("fruit", "fig", ["apple", "pear, ripe"]))
    assert str(unknown("fruit", "zzz", [])) == "Unknown fruit 'zzz': Known: none."
