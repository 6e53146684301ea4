"""The outline of an ONNX file, against the onnx package, which the service does not have."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from service.errors import BadArtifact
from service.pipeline import onnx_file
from tests.conftest import make_graph, make_manifest, write_artifact

LARGE = np.arange(3 * 3 * 32 * 32, dtype=np.float32).reshape(3, 3, 32, 32)
"""Beyond the kilobyte from which weights move out of the file."""


def with_weights_beside(folder: Path, location: str = "net.onnx.data") -> Path:
    """An ONNX file in the external-data form."""
    model = make_graph()
    model.graph.initializer.append(numpy_helper.from_array(LARGE, "large"))
    helper.set_model_props(model, make_manifest().to_metadata())
    path = folder / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location=location)
    return path


def test_the_outline_is_what_the_onnx_package_reads(artifact: Path) -> None:
    """Format, operators, producer, size."""
    model = onnx.load(artifact)
    found = onnx_file.read(artifact)
    assert found.ir_version == model.ir_version
    assert found.opset == model.opset_import[0].version
    assert found.producer == ""
    assert found.data_files == ()
    assert found.size_bytes == artifact.stat().st_size
    assert found.sha256() == hashlib.sha256(artifact.read_bytes()).hexdigest()


def test_the_opset_is_that_of_the_standard_operators(tmp_path: Path) -> None:
    """Others have versions of their own."""
    model = make_graph()
    model.opset_import.insert(0, helper.make_opsetid("com.microsoft", 1))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    model.producer_name, model.producer_version = "pytorch", "2.13"
    found = onnx_file.read(write_artifact(tmp_path / "net.onnx", graph=model))
    assert found.opset == 18
    assert found.producer == "pytorch 2.13"


def test_weights_beside_the_file_belong_to_it(tmp_path: Path) -> None:
    """They are listed, and size and hash cover them: a changed weight is another model."""
    path = with_weights_beside(tmp_path)
    found = onnx_file.read(path)
    data = tmp_path / "net.onnx.data"
    assert found.data_files == (data,)
    assert found.size_bytes == path.stat().st_size + data.stat().st_size
    before = found.sha256()
    assert before == hashlib.sha256(path.read_bytes() + data.read_bytes()).hexdigest()
    data.write_bytes(data.read_bytes()[:-1] + b"\x01")
    assert onnx_file.read(path).sha256() != before


def test_tensors_are_found_wherever_they_hide(tmp_path: Path) -> None:
    """In constants, and in the branches of an ``If``, each with a file of its own."""

    def elsewhere(name: str) -> onnx.TensorProto:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=f"{name}.bin")
        (tmp_path / f"{name}.bin").write_bytes(bytes(4))
        return tensor

    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("Constant", [], ["out"], value=elsewhere("constant"))], "then", [], [out])
    other = helper.make_graph([helper.make_node("Identity", ["inner"], ["out"])], "other", [], [out], [elsewhere("inner")])
    choice = helper.make_node("If", ["condition"], ["out"], then_branch=then, else_branch=other)
    model = make_graph()
    model.graph.node.append(choice)
    onnx.save(model, tmp_path / "net.onnx")
    assert [file.name for file in onnx_file.read(tmp_path / "net.onnx").data_files] == ["constant.bin", "inner.bin"]


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    """It was left behind when the artifact was copied."""
    path = with_weights_beside(tmp_path)
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(BadArtifact, match=r"^net\.onnx: keeps its weights in net\.onnx\.data, which is missing beside it$"):
        onnx_file.read(path)


def test_a_truncated_data_file_is_told(tmp_path: Path) -> None:
    """With both numbers."""
    path = with_weights_beside(tmp_path)
    with (tmp_path / "net.onnx.data").open("r+b") as data:
        data.truncate(100)
    with pytest.raises(BadArtifact, match=rf"truncated: 100 of {LARGE.nbytes} bytes"):
        onnx_file.read(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin"])
def test_weights_outside_the_folder_are_refused(location: str, tmp_path: Path) -> None:
    """An artifact reads no file but its own."""
    model = make_graph()
    tensor = model.graph.initializer.add(name="stolen", data_type=TensorProto.UINT8, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    onnx.save_model(model, tmp_path / "net.onnx")
    with pytest.raises(BadArtifact, match="outside its own folder"):
        onnx_file.read(tmp_path / "net.onnx")


def test_a_file_cut_anywhere_is_told_and_never_a_crash(artifact: Path, tmp_path: Path) -> None:
    """But for the cuts between two fields behind the graph: what is left is a message still, without its manifest."""
    whole = artifact.read_bytes()
    torn = tmp_path / "torn.onnx"
    whole_to_us = []
    for length in range(len(whole)):
        torn.write_bytes(whole[:length])
        with contextlib.suppress(BadArtifact):
            onnx_file.read(torn)
            whole_to_us.append(length)
    assert len(whole_to_us) <= 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello, this is a list", "is not an ONNX file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "is not an ONNX file"),
        (b"<!doctype html><html></html>", "is not an ONNX file"),
        (b"PK\x03\x04" + bytes(100), "is not an ONNX file"),
        (b"\x08\x0a", "is not an ONNX file"),
        (b"\x08\x0a\x3a\x7f", "is truncated"),
        (b"\x08\x0a" + bytes(20), "is damaged"),
        (b"\x08\x0a\x3a\x02\x0a\x7f", "is truncated"),
    ],
)
def test_what_is_not_an_onnx_file_is_told_from_one_that_is_torn(content: bytes, reason: str, tmp_path: Path) -> None:
    """The remedy differs: another path, or another download."""
    path = tmp_path / "file.onnx"
    path.write_bytes(content)
    with pytest.raises(BadArtifact, match=rf"^file\.onnx: {reason}$"):
        onnx_file.read(path)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A folder, and nothing at all."""
    for path in (tmp_path, tmp_path / "gone.onnx"):
        with pytest.raises(BadArtifact, match="cannot be read"):
            onnx_file.read(path)


