"""Training: one loop, a fixed budget, nothing left to chance, and checkpoints that are whole or refused."""

import dataclasses

import numpy as np
import pytest
import torch

from dumenet import checkpoint
from dumenet.checkpoint import load_checkpoint, pick_device, save_checkpoint
from dumenet.config import config_from_dict, counted
from dumenet.data import Sample, cut
from dumenet.errors import DumenetError
from dumenet.features import Features
from dumenet.optimizer import MATRIX_RATE, make_optimizer
from dumenet.score import calibrate
from dumenet.train import make_schedule, pick_precision, split_holdout, train

STAGES = (3, 5)


@pytest.fixture
def go(tiny, make_features):
    """Train the tiny model on twelve images: ``go(train__seed=1)``."""

    def run(state_file=None, on_epoch=None, features=None, origin=None, **settings):
        features = features or make_features()
        return train(tiny(**settings), features, STAGES, state_file, on_epoch, progress=False, origin=origin)

    return run


def weights(trained):
    return torch.cat([v.flatten().float() for v in trained.model.state_dict().values()])


def stop_after(epoch):
    def on_epoch(done, _):
        if done == epoch:
            raise KeyboardInterrupt

    return on_epoch


# --- the loop


def test_same_seed_same_model_bit_for_bit(go):
    first = go()
    torch.rand(3)  # what ran before does not matter
    second = go()
    assert torch.equal(weights(first), weights(second)) and first.history == second.history
    assert not torch.equal(weights(first), weights(go(train__seed=1)))
    starts = [weights(go(train__seed=seed, train__lr=1e-9)) for seed in (0, 1)]
    assert not torch.allclose(*starts, atol=1e-2)


def test_the_loss_of_an_epoch_is_the_mean_over_its_images_however_they_are_batched(go):
    frozen = {"train__epochs": 1, "train__lr": 1e-9, "model__jitter": 0.0}
    losses = [go(train__batch_size=size, **frozen).history["loss"][0] for size in (12, 5)]  # 5: batches of 5, 5 and 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_standardised_target_takes_the_training_sets_statistics(go, make_features):
    mean, std = make_features().channel_statistics()
    standardise = go().model.standardise
    assert torch.equal(standardise.mean, mean) and torch.equal(standardise.std, std)
    raw = go(model__target="raw").model.standardise
    assert not raw.mean.any() and (raw.std == 1).all()


def test_every_image_is_seen_once_an_epoch(go, make_features, monkeypatch):
    features, seen = make_features(10), []
    real = type(features).batch
    monkeypatch.setattr(type(features), "batch", lambda self, i: (seen.append(np.asarray(i)), real(self, i))[1])
    go(features=features, model__target="raw", train__epochs=2)
    orders = np.concatenate(seen).reshape(2, 10)
    assert (np.sort(orders) == np.arange(10)).all() and (orders[0] != orders[1]).any()
    assert [len(i) for i in seen] == [4, 4, 2] * 2


def test_gradients_are_clipped(go, monkeypatch):
    norms = []
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, c: norms.append((p := list(p), real(p, c), c)))
    go(train__clip=1e-3, train__epochs=1)
    assert len(norms) == 3 and all(c == 1e-3 and n > 1e-3 for _, n, c in norms)


def rates(tiny, **settings):
    """Learning rate of each of 10 epochs of 10 steps, and after the last."""
    config = tiny(train__epochs=10, train__lr=0.01, **settings).train
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], config.lr)
    schedule = make_schedule(optimizer, config, 10, 100)
    lr = schedule.get_last_lr()
    for _ in range(100):
        optimizer.step()
        schedule.step()
        lr += schedule.get_last_lr()
    return lr


def test_the_schedules_over_a_whole_run(tiny):
    lr = rates(tiny, train__schedule="onecycle")
    assert lr[0] == pytest.approx(0.01 / 25) and max(lr) == pytest.approx(0.01) and lr[99] < 0.01 / 10_000
    assert lr.index(max(lr)) == 9  # a tenth of the steps
    muon = make_optimizer(torch.nn.Linear(4, 4), "muon", 0.01, 0.0)
    make_schedule(muon, tiny(train__lr=0.01, train__schedule="onecycle").train, 10, 100)
    assert [g["max_lr"] for g in muon.param_groups] == pytest.approx([0.01, 0.01 * MATRIX_RATE])
    lr = rates(tiny, train__schedule="stable")
    assert lr[:10] == pytest.approx([0.001 * k for k in range(1, 11)]) and lr[9:81] == pytest.approx([0.01] * 72)
    assert lr[80:] == pytest.approx([0.0005 * k for k in range(20, -1, -1)])
    lr = rates(tiny, train__schedule="step", train__step_epoch=4)
    assert lr == pytest.approx([0.01] * 40 + [0.001] * 40 + [0.0001] * 21)


@pytest.mark.parametrize("schedule", ["onecycle", "stable"])
def test_a_run_of_a_few_steps_is_no_error(go, make_features, schedule):
    for epochs in (1, 2, 10):  # of one step each
        history = go(features=make_features(2), train__epochs=epochs, train__schedule=schedule).history
        assert len(history["loss"]) == epochs and all(lr >= 0 for lr in history["lr"])


