"""Videos through the command line: real files, drawn here and encoded by FFmpeg."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from service import cli
from service.batch.records import NAME as RECORD
from service.batch.sources.video import Video
from service.encodings import png, rle
from service.extras import needs
from tests.conftest import make_image
from tests.waiting import wait_until

COMMAND = [sys.executable, "-m", "service", "segment"]
ROOT = Path(__file__).resolve().parent.parent


def make_video(path: Path, frames: int = 12, size: tuple[int, int] = (96, 128), *, stamps: list[int] | None = None) -> Path:
    """A video of the three stripes, each frame moved a little to the right.

    Takes:
        stamps: of the frames, in hundredths of a second; 4 apart by default
    """
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264" if path.suffix != ".avi" else "mpeg4", rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(np.roll(make_image(*size), 2 * number, 1), format="rgb24")
            picture.pts, picture.time_base = stamps[number] if stamps else 4 * number, Fraction(1, 100)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def run(models: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """``fcn-serve segment``, to its end, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("FCN_MODELS_DIR", str(models))
        patch.setattr(sys, "argv", ["fcn-serve", "segment", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    code = end.value.code if isinstance(end.value.code, int) else 1
    return subprocess.CompletedProcess("segment", code, out.getvalue(), err.getvalue())


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def stamps_of(path: Path) -> list[float]:
    """The seconds at which a video's frames are shown, from the first one on."""
    with av.open(str(path)) as container:
        times = [float(frame.time or 0) for frame in container.decode(video=0)]
    return [round(at - times[0], 3) for at in times]


def files(folder: Path) -> list[str]:
    """Every file below a folder, but the record of what was made of what."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != RECORD)


def test_a_video_becomes_lines_and_an_overlay_with_its_stamps(tmp_path: Path, artifact_dir: Path) -> None:
    """One line a frame, readable as any run-length encoding of ours; uneven stamps stay uneven; a second run does nothing."""
    stamps = [0, 4, 8, 20, 24, 60, 64, 68]
    path = make_video(tmp_path / "drive.mp4", 8, stamps=stamps)
    outcome = run(artifact_dir, path)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("8 of 8 segmented with colours@1.0.0 in ")
    assert files(tmp_path) == ["drive.masks.jsonl", "drive.mp4", "drive.overlay.mp4"]
    lines = lines_of(tmp_path / "drive.masks.jsonl")
    assert [line["frame"] for line in lines] == list(range(8))
    assert [line["time_s"] for line in lines] == [stamp / 100 for stamp in stamps]
    assert all(line["model"]["name"] == "colours" for line in lines)
    expected = np.roll(np.minimum(np.arange(128) * 3 // 128, 2), 2 * 7)
    assert np.mean(rle.decode(lines[7]) == expected) > 0.85
    assert stamps_of(tmp_path / "drive.overlay.mp4") == [stamp / 100 for stamp in stamps]
    assert "0 of 0" in run(artifact_dir, path).stdout
    assert "8 of 8" in run(artifact_dir, path, "--overwrite").stdout


def test_masks_may_be_pngs_and_only_what_is_wanted_is_written(tmp_path: Path, artifact_dir: Path) -> None:
    """A folder of indexed PNGs, named by frame; also for a size that is odd, which an overlay is not."""
    path = make_video(tmp_path / "drive.avi", 5, (98, 130))
    assert run(artifact_dir, path, "--write", "masks", "--out", tmp_path / "out").returncode == 0
    assert files(tmp_path / "out") == [f"drive.masks/{number:06d}.png" for number in range(5)]
    with Image.open(tmp_path / "out" / "drive.masks" / "000003.png") as mask:
        assert mask.size == (130, 98)


def test_a_folder_or_a_pattern_may_hold_images_and_videos(tmp_path: Path, artifact_dir: Path) -> None:
    """Both are done; results are left out of the next run."""
    make_video(tmp_path / "a.mp4", 3)
    make_video(tmp_path / "b.mkv", 3)
    Image.fromarray(make_image()).save(tmp_path / "c.png")
    outcome = run(artifact_dir, tmp_path)
    assert (outcome.returncode, "7 of 7" in outcome.stdout) == (0, True)
    assert "0 of 0" in run(artifact_dir, tmp_path).stdout
    assert "3 of 3" in run(artifact_dir, tmp_path / "?.mkv", "--out", tmp_path / "new").stdout


def test_ctrl_c_and_then_the_same_again_makes_what_one_run_makes(tmp_path: Path, artifact_dir: Path) -> None:
    """Exit code 130 and a line; no result has its name yet; the next run does the rest only, and nothing is torn."""
    path = make_video(tmp_path / "drive.mp4", 150, (240, 320))
    whole = tmp_path / "whole"
    assert run(artifact_dir, path, "--out", whole).returncode == 0
    environment = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir)}
    with subprocess.Popen([*COMMAND, str(path)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        (journal,) = wait_until(
            lambda: [part for part in tmp_path.glob(".drive.masks.jsonl.*.part") if part.stat().st_size],
            "a journal",
            alive=lambda: process.poll() is None,
        )
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert said.startswith("interrupted after ")
    assert "the same command goes on from here" in said
    assert files(tmp_path) == [journal.name, "drive.mp4", "whole/drive.masks.jsonl", "whole/drive.overlay.mp4"]
    kept = len(journal.read_bytes().splitlines())
    with journal.open("ab") as lines:
        lines.write(b'{"frame": ')  # as a power cut would leave it
    outcome = run(artifact_dir, path)
    assert outcome.returncode == 0
    assert f"{150 - kept} of {150 - kept} segmented" in outcome.stdout
    assert (tmp_path / "drive.masks.jsonl").read_bytes() == (whole / "drive.masks.jsonl").read_bytes()
    assert stamps_of(tmp_path / "drive.overlay.mp4") == stamps_of(whole / "drive.overlay.mp4")
    assert not journal.exists()


def test_videos_of_one_name_never_share_results(tmp_path: Path, artifact_dir: Path) -> None:
    """In one folder the whole name tells them apart, below one folder that folder; else the second is a failure."""
    for name in ("drive.mp4", "drive.mkv", "cam1/drive.mp4", "cam2/drive.mp4"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(tmp_path / "in" / name, 2)
    cameras, words = [tmp_path / "in" / f"cam{number}" / "drive.mp4" for number in (1, 2)], ("--write", "rle", "--out")
    outcome = run(artifact_dir, *cameras, *words, tmp_path / "flat")
    assert (outcome.returncode, "2 of 3" in outcome.stdout) == (1, True)
    assert f"{cameras[1]}: " in outcome.stderr
    assert "use another --out" in outcome.stderr
    outcome = run(artifact_dir, tmp_path / "in", *words, tmp_path / "shaped")
    assert (outcome.returncode, outcome.stderr, "8 of 8" in outcome.stdout) == (0, "", True)
    assert files(tmp_path / "shaped") == [
        *("cam1/drive.masks.jsonl", "cam2/drive.masks.jsonl"),
        *("drive.mkv.masks.jsonl", "drive.mp4.masks.jsonl"),
    ]


def test_results_that_a_pattern_finds_are_left_out(tmp_path: Path, artifact_dir: Path) -> None:
    """Neither overlays nor a folder of masks, whether the shell has resolved the pattern, we do, or they lie in a folder."""
    words = ("--write", "masks", "--write", "overlays")
    path = make_video(tmp_path / "drive.mp4", 2)
    assert run(artifact_dir, path, *words).returncode == 0
    once = files(tmp_path)
    for named in ([tmp_path / "*"], [*tmp_path.iterdir()], [tmp_path]):
        outcome = run(artifact_dir, *named, *words)
        assert (outcome.returncode, outcome.stderr) == (0, "")
        assert files(tmp_path) == once
    assert "2 of 2" in run(artifact_dir, tmp_path / "drive.overlay.mp4", "--write", "rle").stdout


def test_a_video_that_was_recorded_again_is_done_again(tmp_path: Path, artifact_dir: Path) -> None:
    """Results older than their video are stale, and so is what an unfinished run has left of the older one."""
    path, words = make_video(tmp_path / "drive.mp4", 4), ("--write", "masks", "--write", "rle")
    assert "4 of 4" in run(artifact_dir, path, *words).stdout
    assert "1 were finished before" in run(artifact_dir, path, *words).stdout
    make_video(path, 2)
    os.utime(path, (time.time() + 5, time.time() + 5))
    (tmp_path / ".drive.masks.part").mkdir()  # as an interrupted run of the longer one leaves it
    (tmp_path / ".drive.masks.part" / "000003.png").touch()
    assert "2 of 2" in run(artifact_dir, path, *words).stdout
    assert len(lines_of(tmp_path / "drive.masks.jsonl")) == 2
    assert files(tmp_path / "drive.masks") == ["000000.png", "000001.png"]


def test_options_hold_for_the_masks_of_a_video(tmp_path: Path, artifact_dir: Path) -> None:
    """Classes, ids and confidence in lines, PNGs and overlay alike; what is of no use to any of them is refused."""
    path = make_video(tmp_path / "drive.mp4", 3)
    words = ["--write", "rle", "--write", "masks", "--write", "overlays", "--classes", "red", "--legend", "--statistics"]
    assert run(artifact_dir, path, *words).returncode == 0
    for number, line in enumerate(lines_of(tmp_path / "drive.masks.jsonl")):
        labels = rle.decode(line)
        assert set(np.unique(labels)) == {0, 255}
        assert [entry["name"] for entry in line["classes"]] == ["red"]
        assert line["classes"][0]["confidence"] > 0.3
        with Image.open(tmp_path / "drive.masks" / f"{number:06d}.png") as mask:
            assert np.array_equal(np.asarray(mask), labels)
    with av.open(str(tmp_path / "drive.overlay.mp4")) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert np.abs(first[60:, 70:80] - make_image()[60:, 70:80]).max() < 60  # green, as it was: its class was not asked for
    assert first[:15, :15].mean() < 140  # the legend's paper
    refused = run(artifact_dir, path, "--instances", "--overwrite")
    assert (refused.returncode, "it is for format=coco" in refused.stderr) == (1, True)
    refused = run(artifact_dir, path, "--format", "npy", "--overwrite")
    assert (refused.returncode, "--format is for images" in refused.stderr) == (2, True)


def test_a_video_that_was_cut_short_is_done_as_far_as_it_goes(tmp_path: Path, artifact_dir: Path) -> None:
    """A line, exit code 1, and the masks of what could be read; a file that is not a video is named too."""
    path = make_video(tmp_path / "drive.mkv", 200)
    content = path.read_bytes()
    spoilt = bytearray(content)
    spoilt[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(spoilt[: len(content) * 3 // 4])
    (tmp_path / "letter.mp4").write_text("dear viewer")
    outcome = run(artifact_dir, path, tmp_path / "letter.mp4", tmp_path / "missing.mp4")
    assert outcome.returncode == 1
    assert "letter.mp4: not a video that can be read" in outcome.stderr
    assert "missing.mp4: No such file or directory" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert 20 < len(lines_of(tmp_path / "drive.masks.jsonl")) < 200


def test_a_video_that_was_turned_is_segmented_upright(tmp_path: Path) -> None:
    """As every player shows it: a phone held upright writes a lying picture, and how to turn it."""
    lying = make_video(tmp_path / "lying.mp4", 3)
    turned = tmp_path / "turned.mp4"
    with av.open(str(lying)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(90) if hasattr(stream, "set_display_rotation") else pytest.skip("this PyAV cannot turn")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    video = Video(turned)
    ((_, first), *_) = video.frames()
    video.close()
    assert first.shape == (128, 96, 3)


@pytest.mark.parametrize(("name", "attached"), [("drive.mp4", True), ("drive.mov", False), ("drive.mkv", False)])
def test_the_film_is_taken_and_not_its_thumbnail(tmp_path: Path, artifact_dir: Path, name: str, attached: bool) -> None:
    """Some cameras attach a small picture, or write it as the first stream; the film is the better one."""
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        streams: list[Any] = []
        for size, codec in (((48, 64), "mjpeg"), ((96, 128), "libx264")):
            stream: Any = container.add_stream(codec, rate=25)
            stream.height, stream.width = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            streams.append(stream)
        if attached:
            streams[0].disposition = Disposition.attached_pic
        for stream, count in zip(streams, (1, 5), strict=True):
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(make_image(stream.height, stream.width), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert [stream.width for stream in container.streams.video] == ([128, 64] if attached else [64, 128])
    assert "5 of 5" in run(artifact_dir, path, "--write", "rle").stdout
    assert lines_of(tmp_path / "drive.masks.jsonl")[0]["size"] == [96, 128]


@pytest.mark.parametrize("turned", [False, True])
def test_an_overlay_keeps_the_shape_of_pixels(tmp_path: Path, artifact_dir: Path, turned: bool) -> None:
    """A film of PAL is shown as wide as its original; of a turned one the sides are swapped."""
    plain, path = make_video(tmp_path / "plain.mp4", 3), tmp_path / "drive.mp4"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.sample_aspect_ratio = Fraction(64, 45)
        if turned:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV cannot turn")
            stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert run(artifact_dir, path, "--write", "overlays").returncode == 0
    with av.open(str(tmp_path / "drive.overlay.mp4")) as container:
        made = container.streams.video[0]
        assert made.sample_aspect_ratio == (Fraction(45, 64) if turned else Fraction(64, 45))
        assert (made.width, made.height) == ((96, 128) if turned else (128, 96))


@pytest.mark.parametrize(
    ("name", "codec", "container_format"),
    [
        ("a.h264", "libx264", "h264"),
        ("a.hevc", "libx265", "hevc"),
        ("a.m2ts", "libx264", "mpegts"),
        ("a.3gp", "libx264", "3gp"),
        ("a.flv", "flv", "flv"),
        ("a.asf", "mpeg4", "asf"),
        ("a.insv", "libx264", "mp4"),
        ("a.LRV", "libx264", "mp4"),
        ("a.mjpeg", "mjpeg", "mjpeg"),
        ("a.y4m", "wrapped_avframe", "yuv4mpegpipe"),
    ],
)
def test_what_cameras_write_is_a_video_whatever_its_suffix(
    tmp_path: Path, artifact_dir: Path, name: str, codec: str, container_format: str
) -> None:
    """Every frame has its line, and times that grow by the frame rate."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    path = tmp_path / name
    with av.open(str(path), "w", format=container_format) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width = 96, 128
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none"}
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(make_image(), format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    outcome = run(artifact_dir, path, "--write", "rle")
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "6 of 6")
    times = [line["time_s"] for line in lines_of(tmp_path / "a.masks.jsonl")]
    assert times == pytest.approx([number / 25 for number in range(6)], abs=0.011)


def test_an_animated_gif_is_a_video(tmp_path: Path, artifact_dir: Path) -> None:
    """Every frame has its line, and its time."""
    frames = [Image.fromarray(np.roll(make_image(), 9 * number, 1)) for number in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=200)
    outcome = run(artifact_dir, tmp_path / "a.gif", "--write", "rle")
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "4 of 4")
    assert [line["time_s"] for line in lines_of(tmp_path / "a.masks.jsonl")] == [0, 0.2, 0.4, 0.6]


@pytest.mark.parametrize("name", ["2024-01-01T12:30:00.mp4", "file:x.mp4", "http:a.mp4", "%03d.mp4", "caf\udce9.mp4", "-.mp4"])
def test_any_name_is_a_file(tmp_path: Path, artifact_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a protocol nor a pattern of FFmpeg's; results in a folder with a colon."""
    made = make_video(tmp_path / "plain.mp4", 2)
    made.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    outcome = run(artifact_dir, "--out", "12:30", "--", name)
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "2 of 2")
    stem = name.removesuffix(".mp4")
    assert sorted(path.name for path in (tmp_path / "12:30").iterdir()) == sorted(
        (RECORD, f"{stem}.masks.jsonl", f"{stem}.overlay.mp4")
    )


def test_a_title_that_is_not_utf_8_does_not_stop_a_run(tmp_path: Path, artifact_dir: Path) -> None:
    """Older programs write titles in the encoding of their country."""
    path = make_video(tmp_path / "drive.avi", 2)
    with av.open(str(path)) as source, av.open(str(tmp_path / "titled.avi"), "w") as target:
        target.metadata["title"] = "TITLE"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = (tmp_path / "titled.avi").read_bytes()
    assert b"TITLE" in content
    (tmp_path / "titled.avi").write_bytes(content.replace(b"TITLE", b"\x93\xfa\x96\x7b\x83"))
    outcome = run(artifact_dir, tmp_path / "titled.avi", path, "--write", "rle")
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "4 of 4")


