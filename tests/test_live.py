"""``fcn-serve live``: the loop, and what it counts. The kinds of sources and sinks have tests of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging.config
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from service.cli import live as live_command
from service.client import Client
from service.compose import limits_of, open_predictor
from service.errors import BadSetting, CorruptImage, UnknownClass, UnknownModel
from service.live.complaints import Complaints
from service.live.counters import Counters
from service.live.frame import LiveFrame
from service.live.loop import Bell, Pace, run
from service.live.newest import Newest
from service.live.options import LiveOptions
from service.live.registry import SINKS, Kind, open_sink, open_source, shows_things
from service.live.segmenter import OwnNetwork, RunningService
from service.live.session import LiveResult, LiveSession
from service.pipeline.engine import Engine
from service.pipeline.predictor import Predictor
from service.settings import Settings
from tests.conftest import encode_image, make_image, make_labels, make_manifest, write_artifact
from tests.live import ROOT, live_server
from tests.test_engine import panoptic_graph, panoptic_manifest
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def predictor(artifact_dir: Path) -> Iterator[Predictor]:
    """Its network."""
    opened = open_predictor(Settings(models_dir=artifact_dir))
    yield opened
    opened.close()


@pytest.fixture
def options(artifact_dir: Path) -> LiveOptions:
    """Nothing asked for."""
    return LiveOptions(limits_of(Settings(models_dir=artifact_dir)))


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder of three frames, the second of them damaged."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in ("1.png", "3.png"):
        (folder / name).write_bytes(encode_image(make_image()))
    (folder / "2.png").write_bytes(encode_image(make_image())[:100])
    return folder


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self, fails: Exception | None = None, starts: Exception | None = None) -> None:
        self.address = "kept"
        self.events: list[str] = []
        self.sent: list[tuple[LiveFrame, LiveResult]] = []
        self.session: LiveSession | None = None
        self._fails, self._starts = fails, starts

    def start(self, session: LiveSession) -> None:
        """Keep the session."""
        self.events.append("start")
        self.session = session
        if self._starts is not None:
            raise self._starts

    def send(self, frame: LiveFrame, result: LiveResult) -> None:
        """Keep the mask, or fail."""
        self.events.append("send")
        if self._fails is not None:
            raise self._fails
        self.sent.append((frame, result))

    def close(self) -> None:
        """Note it."""
        self.events.append("close")


def test_each_frame_goes_to_every_sink_and_a_failure_costs_one_frame(
    frames: Path, options: LiveOptions, predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged frame, and a sink whose disk is full, are told and counted; the rest goes on."""
    full, kept = Kept(OSError(28, "No space left on device")), Kept()
    source = open_source(str(frames), options)
    counters = run([source], [full, kept], OwnNetwork(predictor, options), options, Bell())
    assert [frame.frame_id for frame, _ in kept.sent] == ["1.png", "3.png"]
    assert all((result.view.labels == make_labels()).mean() > 0.9 for _, result in kept.sent)
    assert [frame.stamp_ns for frame, _ in kept.sent] == [(frames / name).stat().st_mtime_ns for name in ("1.png", "3.png")]
    assert kept.events == ["start", "send", "send", "close"]
    now = counters[str(frames)].snapshot()
    assert (now.received, now.masks, now.failed, now.dropped) == (3, 2, 1, 0)
    assert now.latency_ms is not None
    assert caplog.text.count("kept: a mask is lost: No space left on device") == 1
    assert f"{frames}: no mask: " in caplog.text
    assert kept.session is not None
    assert [row.name for row in kept.session.classes] == ["red", "green", "blue"]
    assert kept.session.sources == (str(frames),)


