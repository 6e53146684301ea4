"""The examples do what they say, against a real server.

The ROS 2 bridge runs beside a stand-in for ``rclpy`` and ``sensor_msgs`` with their names, fields and checks of types; it
delivers messages within the process.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.client import Client
from service.settings import Settings
from tests.conftest import encode_image, make_image, make_labels
from tests.live import ROOT, live_server

EXAMPLES = ROOT / "docs" / "examples"

CPP_LIBRARIES = [Path("/usr/include/httplib.h"), Path("/usr/include/opencv4/opencv2/imgcodecs.hpp")]


@pytest.fixture(scope="module")
def url(artifact_dir: Path) -> Iterator[str]:
    """A server with the colour network."""
    with live_server(Settings(models_dir=artifact_dir)) as address:
        yield address


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file."""
    path = tmp_path / "street.png"
    path.write_bytes(encode_image(make_image()))
    return path


def run(*command: str | Path) -> str:
    """What a command prints, in the folder of its last argument but for a URL."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_listed_and_tested() -> None:
    """None is forgotten on the page, nor here."""
    page, tests = ((path).read_text("utf-8") for path in (EXAMPLES / "README.md", Path(__file__)))
    for path in EXAMPLES.iterdir():
        if path.suffix in {".py", ".sh", ".cpp"}:
            assert f"]({path.name})" in page
            assert f'"{path.name}"' in tests


def test_curl(url: str, image: Path) -> None:
    """Three files."""
    done = subprocess.run(
        ["bash", EXAMPLES / "curl.sh", image, url], cwd=image.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (image.parent / "mask.png").read_bytes().startswith(b"\x89PNG")
    assert (image.parent / "overlay.png").stat().st_size > 100
    assert json.loads((image.parent / "mask.json").read_text("utf-8"))["size"] == [96, 128]


def test_cpp(url: str, image: Path, tmp_path: Path) -> None:
    """The program, compiled by its own first lines, counts the pixels of each class that the client sees."""
    source = EXAMPLES / "segment.cpp"
    if not all(map(shutil.which, ("g++", "pkg-config"))) or not all(map(Path.exists, CPP_LIBRARIES)):
        pytest.skip("apt-get install g++ pkg-config libcpp-httplib-dev libopencv-imgcodecs-dev")
    (line,) = re.findall(r"^//   (g\+\+ .+)$", source.read_text("utf-8"), re.MULTILINE)
    subprocess.run(line.replace("segment.cpp", str(source)), shell=True, cwd=tmp_path, check=True, timeout=300)
    with Client(url) as client:
        labels = client.segment(image).labels
    counts = " ".join(f"{value}:{count}" for value, count in zip(*np.unique(labels, return_counts=True), strict=True))
    assert run(tmp_path / "segment", url, image, image).splitlines() == [
        f"{image} 128 x 96 frame {number} {counts}" for number in range(2)
    ]


def test_the_client(url: str, image: Path) -> None:
    """Shares of what is in the image."""
    assert "(96, 128) {'red': 0.3" in run(sys.executable, EXAMPLES / "client.py", url, image)


def test_tritonclient(url: str, image: Path) -> None:
    """Ids of what is in the image."""
    printed = run(sys.executable, EXAMPLES / "triton.py", url.removeprefix("http://"), "colours", image)
    assert printed.endswith("(1, 96, 128) [0, 1, 2]\n")


class Message:
    """A message as rclpy generates it: keywords are its fields, and nothing else is."""

    fields: dict[str, Any]

    def __init__(self, **values: Any) -> None:
        for name, default in self.fields.items():
            object.__setattr__(self, name, default() if callable(default) else default)
        for name, value in values.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in self.fields, f"{type(self).__name__} has no field {name}"
        default = self.fields[name]
        wanted = default if isinstance(default, type) else type(default)
        assert isinstance(value, (bytes, bytearray, wanted) if wanted is bytearray else wanted), f"{name}: {value!r}"
        object.__setattr__(self, name, value)


class Header(Message):
    """std_msgs/Header; the stamp as (sec, nanosec)."""

    fields = {"stamp": tuple, "frame_id": ""}  # noqa: RUF012


class Image(Message):
    """sensor_msgs/Image."""

    fields = {  # noqa: RUF012
        "header": Header, "height": 0, "width": 0, "encoding": "", "is_bigendian": 0, "step": 0, "data": bytearray,
    }  # fmt: skip


class Graph:
    """What the nodes of a process have published, and who listens."""

    def __init__(self) -> None:
        self.published: list[tuple[str, Any]] = []
        self.errors: list[str] = []
        self.listeners: dict[str, Callable[[Any], None]] = {}
        self.arrived = threading.Condition()

    def modules(self, parameters: dict[str, Any]) -> dict[str, types.ModuleType]:
        """``rclpy`` and ``sensor_msgs`` as the bridge imports them."""
        graph = self

        class Node:
            def __init__(self, name: str) -> None:
                self.name = name

            def declare_parameter(self, name: str, value: Any) -> Any:
                return types.SimpleNamespace(value=parameters.get(name, value))

            def create_publisher(self, kind: type, topic: str, qos: Any) -> Any:
                def publish(message: Any) -> None:
                    assert isinstance(message, kind)
                    graph.note(graph.published, (topic, message))

                return types.SimpleNamespace(publish=publish)

            def create_subscription(self, kind: type, topic: str, callback: Callable[[Any], None], qos: Any) -> None:
                graph.listeners[topic] = callback

            def get_logger(self) -> Any:
                return types.SimpleNamespace(error=lambda text: graph.note(graph.errors, text))

        found = {
            name: types.ModuleType(name) for name in ("rclpy", "rclpy.node", "rclpy.qos", "sensor_msgs", "sensor_msgs.msg")
        }
        found["rclpy"].__dict__.update(init=lambda: None, spin=lambda node: None)
        found["rclpy.node"].__dict__.update(Node=Node)
        found["rclpy.qos"].__dict__.update(qos_profile_sensor_data=object())
        found["sensor_msgs.msg"].__dict__.update(Image=Image)
        return found

    def note(self, where: list[Any], what: Any) -> None:
        """Something happened."""
        with self.arrived:
            where.append(what)
            self.arrived.notify_all()

    def wait(self, where: list[Any], number: int) -> None:
        """Until so much has."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(where) >= number, timeout=120)


