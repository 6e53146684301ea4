"""``--to out.mcap``: a recording that the MCAP library reads, whatever ended it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from PIL import Image

from service.errors import BadSetting
from service.live.channels import A_SOURCE
from service.live.options import LiveOptions
from service.live.registry import open_sink
from service.live.sinks.mcap import ReservedFile
from service.pipeline.codecs.limits import Limits
from tests.cameras import MjpegCamera
from tests.conftest import make_labels, make_manifest
from tests.foxglove_window import decoder_of
from tests.live_masks import frame_of, result_of, session_of
from tests.test_foxglove import TOPICS
from tests.waiting import wait_until

OPTIONS = LiveOptions(Limits())
ROOT = Path(__file__).resolve().parent.parent


def test_a_recording_holds_what_a_window_shows(tmp_path: Path) -> None:
    """The MCAP library finds the same channels, each message at its frame's stamp, and the model with its whole class table."""
    path = tmp_path / "out.mcap"
    sink = open_sink(str(path), OPTIONS)
    sink.start(session_of("front"))
    for number in range(3):
        sink.send(frame_of(number), result_of())
    sink.close()
    with path.open("rb") as file:
        reader = make_reader(file)
        messages = [(schema, channel, message) for schema, channel, message in reader.iter_messages() if schema is not None]
        (facts,) = reader.iter_metadata()
        summary = reader.get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == len(messages) == 3 * A_SOURCE
    assert {channel.topic for _, channel, _ in messages} == TOPICS
    assert {message.log_time for _, _, message in messages} == {frame_of(number).stamp_ns for number in range(3)}
    schema, channel, message = next(item for item in messages if item[1].topic == "/segmentation/mask")
    mask = decoder_of(channel.message_encoding, schema.name, schema.data)(message.data)
    assert (np.asarray(Image.open(io.BytesIO(mask.data))) == make_labels()).all()
    assert facts.metadata["model"] == "colours"
    assert [row["name"] for row in json.loads(facts.metadata["classes"])] == [row.name for row in make_manifest().classes]


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    """Yesterday's recording is refused as a place for today's."""
    path = tmp_path / "out.mcap"
    path.write_bytes(b"yesterday")
    sink = open_sink(str(path), OPTIONS)
    with pytest.raises(BadSetting, match="the file is there already; name another, or delete it"):
        sink.start(session_of("front"))
    sink.close()
    assert path.read_bytes() == b"yesterday"


def test_a_folder_that_is_absent_is_told(tmp_path: Path) -> None:
    """The reason is the operating system's."""
    sink = open_sink(str(tmp_path / "no" / "out.mcap"), OPTIONS)
    with pytest.raises(BadSetting, match=r"out\.mcap: No such file or directory"):
        sink.start(session_of("front"))
    sink.close()


def test_a_run_without_a_mask_leaves_no_file(tmp_path: Path) -> None:
    """The same command can be given again: an empty recording is not in its way."""
    path = tmp_path / "out.mcap"
    sink = open_sink(str(path), OPTIONS)
    sink.start(session_of("front"))
    assert path.exists()
    sink.close()
    assert not path.exists()


def test_a_reserved_file_is_as_long_as_what_was_written(tmp_path: Path) -> None:
    """Reserving makes a file no longer than it is, before and after it is closed."""
    path = tmp_path / "out"
    file = ReservedFile(path)
    assert path.stat().st_size == 0
    file.write(b"abc" * 1000)
    file.seek(0)
    file.write(b"x")
    assert path.stat().st_size == 3000
    file.close()
    assert path.stat().st_size == 3000
    assert path.stat().st_blocks * 512 < 100_000


FILL = """
import sys
from pathlib import Path
import numpy as np
from service.errors import BadSetting
from service.live.registry import open_sink
from tests.live_masks import frame_of, result_of, session_of
from tests.test_live_mcap import OPTIONS
from tests.waiting import wait_until

path = Path(sys.argv[1]) / "out.mcap"
sink = open_sink(str(path), OPTIONS)
sink.start(session_of("front"))
noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
labels = np.zeros((720, 1280), np.uint8)
said = None
try:
    for number in range(500):
        sink.send(frame_of(number, image=noise), result_of(noise, labels))
        wait_until(lambda: not sink._outbox._waiting)
except BadSetting as error:
    said = error
finally:
    try:
        sink.close()
    except BadSetting as error:
        said = error
print(said.message)
sys.stdout.flush()
Path(sys.argv[2]).write_bytes(path.read_bytes())
"""


def test_a_disk_that_fills_up_leaves_a_whole_file(tmp_path: Path) -> None:
    """The run ends with one sentence, and what was recorded until then has its index."""
    disk, copy = tmp_path / "disk", tmp_path / "copy.mcap"
    disk.mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    small = f"mount -t tmpfs -o size=32m tmpfs {disk}"
    try:
        able = subprocess.run([*namespace, small], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("this machine mounts no disk of its own for a test")
    command = [*namespace, f'{small} && exec "$0" -c "$1" {disk} {copy}', sys.executable, FILL]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "out.mcap: No space left on device; the " in found.stdout
    assert "masks until then are whole" in found.stdout
    assert found.stderr == ""
    with copy.open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count == sum(1 for _ in reader.iter_messages()) > A_SOURCE


def test_ctrl_c_leaves_a_whole_file(tmp_path: Path, artifact_dir: Path) -> None:
    """The command ends in order, says what it did, and its file has its index. The passwords of its cameras are nowhere."""
    camera, path = MjpegCamera(), tmp_path / "out.mcap"
    camera.start()
    address = camera.url.replace("//", "//me:secret@")
    command = [sys.executable, "-m", "service", "live", "--from", address, "--to", str(path)]
    environment = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir)}
    log = tmp_path / "log"
    with log.open("wb") as said, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=said) as process:
        try:
            wait_until(lambda: path.exists() and path.stat().st_size > 0, alive=lambda: process.poll() is None)
            wait_until(lambda: camera.sent > 20)
            wait_until(lambda: "connected" in log.read_text("utf-8"))
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, log.read_text("utf-8")
        finally:
            process.kill()
            camera.cut()
    with path.open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary is not None
        assert {channel.topic for channel in summary.channels.values()} == TOPICS
        masks = sum(1 for _ in reader.iter_messages(topics=["/segmentation/mask"]))
    assert f"{path}: {masks} masks" in log.read_text("utf-8")
    assert "secret" not in log.read_text("utf-8")
    assert b"secret" not in path.read_bytes()