def test_an_error_of_a_library_ends_its_file_alone(tmp_path: Path, artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a reader or a writer raises: the summary names the file, the others are done, the exit code is 1."""
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        make_video(tmp_path / name, 2)
    opened = Video.__init__

    def failing(video: Video, path: Path) -> None:
        if path.name == "a.mp4":
            raise UnicodeDecodeError("utf-8", b"\x93", 0, 1, "invalid start byte")
        opened(video, path)

    monkeypatch.setattr(Video, "__init__", failing)
    written = png.encode_indexed
    calls: list[int] = []

    def full(*words: Any) -> bytes:
        calls.append(1)
        if len(calls) == 2:
            raise TypeError("not a type of ours")
        return written(*words)

    monkeypatch.setattr(png, "encode_indexed", full)
    outcome = run(artifact_dir, tmp_path, "--write", "masks")
    assert outcome.returncode == 1
    assert f"{tmp_path / 'a.mp4'}: UnicodeDecodeError: 'utf-8' codec" in outcome.stderr
    assert f"{tmp_path / 'b.mp4'}: TypeError: not a type of ours" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 2
    assert sorted(path.name for path in (tmp_path / "c.masks").iterdir()) == ["000000.png", "000001.png"]
    monkeypatch.undo()
    assert "4 of 4" not in run(artifact_dir, tmp_path, "--write", "masks").stdout
    assert "3 were finished before" in run(artifact_dir, tmp_path, "--write", "masks").stdout


def test_a_second_folder_s_video_of_one_name_is_not_taken_for_finished(tmp_path: Path, artifact_dir: Path) -> None:
    """In a later run as in the same: a failure that says what to do, until --overwrite."""
    for camera in ("cam1", "cam2"):
        (tmp_path / camera).mkdir()
        make_video(tmp_path / camera / "0001.mp4", 2 + (camera == "cam2"))
    words = ("--write", "rle", "--out", tmp_path / "m")
    assert "2 of 2" in run(artifact_dir, tmp_path / "cam1" / "0001.mp4", *words).stdout
    outcome = run(artifact_dir, tmp_path / "cam2" / "0001.mp4", *words)
    assert (outcome.returncode, outcome.stdout[:6]) == (1, "0 of 1")
    assert "0001.masks.jsonl was made of ../cam1/0001.mp4: use another --out, or name the folder above" in outcome.stderr
    assert "1 were finished before" in run(artifact_dir, tmp_path / "cam1" / "0001.mp4", *words).stdout
    assert "3 of 3" in run(artifact_dir, tmp_path / "cam2" / "0001.mp4", *words, "--overwrite").stdout


def test_without_pyav_a_line_says_how_to_get_it(tmp_path: Path, artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra's name, exit code 2; images need none of it."""
    path = make_video(tmp_path / "drive.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    told = run(artifact_dir, path)
    assert (told.returncode, told.stderr) == (2, f"fcn-serve: {needs('videos need', 'video')}\n")
    assert files(tmp_path) == ["drive.mp4"]
    Image.fromarray(make_image()).save(tmp_path / "still.png")
    assert run(artifact_dir, tmp_path / "still.png", "--out", tmp_path / "out").returncode == 0
    both = run(artifact_dir, tmp_path)
    assert (both.returncode, both.stdout[:6]) == (1, "1 of 2")
    assert both.stderr == f"  {path}: {needs('videos need', 'video')}\n"
