"""Networks as ONNX graphs, and the inference engines that run them on the CPU. Knows torch modules and files, no data set.

A graph takes uint8 images (B, S, S, 3), B as many as wanted. Its file is an ordinary ONNX model whose metadata hold plain
values and a checksum of everything.
"""

import contextlib
import copy
import hashlib
import importlib
import io
import json
import logging
import tempfile
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from dumenet.errors import DumenetError, unknown
from dumenet.results import write_atomic

RUNTIMES = ("torch", "onnx", "openvino")  # torch itself needs no engine
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}  # what runs it
SUM = "checksum"  # the last entry of the metadata: length of the graph, SHA-256 of graph and other entries


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
            f"This needs the package {name}, which is not installed: pip install -e '.[fast]', or use the runtime torch."
        ) from None


def export(
    module: nn.Module, size: int, outputs: tuple[str, ...], metadata: dict[str, Any], path: Path, int8: bool = False
) -> None:
    """Write `module` as one ONNX graph, atomically, with `metadata` as JSON values.

    Args:
        module: in eval mode, from uint8 images (B, size, size, 3) to a tensor, or a tuple of them, with B rows each.
        outputs: names of those.
        int8: weights and inputs of matrix products as 8-bit integers, scaled anew for each input. Convolutions stay as
            they are: tried in 8 bits, they were slower, and anomaly maps moved by a third of their range.

    Raises:
        DumenetError: packages of the extra `fast` are missing, torch cannot express the module, or the disk is full.
    """
    onnx, _ = package("onnx"), package("onnxscript")
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch about itself
            program = torch.onnx.export(
                copy.deepcopy(module).cpu().eval(), (example,), dynamo=True, verbose=False, input_names=["images"],
                output_names=list(outputs), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65535)},),
            )  # fmt: skip
        model = _int8(program.model_proto) if int8 else program.model_proto
        del model.metadata_props[:]  # of its makers
        graph = model.SerializeToString()
    except DumenetError:
        raise
    except Exception as error:  # of torch's exporter, whatever it met
        detail = " ".join(str(error).split())[:200]
        raise DumenetError(f"This network cannot be exported to ONNX ({detail}): use the runtime torch.") from None
    finally:
        logging.disable(level)
    texts = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    extra = onnx.ModelProto()  # messages in a row are one message: its fields are added to the graph's
    onnx.helper.set_model_props(extra, texts | {SUM: json.dumps([len(graph), _sum(graph, texts)])})
    write_atomic(path, graph + extra.SerializeToString())


def _int8(model: Any) -> Any:
    """The ONNX model with its matrix products in 8 bits."""
    quantization = package("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:  # it writes files only
        path = Path(folder) / "int8.onnx"
        quantization.quantize_dynamic(model, path, op_types_to_quantize=["MatMul"], per_channel=True)
        return package("onnx").load(path)


def _sum(graph: bytes, texts: dict[str, str]) -> str:
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
        length, checksum = json.loads(texts.pop(SUM))
        if _sum(content[:length], texts) != checksum:
            raise ValueError("the checksum is wrong")
        return content, {key: json.loads(value) for key, value in texts.items()}
    except OSError as error:
        raise DumenetError(f"Cannot read {path} ({error.strerror}): write it with `dumenet export`.") from None
    except Exception as error:  # protobuf's errors, and what a foreign file lacks
        raise DumenetError(
            f"{path} is not a whole graph of `dumenet export` ({type(error).__name__}): export it again."
        ) from None


class Engine:
    """Runs a graph on the CPU with as many threads as torch has.

    A single image gets all threads. Of several, each goes through the graph by itself on one thread: that scales better
    than sharing an image's work, and no output depends on an image's batch-mates.
    """

    def __init__(self, content: bytes, runtime: str):
        if runtime not in PACKAGES:
            raise unknown("runtime with an engine", runtime, PACKAGES)
        package(PACKAGES[runtime])
        self.threads = torch.get_num_threads()
        self._content, self._runtime = content, runtime

    def _session(self, streams: int, threads: int) -> Callable[[np.ndarray], list[np.ndarray]]:
        try:
            return {"onnx": _onnxruntime, "openvino": _openvino}[self._runtime](self._content, streams, threads)
        except Exception as error:  # an older engine than the graph, or a damaged installation
            detail = " ".join(str(error).split())[:200]
            raise DumenetError(
                f"{PACKAGES[self._runtime]} cannot run this graph ({detail}): install a newer one, or use the runtime torch."
            ) from None

    @cached_property
    def _one(self) -> Callable[[np.ndarray], list[np.ndarray]]:
        return self._session(1, self.threads)

    @cached_property
    def _many(self) -> tuple[Callable[[np.ndarray], list[np.ndarray]], ThreadPoolExecutor]:
        return self._session(self.threads, 1), ThreadPoolExecutor(self.threads, "engine")

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """uint8 images (B, S, S, 3) to the graph's outputs, each with B rows."""
        if len(images) == 1:
            return self._one(images)
        run, pool = self._many
        return [np.concatenate(rows) for rows in zip(*pool.map(run, images[:, None]))]


def _onnxruntime(content: bytes, streams: int, threads: int) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A function of one image (1, S, S, 3), to be called from as many threads as wanted; `threads` for each call."""
    onnxruntime = package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_free_dimension_override_by_name("batch", 1)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"images": image})


def _openvino(content: bytes, streams: int, threads: int) -> Callable[[np.ndarray], list[np.ndarray]]:
    """As `_onnxruntime`, for at most `streams` calls at once."""
    openvino = package("openvino")
    core = openvino.Core()
    model = core.read_model(content)
    model.reshape([1, *model.input(0).partial_shape[1:]])
    options = {
        "INFERENCE_PRECISION_HINT": "f32",  # or it takes bfloat16 where the processor has it
        "INFERENCE_NUM_THREADS": streams * threads, "NUM_STREAMS": streams,
    }  # fmt: skip
    compiled = core.compile_model(model, "CPU", options)
    mine = threading.local()  # a request serves one call at a time

    def run(image: np.ndarray) -> list[np.ndarray]:
        if not hasattr(mine, "request"):
            mine.request = compiled.create_infer_request()
        found = mine.request.infer({0: image})
        return [found[i] for i in range(len(compiled.outputs))]

    return run
