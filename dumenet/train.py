"""Training: one visible loop, a fixed budget, the last step kept. Nothing here sees a test image."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dumenet.checkpoint import Trained, load_checkpoint, pick_device, resume, save_state
from dumenet.config import Config, TrainConfig
from dumenet.errors import DumenetError
from dumenet.features import Features, progress_bar
from dumenet.models import PositionGaussian, build_model
from dumenet.optimizer import make_optimizer
from dumenet.parallel import Processes, curve

STATES = 100  # an interrupted run loses at most this part of its epochs, or one


def pick_precision(name: str, device: torch.device) -> str:
    """ "fp32" or "bf16"; "auto" takes bf16 where the processor multiplies such matrices faster: a GPU that has it,
    AMX, AVX512-BF16.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    fast = [getattr(torch.cpu, f"_is_{unit}_supported", lambda: False)() for unit in ("amx_tile", "avx512_bf16")]
    return "bf16" if device.type == "cpu" and any(fast) else "fp32"


def split_holdout(features: Features, share: float, seed: int) -> tuple[Features, Features | None]:
    """Training features and those held out for thresholds: `share` of each category's photographs, but neither none
    nor all.
    """
    if share == 0:
        return features, None
    generator = np.random.default_rng(seed)
    held: list[int] = []
    for category in sorted({s.category for s in features.samples}):
        photographs: dict[str, list[int]] = {}  # each with its tiles, which stay together
        for i, s in enumerate(features.samples):
            if s.category == category:
                photographs.setdefault(s.name.rpartition("[")[0] if s.tile else s.name, []).append(i)
        if len(photographs) > 1:
            count = min(max(1, round(share * len(photographs))), len(photographs) - 1)
            tiles = list(photographs.values())
            held += [i for k in generator.choice(len(tiles), count, replace=False) for i in tiles[k]]
    if not held:
        return features, None
    keep = sorted(set(range(len(features))) - set(held))
    return features.subset(keep), features.subset(sorted(held))


def count_steps(config: TrainConfig, images: int) -> tuple[int, int]:
    """Steps of an epoch over so many images, and of the whole training."""
    epoch = -(-images // config.batch_size)
    return epoch, epoch * config.epochs if config.epochs else config.steps


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, epoch: int, total: int) -> Any:
    """Learning rate of each of `total` steps, `epoch` of them in an epoch.

    "stable": a tenth of the steps up, level, the last fifth down to nearly 0 (warm-up, stable, decay: Hu et al. 2024,
    MiniCPM, section 4); "onecycle": a tenth up, then down; "step": divided by ten every `step_epoch` epochs.
    """
    if config.schedule == "stable":
        rate = lambda k: min(1.0, (k + 1) / total * 10, (total - k) / total * 5)  # noqa: E731
        return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    if config.schedule == "onecycle":
        climb = max(0.1, 1.5 / max(total, 2))  # of ten steps or fewer, a tenth would be none: torch divides by it
        top = [group["lr"] for group in optimizer.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, top, total, pct_start=climb)
    return torch.optim.lr_scheduler.StepLR(optimizer, config.step_epoch * epoch)