def test_options_of_masks_are_those_of_the_query(frames: Path, options: LiveOptions, predictor: Predictor) -> None:
    """Classes that are not kept are 255; what the model lacks is refused before anything runs."""
    kept = Kept()
    asked = LiveOptions(options.limits, classes=("green",))
    run([open_source(str(frames), asked)], [kept], OwnNetwork(predictor, asked), asked, Bell())
    assert np.unique(kept.sent[0][1].view.labels).tolist() == [1, 255]
    with pytest.raises(UnknownClass):
        OwnNetwork(predictor, LiveOptions(options.limits, classes=("violet",)))
    with pytest.raises(UnknownModel):
        OwnNetwork(predictor, LiveOptions(options.limits, model="other"))


@pytest.mark.parametrize("things", [True, False])
def test_objects_that_are_not_wanted_are_not_computed(
    things: bool, tmp_path: Path, options: LiveOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is asked for the outputs that objects need only where they are wanted."""
    write_artifact(tmp_path / "things.onnx", panoptic_manifest(), panoptic_graph())
    asked: list[tuple[str, ...]] = []
    real = Engine.run

    def run(engine: Engine, batch: Any, names: Any, **how: Any) -> Any:
        asked.append(tuple(names))
        return real(engine, batch, names, **how)

    with contextlib.closing(open_predictor(Settings(models_dir=tmp_path))) as predictor:
        network = OwnNetwork(predictor, dataclasses.replace(options, things=things))
        monkeypatch.setattr(Engine, "run", run)
        result = network.segment(LiveFrame(make_image(), 0, "", "camera", 0.0))
        assert (network.has_things, result.things is not None) == (things, things)
        assert asked == [("scores", "centers", "offsets") if things else ("scores",)]


@pytest.mark.parametrize("kind", SINKS, ids=lambda kind: kind.module.rpartition(".")[2])
def test_a_sink_that_shows_objects_is_known_as_one(kind: Kind) -> None:
    """Those whose file asks a result for its things, and no others."""
    source = Path(ROOT, *kind.module.split(".")).with_suffix(".py").read_text()
    assert shows_things(kind.example) == ("result.things()" in source)


@pytest.mark.parametrize(("sinks", "things"), [(["-"], False), (["-", "ros2:/segmentation"], True)])
def test_the_command_wants_objects_where_a_sink_shows_them(
    sinks: list[str], things: bool, artifact_dir: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read from the addresses that ``--to`` has."""
    seen: list[LiveOptions] = []
    monkeypatch.setenv("FCN_MODELS_DIR", str(artifact_dir))
    monkeypatch.setattr(logging.config, "dictConfig", lambda _: None)
    monkeypatch.setattr(live_command, "open_sink", lambda _, options: seen.append(options))
    monkeypatch.setattr(live_command, "run", lambda *_: {})
    with pytest.raises(typer.Exit):
        live_command.live([str(frames)], sinks)
    assert {options.things for options in seen} == {things}


def test_a_sink_that_cannot_start_ends_the_run_and_those_before_it_are_closed(
    frames: Path, options: LiveOptions, predictor: Predictor
) -> None:
    """A port that is taken, say."""
    first, second = Kept(), Kept(starts=BadSetting("port 8765 is taken"))
    with pytest.raises(BadSetting, match="8765"):
        run([open_source(str(frames), options)], [first, second], OwnNetwork(predictor, options), options, Bell())
    assert first.events == second.events == ["start", "close"]


class Endless:
    """A source that always has a frame."""

    def __init__(self, came: int, bell: Bell) -> None:
        self.address, self.received, self.dropped, self.ended = "endless", 0, 0, False
        self._left, self._bell = came, bell
        self._rings: Callable[[], None] = bell.ring

    def open(self, came: Callable[[], None]) -> None:
        """Have one."""
        self._rings = came
        came()

    def take(self) -> LiveFrame | None:
        """Give one, and stop the run with the last."""
        self.received += 1
        self._rings()
        if self.received == self._left:
            self._bell.stop()
        return LiveFrame(make_image(), self.received, "", self.address, time.monotonic())

    def close(self) -> None:
        """Nothing to do."""


def test_the_run_ends_with_the_frame_in_work(options: LiveOptions, predictor: Predictor) -> None:
    """Ctrl-C during a frame: its mask is sent, and the sinks are closed."""
    bell, kept = Bell(), Kept()
    run([Endless(5, bell)], [kept], OwnNetwork(predictor, options), options, bell)
    assert [frame.stamp_ns for frame, _ in kept.sent] == [1, 2, 3, 4, 5]
    assert kept.events[-1] == "close"


def test_a_running_service_gives_the_same_masks(
    artifact_dir: Path, frames: Path, options: LiveOptions, predictor: Predictor
) -> None:
    """Labels and confidence of ``--server`` are those of a network in the process."""
    frame = LiveFrame((frames / "1.png").read_bytes(), 7, "camera", "x", time.monotonic())
    asked = LiveOptions(options.limits, min_confidence=0.55)
    mine = OwnNetwork(predictor, asked).segment(frame).view
    with live_server(Settings(models_dir=artifact_dir)) as url, Client(url, retries=0) as client:
        remote = RunningService(client, asked)
        theirs = remote.segment(frame).view
        assert (theirs.labels == mine.labels).all()
        assert (theirs.confidence() == mine.confidence()).all()
        assert (theirs.image == mine.image).all()
        assert [row.name for row in remote.classes] == ["red", "green", "blue"]
        with pytest.raises(CorruptImage):
            remote.segment(LiveFrame(frame.image[:100], 7, "camera", "x", 0.0))
        with pytest.raises(UnknownModel, match="it has colours"):
            RunningService(client, LiveOptions(options.limits, model="other"))


def test_a_service_that_loads_other_classes_ends_the_run(tmp_path: Path, frames: Path, options: LiveOptions) -> None:
    """Ids would change their meaning in silence; a new version with the same classes goes on."""
    frame = LiveFrame((frames / "1.png").read_bytes(), 7, "camera", "x", time.monotonic())
    folder = tmp_path / "served"
    folder.mkdir()
    write_artifact(folder / "colours.onnx")

    def load(**changes: Any) -> None:
        write_artifact(tmp_path / "next.onnx", make_manifest(**changes)).replace(folder / "colours.onnx")

    with live_server(Settings(models_dir=folder, reload_s=0.02)) as url, Client(url, retries=0) as client:
        remote = RunningService(client, options)
        first = remote.segment(frame).view.sha256
        load(version="1.0.1")
        wait_until(lambda: remote.segment(frame).view.sha256 != first)
        load(classes=tuple(entry.model_copy(update={"name": f"light {entry.name}"}) for entry in make_manifest().classes))
        with pytest.raises(BadSetting, match="--server: colours has other classes now; start the run again"):
            wait_until(lambda: remote.segment(frame) is None)


def test_the_command_writes_lines_of_json(artifact_dir: Path, frames: Path) -> None:
    """``--to -`` for a pipe; the summary is on the other output, and a folder that ends has status 0."""
    command = [sys.executable, "-m", "service", "live", "--from", str(frames), "--to", "-"]
    env = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["source"], line["frame_id"], line["size"]) for line in lines] == [
        (str(frames), name, [96, 128]) for name in ("1.png", "3.png")
    ]
    assert f"{frames}: 2 masks of 3 frames" in done.stderr
    assert "1 failed" in done.stderr