def test_the_bridge_publishes_masks_with_the_stamps_of_their_images(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both orders of channels, padded rows; an image that it cannot read is named in the log and stops nothing."""
    graph = Graph()
    for name, module in graph.modules({"url": url}).items():
        monkeypatch.setitem(sys.modules, name, module)
    runpy.run_path(str(EXAMPLES / "ros2_bridge.py"), run_name="__main__")
    pixels = make_image()
    for number, (encoding, shown) in enumerate(
        (("rgb8", pixels), ("bgr8", pixels[..., ::-1]), ("mono16", pixels), ("rgb8", pixels))
    ):
        rows = np.zeros((96, 128 * 3 + 16), np.uint8)
        rows[:, : 128 * 3] = shown.reshape(96, -1)
        header = Header(stamp=(1_700_000_000, number), frame_id="camera_front")
        graph.listeners["image"](
            Image(header=header, height=96, width=128, encoding=encoding, step=128 * 3 + 16, data=rows.tobytes())
        )
        if encoding == "mono16":
            graph.wait(graph.errors, 1)
        else:
            graph.wait(graph.published, number + 1 - len(graph.errors))
    assert "mono16" in graph.errors[0]
    assert [mask.header.stamp for _, mask in graph.published] == [(1_700_000_000, number) for number in (0, 1, 3)]
    with Client(url) as client:
        wanted = client.segment(pixels).labels
    assert (wanted == make_labels()).mean() > 0.9
    for topic, mask in graph.published:
        assert (topic, mask.encoding, mask.height, mask.width, mask.step) == ("mask", "mono8", 96, 128, 128)
        assert mask.header.frame_id == "camera_front"
        assert (np.frombuffer(mask.data, np.uint8).reshape(96, 128) == wanted).all()
