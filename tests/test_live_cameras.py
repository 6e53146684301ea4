"""Cameras behind real sockets, devices and files: found, lost, found again, and told about in one line each."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from service.errors import BadSetting
from service.live import capture
from service.live.backlog import LONGEST
from service.live.frame import LiveFrame
from service.live.options import LiveOptions
from service.live.pictures import Decoder
from service.live.registry import open_source
from service.live.sources import LiveSource, http
from service.live.sources.addresses import without_password
from service.pipeline.codecs import decoding
from service.pipeline.codecs.limits import Limits
from tests.cameras import HEIGHT, RATE, WIDTH, Camera, MjpegCamera, RtspCamera, write_video
from tests.conftest import make_image
from tests.test_architecture import import_without
from tests.waiting import wait_until

OPTIONS = LiveOptions(Limits())
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def start() -> Iterator[Callable[[Camera], Camera]]:
    """Starts a camera, and cuts it after the test if the test has not."""
    started: list[Camera] = []

    def run(camera: Camera) -> Camera:
        started.append(camera)
        camera.start()
        return camera

    yield run
    for camera in started:
        if not camera.ended.is_set():
            camera.cut()


@contextmanager
def opened(address: str) -> Iterator[LiveSource]:
    """A source that receives."""
    source = open_source(address, OPTIONS)
    try:
        source.open(lambda: None)
        yield source
    finally:
        source.close()


def next_of(source: LiveSource) -> LiveFrame:
    """The next frame of a source."""
    frame = wait_until(source.take, f"a frame of {source.address}")
    assert frame is not None
    return frame


def pixels(frame: LiveFrame) -> np.ndarray:
    """H x W x 3 uint8 RGB of a frame."""
    return decoding.decode(frame.image, OPTIONS.limits, decoding.probe(frame.image, OPTIONS.limits))


@pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])
def test_a_camera_gives_its_picture_with_a_stamp_of_now(kind: type[Camera], start: Callable[[Camera], Camera]) -> None:
    """The pixels are the camera's own; stamps rise, and none is later than the frame's arrival here."""
    camera = start(kind())
    with opened(camera.url) as source:
        frames = [next_of(source) for _ in range(5)]
        now_ns = time.time_ns()
    assert all(frame.source == camera.url for frame in frames)
    difference = np.abs(pixels(frames[-1]).astype(int) - make_image(HEIGHT, WIDTH))
    assert difference.mean() < 4
    assert all(before.stamp_ns < after.stamp_ns for before, after in pairwise(frames))
    assert now_ns - 60e9 < frames[0].stamp_ns
    assert frames[-1].stamp_ns <= now_ns


def test_stamps_of_rtp_are_as_far_apart_as_the_camera_says(start: Callable[[Camera], Camera]) -> None:
    """However unevenly packets come, stamps differ by whole intervals of the camera's clock, once one came undelayed."""
    camera = start(RtspCamera())
    with opened(camera.url) as source:
        frames = [next_of(source) for _ in range(40)]
    steps = [(after.stamp_ns - before.stamp_ns) * RATE / 1e9 for before, after in pairwise(frames)]
    exact = [step for step in steps if abs(step - round(step)) < 0.01 and round(step) >= 1]
    assert len(exact) >= len(steps) // 2  # the others found a less delayed frame than any before


@pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])
def test_a_camera_that_is_cut_is_found_again(
    kind: type[Camera], start: Callable[[Camera], Camera], caplog: pytest.LogCaptureFixture
) -> None:
    """After a cut the source waits and opens again; the log has one line for each change of state."""
    caplog.set_level(logging.INFO, "service.live")
    camera = start(kind())
    with opened(camera.url) as source:
        before = next_of(source)
        camera.cut()
        wait_until(lambda: any("lost" in line for line in caplog.messages))
        while source.take() is not None:
            pass
        start(kind(camera.port))
        after = next_of(source)
    assert after.stamp_ns > before.stamp_ns
    states = [line.removeprefix(f"{camera.url}: ").split(":")[0].split(" after")[0] for line in caplog.messages]
    assert states == ["connected", "lost", "connected again"]


