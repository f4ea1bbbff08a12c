"""Networks as ONNX graphs, and ONNX Runtime, which runs them on the CPU. Knows torch modules and files, no data set.

The file is an ordinary ONNX model whose metadata hold plain values and a checksum of everything. Inputs and outputs
have one row for each image, as many as wanted.
"""

import contextlib
import copy
import hashlib
import importlib
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from dumenet.errors import DumenetError
from dumenet.files import write_atomic

PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra `fast`
if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIX = ".onnx"  # of a file's name: by it a graph is told from a checkpoint
INSTEAD = "let torch compute (features.runtime=torch, or a checkpoint)"
CHECKSUM = "checksum"  # the last entry of the metadata: length of the graph, SHA-256 of graph and other entries
Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]  # of one image: inputs by name, each of one row, to outputs


def package(name: str) -> ModuleType:
    """A package of the extra `fast`.

    Raises:
        DumenetError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        name = name.partition(".")[0]
        raise DumenetError(
            f"This needs the package {name}, which is not installed: pip install -e '.[fast]', or {INSTEAD}."
        ) from None


def export(
    module: "nn.Module", example: dict[str, "Tensor"], outputs: tuple[str, ...], metadata: dict[str, Any], path: Path
) -> None:
    """Write `module` as one ONNX graph, atomically, with `metadata` as JSON values.

    Args:
        module: in eval mode, from inputs like those of `example` to a tensor, or a tuple of them, with as many rows
            each.
        example: inputs by name, of two rows.
        outputs: names of what `module` gives.

    Raises:
        DumenetError: packages of the extra `fast` are missing, torch cannot express the module, or the disk is full.
    """
    import torch

    onnx, _ = package("onnx"), package("onnxscript")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's own, about its exporter
            batch = torch.export.Dim("batch", min=1, max=65535)
            program = torch.onnx.export(
                copy.deepcopy(module).cpu().eval(), tuple(example.values()), dynamo=True, verbose=False,
                input_names=list(example), output_names=list(outputs),
                dynamic_shapes=tuple({0: batch} for _ in example),
            )  # fmt: skip
        model = program.model_proto
        del model.metadata_props[:]
        graph = model.SerializeToString()
    except DumenetError:
        raise
    except Exception as error:  # of torch's exporter, whatever it met
        detail = " ".join(str(error).split())[:200]
        raise DumenetError(f"This network cannot be exported to ONNX ({detail}): use its checkpoint.") from None
    finally:
        logging.disable(level)
    texts = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    extra = onnx.ModelProto()  # messages in a row are one message: its fields are added to the graph's
    onnx.helper.set_model_props(extra, texts | {CHECKSUM: json.dumps([len(graph), _checksum(graph, texts)])})
    write_atomic(path, graph + extra.SerializeToString())


def _checksum(graph: bytes, texts: dict[str, str]) -> str:
    return hashlib.sha256(graph + json.dumps(texts, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Content and metadata of a file that `export` wrote.

    Raises:
        DumenetError: no such file, or not whole, changed, or of another program.
    """
    onnx = package("onnx")
    try:
        content = Path(path).read_bytes()
        texts = {p.key: p.value for p in onnx.load_from_string(content).metadata_props}
        length, checksum = json.loads(texts.pop(CHECKSUM))
        if _checksum(content[:length], texts) != checksum:
            raise ValueError("the checksum is wrong")
        return content, {key: json.loads(value) for key, value in texts.items()}
    except OSError as error:
        raise DumenetError(f"Cannot read {path} ({error.strerror}): write it with `dumenet export`.") from None
    except Exception as error:  # protobuf's errors, and what a foreign file lacks
        raise DumenetError(
            f"{path} is not a whole graph of `dumenet export` ({type(error).__name__}): export it again."
        ) from None


class Engine:
    """Runs a graph on the CPU with as many threads as torch would take; torch itself is not needed.

    A single image gets all threads. Of several, each goes through the graph by itself on one thread: that scales better
    than sharing an image's work, and no output depends on an image's batch-mates.
    """

    def __init__(self, content: bytes):
        package("onnxruntime")
        torch = sys.modules.get("torch")
        usual = int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or os.cpu_count() or 1)
        self.threads = torch.get_num_threads() if torch else usual
        self._content = content

    def _start(self, threads: int) -> Run:
        """A function of one image, to be called from as many threads as wanted; `threads` for each call."""
        onnxruntime = package("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads wait actively within a call, and not after it.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_free_dimension_override_by_name("batch", 1)
        slow = ["SkipLayerNormFusion"]  # its kernel takes longer than what it replaces
        try:
            session = onnxruntime.InferenceSession(
                self._content, options, providers=["CPUExecutionProvider"], disabled_optimizers=slow
            )
        except Exception as error:  # an older engine than the graph, or a damaged installation
            detail = " ".join(str(error).split())[:200]
            raise DumenetError(
                f"onnxruntime cannot run this graph ({detail}): install a newer one, or {INSTEAD}."
            ) from None
        return lambda inputs: session.run(None, inputs)

    @cached_property
    def _one(self) -> Run:
        return self._start(self.threads)

    @cached_property
    def _many(self) -> tuple[Run, ThreadPoolExecutor]:
        return self._start(1), ThreadPoolExecutor(self.threads, "engine")

    def __call__(self, **inputs: np.ndarray) -> list[np.ndarray]:
        """The graph's inputs by name, each with B rows, to its outputs, each with B rows."""
        rows = [dict(zip(inputs, row)) for row in zip(*(array[:, None] for array in inputs.values()))]
        if len(rows) == 1:
            return self._one(rows[0])
        run, pool = self._many
        return [np.concatenate(parts) for parts in zip(*pool.map(run, rows))]
