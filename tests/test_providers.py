"""Where the operators of a network run, and with which options."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from service.errors import ProviderUnavailable
from service.pipeline import engine, onnx_file
from service.pipeline.providers import (
    CPU,
    CUDA,
    RECORD,
    STRICT,
    TENSORRT,
    GpuOptions,
    gpu_providers,
    nodes_elsewhere,
)

SHIPPED = Path(__file__).resolve().parents[1] / "models/artifacts/fcn4s-lite0-streets.onnx"
AZURE = "AzureExecutionProvider"
"""A provider of the CPU build that runs none of these operators: as a GPU's without their kernels."""

with_azure = pytest.mark.skipif(AZURE not in ort.get_available_providers(), reason="this build has no second provider")


def session_of(path: Path, *providers: str, **entries: str) -> ort.InferenceSession:
    """A session that tells where its operators are."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    for key, value in {RECORD: "1", **entries}.items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(path, options, providers=list(providers))


@with_azure
def test_operators_on_the_processor_are_named() -> None:
    """Of the shipped network all but the arithmetic on its image's sides, which ONNX Runtime keeps there by design."""
    session = session_of(SHIPPED, AZURE, CPU)
    elsewhere = nodes_elsewhere(session, [AZURE], onnx_file.shape_arithmetic(SHIPPED))
    operators = [text.partition(" ")[0] for text in elsewhere]
    nodes = onnx.load(SHIPPED).graph.node
    assert operators.count("Conv") == sum(node.op_type == "Conv" for node in nodes)
    assert operators.count("Resize") == 3
    assert not {"Shape", "Squeeze"} & set(operators)
    assert operators.count("Concat") == 1  # that of maps
    assert operators.count("Div") == 1  # that of the normalisation
    assert nodes_elsewhere(session, [CPU], ()) == []


@with_azure
def test_an_engine_refuses_operators_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names some of them, and what to do."""
    monkeypatch.setattr(engine, "gpu_providers", lambda _: [(AZURE, {})])
    session = session_of(SHIPPED, AZURE, CPU)
    with pytest.raises(ProviderUnavailable) as error:
        engine._check_placement(session, onnx_file.read(SHIPPED), GpuOptions())
    assert "would run Transpose 'node_permute'" in error.value.message
    assert "more on the processor; take a newer onnxruntime-gpu" in error.value.message
    assert "\n" not in error.value.message


@with_azure
def test_the_strict_option_is_known_to_this_onnx_runtime() -> None:
    """Labels on a GPU are opened with it: a misspelt key would raise nothing."""
    with pytest.raises(Exception, match="fallback to CPU EP has been explicitly disabled"):
        session_of(SHIPPED, AZURE, **{STRICT: "1"})


def test_a_provider_that_was_left_out_is_named() -> None:
    """ONNX Runtime itself only writes a line to the log."""
    session = session_of(SHIPPED, CPU)
    with pytest.raises(ProviderUnavailable, match=f"^{CUDA} was asked for, but ONNX Runtime left it out"):
        engine._check_placement(session, onnx_file.read(SHIPPED), GpuOptions())


def test_shape_arithmetic_stops_where_a_value_is_read(tmp_path: Path) -> None:
    """A node that mixes sides with values does not count; neither does one of constants alone, which is folded."""
    nodes = [
        helper.make_node("Shape", ["x"], ["sides"], "sides"),
        helper.make_node("Gather", ["sides", "zero"], ["side"], "side"),
        helper.make_node("Mul", ["side", "zero"], ["twice"], "twice"),
        helper.make_node("Add", ["zero", "zero"], ["folded"], "folded"),
        helper.make_node("Cast", ["x"], ["whole"], "whole", to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "twice"], ["y"], "mixed"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["n"])],
        [helper.make_tensor("zero", TensorProto.INT64, [], [0])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "g.onnx")
    assert onnx_file.shape_arithmetic(tmp_path / "g.onnx") == {("sides", "Shape"), ("side", "Gather"), ("twice", "Mul")}


def test_the_options_of_a_gpu() -> None:
    """CUDA alone by default; TensorRT before it, with its cache; graphs by setting."""
    ((name, plain),) = gpu_providers(GpuOptions())
    assert (name, "enable_cuda_graph" in plain) == (CUDA, False)
    (first, tensorrt), (second, cuda) = gpu_providers(GpuOptions("fp16", Path("/cache"), 3))
    assert (first, second, cuda["enable_cuda_graph"]) == (TENSORRT, CUDA, "1")
    assert tensorrt == {
        "trt_fp16_enable": "True",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": "/cache",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": "/cache",
    }
    assert gpu_providers(GpuOptions("fp32"))[0] == (TENSORRT, {"trt_fp16_enable": "False"})
