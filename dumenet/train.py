"""Training: one visible loop, a fixed budget, the last epoch kept. Nothing here sees a test image."""

import copy
import io
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dumenet import parallel
from dumenet.config import Config, TrainConfig, config_from_dict, result_config, to_dict
from dumenet.errors import DumenetError
from dumenet.features import Backbone, Features, load_tensors, progress_bar
from dumenet.models import PositionGaussian, build_model
from dumenet.results import write_atomic


@dataclass
class Trained:
    """A trained model and what is needed to use it elsewhere."""

    config: Config
    model: nn.Module
    stage_channels: tuple[int, ...]
    history: dict[str, list[float]] = field(default_factory=lambda: {"loss": [], "lr": []})  # one entry an epoch
    thresholds: dict[str, float] = field(default_factory=dict)  # image score by category, and "all"
    origin: dict[str, Any] = field(default_factory=dict)  # fingerprint of the data, backbone key, seconds
    earlier: float = 0.0  # seconds of training in processes that were interrupted before this one


def pick_device(name: str) -> torch.device:
    """The device that `name` asks for; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        DumenetError: a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        raise DumenetError(f'This machine has no device {name!r}: use train.device "cpu" or "auto".') from None
    return device


def split_holdout(features: Features, share: float, seed: int) -> tuple[Features, Features | None]:
    """Training features and those held out for the threshold: `share` of each category, but neither none nor all."""
    if share == 0:
        return features, None
    generator = np.random.default_rng(seed)
    held: list[int] = []
    for category in sorted({s.category for s in features.samples}):
        index = [i for i, s in enumerate(features.samples) if s.category == category]
        if len(index) > 1:
            count = min(max(1, round(share * len(index))), len(index) - 1)
            held += generator.choice(index, count, replace=False).tolist()
    if not held:
        return features, None
    keep = sorted(set(range(len(features))) - set(held))
    return features.subset(keep), features.subset(sorted(held))


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> Any:
    """Learning rate of each step: "onecycle" over all of them, a tenth to climb; "stable": a tenth to climb, level, the last fifth
    down to nearly 0 (warm-up, stable, decay: Hu et al. 2024, MiniCPM, section 4); "step": divided by ten every `step_epoch` epochs."""
    total = steps * config.epochs
    if config.schedule == "stable":
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda k: min(1.0, (k + 1) / total * 10, (total - k) / total * 5)
        )
    if config.schedule == "onecycle":
        climb = max(0.1, 1.5 / max(total, 2))  # of ten steps or fewer, a tenth would be none: torch divides by it
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total, pct_start=climb)
    return torch.optim.lr_scheduler.StepLR(optimizer, config.step_epoch * steps)


def train(
    config: Config,
    features: Features,
    stage_channels: tuple[int, ...],
    state_file: str | Path | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
    progress: bool = True,
    origin: dict[str, Any] | None = None,
    meeting: Path | None = None,
) -> Trained:
    """Train the model of `config` on normal features for its fixed number of epochs.

    Every epoch reseeds torch from (seed, epoch), so an epoch's order, jitter and dropout do not depend on what
    ran before: a run resumed from `state_file` ends bit for bit like one that was never interrupted (CPU).

    Args:
        features: normal training images, hold-out removed.
        stage_channels: of the backbone that made them.
        state_file: written after every epoch, read if there; the caller removes it once the result is safe.
        on_epoch: called with (epoch, model) after every epoch, for the lessons.
        origin: what the features are of; a state file of another origin is not read.
        meeting: folder of the processes that train together; set by the one that started them.

    Raises:
        DumenetError: the loss is not finite, `train.compile` without a compiler, or a process that was lost.
    """
    c, device, begun = config.train, pick_device(config.train.device), time.perf_counter()
    if parallel.processes(c) > 1 and not parallel.inside() and config.model.name != "gaussian":
        return _share(config, features, stage_channels, state_file, on_epoch, progress, origin)
    fabric = parallel.begin(c, device, meeting)
    device, first = fabric.device, fabric.global_rank == 0
    torch.manual_seed(c.seed)
    model = build_model(config.model, stage_channels, config.features.grid)
    trained = Trained(config, model, tuple(stage_channels), origin=origin or {})
    if isinstance(model, PositionGaussian):
        model.fit(features.batches(64))
        model.to(device).eval()
        return trained
    if config.model.target == "standardised":
        mean, std = features.channel_statistics()
        model.standardise.mean.copy_(mean)
        model.standardise.std.copy_(std)
    model.to(device)
    steps = -(-len(features) // c.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=c.lr, weight_decay=c.weight_decay)
    schedule = make_schedule(optimizer, c, steps)
    start = _resume(state_file, config, trained, optimizer, schedule)
    if fabric.all_reduce(torch.tensor(float(start), device=device)).item() != start:
        raise DumenetError(
            "The machines do not see the same state of this run: work in a folder that all of them share."
        )
    forward, optimizer = fabric.setup(compiled(model, device) if c.compile else model, optimizer)
    read = reader(features, device)
    bar = progress_bar(
        range(start, c.epochs), "training", c.epochs, initial=start, show=progress and first, unit="epoch"
    )
    for epoch in bar:
        parallel.reseed(fabric, c.seed * 100_003 + epoch + 1)
        model.train()
        total = torch.zeros((), device=device)
        for index in torch.randperm(len(features)).split(c.batch_size):
            rows, weight = parallel.part(fabric, len(index))
            batch = read(index[rows])  # (B, C, H, W), or this process's share of it
            with torch.autocast(device.type, torch.bfloat16) if c.precision == "bf16" else nullcontext():
                with parallel.noise(fabric, rows, len(index)):
                    result = forward(batch)
                loss = nn.functional.mse_loss(result.features.float(), result.target.float()) * weight
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), c.clip)
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(index)
        mean_loss = (fabric.all_reduce(total) / len(features)).item()
        if not np.isfinite(mean_loss):
            raise DumenetError(f"The loss became {mean_loss} in epoch {epoch + 1}: lower train.lr or train.clip.")
        trained.history["loss"].append(mean_loss)
        trained.history["lr"].append(schedule.get_last_lr()[0])
        bar.set_postfix(loss=f"{mean_loss:.4f}")
        model.eval()
        if on_epoch:
            on_epoch(epoch, model)
        if state_file and first:
            state = {"epoch": epoch + 1, "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            spent = {"earlier": trained.earlier + time.perf_counter() - begun}
            _write(state_file, _pack(trained) | state | spent)
    model.eval()
    return trained


def _share(
    config: Config, features: Features, stage_channels: tuple[int, ...], state_file: str | Path | None,
    on_epoch: Callable[[int, nn.Module], None] | None, progress: bool, origin: dict[str, Any] | None,
) -> Trained:  # fmt: skip
    """`train` in several processes, which read the same features; gives the model that all of them end with."""
    device = pick_device(config.train.device)
    parallel.check(config, device)
    if on_epoch:
        raise DumenetError("Nobody can look on after each epoch where several processes train: use train.devices=1.")
    with tempfile.TemporaryDirectory(prefix="dumenet-") as name:
        folder, store = Path(name), features.store
        if not getattr(store, "filename", None):  # not on disk: a lesson's, or a test's
            np.save(folder / "store.npy", store)
            store = np.load(folder / "store.npy", mmap_mode="r")
        where = {
            "file": str(store.filename),
            "offset": store.offset,
            "shape": store.shape,
            "rows": features.rows.tolist(),
        }
        job = {
            "config": to_dict(config), "stage_channels": list(stage_channels), "features": where, "progress": progress,
            "state_file": str(state_file) if state_file else None, "origin": origin or {},
        }  # fmt: skip
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        code = (
            "import sys; from pathlib import Path; from dumenet import parallel, train; "
            "parallel.work(train.take_part, Path(sys.argv[1]))"
        )
        parallel.share(code, folder, config.train)
        return load_checkpoint(folder / "trained.pt", config.train.device)


def take_part(folder: Path) -> None:
    """In one of several processes: train as the job in `folder` says; the first of this machine leaves the model there."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    config, where, rank = config_from_dict(job["config"]), job["features"], int(os.environ["LOCAL_RANK"])
    if config.train.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(rank)  # "cuda" is this process's own from here on
    store = np.memmap(where["file"], np.float16, "r", where["offset"], tuple(where["shape"]))
    features = Features([], np.array(where["rows"], dtype=int), store)
    trained = train(
        config, features, tuple(job["stage_channels"]), job["state_file"],
        progress=job["progress"], origin=job["origin"], meeting=folder,
    )  # fmt: skip
    if rank == 0:
        save_checkpoint(trained, folder / "trained.pt")


