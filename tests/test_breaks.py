"""Videos that break off: told for every container, and never for a whole one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from service.batch.sources.breaks import breaks_off
from service.batch.sources.video import Video
from tests.test_video import lines_of, run

FRAMES = 40

CONTAINERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "faststart.mp4": ("libx264", "mp4", {"movflags": "faststart"}),
    "fragmented.mp4": ("libx264", "mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "h264.mkv": ("libx264", "matroska", {}),
    "live.mkv": ("libx264", "matroska", {"live": "1"}),
    "vp9.webm": ("libvpx-vp9", "webm", {}),
    "mpeg4.avi": ("mpeg4", "avi", {}),
    "mjpeg.avi": ("mjpeg", "avi", {}),
    "h264.ts": ("libx264", "mpegts", {}),
    "mpeg4.ts": ("mpeg4", "mpegts", {}),
    "h264.m2ts": ("libx264", "mpegts", {"mpegts_m2ts_mode": "1"}),
    "flv.flv": ("flv", "flv", {}),
    "mpeg4.asf": ("mpeg4", "asf", {}),
    "mpeg2.mpg": ("mpeg2video", "mpeg", {}),
    "raw.h264": ("libx264", "h264", {}),
    "dump.mjpeg": ("mjpeg", "mjpeg", {}),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole video in each container, of frames that do not compress well."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    pictures = [np.repeat(rng.integers(0, 256, (1, 160, 3), np.uint8), 96, 0) for _ in range(FRAMES)]
    for name, (codec, container_format, options) in CONTAINERS.items():
        with av.open(str(folder / name), "w", format=container_format, options=options) as container:
            stream: Any = container.add_stream(codec, rate=10)
            stream.width, stream.height = 160, 96
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            if codec == "libx264":
                stream.options = {"g": "10"}
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return folder


def read(path: Path) -> tuple[int, bool]:
    """How many frames can be read, and whether the file is damaged."""
    video = Video(path)
    count = sum(1 for _ in video.frames())
    damaged = bool(video.damaged or video.breaks_off())
    video.close()
    return count, damaged


@pytest.mark.parametrize("name", list(CONTAINERS))
def test_a_whole_video_is_never_told_to_be_damaged(videos: Path, name: str) -> None:
    """Every frame is read."""
    assert read(videos / name) == (FRAMES, False)


@pytest.mark.parametrize("name", list(CONTAINERS))
def test_a_video_that_breaks_off_is_told(videos: Path, tmp_path: Path, name: str) -> None:
    """Wherever it is cut within a frame; all frames before are read."""
    whole = (videos / name).read_bytes()
    for number, share in enumerate((0.55, 0.62, 0.71, 0.83)):
        cut = tmp_path / f"{number}-{name}"
        cut.write_bytes(whole[: int(len(whole) * share)])
        count, damaged = read(cut)
        assert damaged
        assert FRAMES * share - 14 < count < FRAMES


@pytest.mark.parametrize("name", ["fragmented.mp4", "h264.mkv", "mpeg4.avi", "h264.ts"])
def test_a_run_says_so_and_does_what_is_there(videos: Path, tmp_path: Path, artifact_dir: Path, name: str) -> None:
    """A line, exit code 1, and the lines of the frames that can be read; a second run does no more and says the same."""
    whole = (videos / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) * 5 // 8])
    outcome = run(artifact_dir, path, "--write", "rle")
    assert outcome.returncode == 1
    (lines,) = tmp_path.glob("*.masks.jsonl")
    count = len(lines_of(lines))
    assert f"{name}: damaged: {count} frames could be read" in outcome.stderr
    again = run(artifact_dir, path, "--write", "rle")
    assert (again.returncode, again.stderr) == (1, outcome.stderr)
    assert "1 were finished before" in again.stdout


@pytest.mark.parametrize("name", ["h264.mkv", "faststart.mp4", "h264.ts"])
def test_frames_behind_a_damaged_part_are_read(videos: Path, tmp_path: Path, name: str) -> None:
    """Damage in the middle costs a few frames and is told."""
    content = bytearray((videos / name).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path = tmp_path / name
    path.write_bytes(content)
    count, damaged = read(path)
    assert damaged or count == FRAMES  # what was overwritten may be a part that decoders conceal
    assert count > FRAMES - 12


def test_a_container_that_is_not_known_is_not_judged(tmp_path: Path) -> None:
    """Nor is a file of a few bytes ever a trace."""
    path = tmp_path / "x.bin"
    for content in (
        b"",
        b"\x00",
        b"anything at all that is long enough",
        b"RIFF",
        b"\x1a\x45\xdf\xa3",
        b"\x00\x00\x00\x18ftyp",
    ):
        path.write_bytes(content)
        assert breaks_off(path) in (True, False)
    path.write_bytes(b"anything at all that is long enough")
    assert not breaks_off(path)


def test_zeros_behind_a_whole_file_are_padding(videos: Path, tmp_path: Path) -> None:
    """As some cameras fill their last block."""
    path = tmp_path / "padded.mp4"
    path.write_bytes((videos / "faststart.mp4").read_bytes() + bytes(4096))
    assert read(path) == (FRAMES, False)
