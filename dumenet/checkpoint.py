"""A trained model as one file: weights, configuration, spread, thresholds, and what they come from."""

import copy
import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dumenet.config import Config, config_from_dict, to_dict
from dumenet.errors import DumenetError
from dumenet.features import Backbone, load_tensors
from dumenet.files import write_atomic
from dumenet.models import Spread, build_model


@dataclass(eq=False)
class Normal:
    """What is usual: image scores of normal training images, under every error and pooling.

    Those of images that the spread was fitted on are under the spread of the other images.
    """

    categories: list[str]  # (n,)
    held: list[bool]  # (n,) whether the network was trained without this image
    scores: dict[str, list[float]]  # "norm max", "mahalanobis mean", ...: (n,)


@dataclass
class Trained:
    """A trained model and what is needed to use it elsewhere."""

    config: Config
    model: nn.Module
    stage_channels: tuple[int, ...]
    history: dict[str, list[float]] = field(default_factory=lambda: {"loss": [], "lr": []})  # one entry an epoch
    thresholds: dict[str, float] = field(default_factory=dict)  # image score by category, and "all"
    spread: Spread | None = None  # of the errors on normal images
    normal: Normal | None = None  # where thresholds come from
    origin: dict[str, Any] = field(default_factory=dict)  # fingerprint of the data, backbone key, seconds, precision
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
        raise DumenetError(f'This machine has no device {name!r}: use the device "cpu" or "auto".') from None
    return device


def _pack(trained: Trained) -> dict[str, Any]:
    """Plain values and tensors of `trained`; a spread's large tensor in float16, which it is exact in."""
    content = {"config": to_dict(trained.config), "model": trained.model.state_dict(), "spread": None}
    if trained.spread:
        tensors = {k: v.half() if k == "factors" else v for k, v in trained.spread.state_dict().items()}
        content["spread"] = {"categories": list(trained.spread.categories), "tensors": tensors}
    for part in (content["model"], content["spread"]["tensors"] if content["spread"] else {}):
        part.update({k: v.cpu() for k, v in part.items()})
    return content | {
        "stage_channels": list(trained.stage_channels),
        "history": trained.history,
        "thresholds": trained.thresholds,
        "normal": asdict(trained.normal) if trained.normal else None,
        "origin": trained.origin,
        "earlier": trained.earlier,
    }


def write_tensors(path: str | Path, content: dict[str, Any]) -> None:
    """Tensors and plain values as one file, atomically; `load_tensors` reads it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(Path(path), buffer.getvalue())


def save_checkpoint(trained: Trained, path: str | Path) -> Path:
    """Write one file, atomically."""
    write_tensors(path, _pack(trained))
    return Path(path)


def load_checkpoint(path: str | Path, device: str = "auto") -> Trained:
    """Read a checkpoint; the model is in eval mode on `device`.

    Raises:
        DumenetError: no such file, or not a checkpoint of this package.
    """
    try:
        content = load_tensors(path)
        config, channels = config_from_dict(content["config"]), tuple(content["stage_channels"])
        model = build_model(config.model, channels, config.features.cells)
        model.load_state_dict(content["model"])
        thresholds = {str(k): float(v) for k, v in content["thresholds"].items()}
        if not np.isfinite(list(thresholds.values())).all():
            raise ValueError("a threshold is not a number")
        spread, normal = content.get("spread"), content.get("normal")
        if spread:
            tensors, spread = spread["tensors"], Spread(spread["categories"], sum(channels), config.features.cells)
            spread.load_state_dict(tensors)
        rest = Normal(**normal) if normal else None, dict(content["origin"]), float(content.get("earlier", 0.0))
        trained = Trained(config, model, channels, dict(content["history"]), thresholds, spread, *rest)
    except FileNotFoundError:
        raise DumenetError(f"No checkpoint at {path}: train one with `dumenet train`.") from None
    except DumenetError:
        raise
    except Exception as error:  # pickle, zip and key errors of a foreign or truncated file
        raise DumenetError(
            f"{path} is not a whole dumenet checkpoint ({type(error).__name__}): give another file, or train again."
        ) from None
    for module in (trained.model, trained.spread):
        if module is not None:
            module.to(pick_device(device)).eval()
    return trained


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


def save_state(path: str | Path, trained: Trained, optimizer: Any, schedule: Any, epoch: int, seconds: float) -> None:
    """What an interrupted training goes on from: the model after `epoch` epochs and so many seconds in this process,
    and how it is trained.
    """
    state = {"epoch": epoch, "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    write_tensors(path, _pack(trained) | state | {"earlier": trained.earlier + seconds})


def resume(path: str | Path | None, trained: Trained, optimizer: Any, schedule: Any) -> int:
    """Epochs already done by an interrupted run of the same configuration, loaded into the arguments."""
    if not path or not Path(path).exists():
        return 0
    parts = {"model": trained.model, "optimizer": optimizer, "schedule": schedule}
    fresh = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        state = load_tensors(path)
        if config_from_dict(state["config"]) != trained.config or state["origin"] != trained.origin:
            return 0
        done, history = (
            int(state["epoch"]),
            {name: [float(x) for x in state["history"][name]] for name in ("loss", "lr")},
        )
        if {len(values) for values in history.values()} != {done}:
            raise ValueError("a history of other epochs")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        trained.history, trained.earlier = history, float(state["earlier"])
        return done
    except Exception:  # a damaged state costs the epochs it held, not the run
        for name, part in parts.items():  # and leaves nothing behind
            part.load_state_dict(fresh[name])
        return 0
