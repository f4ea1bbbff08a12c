"""Training: one loop, a fixed budget, nothing left to chance, and checkpoints that are whole or refused."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
import torch

from dumenet.config import config_from_dict, make_config, to_dict
from dumenet.errors import DumenetError
from dumenet.score import score, set_thresholds, upsample, verdicts
from dumenet.metrics import image_score
from dumenet.train import (
    compiled,
    load_checkpoint,
    make_schedule,
    pick_device,
    reader,
    save_checkpoint,
    split_holdout,
    train,
)

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


@pytest.mark.parametrize("name", ["dumenet", "uniad", "mlp", "gaussian"])
def test_same_seed_same_model_bit_for_bit(go, name):
    first = go(model__name=name)
    torch.rand(3)  # what ran before does not matter
    second = go(model__name=name)
    assert torch.equal(weights(first), weights(second)) and first.history == second.history


def test_another_seed_another_model(go):
    assert not torch.equal(weights(go()), weights(go(train__seed=1)))


def test_trains_a_fixed_number_of_epochs(go):
    seen = []
    trained = go(train__epochs=3, on_epoch=lambda epoch, model: seen.append((epoch, model.training)))
    assert seen == [(0, False), (1, False), (2, False)]
    assert len(trained.history["loss"]) == len(trained.history["lr"]) == 3
    assert not trained.model.training


def test_the_loss_falls(go):
    loss = go(train__epochs=12, train__lr=0.01, model__jitter=0.0).history["loss"]
    assert loss[-1] < 0.9 * loss[0]


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


def rates(config):
    """Learning rate of each of 10 epochs of 10 steps, and after the last."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], config.lr)
    schedule = make_schedule(optimizer, config, 10)
    lr = schedule.get_last_lr()
    for _ in range(100):
        optimizer.step()
        schedule.step()
        lr += schedule.get_last_lr()
    return lr


def test_onecycle_climbs_and_falls_over_the_whole_run(tiny):
    lr = rates(tiny(train__epochs=10, train__lr=0.01).train)
    assert lr[0] == pytest.approx(0.01 / 25) and max(lr) == pytest.approx(0.01) and lr[99] < 0.01 / 10_000
    assert lr.index(max(lr)) == 9  # a tenth of the steps


def test_stable_climbs_stays_and_falls(tiny):
    lr = rates(tiny(train__epochs=10, train__lr=0.01, train__schedule="stable").train)
    assert lr[:10] == pytest.approx([0.001 * k for k in range(1, 11)]) and lr[9:81] == pytest.approx([0.01] * 72)
    assert lr[80:] == pytest.approx([0.0005 * k for k in range(20, -1, -1)])


def test_step_divides_by_ten(go):
    trained = go(train__schedule="step", train__step_epoch=2, train__epochs=5, train__lr=0.01)
    assert trained.history["lr"] == pytest.approx([0.01, 0.001, 0.001, 0.0001, 0.0001])  # at each epoch's end