def train(
    config: Config, features: Features, stage_channels: tuple[int, ...], state_file: str | Path | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None, progress: bool = True,
    origin: dict[str, Any] | None = None,
) -> Trained:  # fmt: skip
    """Train the model of `config` on normal features for its fixed number of steps.

    Every epoch reseeds torch from (seed, epoch), so an epoch's order, jitter and dropout do not depend on what
    ran before: a run resumed from `state_file` ends bit for bit like one that was never interrupted (CPU).
    Several processes (`torchrun`, `fabric run`, `srun`) share each batch; see `Processes`.

    Args:
        features: normal training images, hold-out removed.
        stage_channels: of the backbone that made them.
        state_file: written after an epoch, read if there; the caller removes it once the result is safe.
        on_epoch: called with (epoch, model) after every epoch, for the lessons.
        origin: what the features are of; a state file of another origin is not read.

    Raises:
        DumenetError: the loss is not finite.
    """
    c, begun = config.train, time.perf_counter()
    processes = Processes(pick_device(c.device), config, sum(stage_channels))
    device, precision = processes.device, pick_precision(c.precision, processes.device)
    torch.manual_seed(c.seed)
    model = build_model(config.model, stage_channels, config.features.cells)
    trained = Trained(config, model, tuple(stage_channels), origin=(origin or {}) | {"precision": precision})
    average = isinstance(model, PositionGaussian)
    if average or config.model.target == "standardised":
        model.standardise.fit(*features.channel_statistics())
    if average:
        model.fit(features.batches(64))
        model.to(device).eval()
        return trained
    if c.start:
        begin_with(trained, c.start)
    model.to(device).eval()  # an interrupted run may have no epoch left
    optimizer = make_optimizer(model, c.optimizer, c.lr, c.weight_decay, precision == "bf16")
    in_epoch, total = count_steps(c, len(features))
    schedule, epochs = make_schedule(optimizer, c, in_epoch, total), -(-total // in_epoch)
    start = resume(state_file, trained, optimizer, schedule)
    forward, optimizer = processes.setup(model, optimizer)
    write = curve(c.log if processes.first else (), Path(state_file or "build/none").parent, trained.history)
    bar = progress_bar(range(start, epochs), "training", epochs, initial=start, show=progress, unit="epoch")
    for epoch in bar:
        torch.manual_seed(c.seed * 100_003 + epoch + 1)
        order = torch.randperm(len(features)).split(c.batch_size)[: total - epoch * in_epoch]
        loss = one_epoch(trained, forward, features, order, optimizer, schedule, processes)
        trained.history["loss"].append(loss)
        trained.history["lr"].append(schedule.get_last_lr()[0])
        if not np.isfinite(loss):
            raise DumenetError(f"The loss is not a number in epoch {epoch + 1}: lower train.lr or train.clip.")
        bar.set_postfix(loss=f"{loss:.4f}")
        write()
        if on_epoch:
            on_epoch(epoch, model)
        if state_file and processes.first and (epoch + 1) % max(1, epochs // STATES) == 0:
            save_state(state_file, trained, optimizer, schedule, epoch + 1, time.perf_counter() - begun)
    return trained


def begin_with(trained: Trained, path: str) -> None:
    """Take the weights of an earlier training, and the scale of features that belongs to them.

    Raises:
        DumenetError: no checkpoint, or one of another network or other features.
    """
    earlier = load_checkpoint(path, "cpu")
    differs = [k for k, v in vars(trained.config.model).items() if getattr(earlier.config.model, k) != v]
    if earlier.origin.get("backbone") != trained.origin.get("backbone", earlier.origin.get("backbone")):
        differs.append("features")
    if differs:
        raise DumenetError(
            f"{path} cannot go on as this network: {differs[0]} is another one. Set what it was trained with, or leave "
            "out train.start."
        )
    trained.model.load_state_dict(earlier.model.state_dict())


def one_epoch(
    trained: Trained,
    forward: nn.Module,
    features: Features,
    order: Iterable[Tensor],
    optimizer: Any,
    schedule: Any,
    processes: Processes,
) -> float:
    """A step for each batch of `order`, indices (B,) into `features`; returns the mean loss of an image.

    `forward` is the model of `trained`, as Fabric wraps it where several processes train.
    """
    model, device = trained.model.train(), processes.device
    bf16 = trained.origin["precision"] == "bf16"
    losses, images = torch.zeros((), device=device), 0
    for index in order:
        rows, weight, noise = processes.part(index)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            result = forward(features.batch(index[rows]).to(device), noise)  # of (B, C, H, W)
        loss = nn.functional.mse_loss(result.features.float(), result.target.float()) * weight
        optimizer.zero_grad(set_to_none=True)
        processes.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), trained.config.train.clip)
        optimizer.step()
        schedule.step()
        losses, images = losses + loss.detach() * len(index), images + len(index)
    model.eval()
    return processes.mean(losses / images)
