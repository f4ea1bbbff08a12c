"""Several processes that train one model, each with its part of every batch, through Lightning Fabric.

`torchrun`, `fabric run` or `srun` starts them; Fabric averages their gradients. A process alone needs none of it, and
does not import it.
"""

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dumenet.config import Config
from dumenet.errors import DumenetError


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or 1)  # the latter set by srun


def rank() -> int:
    """The number of this process among them: the first one, 0, writes results."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) if count() > 1 else 0


def curve(names: Sequence[str], folder: Path, history: dict[str, list[float]]) -> Callable[[], None]:
    """What writes the epochs that `history` has gained into `folder`/log, by Fabric's "csv" and "tensorboard".

    Raises:
        DumenetError: TensorBoard is not installed.
    """
    if not names:
        return lambda: None
    from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

    kinds, done = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}, 0
    try:
        loggers = [kinds[name](folder, name="log", version="") for name in names]
    except ModuleNotFoundError:
        raise DumenetError(
            "train.log=tensorboard needs TensorBoard: pip install 'dumenet[tensorboard]', or use train.log=csv."
        ) from None

    def write() -> None:
        nonlocal done
        for logger in loggers:
            for k in range(done, len(history["loss"])):
                logger.log_metrics({name: values[k] for name, values in history.items()}, k + 1)
            logger.save()
        done = len(history["loss"])

    return write


class Processes:
    """What the training loop needs to know of the others, if there are any.

    Attributes:
        device: this process's own.
        first: whether this process writes files.

    Raises:
        DumenetError: a network whose result depends on how a batch is cut.
    """

    def __init__(self, device: torch.device, config: Config, channels: int):
        self.device, self.first, self.fabric = device, rank() == 0, None
        self.tokens = (math.prod(config.features.cells), channels)  # N, C
        if count() == 1:
            return
        if config.model.name == "dumenet" and config.model.spatial_layout == "released":
            raise DumenetError(
                'model.spatial_layout "released" reads across the images of a batch, and a part of it would give '
                'another result: use "map", or one process.'
            )
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy

        logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
        here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or count())
        strategy = DDPStrategy(process_group_backend="nccl" if device.type == "cuda" else "gloo")
        try:
            self.fabric = Fabric(accelerator=device.type, strategy=strategy, devices=here, num_nodes=count() // here)
            self.fabric.launch()
        except RuntimeError as error:  # of Fabric, whose sentence says what SLURM has to be given
            raise DumenetError(f"The processes cannot start together: {' '.join(str(error).split())}") from None
        self.device = self.fabric.device

    def setup(self, model: nn.Module, optimizer: Any) -> tuple[Any, Any]:
        """Model and optimizer as Fabric wraps them; as they are in a process alone."""
        return self.fabric.setup(model, optimizer) if self.fabric else (model, optimizer)

    def part(self, index: Tensor) -> tuple[slice, float, Tensor | None]:
        """Of a batch: this process's rows, the weight of their mean loss, and their jitter.

        Gradients are averaged over processes, each counting the same; with these weights it is the images that do. A
        process that is left without an image computes one with weight 0, since all must take part. Jitter is drawn
        for the whole batch and cut, so that on a CPU the result is that of one process; a process alone draws it in
        the model.
        """
        if not self.fabric:
            return slice(None), 1.0, None
        size, world, place = len(index), self.fabric.world_size, self.fabric.global_rank
        first, last = place * size // world, (place + 1) * size // world
        rows, weight = (slice(first, last), (last - first) * world / size) if last > first else (slice(0, 1), 0.0)
        return rows, weight, torch.randn(size, *self.tokens)[rows].to(self.device)

    def backward(self, loss: Tensor) -> None:
        """Gradients of this process, or averaged over all."""
        self.fabric.backward(loss) if self.fabric else loss.backward()

    def mean(self, value: Tensor) -> float:
        """The mean over all processes."""
        return (self.fabric.all_reduce(value) if self.fabric else value).item()
