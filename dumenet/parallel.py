"""Several processes as one: how they start and end, who takes which rows of a batch, and the noise that they share.

Lightning Fabric averages the gradients; it is imported where `train.devices` or `train.nodes` asks for it, and only there.
One process has `Alone` in its place, so that training has one loop.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dumenet.config import Config, TrainConfig
from dumenet.errors import DumenetError

GRACE = 3.0  # seconds from the first process that ends badly to the end of the others: their own words may say more
PLACE = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")  # what tells a node its number, and where the first one is
_ALONE = "train.devices=1 train.nodes=1"


class Alone:
    """What the loop asks of Fabric, for one process: nothing."""

    world_size, global_rank = 1, 0

    def __init__(self, device: torch.device):
        self.device = device

    def setup(self, model: nn.Module, optimizer: Any) -> tuple[Any, Any]:
        """Both as they are."""
        return model, optimizer

    def backward(self, loss: Tensor) -> None:
        """Gradients of this process are all there are."""
        loss.backward()

    def all_reduce(self, value: Tensor) -> Tensor:
        """The mean over one process."""
        return value


def processes(config: TrainConfig) -> int:
    """How many train together."""
    return config.devices * config.nodes


def inside() -> bool:
    """Whether this process is one of several that train together.

    Raises:
        DumenetError: it is one of torchrun's, each of which would train everything.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise DumenetError(
            "torchrun has started this process, and each of its processes would train everything: leave torchrun out, since "
            "`dumenet train --set train.devices=N` starts N processes itself (for several machines see docs/ARCHITECTURE.md)."
        )
    return "LOCAL_RANK" in os.environ


def check_start(nodes: int) -> None:
    """What started this command, looked at before anything is done.

    Raises:
        DumenetError: torchrun, or Slurm with another number of tasks than one for each of the `nodes`.
    """
    inside()
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    if tasks.isdigit() and int(tasks) != nodes and not (int(tasks) == 1 and "NODE_RANK" in os.environ):
        raise DumenetError(
            f"srun has started {tasks} task(s), and train.nodes is {nodes}: start one task for each machine "
            "(--ntasks-per-node=1), which starts train.devices processes there itself (see docs/ARCHITECTURE.md)."
        )


def check(config: Config, device: torch.device) -> None:
    """What several processes cannot do, said before one is started.

    Raises:
        DumenetError: too few devices, a model that mixes the images of a batch, or a node that does not know its place.
    """
    c, count = config.train, torch.cuda.device_count()
    if device.type == "cuda" and c.devices > count:
        raise DumenetError(
            f"train.devices is {c.devices}, and this machine has {count} CUDA device(s): set at most that many."
        )
    if device.type not in ("cpu", "cuda"):
        raise DumenetError(f'Several processes train on "cpu" or "cuda", not on {device.type}: use {_ALONE}.')
    if device.type == "cpu" and c.compile:
        raise DumenetError(
            f"train.compile does not go with several processes on the CPU: leave it off, or use {_ALONE}."
        )
    if config.model.name == "dumenet" and config.model.spatial_layout == "released":
        raise DumenetError(
            'model.spatial_layout "released" reads across the images of a batch, and a part of the batch would give '
            f'another result: use "map", or {_ALONE}.'
        )
    missing = [name for name in PLACE if not os.environ.get(name)] if c.nodes > 1 else []
    if missing:
        raise DumenetError(
            f"train.nodes is {c.nodes}, and this machine does not know its place: set {', '.join(missing)} before the "
            "command (NODE_RANK counts from 0; MASTER_ADDR and MASTER_PORT are those of node 0)."
        )


# --- inside the loop


