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
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from dumenet.errors import DumenetError, unknown
from dumenet.results import write_atomic

RUNTIMES = ("torch", "onnx", "openvino", "openvino-bf16")  # torch itself needs no engine
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "openvino-bf16": "openvino"}  # what runs it
CUT = "features"  # the tensor inside a graph behind which openvino-bf16 computes in bfloat16
SUM = "checksum"  # the last entry of the metadata: length of the graph, SHA-256 of graph and other entries


def package(name: str) -> ModuleType:
    """A package of the extra `fast` or `openvino`.

    Raises:
        DumenetError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        name = name.partition(".")[0]
        raise DumenetError(
            f"This needs the package {name}, which is not installed: "
            f"pip install -e '.[{'fast,openvino' if name == 'openvino' else 'fast'}]', or use the runtime torch."
        ) from None


def export(
    module: nn.Module, size: int, outputs: tuple[str, ...], metadata: dict[str, Any], path: Path, int8: bool = False,
    inside: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Write `module` as one ONNX graph, atomically, with `metadata` as JSON values.

    Args:
        module: in eval mode, from uint8 images (B, size, size, 3) to a tensor, or a tuple of them, with B rows each.
        outputs: names of those.
        int8: weights and inputs of matrix products as 8-bit integers, scaled anew for each input. Convolutions stay as
            they are: tried in 8 bits, they were slower, and anomaly maps moved by a third of their range.
        inside: names of the tensors that `module` gives after its outputs; the graph keeps them to itself.

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
                output_names=[*outputs, *inside], dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65535)},),
            )  # fmt: skip
        model = program.model_proto
        del model.graph.output[len(outputs) :]
        model = _int8(model) if int8 else model
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
            return STARTS[self._runtime](self._content, streams, threads)
        except DumenetError:
            raise
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
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # or, on a busy machine, threads wait for each other
    options.add_free_dimension_override_by_name("batch", 1)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"images": image})


def _openvino(
    content: bytes, streams: int, threads: int, bf16: bool = False
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """As `_onnxruntime`, for at most `streams` calls at once; with `bf16` what follows the features is in bfloat16."""
    core = package("openvino").Core()
    if bf16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise DumenetError("This processor does not compute in bfloat16: use the runtime openvino.")
    model = core.read_model(content)
    model.reshape([1, *model.input(0).partial_shape[1:]])
    options = {
        "INFERENCE_NUM_THREADS": streams * threads, "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,  # or two parts could be bound to one core
    }  # fmt: skip
    compiled = [  # by itself it would take bfloat16 everywhere, where the processor has it
        core.compile_model(part, "CPU", options | {"INFERENCE_PRECISION_HINT": precision})
        for part, precision in zip(_parted(model) if bf16 else (model,), ("f32", "bf16"))
    ]
    mine = threading.local()  # a request serves one call at a time

    def run(image: np.ndarray) -> list[np.ndarray]:
        if not hasattr(mine, "requests"):
            mine.requests = [part.create_infer_request() for part in compiled]
            for first, second in pairwise(mine.requests):
                second.set_input_tensor(first.get_output_tensor())
        found = mine.requests[0].infer({0: image})
        for request in mine.requests[1:]:
            found = request.infer()
        return [found[i] for i in range(len(found))]

    return run


def _parted(model: Any) -> tuple[Any, Any]:
    """An OpenVINO model as two: up to the tensor `CUT`, and from there."""
    cuts = [output for op in model.get_ops() for output in op.outputs() if CUT in output.get_names()]
    if len(cuts) != 1:
        raise DumenetError("This graph does not say where its features are: write it again with `dumenet export`.")
    start = package("openvino.opset13").parameter(cuts[0].get_partial_shape(), np.float32)
    for user in cuts[0].get_target_inputs():
        user.replace_source_output(start.output(0))
    make = package("openvino").Model
    return make([cuts[0]], model.get_parameters(), "features"), make(model.get_results(), [start], "map and score")


STARTS = {"onnx": _onnxruntime, "openvino": _openvino, "openvino-bf16": partial(_openvino, bf16=True)}