@given(st.binary(max_size=200))
def test_no_bytes_are_a_crash(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever lies in the models folder behind a good beginning."""
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(b"\x08\x0a\x3a" + bytes([len(content) & 0x7F]) + content)
    with contextlib.suppress(BadArtifact):
        onnx_file.read(path)


def branching() -> onnx.ModelProto:
    """A graph of two outputs; the second comes from a branch whose bodies read ``shared`` and ``only_branch``."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("kept", "other", "inner")]
    bodies = {
        f"{name}_branch": helper.make_graph([helper.make_node("Add", [read, "x"], ["inner"])], name, [], [values[2]])
        for name, read in (("then", "shared"), ("else", "only_branch"))
    }
    nodes = [
        helper.make_node("Abs", ["x"], ["shared"]),
        helper.make_node("Neg", ["x"], ["only_branch"]),
        helper.make_node("Exp", ["shared"], ["kept"]),
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["positive"], to=TensorProto.BOOL),
        helper.make_node("If", ["positive"], ["other"], **bodies),
    ]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(nodes, "branching", [source], values[:2])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def opened(model: bytes) -> ort.InferenceSession:
    """A session of an ONNX file's bytes."""
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"])


def values_of(session: ort.InferenceSession) -> dict[str, tuple[str, list[object]]]:
    """Type and sides of a session's outputs."""
    return {node.name: (node.type, node.shape) for node in session.get_outputs()}


@pytest.mark.parametrize(
    ("outputs", "between", "first", "rest"),
    [
        (("kept",), ("shared",), ["Abs", "Exp"], ["Neg", "ReduceMax", "Cast", "If"]),
        (("other",), ("shared",), ["Abs", "Neg", "ReduceMax", "Cast", "If"], ["Exp"]),
        (("kept", "other"), (), ["Abs", "Neg", "Exp", "ReduceMax", "Cast", "If"], []),
    ],
)
def test_two_halves_of_a_graph_give_what_the_whole_gives(
    outputs: tuple[str, ...], between: tuple[str, ...], first: list[str], rest: list[str], tmp_path: Path
) -> None:
    """No operator is in both; what a branch's body alone reads is there; all but the graph is as it was."""
    model = branching()
    model.metadata_props.add(key="a", value="b" * 300)
    onnx.save(model, tmp_path / "net.onnx")
    halves = onnx_file.halves(tmp_path / "net.onnx", outputs)
    beginning = opened(halves.first)
    end = halves.rest(values_of(beginning))
    assert halves.between == between
    assert (end is None) == (not rest)
    for half, operators in ((halves.first, first), *([(end, rest)] if end else [])):
        read = onnx.load_from_string(half)
        assert [node.op_type for node in read.graph.node] == operators
        assert read.metadata_props == model.metadata_props
    x = {"x": np.array([-2.5, 3], np.float32)}
    names = [*outputs, *between]
    found = dict(zip(names, beginning.run(names, x), strict=True))
    if end:
        going_on = opened(end)
        given = {node.name: found.get(node.name, x["x"]) for node in going_on.get_inputs()}
        found |= dict(zip(values_of(going_on), going_on.run(None, given), strict=True))
    expected = opened(model.SerializeToString()).run(["kept", "other"], x)
    assert all(np.array_equal(found[name], value) for name, value in zip(["kept", "other"], expected, strict=True))