def begin(config: TrainConfig, device: torch.device, folder: Path | None = None) -> Any:
    """Fabric, joined with the other processes, or `Alone`.

    Args:
        folder: the meeting place of the processes of one machine; several machines meet at MASTER_ADDR.
    """
    if not inside() or processes(config) == 1:
        return Alone(device)
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

    for name in ("lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it greets
    rank = int(os.environ.get("NODE_RANK", 0)) * config.devices + int(os.environ["LOCAL_RANK"])
    backend = "nccl" if device.type == "cuda" else "gloo"
    if folder and config.nodes == 1:  # a file, not a port: nobody else can knock
        meeting = f"file://{(folder / 'meeting').absolute()}"
        torch.distributed.init_process_group(backend, meeting, world_size=config.devices, rank=rank)
    strategy = DDPStrategy(cluster_environment=LightningEnvironment(), process_group_backend=backend)
    fabric = Fabric(accelerator=device.type, devices=config.devices, num_nodes=config.nodes, strategy=strategy)
    fabric.launch()
    return fabric


def part(fabric: Any, size: int) -> tuple[slice, float]:
    """This process's rows of a batch of `size` images, and the weight of their mean loss.

    Gradients are averaged over the processes, each counting the same; with these weights it is the images that do.
    A process that is left without an image computes one with weight 0, since all must take part.
    """
    rank, world = fabric.global_rank, fabric.world_size
    first, last = rank * size // world, (rank + 1) * size // world
    return (slice(first, last), (last - first) * world / size) if last > first else (slice(0, 1), 0.0)


def reseed(fabric: Any, seed: int) -> None:
    """Torch's generators at an epoch's begin: of order and noise alike; on GPUs each process has noise of its own."""
    torch.manual_seed(seed)
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        torch.cuda.manual_seed(seed + 7919 * fabric.global_rank)


def noise(fabric: Any, rows: slice, size: int) -> AbstractContextManager:
    """Around a forward pass: jitter and dropout on the CPU are those that one process would have drawn."""
    return SharedNoise(rows, size) if fabric.world_size > 1 and fabric.device.type == "cpu" else nullcontext()


class SharedNoise(TorchDispatchMode):
    """Draws for all `size` images of a batch, on every process alike, and hands out the rows of this one."""

    DRAWS = (torch.ops.aten.randn_like.default, getattr(torch.ops.aten.random_, "from"))  # jitter; dropout on the CPU

    def __init__(self, rows: slice, size: int):
        super().__init__()
        self.rows, self.size = rows, size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any operation on tensors that the forward pass comes to."""
        kwargs = kwargs or {}
        if func not in self.DRAWS:
            return func(*args, **kwargs)
        like, *rest = args  # (b, ...), b of the B images
        whole = like.new_empty_strided(
            (self.size, *like.shape[1:]), like.stride()
        )  # numbers are drawn in memory's order
        drawn = func(whole, *rest, **kwargs)[self.rows]
        return like.copy_(drawn) if func is self.DRAWS[1] else drawn


# --- outside: start, watch, end


def share(code: str, folder: Path, config: TrainConfig) -> None:
    """Run the Python `code` in as many processes as this machine has part of, until all have ended.

    A process that ends before its time ends the others. Each of them ends by itself if this one does.

    Raises:
        DumenetError: what one of them raised, or which one was lost.
    """
    threads = str(max(1, (os.cpu_count() or 1) // config.devices))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    if config.nodes == 1 and Path("/sys/class/net/lo").exists():
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # for this machine alone
    workers = []
    try:
        for rank in range(config.devices):
            command = [sys.executable, "-c", code, str(folder)]
            workers.append(
                subprocess.Popen(command, env=environment | {"LOCAL_RANK": str(rank)}, stdin=subprocess.PIPE)
            )
        end = None  # of waiting for the others, once one of them has failed
        while None in (codes := [worker.poll() for worker in workers]):
            if any(codes):
                end = end or time.monotonic() + GRACE
                if time.monotonic() > end:
                    break
            time.sleep(0.05)
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
            worker.stdin.close()
    if any(codes):  # None: ended by us
        raise _reason(folder, codes, config)


def _reason(folder: Path, codes: list[int | None], config: TrainConfig) -> Exception:
    """Why the processes ended with these codes: a sentence of their own, a signal, or something unforeseen."""
    said = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("error-*.json"))]
    for words in said:
        if words["sentence"]:
            return DumenetError(words["sentence"])
    on = "run the same command again, it goes on after the last whole epoch"
    for rank, code in enumerate(codes):
        if code and code < 0:
            by = signal.Signals(-code).name + (", perhaps for want of memory" if code == -signal.SIGKILL else "")
            return DumenetError(
                f"Training process {rank + 1} of {config.devices} was ended by {by}, and the others with it: {on}."
            )
    lost = re.compile("connection (closed|reset|refused)|timed out|timeout|broken pipe|gloo|nccl", re.IGNORECASE)
    unforeseen = [words["traceback"] for words in said if not lost.search(words["traceback"].splitlines()[-1])]
    if said and not unforeseen:
        return DumenetError(
            f"A training process on another machine was lost, or the network to it: {on} on each of them."
        )
    if not said:
        return DumenetError(f"A training process ended without a word (exit codes {codes}): {on}.")
    return RuntimeError(f"a training process failed:\n{unforeseen[0]}")


def work(function: Callable[[Path], None], folder: Path) -> None:
    """What a started process does: `function`, and a word to the one that started it if that fails."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function(folder)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException as error:
        sentence = str(error) if isinstance(error, DumenetError) else ""
        text = json.dumps({"sentence": sentence, "traceback": traceback.format_exc().strip()})
        (folder / f"error-{os.environ['LOCAL_RANK']}.json").write_text(text, encoding="utf-8")
        os._exit(2)  # at once: the tidy way out would wait for the others


def _end_with_parent() -> None:
    """The pipe from the process that started this one closes when it ends, however it ends."""
    with suppress(OSError):
        os.read(0, 1)
    os._exit(1)