def reader(features: Features, device: torch.device, free: int | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Gives the batch of an index, (B, C, H, W) float32 on `device`. A GPU holds all features, as the cache does in float16,
    where they take at most half of its free memory; elsewhere each batch is read from the cache when its turn comes.

    Args:
        free: bytes of the device's free memory, if not to be asked for.
    """
    gpu = device.type == "cuda"
    if free is None:
        free = torch.cuda.mem_get_info(device)[0] if gpu else 0
    shape = (len(features), *features.store.shape[1:])
    if 2 * math.prod(shape) > free // 2:
        return lambda index: (features.batch(index).pin_memory() if gpu else features.batch(index)).to(
            device, non_blocking=True
        )
    held, start = torch.empty(shape, dtype=torch.float16, device=device), 0
    for batch in features.batches(64):
        held[start : start + len(batch)] = batch  # exact: float16 is what they were read from
        start += len(batch)
    return lambda index: held[index.to(device)].float()


def compiled(model: nn.Module, device: torch.device) -> Callable[[torch.Tensor], Any]:
    """The forward pass of `model`, compiled; the parameters, and so state and checkpoints, stay those of `model`.

    Each batch size is compiled for itself: one graph for any size would let a resumed run round differently. On a GPU the
    kernels of a pass are recorded once and replayed at one launch (CUDA graphs).

    Raises:
        DumenetError: no C++ compiler.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl"))):
        raise DumenetError(
            "train.compile needs a C++ compiler, and this machine has none: install g++, or leave it off."
        )
    return torch.compile(model, dynamic=False, mode="reduce-overhead" if device.type == "cuda" else None)


def _resume(state_file: str | Path | None, config: Config, trained: Trained, optimizer: Any, schedule: Any) -> int:
    """Epochs already done by an interrupted run of the same configuration, loaded into the arguments."""
    if not state_file or not Path(state_file).exists():
        return 0
    parts = {"model": trained.model, "optimizer": optimizer, "schedule": schedule}
    fresh = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        state = load_tensors(state_file)
        if (
            result_config(config_from_dict(state["config"])) != result_config(config)
            or state["origin"] != trained.origin
        ):
            return 0
        done, history = (
            int(state["epoch"]),
            {name: [float(x) for x in state["history"][name]] for name in trained.history},
        )
        if {len(values) for values in history.values()} != {done}:
            raise ValueError("a history of other epochs")
        earlier = float(state.get("earlier", 0.0))  # states of before this was kept have none
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except Exception:  # a damaged state costs the epochs it held, not the run
        for name, part in parts.items():  # and leaves nothing behind
            part.load_state_dict(fresh[name])
        return 0
    trained.history.update(history)
    trained.earlier = earlier
    return done


def _pack(trained: Trained) -> dict[str, Any]:
    return {
        "config": to_dict(trained.config),
        "model": {k: v.cpu() for k, v in trained.model.state_dict().items()},
        "stage_channels": list(trained.stage_channels),
        "history": trained.history,
        "thresholds": trained.thresholds,
        "origin": trained.origin,
        "earlier": trained.earlier,
    }


def _write(path: str | Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(Path(path), buffer.getvalue())


def save_checkpoint(trained: Trained, path: str | Path) -> Path:
    """Write weights, configuration, thresholds and history in one file, atomically."""
    _write(path, _pack(trained))
    return Path(path)


def load_checkpoint(path: str | Path, device: str = "auto") -> Trained:
    """Read a checkpoint; the model is in eval mode on `device`.

    Raises:
        DumenetError: no such file, or not a checkpoint of this package.
    """
    try:
        content = load_tensors(path)
        config = config_from_dict(content["config"])
        model = build_model(config.model, tuple(content["stage_channels"]), config.features.grid)
        model.load_state_dict(content["model"])
        thresholds = {str(k): float(v) for k, v in content["thresholds"].items()}
        if not np.isfinite(list(thresholds.values())).all():
            raise ValueError("a threshold is not a number")
        rest = dict(content["history"]), thresholds, dict(content["origin"]), float(content.get("earlier", 0.0))
    except FileNotFoundError:
        raise DumenetError(f"No checkpoint at {path}: train one with `dumenet train`.") from None
    except DumenetError:
        raise
    except Exception as error:  # pickle, zip and key errors of a foreign or truncated file
        raise DumenetError(f"{path} is not a whole dumenet checkpoint ({type(error).__name__}): train again.") from None
    model.to(pick_device(device)).eval()
    return Trained(config, model, tuple(content["stage_channels"]), *rest)


def load_backbone(trained: Trained) -> Backbone:
    """The backbone that the model was trained on.

    Raises:
        DumenetError: other weights than those go by the same name here; the scores would mean nothing.
    """
    backbone = Backbone(trained.config.features)
    if trained.origin.get("backbone", backbone.key) != backbone.key:
        raise DumenetError(
            f"The checkpoint was trained on features {trained.origin['backbone']}, and here they are {backbone.key}: "
            "set features.weights to the same file, install the same version of the weights, or train again."
        )
    return backbone.to(next(trained.model.buffers()).device)