def test_refuses_a_loss_that_is_not_finite(go, make_features):
    features = make_features()
    features.rows[3] = float("inf")
    with pytest.raises(DumenetError, match="The loss is not a number in epoch 1: lower train.lr"):
        go(features=features, model__target="raw")


def test_refuses_an_unknown_device():
    for name in ("gpu", "cuda:99", "meta", ""):
        with pytest.raises(DumenetError, match=f"no device '{name}'"):
            pick_device(name)


def test_a_budget_in_steps_does_not_depend_on_the_number_of_images(go, make_features):
    """Ten steps of four images: three epochs and a step of twelve, five epochs of eight."""
    for n, epochs in ((12, 4), (8, 5), (2, 10)):
        seen = []
        look = lambda epoch, model, seen=seen: seen.append((epoch, model.training))  # noqa: E731
        trained = go(features=make_features(n), train__steps=10, on_epoch=look)
        assert seen == [(epoch, False) for epoch in range(epochs)] and not trained.model.training
        assert len(trained.history["loss"]) == len(trained.history["lr"]) == epochs
        assert trained.history["lr"][-1] == pytest.approx(0, abs=1e-9)  # the schedule ends with the last step


def test_a_state_is_not_written_after_every_one_of_very_many_epochs(go, make_features, tmp_path, monkeypatch):
    written, real = [], checkpoint.write_atomic
    monkeypatch.setattr(checkpoint, "write_atomic", lambda *a: (written.append(1), real(*a)))
    monkeypatch.setattr("dumenet.train.STATES", 10)
    go(tmp_path / "state.pt", features=make_features(4), train__steps=45)
    assert len(written) == 11  # of 45 epochs every fourth


# --- half the bits


def test_bf16_trains_close_to_fp32_and_keeps_fp32_weights(go, make_features):
    settings = {"train__epochs": 6, "train__lr": 0.01}
    full, half = go(**settings, train__precision="fp32"), go(**settings, train__precision="bf16")
    assert full.history["loss"][-1] < 0.9 * full.history["loss"][0]  # it falls
    assert half.history["loss"] == pytest.approx(full.history["loss"], rel=0.05)
    assert half.history["loss"] != full.history["loss"]  # it did something
    assert {v.dtype for v in half.model.state_dict().values()} == {torch.float32}
    x = next(make_features(5, seed=9).batches(5))
    assert half.model(x).features.dtype == torch.float32  # scored in full precision


def test_auto_precision_is_what_the_processor_is_fast_at(go, monkeypatch):
    for amx, avx, expected in ((False, False, "fp32"), (True, False, "bf16"), (False, True, "bf16")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx, raising=False)
        assert pick_precision("auto", torch.device("cpu")) == expected
        assert go(train__epochs=1, train__precision="auto").origin["precision"] == expected
        assert pick_precision("fp32", torch.device("cpu")) == "fp32"


# --- going on after an interruption


@pytest.mark.parametrize("settings", [
    {"train__epochs": 4},
    {"train__epochs": 4, "train__schedule": "step", "train__step_epoch": 2, "train__optimizer": "adamw"},
    {"train__steps": 11, "train__schedule": "onecycle", "train__precision": "bf16", "model__dropout": 0.2},
])  # fmt: skip
def test_a_resumed_run_ends_like_an_undisturbed_one(go, tmp_path, settings):
    whole, state = go(**settings), tmp_path / "run" / "state.pt"
    for epoch in (2, 2):  # the state of epoch 1 is there; interrupted twice
        with pytest.raises(KeyboardInterrupt):
            go(state, stop_after(epoch), **settings)
        assert torch.load(state, weights_only=True)["epoch"] == 2
    seen, earlier = [], torch.load(state, weights_only=True)["earlier"]
    resumed = go(state, lambda epoch, _: seen.append(epoch), **settings)
    assert seen == [2, 3]
    assert whole.earlier == 0 < earlier == resumed.earlier < torch.load(state, weights_only=True)["earlier"]
    assert torch.equal(weights(resumed), weights(whole)) and resumed.history == whole.history
    again = go(state, lambda epoch, _: seen.append(epoch), **settings)  # a finished state trains no further
    assert seen == [2, 3] and torch.equal(weights(again), weights(whole)) and not again.model.training


@pytest.mark.parametrize("other", [{"train__lr": 0.5}, {"origin": {"data": "b"}}])
def test_a_state_of_other_settings_or_images_is_not_read(go, tmp_path, other):
    usual, seen = {"train__epochs": 3, "origin": {"data": "a"}}, []
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "state.pt", stop_after(1), **usual | other)
    go(tmp_path / "state.pt", lambda epoch, _: seen.append(epoch), **usual)
    assert seen == [0, 1, 2]


# --- checkpoints


@pytest.fixture
def trained(go, make_features):
    trained = go(model__neighbour_mask=("encoder",), model__neighbour_size=1, data__categories=("a", "b"))
    calibrate(trained, make_features(), make_features(4, seed=3))
    trained.origin, trained.earlier = {"data": "123", "backbone": "x", "seconds": 1.0}, 2.5
    return trained


