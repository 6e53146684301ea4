"""``ros2:`` sources and sinks, against real rclpy in another process (``ros2_peer.py``)."""

from __future__ import annotations

import array
import base64
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from service.compose import limits_of, open_predictor
from service.encodings import autoware
from service.encodings.detections import Detection
from service.encodings.ground import Camera
from service.errors import BadSetting
from service.live.frame import LiveFrame
from service.live.loop import Bell, run
from service.live.options import LiveOptions
from service.live.registry import open_sink, open_source
from service.live.ros2.names import names_of
from service.live.segmenter import OwnNetwork
from service.pipeline.codecs.messages import MessageDecoder
from service.pipeline.manifest import ClassEntry
from service.settings import Settings
from tests.conftest import make_manifest, write_artifact
from tests.test_engine import panoptic_graph, panoptic_manifest
from tests.waiting import wait_until

pytest.importorskip("rclpy", reason="the extra 'ros2' is not installed", exc_type=ImportError)

# lark, which rclpy's packages import, imports modules of Python that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_\\w+' is deprecated:DeprecationWarning")

ROOT = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH = 96, 128
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
IDS = {"red": 0, "green": 1, "blue": 2}


def environment() -> dict[str, str]:
    """A domain of this run's own, and no packet beyond this machine."""
    # Domains above 101 share their ports with those that Linux gives to others.
    return {"ROS_DOMAIN_ID": str(1 + os.getpid() % 100), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


@pytest.fixture(scope="module", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        patch.setenv("ROS_LOG_DIR", str(tmp_path_factory.mktemp("ros")))
        patch.setenv("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
        patch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
        yield


FAILED: list[Exception] = []
"""What ended the loop of the test that runs."""


class Peer:
    """The other process."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.ros2_peer"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait("ready")

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(json.loads(line) for line in self.process.stdout)

    def tell(self, do: str, topic: str, **values: Any) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, "topic": topic, **values}) + "\n")
        self.process.stdin.flush()

    def of(self, topic: str) -> list[dict[str, Any]]:
        """What came of a topic."""
        return [line for line in list(self.lines) if line["topic"] == topic]

    def wait(self, topic: str, fits: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """Wait for a message of a topic."""
        return wait_until(lambda: next((line for line in self.of(topic) if fits(line)), None), topic, alive=self.alive) or {}

    def alive(self) -> bool:
        """Whether something can still come."""
        return self.process.poll() is None and not FAILED

    def send_until(self, topic: str, message: dict[str, Any], arrived: Callable[[], Any]) -> None:
        """Send a message again and again, with new stamps, until something came of it: best effort may lose any of them."""
        count = 0

        def again() -> Any:
            nonlocal count
            if count % 20 == 0:  # every 100 ms
                self.tell("send", topic, **{**message, "stamp": [message["stamp"][0] + count, message["stamp"][1]]})
            count += 1
            return arrived()

        wait_until(again, topic, alive=self.alive)

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """One for all tests: starting rclpy takes seconds on a busy machine."""
    with contextlib.closing(Peer()) as made:
        yield made


@pytest.fixture(scope="module")
def models_of_streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network, with classes of a street: red is road, green is car, blue is sky."""
    folder = tmp_path_factory.mktemp("streets")
    rows = zip(("road", "car", "sky"), COLOURS.values(), strict=True)
    classes = tuple(ClassEntry(id=number, name=name, color=color) for number, (name, color) in enumerate(rows))
    write_artifact(folder / "streets.onnx", make_manifest(classes=classes))
    return folder


@contextlib.contextmanager
def living(artifact_dir: Path, sources: list[str], sinks: list[str], **asked: Any) -> Iterator[dict[str, Any]]:
    """Run the loop on a thread of its own, until the block ends; ``error`` is what it raised."""
    settings = Settings(models_dir=artifact_dir)
    options = LiveOptions(limits_of(settings), **asked)
    bell, outcome = Bell(), dict[str, Any]()

    def work() -> None:
        try:
            with contextlib.closing(open_predictor(settings)) as predictor:
                receiving = [open_source(each, options) for each in sources]
                sending = [open_sink(each, options) for each in sinks]
                outcome["counters"] = run(receiving, sending, OwnNetwork(predictor, options), options, bell)
        except Exception as error:  # noqa: BLE001 - told where the block ends
            outcome["error"] = error
            FAILED.append(error)

    FAILED.clear()
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield outcome
    except AssertionError as error:  # because the loop has ended, perhaps
        raise error from outcome.get("error")
    finally:
        bell.stop()
        thread.join()
        FAILED.clear()
    if not isinstance(outcome.get("error"), BadSetting | None):
        raise outcome["error"]


def raw(colour: str, encoding: str = "bgr8", seconds: int = 1000, frame_id: str = "camera_link") -> dict[str, Any]:
    """A picture of one colour; its rows are padded, as those of some cameras are."""
    pixel = COLOURS[colour] if encoding == "rgb8" else COLOURS[colour][::-1]
    rows = np.zeros((HEIGHT, 3 * WIDTH + 8), np.uint8)
    rows[:, : 3 * WIDTH] = np.tile(np.array(pixel, np.uint8), WIDTH)
    about = {"stamp": [seconds, 123456789], "frame_id": frame_id, "size": [HEIGHT, WIDTH], "format": encoding}
    return {**about, "step": rows.shape[1], "data": base64.b64encode(rows.tobytes()).decode()}


def jpeg(colour: str, seconds: int = 5000) -> dict[str, Any]:
    """The same as a JPEG."""
    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:] = COLOURS[colour]
    data = base64.b64encode(simplejpeg.encode_jpeg(pixels)).decode()
    return {"stamp": [seconds, 7], "frame_id": "camera_link", "format": "jpeg", "data": data}


def labels_of(message: dict[str, Any]) -> set[int]:
    """The values of a mono8 image of the right size."""
    assert message["format"] == "mono8"
    assert message["size"] == [HEIGHT, WIDTH]
    assert message["step"] == WIDTH
    data = base64.b64decode(message["data"])
    assert len(data) == HEIGHT * WIDTH
    return set(data)


def test_a_raw_topic_becomes_masks_with_its_stamps_and_a_late_subscriber_gets_the_classes(
    peer: Peer, artifact_dir: Path
) -> None:
    """Mask, confidence, overlay, class table and diagnostics, as their readers want them."""
    rosbags = pytest.importorskip("service.batch.recordings.pictures").types()
    peer.tell("advertise", "/a/image_raw", type="raw")
    for name in ("mask", "confidence"):
        peer.tell("listen", f"/a/out/{name}", type="raw")
    peer.tell("listen", "/a/out/overlay/compressed", type="compressed")
    peer.tell("listen", "/diagnostics", type="diagnostics", reliable=True)
    with living(artifact_dir, ["ros2:/a/image_raw"], ["ros2:/a/out"], min_confidence=0.25):
        arrived = lambda: all(peer.of(f"/a/out/{name}") for name in ("mask", "confidence", "overlay/compressed"))  # noqa: E731
        peer.send_until("/a/image_raw", raw("green"), arrived)
        mask = peer.of("/a/out/mask")[0]
        assert labels_of(mask) == {IDS["green"]}
        assert mask["stamp"][0] >= 1000
        assert mask["stamp"][1] == 123456789
        assert mask["frame_id"] == "camera_link"
        sure = peer.of("/a/out/confidence")[0]
        assert min(labels_of(sure)) > 255 * 0.5  # e / (e + 2)
        assert sure["stamp"] in [each["stamp"] for each in peer.of("/a/out/mask")]
        drawn = simplejpeg.decode_jpeg(base64.b64decode(peer.of("/a/out/overlay/compressed")[0]["data"]))
        assert drawn.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(drawn.astype(int) - COLOURS["green"]).max() < 8

        peer.tell("listen", "/a/out/label_info", type="label_info", reliable=True, latched=True)
        table = rosbags.deserialize_cdr(base64.b64decode(peer.wait("/a/out/label_info")["data"]), "vision_msgs/msg/LabelInfo")
        assert [(each.class_id, each.class_name) for each in table.class_map] == [(0, "red"), (1, "green"), (2, "blue")]
        assert table.threshold == 0.25

        told = peer.wait("/diagnostics", lambda line: line["status"][0]["masks"] != "0")["status"][0]
        assert told["name"] == "fcn_serve: ros2:/a/image_raw"
        assert float(told["age of newest mask (ms)"]) >= 0
    peer.tell("retire", "/a/image_raw")


def test_two_cameras_in_one_node_one_of_them_compressed(peer: Peer, artifact_dir: Path) -> None:
    """Each camera has topics of its own; both loops of rclpy are one node."""
    peer.tell("advertise", "/left/image_raw/compressed", type="compressed")
    peer.tell("advertise", "/right/image_raw", type="raw")
    for side in ("left", "right"):
        peer.tell("listen", f"/b/{side}/mask", type="raw")
    with living(artifact_dir, ["ros2:/left/image_raw/compressed", "ros2:/right/image_raw"], ["ros2:/b"]):
        peer.send_until("/left/image_raw/compressed", jpeg("blue"), lambda: peer.of("/b/left/mask"))
        peer.send_until("/right/image_raw", raw("red", "rgb8"), lambda: peer.of("/b/right/mask"))
    left, right = peer.of("/b/left/mask"), peer.of("/b/right/mask")
    assert {labels_of(each) == {IDS["blue"]} and each["stamp"][1] == 7 for each in left} == {True}
    assert {labels_of(each) == {IDS["red"]} and each["stamp"][1] == 123456789 for each in right} == {True}
    peer.tell("retire", "/left/image_raw/compressed")
    peer.tell("retire", "/right/image_raw")


def test_free_space_is_a_laser_scan_on_the_ground(peer: Peer, models_of_streets: Path) -> None:
    """Its stamp is the image's, its frame the ground's; a picture full of a car is met at the nearest ground in view."""
    peer.tell("advertise", "/f/image_raw", type="raw")
    peer.tell("listen", "/f/out/freespace", type="scan")
    driving = {"fx": 40.0, "camera_height": 1.5, "camera_pitch": 0.3, "beams": 9}
    with living(models_of_streets, ["ros2:/f/image_raw"], ["ros2:/f/out"], driving=driving, ground_frame="ground"):
        peer.send_until("/f/image_raw", raw("green"), lambda: peer.of("/f/out/freespace"))
        scan = peer.of("/f/out/freespace")[0]
    assert scan["frame_id"] == "ground"
    assert scan["stamp"][1] == 123456789
    assert len(scan["ranges"]) == 9
    assert scan["angle_max"] == pytest.approx(scan["angle_min"] + 8 * scan["angle_increment"], abs=1e-5)
    assert scan["angle_min"] < 0 < scan["angle_max"]
    camera = Camera(40.0, 40.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2, 1.5, 0.3)
    nearest = float(camera.distances(camera.cx, HEIGHT - 0.5))
    assert scan["ranges"][4] == pytest.approx(nearest, rel=0.05)
    peer.tell("retire", "/f/image_raw")


def info(k: list[float], size: tuple[int, int] = (HEIGHT, WIDTH), d: tuple[float, ...] = ()) -> dict[str, Any]:
    """A ``sensor_msgs/CameraInfo``."""
    return {"stamp": [1000, 0], "frame_id": "camera_link", "size": size, "k": k, "d": d}


def test_the_camera_may_come_from_the_topic_beside_the_image(
    peer: Peer, models_of_streets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without --fx; options win. One that is not calibrated, or of another size, is told in words, and no scan is sent."""
    peer.tell("advertise", "/k/image_raw", type="raw")
    peer.tell("advertise", "/k/camera_info", type="info")
    peer.tell("listen", "/k/out/freespace", type="scan")
    driving = {"camera_height": 1.5, "camera_pitch": 0.3, "beams": 9, "cy": 50.0}
    with (
        caplog.at_level(logging.INFO, "service.live"),
        living(models_of_streets, ["ros2:/k/image_raw"], ["ros2:/k/out"], driving=driving, ground_frame="ground"),
    ):
        peer.send_until("/k/image_raw", raw("green"), lambda: "no freespace yet, because no message has come" in caplog.text)

        def both(picture: dict[str, Any], about: dict[str, Any], arrived: Callable[[], Any]) -> None:
            def so_far() -> Any:
                peer.tell("send", "/k/camera_info", **about)
                return arrived()

            peer.send_until("/k/image_raw", picture, so_far)

        both(raw("green"), info([0.0] * 9), lambda: "the camera is not calibrated" in caplog.text)
        assert peer.of("/k/out/freespace") == []
        matrix = [40.0, 0.0, 60.0, 0.0, 44.0, 30.0, 0.0, 0.0, 1.0]
        both(raw("green"), info(matrix, d=(0.1,)), lambda: peer.of("/k/out/freespace"))
        scan = peer.of("/k/out/freespace")[0]
    assert "/k/camera_info: freespace uses fx 40, fy 44, cx 60, cy 50" in caplog.text
    assert "the lens distorts the image" in caplog.text
    camera = Camera(40.0, 44.0, 60.0, 50.0, 1.5, 0.3)
    edges = [float(camera.bearings(column, HEIGHT - 0.5)) for column in (WIDTH - 0.5, -0.5)]
    assert edges[0] < scan["angle_min"] < scan["angle_max"] < edges[1]
    middle = min(range(9), key=lambda at: abs(scan["angle_min"] + at * scan["angle_increment"]))
    assert scan["ranges"][middle] == pytest.approx(float(camera.distances(60.0, HEIGHT - 0.5)), rel=0.05)
    for topic in ("/k/image_raw", "/k/camera_info"):
        peer.tell("retire", topic)


def test_a_camera_info_for_images_of_another_size_gives_no_scan(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """A matrix of the whole sensor is wrong for a smaller image. A rectified image has the matrix P."""
    from service.live.complaints import Complaints  # noqa: PLC0415
    from service.live.ros2.camera_info import CameraInfo  # noqa: PLC0415
    from service.live.ros2.freespace import Ahead  # noqa: PLC0415
    from tests.live_masks import session_of  # noqa: PLC0415

    class Node:
        """Has subscriptions that get nothing."""

        def create_subscription(self, *_: Any) -> None:
            """Make none."""

        def destroy_subscription(self, _: Any) -> None:
            """Forget it."""

    from sensor_msgs.msg import CameraInfo as Message  # noqa: PLC0415

    assert peer.alive()
    message = Message(
        height=720, width=1280, k=[900.0, 0, 640, 0, 900, 360, 0, 0, 1], p=[800.0, 0, 630, 0, 0, 810, 350, 0, 0, 0, 1, 0]
    )
    rectified = CameraInfo(Node(), "/front/image_rect_color/compressed")
    assert rectified.topic == "/front/camera_info"
    rectified._receive(message)
    assert rectified.intrinsics == {"fx": 800.0, "fy": 810.0, "cx": 630.0, "cy": 350.0}
    session = session_of("ros2:/front/image_raw")
    options = LiveOptions(limits_of(Settings()), driving={"camera_height": 1.5, "drivable": ["red"]})
    ahead = Ahead(Node(), "ros2:/front/image_raw", options, session, Complaints(logging.getLogger("service.live")))
    assert ahead._info is not None
    ahead._info._receive(message)
    assert ahead.driving((360, 640)) is None
    assert "its matrix is for images of 1280 x 720, and these have 640 x 360" in caplog.text
    found = ahead.driving((720, 1280))
    assert found is not None
    assert found.mount is not None
    assert (found.mount.fx, found.mount.cx) == (900.0, 640.0)
    for source, asked in (("ros2:/front/image_raw", {"fx": 40.0}), ("rtsp://camera/1", {"camera_height": 1.5})):
        with pytest.raises(BadSetting, match="the topic freespace needs"):
            Ahead(Node(), source, LiveOptions(limits_of(Settings()), driving=asked), session, Complaints(logging.getLogger()))


def test_learned_objects_are_detections(peer: Peer, tmp_path: Path) -> None:
    """With the stamp and frame id of their image, as rosbags reads them, and as the network alone finds them."""
    pytest.importorskip("rosbags")
    from service.batch.recordings import detections as of_bags  # noqa: PLC0415
    from service.batch.recordings.pictures import types  # noqa: PLC0415

    write_artifact(tmp_path / "things.onnx", panoptic_manifest(), panoptic_graph())
    peer.tell("advertise", "/j/image_raw", type="raw")
    peer.tell("listen", "/j/out/detections", type="detections")
    with living(tmp_path, ["ros2:/j/image_raw"], ["ros2:/j/out"]):
        peer.send_until("/j/image_raw", raw("blue"), lambda: peer.of("/j/out/detections"))
    peer.tell("retire", "/j/image_raw")
    store = types()
    of_bags.register(store)
    told = store.deserialize_cdr(base64.b64decode(peer.of("/j/out/detections")[0]["data"]), of_bags.DETECTIONS)
    assert (told.header.stamp.nanosec, told.header.frame_id) == (123456789, "camera_link")
    settings = Settings(models_dir=tmp_path)
    with contextlib.closing(open_predictor(settings)) as predictor:
        pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        pixels[:] = COLOURS["blue"]
        network = OwnNetwork(predictor, LiveOptions(limits_of(settings)))
        result = network.segment(LiveFrame(pixels, 0, "", "camera", 0.0))
        assert result.things is not None
        found = result.things()
    assert found
    wanted = of_bags.detections_message(store, told.header, found)
    received, expected = (bytes(store.serialize_cdr(each, of_bags.DETECTIONS)) for each in (told, wanted))
    assert received == expected


def test_masks_of_autoware_are_its_runs_in_its_ids(peer: Peer, models_of_streets: Path) -> None:
    """``data`` of the mask is five bytes a run; height and width say the size."""
    peer.tell("advertise", "/c/image_raw", type="raw")
    peer.tell("listen", "/c/out/mask", type="raw")
    with living(models_of_streets, ["ros2:/c/image_raw"], ["ros2:/c/out"], ids="autoware"):
        peer.send_until("/c/image_raw", raw("green"), lambda: peer.of("/c/out/mask"))
    mask = peer.of("/c/out/mask")[0]
    data = base64.b64decode(mask["data"])
    assert mask["size"] == [HEIGHT, WIDTH]
    assert len(data) == 5
    assert np.unique(autoware.decode(data, (HEIGHT, WIDTH))).tolist() == [7]  # its vehicle
    peer.tell("retire", "/c/image_raw")


def test_a_publisher_that_dies_is_waited_for(artifact_dir: Path, peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """Another process publishes, is killed, and one of its like takes its place."""
    peer.tell("listen", "/d/out/mask", type="raw")
    with caplog.at_level(logging.INFO, "service.live"), living(artifact_dir, ["ros2:/d/image_raw"], ["ros2:/d/out"]) as outcome:
        with contextlib.closing(Peer()) as first:
            first.tell("advertise", "/d/image_raw", type="raw")
            first.send_until("/d/image_raw", raw("red"), lambda: peer.of("/d/out/mask"))
        peer.tell("advertise", "/d/image_raw", type="raw")
        blue = lambda: [each for each in peer.of("/d/out/mask") if labels_of(each) == {IDS["blue"]}]  # noqa: E731
        peer.send_until("/d/image_raw", raw("blue", seconds=2000), blue)
    assert "error" not in outcome
    peer.tell("retire", "/d/image_raw")


def test_qualities_of_service_that_do_not_fit_are_told_in_words(
    peer: Peer, artifact_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reliable asked of a best-effort camera, and of best-effort masks."""
    peer.tell("advertise", "/e/image_raw", type="raw", reliable=False)
    peer.tell("listen", "/e/out/mask", type="raw", reliable=True)
    with (
        caplog.at_level(logging.WARNING, "service.live"),
        living(artifact_dir, ["ros2:/e/image_raw"], ["ros2:/e/out"], from_qos="reliable"),
    ):
        wait_until(lambda: "--from-qos reliable; leave it out" in caplog.text, "the camera's")
        wait_until(lambda: "subscribe best effort, or give --to-qos reliable" in caplog.text, "the mask's")
    assert "/e/image_raw: nothing comes from a publisher whose reliability does not fit" in caplog.text
    peer.tell("retire", "/e/image_raw")


def test_a_topic_of_another_type_ends_the_run(peer: Peer, artifact_dir: Path) -> None:
    """One sentence that names both types; nothing can come of it."""
    peer.tell("advertise", "/imu", type="imu")
    with living(artifact_dir, ["ros2:/imu"], ["ros2:/f/out"]) as outcome:
        error = wait_until(lambda: outcome.get("error"), "the error")
    assert isinstance(error, BadSetting)
    assert "/imu is of type sensor_msgs/msg/Imu; sensor_msgs/msg/Image and" in error.message
    peer.tell("retire", "/imu")


def test_a_mute_publisher_is_told_and_waited_for(
    peer: Peer, artifact_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No publisher, then a publisher without frames, then frames."""
    from service.live.sources import ros2  # noqa: PLC0415

    monkeypatch.setattr(ros2, "ABSENT_S", 0.01)
    monkeypatch.setattr(ros2, "MUTE_S", 0.01)
    peer.tell("listen", "/g/out/mask", type="raw")
    with caplog.at_level(logging.WARNING, "service.live"), living(artifact_dir, ["ros2:/g/image_raw"], ["ros2:/g/out"]):
        wait_until(lambda: "/g/image_raw: no publisher; waiting for one" in caplog.text, "no publisher")
        peer.tell("advertise", "/g/image_raw", type="raw")
        wait_until(lambda: "a publisher is there, and no frame comes" in caplog.text, "mute")
        assert "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST puts FASTDDS_BUILTIN_TRANSPORTS out of effect" in caplog.text
        peer.send_until("/g/image_raw", raw("red"), lambda: peer.of("/g/out/mask"))
    peer.tell("retire", "/g/image_raw")


def test_an_encoding_that_is_unknown_costs_its_frames_only(
    peer: Peer, artifact_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, and the next frame is segmented."""
    peer.tell("advertise", "/h/image_raw", type="raw")
    peer.tell("listen", "/h/out/mask", type="raw")
    with (
        caplog.at_level(logging.WARNING, "service.live"),
        living(artifact_dir, ["ros2:/h/image_raw"], ["ros2:/h/out"]) as outcome,
    ):
        odd = {**raw("red"), "format": "64FC9"}
        peer.send_until("/h/image_raw", odd, lambda: "images in '64FC9' are not read" in caplog.text)
        peer.send_until("/h/image_raw", raw("red"), lambda: peer.of("/h/out/mask"))
    assert outcome["counters"]["ros2:/h/image_raw"].snapshot().failed >= 1
    peer.tell("retire", "/h/image_raw")


def test_a_type_that_is_brought_along_is_the_real_one_to_a_package_that_has_it(peer: Peer, artifact_dir: Path) -> None:
    """A type that the wheels have too, published as one that they lack: its compiled class receives it."""
    from service.live.ros2 import node, qos  # noqa: PLC0415
    from service.live.ros2.cdr import Cdr  # noqa: PLC0415
    from service.live.ros2.type_support import message_class  # noqa: PLC0415
    from service.live.ros2.vision_msgs import HEADER  # noqa: PLC0415

    name = "std_msgs/msg/Header"
    own = message_class(HEADER)
    message = Cdr()
    message.number("i", -5)
    message.number("I", 7)
    message.text("camera")
    peer.tell("listen", "/l", type="header", reliable=True, latched=True)
    shared = node.join(LiveOptions(limits_of(Settings(models_dir=artifact_dir))))
    try:
        publisher = shared.node.create_publisher(own, "/l", qos.latched())
        publisher.publish(message.message())
        found = peer.wait("/l")
        assert (found["stamp"], found["frame_id"]) == ([-5, 7], "camera")
        (theirs,) = shared.node.get_subscriptions_info_by_topic("/l")
        (ours,) = shared.node.get_publishers_info_by_topic("/l")
        assert ours.topic_type == theirs.topic_type == name
        assert str(ours.topic_type_hash) == str(theirs.topic_type_hash)
    finally:
        node.leave()


def test_an_array_of_a_fixed_length_is_that_of_the_real_type(peer: Peer, artifact_dir: Path) -> None:
    """As detections have one: the covariance of a pose. Its compiled class receives it, and its hash is the same."""
    from service.live.ros2 import detections, node, qos  # noqa: PLC0415
    from service.live.ros2.cdr import Cdr  # noqa: PLC0415
    from service.live.ros2.type_support import message_class  # noqa: PLC0415

    names = [f"geometry_msgs/msg/{name}" for name in ("PoseWithCovariance", "Pose", "Point", "Quaternion")]
    own, message = message_class({name: detections.TYPES[name] for name in names}), Cdr()
    for number in range(7 + detections.COVARIANCE):
        message.number("d", number)
    peer.tell("listen", "/p", type="pose", reliable=True, latched=True)
    shared = node.join(LiveOptions(limits_of(Settings(models_dir=artifact_dir))))
    try:
        publisher = shared.node.create_publisher(own, "/p", qos.latched())
        publisher.publish(message.message())
        found = peer.wait("/p")
        assert (found["position"], found["covariance"]) == (0.0, [7.0 + number for number in range(36)])
        (theirs,) = shared.node.get_subscriptions_info_by_topic("/p")
        (ours,) = shared.node.get_publishers_info_by_topic("/p")
        assert str(ours.topic_type_hash) == str(theirs.topic_type_hash)
    finally:
        node.leave()


def test_ctrl_c_ends_the_command_in_order(artifact_dir: Path, peer: Peer) -> None:
    """Status 0 and one line, by the command itself."""
    peer.tell("advertise", "/i/image_raw", type="raw")
    peer.tell("listen", "/i/out/mask", type="raw")
    command = [sys.executable, "-m", "service", "live", "--from", "ros2:/i/image_raw", "--to", "ros2:/i/out", "--rate", "50"]
    env = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir)}
    env.pop("FASTDDS_BUILTIN_TRANSPORTS")
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            peer.send_until("/i/image_raw", raw("green"), lambda: peer.of("/i/out/mask") or process.poll() is not None)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert out == ""
    assert "ros2:/i/image_raw: " in err.splitlines()[-1]
    assert " masks of " in err.splitlines()[-1]
    assert "Traceback" not in err
    peer.tell("retire", "/i/image_raw")


# Without another process -----------------------------------------------------------------------------------------------------


def test_lost_and_late_frames_are_counted_and_told(artifact_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the publisher's sequence numbers, each publisher by itself, and by the time of the way."""
    from service.live.sources.ros2 import Ros2Topic  # noqa: PLC0415

    topic = Ros2Topic("ros2:/k/image_raw", LiveOptions(limits_of(Settings(models_dir=artifact_dir))))
    topic.open(lambda: None)
    try:
        told = [("a", 1, 0), ("a", 2, 0), ("b", 9, 0), ("a", 5, 0), ("b", 10, 250_000_000), ("a", 6, 150_000_000)]
        for publisher, number, delay_ns in told:
            about = {"publisher_gid": publisher, "publication_sequence_number": number, "source_timestamp": 10**18}
            topic._count({**about, "received_timestamp": 10**18 + delay_ns})
        assert topic.dropped == 2
        assert topic._late == 1
    finally:
        topic.close()
    assert "frames are lost between their publisher and here" in caplog.text
    assert "frames come late" in caplog.text


def video_messages(*colours: str, key_every: int = 250) -> list[Any]:
    """``CompressedImage`` in h264, a second from each to the next."""
    av = pytest.importorskip("av")
    from sensor_msgs.msg import CompressedImage  # noqa: PLC0415

    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = WIDTH, HEIGHT, "yuv420p", Fraction(1, 10)
    encoder.options = {"tune": "zerolatency", "x264-params": f"keyint={key_every}:scenecut=0"}
    messages = []
    for number, colour in enumerate(colours):
        picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        picture[:] = COLOURS[colour]
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        frame.pts = number
        (packet,) = encoder.encode(frame)
        message = CompressedImage(format="h264")
        message.header.stamp.sec = number
        message.data = array.array("B", bytes(packet))
        messages.append(message)
    return messages


def test_a_video_with_a_lost_frame_goes_on_with_its_next_key_frame(artifact_dir: Path) -> None:
    """What builds upon the lost frame would be decoded to a wrong picture in silence."""
    from service.live.sources.ros2 import COMPRESSED, Ros2Topic  # noqa: PLC0415

    topic = Ros2Topic("ros2:/n/image_raw/compressed", LiveOptions(limits_of(Settings(models_dir=artifact_dir))))
    topic.open(lambda: None)
    taken = []
    try:
        topic._schema, topic._decoder = COMPRESSED, MessageDecoder(COMPRESSED)
        for number, message in enumerate(video_messages("red", "red", "green", "green", "green", "blue", "blue", key_every=5)):
            if number == 2:
                continue
            topic._receive(message, {"publisher_gid": "a", "publication_sequence_number": number + 1})
            taken += [frame.stamp_ns // 1_000_000_000 for frame in [topic.take()] if frame is not None]
    finally:
        topic.close()
    assert taken == [0, 1, 5, 6]


def test_a_video_is_decoded_frame_by_frame_though_the_newest_wins(artifact_dir: Path) -> None:
    """``CompressedImage`` in h264: the frames that are superseded are decoded too, because the newest builds upon them."""
    from service.live.sources.ros2 import COMPRESSED, Ros2Topic  # noqa: PLC0415

    topic = Ros2Topic("ros2:/m/image_raw/compressed", LiveOptions(limits_of(Settings(models_dir=artifact_dir))))
    topic.open(lambda: None)
    try:
        topic._schema, topic._decoder = COMPRESSED, MessageDecoder(COMPRESSED)
        for message in video_messages("red", "green", "blue"):
            topic._receive(message, {})
        newest = topic.take()
        assert newest is not None
        assert newest.stamp_ns == 2_000_000_000
        assert isinstance(newest.image, np.ndarray)
        assert np.abs(newest.image.astype(int) - COLOURS["blue"]).max() < 10
        assert (topic.received, topic.dropped) == (3, 2)
        assert topic.take() is None
    finally:
        topic.close()


def test_the_hash_of_the_type_is_that_of_the_generator_of_ros(tmp_path: Path) -> None:
    """A node that has vision_msgs sees the same type: computed from its definition by ROS' own code."""
    generator = pytest.importorskip("rosidl_generator_type_description")
    from service.live.ros2.label_info import TYPES  # noqa: PLC0415
    from service.live.ros2.type_support import type_hash  # noqa: PLC0415

    def description(name: str) -> dict[str, Any]:
        fields = [
            {
                "name": field.name,
                "type": {
                    "type_id": field.type_id,
                    "capacity": 0,
                    "string_capacity": 0,
                    "nested_type_name": field.nested,
                },
                "default_value": "",
            }
            for field in TYPES[name]
        ]
        return {"type_name": name, "fields": fields}

    first, *others = TYPES
    told = {
        "type_description": description(first),
        "referenced_type_descriptions": [description(each) for each in sorted(others)],
    }
    expected = generator.calculate_type_hash(told)
    assert expected == f"RIHS01_{type_hash(TYPES).hex()}"


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 2**16 - 1), st.text(st.characters(exclude_characters="\0", codec="utf-8")))),
    st.floats(0, 1, width=32),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**32 - 1),
)
def test_label_info_is_read_back_by_another_library(
    table: list[tuple[int, str]], threshold: float, sec: int, nanosec: int
) -> None:
    """rosbags reads what is written here, whatever the names' lengths do to the alignment."""
    pictures = pytest.importorskip("service.batch.recordings.pictures")
    from service.live.ros2.label_info import serialised  # noqa: PLC0415

    found = pictures.types().deserialize_cdr(serialised(sec, nanosec, table, threshold), "vision_msgs/msg/LabelInfo")
    assert [(each.class_id, each.class_name) for each in found.class_map] == table
    assert (found.threshold, found.header.stamp.sec, found.header.stamp.nanosec) == (threshold, sec, nanosec)