def test_a_pipe_whose_reader_is_gone_ends_the_run_in_one_line(artifact_dir: Path, frames: Path) -> None:
    """``| head -1``."""
    command = [sys.executable, "-m", "service", "live", "--from", str(frames), "--to", "-"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        env = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir)}
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=120
        )
    finally:
        os.close(writer)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("--to -: nothing reads the standard output any more")
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr


@pytest.mark.parametrize(
    ("address", "why"), [("nowhere", "not an address that is known"), ("", "not an address that is known")]
)
def test_addresses_that_are_unknown_name_those_that_are(address: str, why: str, options: LiveOptions) -> None:
    """Each kind has an example in the sentence."""
    with pytest.raises(BadSetting, match=f"{why}.*ros2:/camera/image_raw"):
        open_source(address, options)
    with pytest.raises(BadSetting, match=f"{why}.*ros2:/segmentation"):
        open_sink(address, options)


@pytest.mark.parametrize("address", ["rtps://me:hidden@10.0.0.1/a", "rtps://me:hidden@[", "ftp://me:hidden@10.0.0.1/a"])
def test_an_unknown_address_is_told_without_its_password(address: str, options: LiveOptions) -> None:
    """A mistyped scheme does not put a password into a log."""
    for opening in (open_source, open_sink):
        with pytest.raises(BadSetting) as told:
            opening(address, options)
        assert "hidden" not in str(told.value)