def test_everything_comes_back(trained, make_features, tmp_path):
    path = save_checkpoint(trained, tmp_path / "runs" / "c.pt")
    content = torch.load(path, weights_only=True)  # plain values only
    assert config_from_dict(content["config"]) == trained.config
    loaded = load_checkpoint(path, "cpu")
    for field in dataclasses.fields(trained):
        if field.name not in ("model", "spread", "normal"):
            assert getattr(loaded, field.name) == getattr(trained, field.name), field.name
    assert vars(loaded.normal) == vars(trained.normal) and loaded.spread.categories == trained.spread.categories
    for name, value in trained.spread.state_dict().items():  # the large one is kept in float16, which it is exact in
        assert torch.equal(loaded.spread.state_dict()[name], value), name
    x = next(make_features(5, seed=9).batches(5))
    assert not loaded.model.training
    assert torch.equal(loaded.model(x).anomaly_map, trained.model(x).anomaly_map)


def test_refuses_weights_of_another_network(trained, tiny, tmp_path):
    """Of UniAD's most are there, under the same names. Damaged files: tests/test_properties.py."""
    path = save_checkpoint(dataclasses.replace(trained, config=tiny(model__name="uniad")), tmp_path / "c.pt")
    with pytest.raises(DumenetError, match="c.pt is not a whole dumenet checkpoint"):
        load_checkpoint(path, "cpu")


# --- more steps, and the curve of the loss


def test_a_training_goes_on_from_a_checkpoint(trained, go, make_features, tmp_path):
    path, same = str(save_checkpoint(trained, tmp_path / "c.pt")), {k: v for k, v in vars(trained.config.model).items()}
    given = {f"model__{k}": v for k, v in same.items()} | {"train__start": path, "origin": {"backbone": "x"}}
    more = go(features=make_features(12, seed=7), train__lr=1e-9, train__epochs=1, **given)
    assert torch.allclose(weights(more), weights(trained), atol=1e-6)  # the scale of features too, of other images
    assert len(more.history["loss"]) == 1 and more.history["loss"][0] < go(train__epochs=1).history["loss"][0]
    for other, words in (
        ({"model__hidden_dim": 8}, "hidden_dim"), ({"origin": {"backbone": "y"}}, "features"),
        ({"train__start": "none.pt"}, "No checkpoint at none.pt"),
    ):  # fmt: skip
        with pytest.raises(DumenetError, match=words):
            go(**given | other)


def test_the_loss_is_written_while_it_trains(go, tmp_path):
    seen = []
    log = tmp_path / "run" / "log" / "metrics.csv"
    state = tmp_path / "run" / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        go(state, stop_after(1), train__epochs=3, train__log="csv")
    trained = go(state, lambda epoch, _: seen.append(log.exists()), train__epochs=3, train__log="csv")
    rows = [line.split(",") for line in log.read_text().splitlines()]
    assert seen == [True, True] and sorted(rows[0]) == ["loss", "lr", "step"]
    assert [float(row[rows[0].index("loss")]) for row in rows[1:]] == pytest.approx(trained.history["loss"])
    assert counted(config_from_dict({"train": {"log": "csv"}})) == counted(config_from_dict({}))


def test_the_loss_in_tensorboard(go, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install 'dumenet[tensorboard]'")
    go(tmp_path / "state.pt", train__epochs=2, train__log=["csv", "tensorboard"])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "log")).Reload()
    assert [event.step for event in found.Scalars("loss")] == [1, 2]


# --- hold-out and thresholds


def test_holdout_takes_a_share_of_each_category_by_seed(make_features):
    features = make_features(40)
    keep, held = split_holdout(features, 0.2, 0)
    names = lambda f: [s.name for s in f.samples]  # noqa: E731
    assert not set(names(keep)) & set(names(held)) and len(keep) + len(held) == 40
    assert sorted(s.category for s in held.samples) == ["a"] * 4 + ["b"] * 4
    assert names(split_holdout(features, 0.2, 0)[1]) == names(held) != names(split_holdout(features, 0.2, 1)[1])
    assert split_holdout(features, 0.0, 0) == (features, None)


def test_holdout_keeps_the_tiles_of_a_photograph_together():
    photographs = [Sample(f"{i}.png", "a", "good", np.zeros((4, 4, 3), np.uint8)) for i in range(10)]
    features = Features(cut(photographs, (2, 3)), np.zeros((60, 8, 4, 4), np.float16))
    keep, held = ({s.name.partition("[")[0] for s in part.samples} for part in split_holdout(features, 0.2, 0))
    assert len(held) == 2 and len(keep) == 8


@pytest.mark.parametrize(("n", "share", "held"), [(4, 0.01, 2), (4, 0.9, 2), (2, 0.5, 0), (6, 0.9, 4)])
def test_holdout_leaves_something_on_both_sides(make_features, n, share, held):
    keep, out = split_holdout(make_features(n), share, 0)
    assert len(out or ()) == held and len(keep) == n - held
    assert {s.category for s in keep.samples} == {"a", "b"}
