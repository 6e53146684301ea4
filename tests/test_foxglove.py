"""``foxglove://HOST:PORT`` as a window sees it."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foxglove.layouts import ImageConfig, ImageModeConfig, PlotConfig, PlotSeries
from PIL import Image

from service.errors import BadSetting, InferenceFailed
from service.live.channels import A_SOURCE, TIMING
from service.live.options import LiveOptions
from service.live.registry import open_sink
from service.live.session import LiveSession
from service.live.sinks.foxglove import BACKLOG_FRAMES, Window
from service.pipeline.codecs.limits import Limits
from tests.conftest import encode_image, make_image, make_labels
from tests.foxglove_window import FoxgloveWindow, Received
from tests.live_masks import BEGAN_NS, STEP_NS, frame_of, result_of, session_of
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent

TOPICS = {
    "/camera",
    "/segmentation/mask",
    "/segmentation/overlay",
    "/segmentation/confidence",
    "/segmentation/labels",
    "/segmentation/classes",
    "/segmentation/timing",
}


@contextmanager
def served(session: LiveSession) -> Iterator[Window]:
    """A sink that listens on a free port."""
    sink = Window("foxglove://127.0.0.1:0", "127.0.0.1", 0)
    try:
        sink.start(session)
        yield sink
    finally:
        sink.close()


@contextmanager
def window_of(sink: Window, *topics: str, sources: int = 1) -> Iterator[FoxgloveWindow]:
    """A window whose subscriptions have reached the server."""
    with FoxgloveWindow(sink.port) as window:
        window.await_channels(A_SOURCE * sources)
        window.subscribe(*topics)
        wait_until(lambda: sink.watched >= (len(topics) or A_SOURCE * sources))
        yield window


def test_a_window_sees_camera_masks_names_and_numbers() -> None:
    """Each channel of a frame arrives, with the frame's stamp, in a form whose content is the mask's."""
    session = session_of("front")
    session.counters["front"].arrivals(10, 3)
    with served(session) as sink, window_of(sink) as window:
        assert window.server["name"] == "fcn-serve: colours@1.0.0"
        assert set(window.channels) == TOPICS
        assert window.channels["/camera"]["schemaName"] == "foxglove.CompressedImage"
        frame = frame_of(7)
        sink.send(frame, result_of())
        found: dict[str, Received] = {}
        while set(found) != TOPICS:
            received = window.next()
            found[received.topic] = received
    assert {received.log_ns for received in found.values()} == {frame.stamp_ns}
    for topic in ("/camera", "/segmentation/mask", "/segmentation/overlay", "/segmentation/confidence"):
        message = found[topic].content
        assert (message.timestamp.seconds, message.timestamp.nanos) == divmod(frame.stamp_ns, 10**9)
        assert message.frame_id == "camera_link"
    pictures = {
        topic: Image.open(io.BytesIO(received.content.data))
        for topic, received in found.items()
        if hasattr(received.content, "format")
    }
    assert (np.asarray(pictures["/segmentation/mask"]) == make_labels()).all()
    assert (np.asarray(pictures["/segmentation/mask"].convert("RGB")) == make_image()).all()
    assert (np.asarray(pictures["/segmentation/confidence"]) == 200).all()
    assert np.abs(np.asarray(pictures["/camera"]).astype(int) - make_image()).mean() < 8
    assert np.abs(np.asarray(pictures["/segmentation/overlay"]).astype(int) - make_image()).mean() < 8
    assert [text.text for text in found["/segmentation/labels"].content.texts] == ["red", "green", "blue"]
    for third, text in enumerate(found["/segmentation/labels"].content.texts):
        assert make_labels()[int(text.position.y), int(text.position.x)] == third
    classes = found["/segmentation/classes"].content["classes"]
    assert [(row["id"], row["name"], row["color"]) for row in classes] == [
        (0, "red", "#ff0000"),
        (1, "green", "#00ff00"),
        (2, "blue", "#0000ff"),
    ]
    assert sum(row["share"] for row in classes) == pytest.approx(1)
    timing = found["/segmentation/timing"].content
    assert (timing["infer_ms"], timing["received"], timing["dropped"]) == (20.0, 10, 3)
    assert timing["latency_ms"] >= 0


def test_the_cameras_own_jpeg_is_passed_on() -> None:
    """A JPEG is not decoded and encoded again, and loses nothing."""
    jpeg = encode_image(make_image(), "JPEG", quality=95)
    with served(session_of("front")) as sink, window_of(sink, "/camera") as window:
        sink.send(frame_of(image=jpeg), result_of())
        assert window.next().content.data == jpeg


def test_a_channel_that_no_window_shows_costs_nothing() -> None:
    """The confidence is not computed for a window that shows the mask alone."""
    asked = []

    def confidence() -> np.ndarray:
        asked.append(1)
        return np.zeros((96, 128), np.uint8)

    with served(session_of("front")) as sink, window_of(sink, "/segmentation/mask") as window:
        for number in range(3):
            sink.send(frame_of(number), result_of(confidence=confidence))
            window.next()
    assert not asked


def test_a_mask_that_fails_costs_itself_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A service that does not give one confidence, or any other error, ends no window: the next mask arrives whole."""

    def broken() -> np.ndarray:
        raise InferenceFailed("the service is gone")

    with served(session_of("front")) as sink, window_of(sink, "/segmentation/confidence") as window:
        sink.send(frame_of(1), result_of(confidence=broken))
        wait_until(lambda: "foxglove://127.0.0.1:0: a mask is lost: the service is gone" in caplog.messages)
        sink.send(frame_of(2), result_of())
        assert window.next().log_ns == frame_of(2).stamp_ns