def test_an_address_that_is_named_twice_is_told_without_its_password() -> None:
    """One line, exit code 2."""
    command = [sys.executable, "-m", "service", "live", *["--from", "rtsp://me:hidden@10.0.0.1/a"] * 2, "--to", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "fcn-serve: --from rtsp://10.0.0.1/a is named twice\n"


def test_a_folder_without_images_is_told(tmp_path: Path, options: LiveOptions) -> None:
    """Before anything runs."""
    with pytest.raises(BadSetting, match="no images"):
        open_source(str(tmp_path), options).open(lambda: None)


@given(st.lists(st.booleans()))
def test_the_newest_wins_and_all_are_accounted_for(puts: list[bool]) -> None:
    """Each item is taken or superseded, once; what is taken is the last that was put."""
    newest, put, taken = Newest[int](), 0, list[int]()
    for puts_one in puts:
        if puts_one:
            put += 1
            newest.put(put)
        else:
            item = newest.take()
            assert item in (None, put)
            taken += [] if item is None else [item]
    waiting = newest.take() is not None
    assert newest.received == put == len(taken) + newest.superseded + waiting
    assert taken == sorted(set(taken))


@given(st.floats(0.1, 100), st.lists(st.floats(0.001, 1), max_size=50))
def test_the_pace_is_kept_and_never_caught_up(rate_hz: float, steps: list[float]) -> None:
    """Within any time, at most the rate times it and one more."""
    now, taken = 0.0, list[float]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.live.loop.time.monotonic", lambda: now)
        pace = Pace(rate_hz)
        for step in steps:
            now += step
            if pace.allows("a"):
                pace.taken("a")
                taken.append(now)
            assert 0 < pace.pause_s() <= max(0.5, 1 / rate_hz) + 1e-9
            assert pace.allows("b")
    for first, last in ((i, j) for i in range(len(taken)) for j in range(i + 1, len(taken))):
        assert last - first <= (taken[last] - taken[first]) * rate_hz + 1 + 1e-6


def test_a_complaint_is_written_once_and_counted(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sentence of every frame does not flood the log."""
    now = 100.0
    monkeypatch.setattr("service.live.complaints.time.monotonic", lambda: now)
    complaints = Complaints(logging.getLogger("service.live.test"))
    for _ in range(5):
        complaints.say("dark")
    assert caplog.messages == ["dark"]
    now += 31
    complaints.say("dark")
    assert caplog.messages[1:] == ["dark (4 times more since)"]


def test_counters_know_rate_and_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten masks in a second, each 20 ms old; the rate is that of the last five seconds."""
    now = 1000.0
    monkeypatch.setattr("service.live.counters.time.monotonic", lambda: now)
    counters = Counters()
    assert counters.snapshot().age_ms is None
    for _ in range(10):
        now += 0.1
        counters.mask(now - 0.02)
    now += 0.48
    one = counters.snapshot()
    assert one.rate_hz == 2.0
    assert one.latency_ms == pytest.approx(20)
    assert one.latency_p99_ms == pytest.approx(20)
    assert one.age_ms == pytest.approx(500)
    now += 10
    assert counters.snapshot().rate_hz == 0