@pytest.mark.parametrize("schedule", ["onecycle", "stable"])
@pytest.mark.parametrize("epochs", range(1, 13))
def test_a_run_of_a_few_steps_is_no_error(go, make_features, epochs, schedule):
    history = go(features=make_features(2), train__epochs=epochs, train__schedule=schedule).history  # one step an epoch
    assert len(history["loss"]) == epochs and all(lr >= 0 for lr in history["lr"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_a_loss_that_is_not_finite(go, make_features, bad):
    features = make_features()
    features.store[3] = bad
    with pytest.raises(DumenetError, match="The loss became nan in epoch 1: lower train.lr"):
        go(features=features, model__target="raw")


def test_refuses_an_unknown_device(go):
    for name in ("gpu", "cuda:99", "meta", ""):
        with pytest.raises(DumenetError, match=f"no device '{name}'"):
            pick_device(name)
    with pytest.raises(DumenetError, match="no device 'tpu9'"):
        go(train__device="tpu9")
    assert pick_device("cpu").type == "cpu" and pick_device("auto").type in ("cpu", "cuda", "mps")


# --- half the bits, and compiled


@pytest.fixture
def traced(monkeypatch):
    """`torch.compile` without its C++ compiler: the graph is captured, then run as it is. A list of the calls."""
    real, calls = torch.compile, []
    monkeypatch.setattr(
        torch,
        "compile",
        lambda m, dynamic, mode: (calls.append(mode), real(m, backend="aot_eager", dynamic=dynamic))[1],
    )
    monkeypatch.setattr(shutil, "which", lambda name: name)
    return calls


@pytest.mark.parametrize("name", ["dumenet", "uniad", "mlp"])
def test_bf16_trains_close_to_fp32_and_keeps_fp32_weights(go, make_features, name):
    settings = {"model__name": name, "train__epochs": 6, "train__lr": 0.01, "model__dropout": 0.0}
    full, half = go(**settings), go(**settings, train__precision="bf16")
    assert half.history["loss"] == pytest.approx(full.history["loss"], rel=0.05)
    assert half.history["loss"] != full.history["loss"]  # it did something
    assert {v.dtype for v in half.model.state_dict().values()} == {torch.float32}
    x = next(make_features(5, seed=9).batches(5))
    assert half.model(x).features.dtype == torch.float32  # scored in full precision


def test_a_compiled_run_keeps_its_keys_and_its_losses(go, traced, tmp_path):
    plain, compiled = go(model__dropout=0.0), go(model__dropout=0.0, train__compile=True)
    assert traced == [None]
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    assert compiled.history["loss"] == pytest.approx(plain.history["loss"], rel=1e-4)
    loaded = load_checkpoint(save_checkpoint(compiled, tmp_path / "c.pt"), "cpu")
    assert torch.equal(weights(loaded), weights(compiled)) and len(traced) == 1  # nothing is compiled to score


def test_on_a_gpu_a_compiled_pass_is_replayed_from_cuda_graphs(traced):
    compiled(torch.nn.Linear(2, 2), torch.device("cuda"))
    assert traced == ["reduce-overhead"]


def test_features_that_fit_are_held_on_the_device_and_are_the_same(go, make_features, monkeypatch):
    features, cpu, index = make_features(), torch.device("cpu"), torch.tensor([3, 0, 2])
    features = features.subset([5, 1, 0, 2, 4])
    size, expected = 5 * features.store[0].nbytes, features.batch(index)
    for free in (2 * size, 2 * size - 1):
        read = reader(features, cpu, free)
        assert torch.equal(read(index), expected) and read(index).dtype == torch.float32
        monkeypatch.setattr(type(features), "batch", lambda *_: torch.zeros(()))  # the cache is read no more, or still
        assert torch.equal(read(index), expected) == (free == 2 * size)
        monkeypatch.undo()
    plain = go(features=features)
    monkeypatch.setattr("dumenet.train.reader", lambda features, device: reader(features, device, 2 * size))
    assert torch.equal(weights(go(features=features)), weights(plain))


def test_compiling_without_a_compiler_is_one_sentence(go, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DumenetError, match="^train.compile needs a C.. compiler, .*leave it off.$"):
        go(train__compile=True)


def test_refuses_another_precision():
    with pytest.raises(DumenetError, match=r"^[^\n]*train.precision[^\n]*bf16[^\n]*$"):
        make_config(train__precision="fp16")
    with pytest.raises(DumenetError, match="train.compile must be of type bool"):
        make_config(train__compile="yes")


# --- going on after an interruption


@pytest.mark.parametrize("settings", [
    {}, {"train__schedule": "step", "train__step_epoch": 2}, {"train__schedule": "stable"}, {"model__name": "conv"}, {"train__precision": "bf16"},
])  # fmt: skip
def test_a_resumed_run_ends_like_an_undisturbed_one(go, tmp_path, settings):
    settings |= {"train__epochs": 4}
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
    assert seen == [2, 3] and torch.equal(weights(again), weights(whole))


@pytest.mark.parametrize("what", ["other settings", "other images", "cut short", "foreign"])
def test_a_state_of_something_else_is_not_read(go, tmp_path, what):
    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        go(state, stop_after(1), train__epochs=3, origin={"data": "a"}, train__lr=0.5 if "sett" in what else 0.001)
    if what == "cut short":
        state.write_bytes(state.read_bytes()[:-100])
    if what == "foreign":
        torch.save({"epoch": 2}, state)
    seen = []
    origin = {"data": "b" if what == "other images" else "a"}
    go(state, lambda epoch, _: seen.append(epoch), train__epochs=3, origin=origin)
    assert seen == [0, 1, 2]


# --- checkpoints


@pytest.fixture
def trained(go):
    trained = go(model__neighbour_mask=("encoder",), model__neighbour_size=1, data__categories=("a", "b"))
    trained.thresholds = {"a": 1.0, "b": 2.0, "all": 1.5}
    trained.origin, trained.earlier = {"data": "123", "backbone": "x", "seconds": 1.0}, 2.5
    return trained


def test_a_checkpoint_holds_plain_values_only(trained, tmp_path):
    content = torch.load(save_checkpoint(trained, tmp_path / "runs" / "c.pt"), weights_only=True)
    assert config_from_dict(content["config"]) == trained.config
    assert content["thresholds"] == trained.thresholds


@pytest.mark.parametrize("name", ["dumenet", "uniad", "mlp", "gaussian"])
def test_a_loaded_model_gives_the_same_maps(go, make_features, tmp_path, name):
    trained = go(model__name=name)
    loaded = load_checkpoint(save_checkpoint(trained, tmp_path / "c.pt"), "cpu")
    x = next(make_features(5, seed=9).batches(5))
    assert not loaded.model.training
    assert torch.equal(loaded.model(x).anomaly_map, trained.model(x).anomaly_map)


def test_everything_comes_back(trained, tmp_path):
    loaded = load_checkpoint(save_checkpoint(trained, tmp_path / "c.pt"), "cpu")
    for field in dataclasses.fields(trained):
        if field.name != "model":
            assert getattr(loaded, field.name) == getattr(trained, field.name), field.name


def test_a_state_and_a_checkpoint_of_before_hold_no_earlier_seconds(go, tmp_path):
    state = tmp_path / "state.pt"
    go(state)
    torch.save({k: v for k, v in torch.load(state, weights_only=True).items() if k != "earlier"}, state)
    seen = []
    assert go(state, lambda epoch, _: seen.append(epoch)).earlier == 0 and not seen
    assert load_checkpoint(state, "cpu").earlier == 0


class Foreign:
    """An object that would make a folder where it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize(
    "what", ["missing", "empty", "text", "cut short", "foreign", "object", "other model", "folder"]
)
def test_refuses_other_files(trained, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    path = save_checkpoint(trained, tmp_path / "c.pt")
    content = torch.load(path, weights_only=True)
    if what in ("missing", "folder"):
        path.unlink()
    if what == "folder":
        path.mkdir()
    if what in ("empty", "text"):
        path.write_text("" if what == "empty" else "hello")
    if what == "cut short":
        path.write_bytes(path.read_bytes()[:-500])
    if what == "foreign":
        torch.save({"model": content["model"]}, path)
    if what == "object":
        torch.save(content | {"model": Foreign()}, path)
    if what == "other model":
        content["config"] = to_dict(make_config())
        torch.save(content, path)
    with pytest.raises(DumenetError) as error:
        load_checkpoint(path, "cpu")
    assert "c.pt" in str(error.value) and "\n" not in str(error.value)
    assert ("No checkpoint at" in str(error.value)) == (what == "missing")
    assert not os.path.exists("owned")


# --- hold-out and thresholds


def test_holdout_takes_a_share_of_each_category_by_seed(make_features):
    features = make_features(40)
    keep, held = split_holdout(features, 0.2, 0)
    names = lambda f: [s.name for s in f.samples]  # noqa: E731
    assert not set(names(keep)) & set(names(held)) and len(keep) + len(held) == 40
    assert sorted(s.category for s in held.samples) == ["a"] * 4 + ["b"] * 4
    assert names(split_holdout(features, 0.2, 0)[1]) == names(held) != names(split_holdout(features, 0.2, 1)[1])
    assert split_holdout(features, 0.0, 0) == (features, None)


@pytest.mark.parametrize(("n", "share", "held"), [(4, 0.01, 2), (4, 0.9, 2), (2, 0.5, 0), (6, 0.9, 4)])
def test_holdout_leaves_something_on_both_sides(make_features, n, share, held):
    keep, out = split_holdout(make_features(n), share, 0)
    assert len(out or ()) == held and len(keep) == n - held
    assert {s.category for s in keep.samples} == {"a", "b"}


def test_scores_are_pooled_upsampled_maps(go, make_features):
    trained, test = go(evaluation__batch_size=4), make_features(10, seed=5)
    scores = score(trained, test)
    maps = upsample(trained.model(next(test.batches(10))).anomaly_map.detach(), 64).numpy()
    assert scores.maps.shape == (10, 64, 64) and np.allclose(scores.maps, maps, atol=1e-5)
    assert np.allclose(scores.image, image_score(scores.maps, "max"))
    alone = score(trained, test, keep_maps=False)
    assert alone.maps is None and np.array_equal(alone.image, scores.image)


def test_upsampling_keeps_corners_and_straight_lines():
    ramp = torch.linspace(0, 3, 4).expand(2, 4, 4)
    assert torch.allclose(upsample(ramp, 64), torch.linspace(0, 3, 64).expand(2, 64, 64), atol=1e-5)


def test_thresholds_are_quantiles_of_held_out_scores(go, make_features):
    trained, held = go(evaluation__quantile=0.75), make_features(10, seed=5)
    set_thresholds(trained, None)
    assert trained.thresholds == {} and verdicts(trained, [1.0]) == ["no threshold"]
    set_thresholds(trained, held)
    scores = score(trained, held).image
    assert trained.thresholds == pytest.approx(
        {"a": np.quantile(scores[::2], 0.75), "b": np.quantile(scores[1::2], 0.75), "all": np.quantile(scores, 0.75)}
    )


def test_verdicts_use_the_categorys_threshold(trained):
    assert verdicts(trained, [0.9, 1.2, 1.6], "a") == ["normal", "anomalous", "anomalous"]
    assert verdicts(trained, [1.6, 2.0, 2.1], "b") == ["normal", "normal", "anomalous"]
    assert verdicts(trained, [1.4, 1.6]) == ["normal", "anomalous"]
