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
from PIL import Image

from service import cli
from service.batch.records import NAME as RECORD
from service.batch.sources.video import Video
from service.encodings import rle
from service.extras import needs
from tests.conftest import make_image

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
    journal = tmp_path / "none yet"
    with subprocess.Popen([*COMMAND, str(path)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not (journal.exists() and journal.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
            journal = next(tmp_path.glob(".drive.masks.jsonl.*.part"), journal)
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


def test_without_pyav_a_line_says_how_to_get_it(tmp_path: Path, artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra's name, exit code 2; images need none of it."""
    path = make_video(tmp_path / "drive.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    told = run(artifact_dir, path)
    assert (told.returncode, told.stderr) == (2, f"fcn-serve: {needs('videos need', 'video')}\n")
    assert files(tmp_path) == ["drive.mp4"]
    Image.fromarray(make_image()).save(tmp_path / "still.png")
    assert run(artifact_dir, tmp_path / "still.png").returncode == 0