def test_several_cameras_have_topics_of_their_own() -> None:
    """Of two sources each has its number, and its masks go nowhere else."""
    with served(session_of("front", "rear")) as sink, window_of(sink, sources=2) as window:
        assert set(window.channels) == {f"/{number}{topic}" for number in (1, 2) for topic in TOPICS}
        assert (
            window.channels["/2/camera"]["metadata"]["source"] == "rear" if "metadata" in window.channels["/2/camera"] else True
        )
        sink.send(frame_of(1, "rear"), result_of())
        assert {window.next().topic for _ in range(A_SOURCE)} == {f"/2{topic}" for topic in TOPICS}


def test_a_window_that_does_not_read_gets_fewer_frames_not_older_ones() -> None:
    """While a window stands still the others and the run go on; it then continues near the newest frame."""
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    labels = np.zeros((480, 640), np.uint8)
    count = 150
    with served(session_of("front")) as sink, window_of(sink, "/camera") as slow:
        with window_of(sink, "/segmentation/timing") as quick:
            for number in range(count):
                sink.send(frame_of(number, image=noise), result_of(noise, labels))
                while quick.next().log_ns < BEGAN_NS + number * STEP_NS:
                    pass
        numbers: list[int] = []
        while not numbers or numbers[-1] < count - 1:
            numbers.append((slow.next().log_ns - BEGAN_NS) // STEP_NS)
    assert numbers == sorted(numbers)
    assert len(numbers) < count
    gaps = np.diff(numbers)
    assert gaps.max() > BACKLOG_FRAMES
    assert len(numbers) - 1 - int(gaps.argmax()) <= BACKLOG_FRAMES * A_SOURCE + 1  # behind the gap: the backlog alone


def test_a_port_that_is_taken_is_told_with_a_remedy() -> None:
    """The error names the port and another one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sink = open_sink(f"foxglove://127.0.0.1:{port}", LiveOptions(Limits()))
        with pytest.raises(BadSetting, match=f"port {port} is taken; name another, such as {port + 1}"):
            sink.start(session_of("front"))
        sink.close()


def test_a_taken_port_ends_the_command_with_one_line(tmp_path: Path, artifact_dir: Path) -> None:
    """The exit code is that of a wrong setting, nothing is traced, and a recording beside it leaves no file."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, path = taken.getsockname()[1], tmp_path / "out.mcap"
        sinks = ["--to", str(path), "--to", f"foxglove://127.0.0.1:{port}"]
        command = [sys.executable, "-m", "service", "live", "--from", "rtsp://127.0.0.1:1/cam", *sinks]
        environment = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir), "FCN_LOG_LEVEL": "warning"}
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"fcn-serve: --to foxglove://127.0.0.1:{port}: port {port} is taken; name another, such as {port + 1}\n"
    )
    assert not path.exists()


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_of_another_machine_is_told(host: str) -> None:
    """A server can only listen on its own machine's addresses."""
    sink = open_sink(f"foxglove://{host}:8765", LiveOptions(Limits()))
    with pytest.raises(BadSetting, match=r"is not an address of this machine; 127\.0\.0\.1 is for windows here"):
        sink.start(session_of("front"))
    sink.close()


@pytest.mark.parametrize("address", ["foxglove://127.0.0.1:port", "foxglove://127.0.0.1:8765/x", "foxglove://127.0.0.1:99999"])
def test_an_address_that_cannot_be_read_is_refused(address: str) -> None:
    """The error shows an address as it has to be."""
    with pytest.raises(BadSetting, match=r"as in foxglove://127\.0\.0\.1:8765"):
        open_sink(address, LiveOptions(Limits()))


LAYOUT = ROOT / "docs" / "examples" / "foxglove-layout.json"


def named(node: str | dict[str, Any]) -> list[str]:
    """The panels of a part of a layout."""
    return [node] if isinstance(node, str) else [*named(node["first"]), *named(node["second"])]


def test_the_layout_shows_topics_and_fields_that_there_are() -> None:
    """Each panel has its settings, by the names of the SDK's own classes, and shows what a run sends."""
    layout = json.loads(LAYOUT.read_text("utf-8"))
    settings = layout["configById"]
    assert sorted(named(layout["layout"])) == sorted(settings)
    known = {"Image": ImageConfig()._to_dict(), "Plot": PlotConfig()._to_dict()}
    shown = set()
    for name, panel in settings.items():
        assert set(panel) - {"foxglovePanelTitle"} <= set(known[name.partition("!")[0]])
        if "imageMode" in panel:
            assert set(panel["imageMode"]) <= set(ImageModeConfig()._to_dict())
            shown |= {panel["imageMode"]["imageTopic"], *panel["imageMode"]["annotations"]}
        for series in panel.get("paths", []):
            assert set(series) <= set(PlotSeries()._to_dict())
            topic, _, field = series["value"].partition(".")
            shown.add(topic)
            assert field in TIMING["properties"]
    assert shown == TOPICS - {"/segmentation/classes"}