def test_a_camera_that_falls_silent_is_noticed(
    start: Callable[[Camera], Camera], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that stays open without a packet counts as lost."""
    monkeypatch.setattr(capture, "READ_S", 0.5)
    camera = start(MjpegCamera())
    with opened(camera.url) as source:
        next_of(source)
        camera.stalled.set()
        wait_until(lambda: any("no frame for 0.5 s" in line for line in caplog.messages))


def test_a_camera_that_is_not_there_yet_is_waited_for(
    start: Callable[[Camera], Camera], caplog: pytest.LogCaptureFixture
) -> None:
    """A camera may start after the run: one line says what is waited for, however often it is tried."""
    camera = MjpegCamera()
    camera.server_close()
    with opened(camera.url) as source:
        wait_until(lambda: caplog.messages)
        start(MjpegCamera(camera.port))
        next_of(source)
    waiting = [line for line in caplog.messages if "waiting" in line]
    assert waiting == [f"{camera.url}: waiting: nothing listens on port {camera.port} of 127.0.0.1; trying again"]


def test_the_pauses_between_attempts_are_bounded() -> None:
    """A camera is tried at least every ten seconds, for ever, and not more than twice a second."""
    assert max(capture.PAUSES_S) <= 10
    assert min(capture.PAUSES_S) >= 0.5
    assert list(capture.PAUSES_S) == sorted(capture.PAUSES_S)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/page", "answers with text/html, not with a video; name the camera's stream itself"),
        ("/secret", "wants another user and password: http://USER:PASSWORD@HOST/..."),
        ("/other", "404 Not Found; check the path"),
    ],
)
def test_an_address_without_a_camera_ends_the_run(path: str, says: str, start: Callable[[Camera], Camera]) -> None:
    """Where waiting cannot help, the error says what the address gave instead of a video."""
    camera = start(MjpegCamera())
    address = camera.url.replace("/cam", path)
    with opened(address) as source, pytest.raises(BadSetting) as error:
        next_of(source)
    assert says in error.value.message
    assert address in error.value.message


def test_an_address_that_speaks_no_http_is_tried_again(
    start: Callable[[Camera], Camera], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question what else it may send has no answer either."""
    monkeypatch.setattr(capture, "PAUSES_S", (0.01,))
    address = start(MjpegCamera()).url.replace("/cam", "/strange")
    assert http._content_type(address) is None
    with opened(address) as source:
        wait_until(lambda: "waiting: " in caplog.text or source.take())
    assert "; trying again" in caplog.text


def test_a_decoder_that_fails_costs_its_connection_only(
    start: Callable[[Camera], Camera], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that was not foreseen is told, and the camera is opened again."""
    decode, failed = Decoder._decode, threading.Event()

    def once(self: Decoder, packet: object, came_s: float) -> None:
        if not failed.is_set():
            failed.set()
            raise TypeError("no such field")
        decode(self, packet, came_s)

    monkeypatch.setattr(Decoder, "_decode", once)
    monkeypatch.setattr(capture, "PAUSES_S", (0.01,))
    with opened(start(RtspCamera()).url) as source:
        next_of(source)
    assert "lost: RuntimeError: the decoder failed: TypeError: no such field; trying again" in caplog.text


def test_a_path_that_an_rtsp_server_does_not_have_yet_is_waited_for(
    start: Callable[[Camera], Camera], caplog: pytest.LogCaptureFixture
) -> None:
    """A relay has no path before its camera is there."""
    camera = start(RtspCamera())
    with opened(camera.url.replace("/cam", "/later")) as source:
        wait_until(lambda: caplog.messages)
        assert source.take() is None
    assert "has no stream of this path now; trying again" in caplog.messages[0]


def test_a_stalled_decoder_costs_frames_and_no_memory(
    start: Callable[[Camera], Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the decoder stands still the reader goes on: packets are dropped, and what comes after is of now."""
    may_go, decode = threading.Event(), Decoder._decode

    def slow(self: Decoder, packet: object, came_s: float) -> None:
        may_go.wait()
        decode(self, packet, came_s)

    monkeypatch.setattr(Decoder, "_decode", slow)
    camera = start(RtspCamera())
    with opened(camera.url) as source:
        wait_until(lambda: source.dropped >= 2 * LONGEST)
        assert source.received - source.dropped <= LONGEST + 2  # those that wait, and those in work
        goes_ns = time.time_ns()
        may_go.set()
        wait_until(lambda: (frame := source.take()) is not None and frame.stamp_ns > goes_ns)


def test_a_loop_that_stands_still_gets_the_newest_frame(start: Callable[[Camera], Camera]) -> None:
    """However long the loop was busy, the frame that it gets came after it asked last, and the others are counted."""
    camera = start(MjpegCamera())
    with opened(camera.url) as source:
        next_of(source)
        seen = source.received
        wait_until(lambda: source.received > seen + 20)
        asked_s = time.monotonic()
        frame = next_of(source)
        assert asked_s - frame.came_s < 1
        assert source.dropped >= 18


def test_a_motion_jpeg_is_handed_on_as_the_camera_sent_it(start: Callable[[Camera], Camera]) -> None:
    """Its bytes are not decoded and encoded again."""
    camera = start(MjpegCamera())
    with opened(camera.url) as source:
        frame = next_of(source)
    assert isinstance(frame.image, bytes)
    assert frame.image.startswith(b"\xff\xd8")
    assert frame.image.rstrip(b"\r\n").endswith(b"\xff\xd9")


def test_a_file_is_played_at_its_own_pace(tmp_path: Path) -> None:
    """Its frames come no earlier than they are due; their stamps are exact; the run ends with it."""
    video = write_video(tmp_path / "drive.mp4", 25, rate=25)
    frames: list[LiveFrame] = []
    with opened(str(video)) as source:

        def take() -> bool:
            if (frame := source.take()) is not None:
                frames.append(frame)
            return source.ended

        wait_until(take)
        assert source.received == 25
        assert source.take() is None
    assert len(frames) >= 2
    assert len(frames) + source.dropped == 25
    first = frames[0]
    for frame in frames[1:]:
        steps = (frame.stamp_ns - first.stamp_ns) * 25 / 1e9
        assert abs(steps - round(steps)) < 1e-3
        assert frame.came_s - first.came_s >= steps / 25 - 0.05
    assert np.abs(pixels(first).astype(int) - make_image(HEIGHT, WIDTH)).mean() < 4


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_text("This is text.\n" * 100), "not a video that can be read"),
        (lambda path: path.touch(), "not a video that can be read"),
    ],
)
def test_a_file_without_a_video_ends_the_run(make: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    """A file that is absent, empty or something else is named, with the reason."""
    path = tmp_path / "drive.mp4"
    make(path)
    with pytest.raises(BadSetting, match=says), opened(str(path)):
        pass


def test_a_video_cut_short_gives_what_it_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A recording that lacks its end is played as far as it goes."""
    whole = write_video(tmp_path / "whole.ts", 50)
    cut = tmp_path / "cut.ts"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with opened(str(cut)) as source:
        next_of(source)
        wait_until(lambda: source.take() is None and source.ended)


def test_a_film_without_pictures_is_refused_with_what_it_has(tmp_path: Path) -> None:
    """Sound alone is named as such."""
    import av  # noqa: PLC0415

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        for number in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 48000, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(BadSetting, match="no video in it, only audio"), opened(str(path)):
        pass


def test_a_codec_without_a_decoder_is_told_with_those_that_work(tmp_path: Path) -> None:
    """A file whose codec FFmpeg does not know names the codecs to choose from."""
    video = write_video(tmp_path / "drive.avi", 5)
    strange = tmp_path / "strange.avi"
    strange.write_bytes(video.read_bytes().replace(b"H264", b"ZZZZ"))
    with pytest.raises(BadSetting, match=r"no decoder here; have the camera send H\.264"), opened(str(strange)):
        pass


def test_a_device_that_is_not_there_is_told_with_those_that_are() -> None:
    """A wrong number of a camera is noticed before anything starts."""
    with pytest.raises(BadSetting, match=r"/dev/video98: there is no such device; this machine has "):
        open_source("/dev/video98", OPTIONS)


def test_a_device_of_another_kind_ends_the_run() -> None:
    """Any other device says so."""
    with opened("/dev/null") as source, pytest.raises(BadSetting, match="/dev/null: it is not a camera"):
        next_of(source)


def test_an_unknown_setting_of_a_device_is_refused() -> None:
    """A mistyped setting does not silently do nothing."""
    with pytest.raises(BadSetting, match="no setting 'size'; there are video_size, framerate, input_format"):
        open_source("/dev/null?size=1x1", OPTIONS)


AS_ANOTHER = """
import os, sys
from service.live.registry import open_source
from service.live.options import LiveOptions
from service.pipeline.codecs.limits import Limits
from service.errors import BadSetting
from tests.waiting import wait_until
source = open_source(sys.argv[1], LiveOptions(Limits()))
os.setgid(65534)
os.setuid(65534)
source.open(lambda: None)
try:
    wait_until(source.take)
except BadSetting as error:
    print(error.message)
"""


def test_a_device_that_may_not_be_read_says_which_group_may() -> None:
    """Permission denied names the remedy."""
    device = next((path for path in map(Path, ("/dev/mem", "/dev/port", "/dev/kmsg")) if path.exists()), None)
    device = device or next(
        (path for path in Path("/dev").iterdir() if path.is_char_device() and not path.stat().st_mode & 4), None
    )
    try:
        can_change = subprocess.run(["true"], check=False, user=65534).returncode == 0
    except PermissionError:
        can_change = False
    if device is None or not can_change:
        pytest.skip("this test becomes another user, which only root may, and needs a device that others may not read")
    command = [sys.executable, "-c", AS_ANOTHER, str(device)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"{device}: permission denied: the user of this process may not read it; add it to the group" in found.stdout, found


@pytest.mark.parametrize(
    ("options", "package", "extra"),
    [
        (["--from", "rtsp://127.0.0.1:1/cam", "--to", "-"], "av", "video"),
        (["--from", ".", "--to", "foxglove://127.0.0.1:0"], "foxglove", "foxglove"),
    ],
)
def test_a_package_that_is_missing_is_named_by_its_extra(options: list[str], package: str, extra: str) -> None:
    """The command ends with one line that says what to install."""
    program = f"import sys; sys.argv = {['fcn-serve', 'live', *options]!r}; from service.__main__ import main; main()"
    ended = import_without(program, {package})
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"fcn-serve: live needs the extra '{extra}': pip install")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://me:secret@cam/live", "rtsp://cam/live"),
        ("http://cam/cgi?channel=1&user=me&pwd=secret&x=2", "http://cam/cgi?channel=1&user=***&pwd=***&x=2"),
        ("rtsp://cam:8554/live?channel=1", "rtsp://cam:8554/live?channel=1"),
    ],
)
def test_passwords_are_never_shown(address: str, shown: str) -> None:
    """A source's name, which logs, windows and recordings carry, has no password."""
    assert without_password(address) == shown
    assert open_source(address, OPTIONS).address == shown


@pytest.mark.parametrize("address", ["rtsp:///live", "http://", "rtsp://cam:eighty/live"])
def test_an_address_without_a_host_is_refused(address: str) -> None:
    """What cannot be an address is refused before anything starts."""
    with pytest.raises(BadSetting, match="--from"):
        open_source(address, OPTIONS)
