"""What is said of an ONNX file, ours or foreign, and of what is none."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import adopt
from service.errors import BadArtifact
from service.pipeline.inspection import inspect
from service.pipeline.manifest import METADATA_KEY
from tests.conftest import make_graph, make_manifest, write_artifact

Shape = list[int | str | None]


def network(
    inputs: dict[str, tuple[int, Shape]], outputs: dict[str, tuple[int, Shape]], path: Path, *, planes: int = 3
) -> Path:
    """An ONNX file whose outputs are made of its first input by whatever operators it takes."""
    source = next(iter(inputs))
    nodes = [
        helper.make_node("Cast", [source], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["real", "kernel"], ["mixed"]),
    ]
    for name, (dtype, shape) in outputs.items():
        if len(shape) == 3:
            nodes.append(helper.make_node("ArgMax", ["mixed"], [f"{name}_wide"], axis=1, keepdims=0))
        elif len(shape) == 2:
            nodes.append(helper.make_node("Flatten", ["mixed"], [f"{name}_wide"]))
        else:
            nodes.append(helper.make_node("Identity", ["mixed"], [f"{name}_wide"]))
        nodes.append(helper.make_node("Cast", [f"{name}_wide"], [name], to=dtype))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in outputs.items()],
        [numpy_helper.from_array(np.ones((planes, 3, 1, 1), np.float32), "kernel")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


PIXELS: tuple[int, Shape] = (TensorProto.FLOAT, ["N", 3, "H", "W"])


def test_an_artifact_lacks_nothing(artifact: Path) -> None:
    """Its manifest, its ports and where it could run."""
    found = inspect(artifact)
    assert found.manifest == make_manifest()
    assert (found.missing, found.command) == ((), None)
    assert [str(port) for port in found.inputs] == ["image uint8 N x H x W x 3"]
    assert [str(port) for port in found.outputs] == ["scores float32 N x 3 x h x w"]
    assert found.providers == tuple(onnxruntime.get_available_providers())


def test_a_foreign_network_lacks_three_things_that_one_command_adds(tmp_path: Path) -> None:
    """Input, output, manifest; the command names the class table that the planes suggest."""
    path = network({"x": PIXELS}, {"out": (TensorProto.FLOAT, ["N", 21, "H", "W"])}, tmp_path / "net.onnx", planes=21)
    found = inspect(path)
    assert found.manifest is None
    assert [reason.split(":")[0].split(" ")[1] for reason in found.missing] == ["input", "output", "manifest"]
    assert found.command is not None
    assert found.command.startswith(f"python -m models.adopt {path} --classes voc --mean ")
    assert "--input-size HxW" in found.command
    assert "--output" not in found.command


@pytest.mark.parametrize("outputs", [["out"], ["out", "aux"]])
@pytest.mark.parametrize("sides", [["H", "W"], [16, 24]])
def test_the_command_works_once_its_blanks_are_filled(outputs: list[str], sides: Shape, tmp_path: Path) -> None:
    """It has every option that this file needs, and no other."""
    shape: Shape = ["N", 11, *sides]
    path = network(
        {"x": (TensorProto.FLOAT, ["N", 3, *sides])},
        dict.fromkeys(outputs, (TensorProto.FLOAT, shape)),
        tmp_path / "net.onnx",
        planes=11,
    )
    command = inspect(path).command
    assert command is not None
    filled = (
        command.replace("R,G,B", "0.5,0.5,0.5")
        .replace("rgb|bgr", "rgb")
        .replace("HxW", "16x24")
        .replace("--name NAME", "--name net")
        .replace("NAME", "out")
        .replace("OUT.onnx", str(tmp_path / "mine.onnx"))
    )
    assert adopt.main(shlex.split(filled)[3:]) == 0
    assert inspect(tmp_path / "mine.onnx").missing == ()


def test_the_command_survives_a_shell(tmp_path: Path) -> None:
    """A path with blanks and quotes stays one word."""
    folder = tmp_path / "it's a net; rm"
    folder.mkdir()
    path = network({"x": PIXELS}, {"out": (TensorProto.FLOAT, ["N", 21, "H", "W"])}, folder / "my net.onnx", planes=21)
    assert shlex.split(inspect(path).command or "")[3] == str(path)


def test_a_label_output_suggests_no_class_table(tmp_path: Path) -> None:
    """It does not say how many classes it has."""
    path = network({"x": PIXELS}, {"out": (TensorProto.INT64, ["N", "H", "W"])}, tmp_path / "net.onnx")
    assert "--classes TABLE " in (inspect(path).command or "")


def test_our_layout_without_a_manifest_is_for_the_exporter(tmp_path: Path) -> None:
    """Adopting it would normalise it a second time."""
    onnx.save(make_graph(), tmp_path / "bare.onnx")
    found = inspect(tmp_path / "bare.onnx")
    assert len(found.missing) == 1
    assert "models.export" in (found.command or "")


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ({"x": PIXELS}, {"out": (TensorProto.FLOAT, ["N", "K"])}, "not a segmentation network"),
        ({"x": PIXELS}, {"out": (TensorProto.DOUBLE, ["N", 3, "H", "W"])}, "out float64"),
        ({"x": PIXELS, "size": (TensorProto.INT64, [2])}, {"out": (TensorProto.FLOAT, ["N", 3, "H", "W"])}, "size int64 2"),
        ({"x": (TensorProto.UINT8, ["N", 3, "H", "W"])}, {"out": (TensorProto.FLOAT, ["N", 3, "H", "W"])}, "takes x uint8"),
    ],
    ids=["classifier", "double", "two inputs", "bytes"],
)
def test_what_no_command_can_help_is_told(
    inputs: dict[str, tuple[int, Shape]], outputs: dict[str, tuple[int, Shape]], reason: str, tmp_path: Path
) -> None:
    """What it takes and gives, and what it would have to."""
    found = inspect(network(inputs, outputs, tmp_path / "net.onnx"))
    assert found.command is None
    assert any(reason in missing for missing in found.missing)


def test_a_manifest_that_contradicts_its_graph_is_one_line(tmp_path: Path) -> None:
    """The artifact is broken, not foreign."""
    write_artifact(tmp_path / "bad.onnx", graph=make_graph(np.eye(3, dtype=np.float32)[:2]))
    with pytest.raises(BadArtifact, match="one plane a class"):
        inspect(tmp_path / "bad.onnx")


def test_a_manifest_that_is_none_is_one_line(tmp_path: Path) -> None:
    """As the service would put it."""
    model = make_graph()
    helper.set_model_props(model, {METADATA_KEY: "{}"})
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(BadArtifact, match=r"bad\.onnx: manifest refused: "):
        inspect(tmp_path / "bad.onnx")


def test_a_graph_that_onnx_runtime_cannot_load_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An unknown operator."""
    model = make_graph()
    model.graph.node[3].op_type = "Telepathy"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(BadArtifact, match=r"^net\.onnx: .*Telepathy") as caught:
        inspect(tmp_path / "net.onnx")
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")
