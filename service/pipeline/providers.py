"""ONNX Runtime's execution providers: which run a network, with which options, and the proof that they run all of it.

The options' names are those of ONNX Runtime's documentation:

- onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html: ``cudnn_conv_algo_search``, ``arena_extend_strategy``,
  ``enable_cuda_graph``. "Usage of CUDA Graphs is limited to models where-in all the model ops (graph nodes) can be partitioned
  to the CUDA EP"; since 1.26 or so shapes may be computed on the CPU (``ALLOW_CPU_FOR_SHAPES``).
- onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html: ``trt_fp16_enable``, ``trt_engine_cache_enable``,
  ``trt_engine_cache_path``, ``trt_timing_cache_enable``; "it is recommended you also register CUDAExecutionProvider".
- onnxruntime_session_options_config_keys.h: ``session.disable_cpu_ep_fallback`` refuses a session that has a node on the CPU;
  ``session.record_ep_graph_assignment_info`` tells where each node is.
- onnxruntime_run_options_config_keys.h: ``gpu_graph_id`` chooses the CUDA graph of a run; "If the value is set to -1, cuda
  graph capture/replay is disabled in that run", and 0 is reserved.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnxruntime as ort

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
"""An exhaustive search costs half a second for each new shape; an arena that doubles never shrinks again."""

RECORD = "session.record_ep_graph_assignment_info"
STRICT = "session.disable_cpu_ep_fallback"
GRAPH_ID = "gpu_graph_id"
NO_GRAPH = "-1"

Provider = tuple[str, dict[str, str]]


@dataclass(frozen=True)
class GpuOptions:
    """How a network runs on a GPU."""

    tensorrt: Literal["off", "fp32", "fp16"] = "off"
    """Whether TensorRT runs what it can, and in which precision; CUDA runs the rest."""
    tensorrt_cache: Path | None = None
    """A folder for TensorRT's engines; None builds them at every start."""
    graphs: int = 0
    """Network shapes, each with its batch, whose kernels are recorded in a CUDA graph; 0 records none."""


def gpu_providers(options: GpuOptions) -> list[Provider]:
    """Return the providers of a session on a GPU, the first choice first."""
    cuda = {**CUDA_OPTIONS, "enable_cuda_graph": "1"} if options.graphs else dict(CUDA_OPTIONS)
    if options.tensorrt == "off":
        return [(CUDA, cuda)]
    tensorrt = {"trt_fp16_enable": str(options.tensorrt == "fp16")}
    if options.tensorrt_cache is not None:
        folder = str(options.tensorrt_cache)
        tensorrt |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": folder}
        tensorrt |= {"trt_timing_cache_enable": "True", "trt_timing_cache_path": folder}
    return [(TENSORRT, tensorrt), (CUDA, cuda)]


def nodes_elsewhere(session: ort.InferenceSession, wanted: Collection[str], shapes: Collection[tuple[str, str]]) -> list[str]:
    """Return the operators of a graph that do not run on the wanted providers, as ``Resize 'up'``.

    Arithmetic on shapes is left out: ONNX Runtime places it on the CPU by design, where the numbers are needed, and no pixel
    passes through it.

    Takes:
        session: opened with :data:`RECORD`
        wanted: names of providers
        shapes: name and operator of the nodes that compute with shapes alone, from ``onnx_file.shape_arithmetic``
    """
    known = frozenset(shapes)
    return [
        f"{node.op_type} '{node.name}'"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name not in wanted
        for node in part.get_nodes()
        if (node.name, node.op_type) not in known
    ]