def test_names_of_several_cameras() -> None:
    """Short where they can be told apart, whole where not."""
    assert names_of("/s", ["ros2:/cam/image_raw"]) == {"ros2:/cam/image_raw": "/s"}
    two = names_of("/s", ["ros2:/cam/left/image_raw/compressed", "ros2:/cam/right/image_rect_color"])
    assert list(two.values()) == ["/s/cam/left", "/s/cam/right"]
    alike = names_of("/s", ["ros2:/cam/image_raw", "ros2:/cam/image_rect", "rtsp://host/1"])
    assert list(alike.values()) == ["/s/cam/image_raw", "/s/cam/image_rect", "/s/camera_3"]


@pytest.mark.parametrize("address", ["ros2:", "ros2:/a b", "ros2:/1/2", "ros2://"])
def test_what_is_not_a_topic_is_told(address: str, artifact_dir: Path) -> None:
    """Before anything is opened."""
    with pytest.raises(BadSetting, match="not the name of a topic"):
        open_source(address, LiveOptions(limits_of(Settings(models_dir=artifact_dir))))


def test_without_rclpy_the_extra_is_named(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, which a ROS user can follow too."""
    monkeypatch.setitem(sys.modules, "rclpy", None)
    with pytest.raises(BadSetting, match=r"pip install '\.\[ros2\]'.*or source a ROS 2 installation"):
        open_source("ros2:/a", LiveOptions(limits_of(Settings(models_dir=artifact_dir))))


def test_the_remedy_of_lost_frames_is_the_one_that_helps_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """LARGE_DATA has no effect where the discovery is limited to this machine."""
    from service.live.ros2.environment import remedy  # noqa: PLC0415

    assert "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST puts" in remedy()
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE")
    assert "=LARGE_DATA at the publisher too" in remedy()
    monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
    assert "ROS_LOCALHOST_ONLY=1 puts" in remedy()


@pytest.mark.parametrize("chosen", ["FASTDDS_BUILTIN_TRANSPORTS", "FASTDDS_DEFAULT_PROFILES_FILE"])
def test_transports_are_set_only_where_the_user_has_chosen_none(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set stays."""
    from service.live.ros2.environment import ready  # noqa: PLC0415

    monkeypatch.delenv("FASTDDS_BUILTIN_TRANSPORTS")
    monkeypatch.setenv(chosen, "mine")
    ready()
    assert os.environ.get("FASTDDS_BUILTIN_TRANSPORTS") == ("mine" if chosen == "FASTDDS_BUILTIN_TRANSPORTS" else None)
    monkeypatch.delenv(chosen)
    ready()
    assert os.environ["FASTDDS_BUILTIN_TRANSPORTS"] == "LARGE_DATA"


THINGS = st.builds(
    Detection,
    st.integers(0, 255),
    st.just("car"),
    st.floats(0, 1),
    *(st.integers(0, 9000) for _ in range(2)),
    *(st.integers(1, 9000) for _ in range(2)),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(THINGS, max_size=4), st.integers(0, 2**61 - 2**58), st.text(max_size=9))
def test_detections_are_serialised_as_rosbags_does(found: list[Detection], stamp_ns: int, frame_id: str) -> None:
    """Byte for byte, with the same fields that bags have."""
    pytest.importorskip("rosbags")
    from service.batch.recordings import detections as of_bags  # noqa: PLC0415
    from service.batch.recordings.pictures import types  # noqa: PLC0415
    from service.live.ros2.detections import serialised  # noqa: PLC0415

    store = types()
    of_bags.register(store)
    made, (sec, nanosec) = store.types, divmod(stamp_ns, 10**9)
    time_of = made["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
    header = made["std_msgs/msg/Header"](stamp=time_of, frame_id=frame_id)
    message = of_bags.detections_message(store, header, found)
    frame = LiveFrame(np.zeros((1, 1, 3), np.uint8), stamp_ns, frame_id, "camera", 0.0)
    assert serialised(frame, found) == bytes(store.serialize_cdr(message, of_bags.DETECTIONS))
