"""Fixtures that every test may use: tiny real artifacts, and images of every kind.

The artifact is a real ONNX graph whose right answer can be told from colours: a pixel that is mostly red is class 0
(``red``), mostly green is 1 (``green``), mostly blue is 2 (``blue``). Its scores have stride 8, as a network's would.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from service import process
from service.pipeline.manifest import ClassEntry, InputPolicy, Manifest, Training

process.configure_process()  # before onnxruntime is imported: the run is an entry point
settings.register_profile("project", deadline=None)  # a busy machine may be slow
settings.load_profile("project")
for stage in ("connect", "read", "write", "pool"):  # of every call that names no timeout, 5 s otherwise; nor is it here
    setattr(DEFAULT_TIMEOUT_CONFIG, stage, 60.0)

# torch's threads spin while they wait for one another: where another process wants a core too, a forward pass of the shipped
# network took 1.8 s and takes 0.2 s like this (2026-11, 2 cores). Read when torch is loaded, here and in what tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """The weights of a test's networks do not depend on the tests before it in the same process."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Narrow layers are many small steps: on a busy machine a second thread of torch's makes them wait, not faster."""
    import torch  # noqa: PLC0415  # most tests need none

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


STRIDE = 8
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def make_manifest(**changes: Any) -> Manifest:
    """A valid manifest of the colour network, with some fields changed."""
    fields: dict[str, Any] = {
        "name": "colours",
        "version": "1.0.0",
        "architecture": "colour-distance",
        "classes": (
            ClassEntry(id=0, name="red", color=RED),
            ClassEntry(id=1, name="green", color=GREEN),
            ClassEntry(id=2, name="blue", color=BLUE),
        ),
        "input": InputPolicy(working_size=(96, 128), fit="area", multiple=STRIDE),
        "stride": STRIDE,
        "receptive_field": STRIDE,
        "halo": STRIDE,
        "training": Training(data="none", licence="MIT"),
    }
    return Manifest.model_validate({**fields, **changes})


def make_graph(weights: NDArray[np.float32] | None = None) -> onnx.ModelProto:
    """uint8 N x H x W x 3 ``image`` -> float32 N x K x H/8 x W/8 ``scores``: the mean colour of a cell, mixed by ``weights``.

    Takes:
        weights: K x 3 float32; the identity by default, so that the score of a class is its colour's share
    """
    mix = np.eye(3, dtype=np.float32) if weights is None else weights
    kernel = (mix / 255).astype(np.float32).reshape(*mix.shape, 1, 1)
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["cells"], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2),
        helper.make_node("Conv", ["cells", "kernel"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", len(mix), "h", "w"])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def write_artifact(path: Path, manifest: Manifest | None = None, graph: onnx.ModelProto | None = None) -> Path:
    """Write an artifact file: a graph with a manifest inside.

    Gives:
        ``path``
    """
    model = make_graph() if graph is None else graph
    helper.set_model_props(model, (make_manifest() if manifest is None else manifest).to_metadata())
    onnx.save(model, path)
    return path


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Every inference waits while this event is cleared: a network that is as slow as the test wants."""
    from service.pipeline.engine import Engine  # noqa: PLC0415  # it imports onnxruntime

    gate = threading.Event()
    gate.set()
    real = Engine.run

    def run(engine: Engine, *arguments: Any, **options: Any) -> Any:
        assert gate.wait(60)
        return real(engine, *arguments, **options)

    monkeypatch.setattr(Engine, "run", run)
    yield gate
    gate.set()


@pytest.fixture(scope="session")
def artifact_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with one artifact, ``colours``. Do not write into it: it is shared by the whole run."""
    folder = tmp_path_factory.mktemp("models")
    write_artifact(folder / "colours.onnx")
    return folder


@pytest.fixture(scope="session")
def artifact(artifact_dir: Path) -> Path:
    """The artifact's file."""
    return artifact_dir / "colours.onnx"


def make_image(height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """A picture whose right mask is known: left third red, middle third green, right third blue.

    Gives:
        H x W x 3 uint8 RGB
    """
    thirds = np.minimum(np.arange(width) * 3 // width, 2)
    return np.ascontiguousarray(np.broadcast_to(np.array([RED, GREEN, BLUE], np.uint8)[thirds], (height, width, 3)))


def make_labels(height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """The mask of :func:`make_image`: H x W uint8."""
    return np.ascontiguousarray(np.broadcast_to(np.minimum(np.arange(width) * 3 // width, 2).astype(np.uint8), (height, width)))


def encode_image(image: NDArray[Any] | Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file, written by Pillow.

    Takes:
        image: H x W or H x W x 3 (or 4) array, or a Pillow image of any mode
        file_format: Pillow's name of the format, or PNM
        options: as for ``Image.save``
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, "PPM" if file_format == "PNM" else file_format, **options)
    return buffer.getvalue()


@pytest.fixture
def image() -> NDArray[np.uint8]:
    """96 x 128 x 3 uint8 RGB, three stripes: red, green, blue."""
    return make_image()


@pytest.fixture
def png(image: NDArray[np.uint8]) -> bytes:
    """The same picture as a PNG file."""
    return encode_image(image)


@pytest.fixture
def jpeg(image: NDArray[np.uint8]) -> bytes:
    """The same picture as a JPEG file."""
    return encode_image(image, "JPEG", quality=95, subsampling=0)


@pytest.fixture
def jpeg_of() -> Callable[[int, int], bytes]:
    """Makes the three stripes at any height and width, as a JPEG file."""
    return lambda height, width: encode_image(make_image(height, width), "JPEG", quality=95, subsampling=0)