def test_a_quantised_map_crosses_in_eight_bits(tmp_path: Path) -> None:
    """The operator that makes numbers of its bytes is in both halves, and weights only where they are read."""
    numbers = [("scale", np.float32(0.5)), ("zero", np.uint8(3)), ("one", np.float32(1)), ("two", np.float32(2))]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["bytes"]),
        helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["map"]),
        helper.make_node("Add", ["map", "one"], ["kept"]),
        helper.make_node("Mul", ["map", "two"], ["other"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "kept", "other")]
    weights = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in numbers]
    graph = helper.make_graph(nodes, "quantised", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx")
    halves = onnx_file.halves(tmp_path / "net.onnx", ("kept",))
    beginning = opened(halves.first)
    assert (halves.between, values_of(beginning)["bytes"][0]) == (("bytes",), "tensor(uint8)")
    rest = halves.rest(values_of(beginning))
    assert rest is not None
    end = onnx.load_from_string(rest)
    assert [node.op_type for node in end.graph.node] == ["DequantizeLinear", "Mul"]
    assert [(value.name, len(value.type.tensor_type.shape.dim)) for value in end.graph.input] == [("bytes", 1)]
    assert [weight.name for weight in end.graph.initializer] == ["scale", "zero", "two"]
    assert [weight.name for weight in onnx.load_from_string(halves.first).graph.initializer] == ["scale", "zero", "one"]


@pytest.mark.parametrize(
    ("sides", "read"), [(["batch", 48, None, 300], [None, 48, None, 300]), ([], []), ([None, 1 << 40], [None, 1 << 40])]
)
def test_the_rest_knows_the_sides_of_what_lies_between(sides: list[object], read: list[object], tmp_path: Path) -> None:
    """Fixed ones as numbers, free ones as free; without any, a tensor may have every shape."""
    onnx.save(branching(), tmp_path / "net.onnx")
    rest = onnx_file.halves(tmp_path / "net.onnx", ("kept",)).rest({"shared": ("tensor(float)", sides)})
    assert rest is not None
    shared = next(value for value in onnx.load_from_string(rest).graph.input if value.name == "shared").type.tensor_type
    assert [side.dim_value if side.HasField("dim_value") else None for side in shared.shape.dim] == read
    assert shared.HasField("shape") == bool(sides)


def test_names_that_are_left_out_lie_between_no_halves(tmp_path: Path) -> None:
    """An output that its operator leaves out and an input that another one leaves out share the empty name alone."""
    nodes = [
        helper.make_node("Dropout", ["x"], ["kept", ""]),
        helper.make_node("Clip", ["x", "", "most"], ["other"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "kept", "other")]
    weights = [numpy_helper.from_array(np.array(2, np.float32), "most")]
    graph = helper.make_graph(nodes, "left-out", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx")
    halves = onnx_file.halves(tmp_path / "net.onnx", ("kept",))
    rest = halves.rest(values_of(opened(halves.first)))
    assert halves.between == ()
    assert rest is not None
    assert opened(rest).run(["other"], {"x": np.array([1, 3], np.float32)})[0].tolist() == [1, 2]


def test_the_first_half_for_every_output_is_the_file_itself(artifact: Path) -> None:
    """A graph that needs all of its operators keeps every byte."""
    assert onnx_file.halves(artifact, ("scores",)).first == artifact.read_bytes()


@pytest.mark.parametrize("missing", [1, 50, 200])
def test_halves_of_a_truncated_file_are_a_bad_artifact(missing: int, artifact: Path, tmp_path: Path) -> None:
    """A file that ends early is refused here too."""
    (tmp_path / "short.onnx").write_bytes(artifact.read_bytes()[:-missing])
    with pytest.raises(BadArtifact, match=r"short\.onnx: is damaged"):
        onnx_file.halves(tmp_path / "short.onnx", ("scores",))
