"""Files from the field that once went wrong: each is segmented rightly, or refused in words."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from tests.test_recordings import masks_of
from tests.test_video import lines_of, run

CASES = Path(__file__).resolve().parent.parent.parent / "shared" / "cases" / "robots"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not part of the repository")


@dataclass(frozen=True)
class Case:
    """One call of ``fcn-serve segment``, and what is right."""

    path: str
    done: str
    code: int = 0
    words: tuple[str, ...] = ()
    told: str = ""
    """A pattern that stands in what is printed."""


BAGS = [
    Case("bag-copy-unknown-types/humble.db3", "2 of 2", words=("--copy",)),
    Case("bag-copy-with-masks/hasmask.mcap", "5 of 5", words=("--topic", "/cam", "--copy"), told="/cam/mask was there already"),
    Case("bag-encodings/enc.mcap", "33 of 33", 1, told="9 images have no mask; the first: images in '32FC1'"),
    Case("bag-folder-without-metadata", "12 of 12"),
    Case("bag-folder-without-metadata/mc_nometa", "12 of 12"),
    Case("bag-mono16-10-bits/ten_bits.mcap", "3 of 3", told="/ten holds 10 bits in 16"),
    Case("bag-one-file-broken/spl_mb", "5 of 5", 1, told="damaged: .*spl_mb_1.mcap: the file is cut off"),
    Case("db3-with-wal/killed.db3", "18 of 18"),
    Case("mcap-copy-schemaless/schemaless.mcap", "4 of 4", words=("--copy",)),
    Case("mcap-cut-short/trunc_half.mcap", "2 of 2", 1, told="damaged: 2 images could be read, and are done"),
    Case(
        "mcap-foxglove-beside-ros/foxros.mcap", "8 of 8", 1, told=r"/fox/pb: the definition of .* \(protobuf\) cannot be read"
    ),
    Case("mcap-other-profile/noprofile.mcap", "4 of 4"),
    Case("mcap-service-events/service.mcap", "3 of 3", words=("--copy",)),
    Case("mcap-two-channels-of-a-topic/twochan.mcap", "6 of 6"),
    Case("rosbag1/r1.bag", "6 of 6"),
]

VIDEOS = [
    Case("names/2024-01-01T12:30:00.mp4", "6 of 6"),
    Case("names/latin", "2 of 2"),
    Case("names/out-with-colon/base.mp4", "6 of 6"),
    Case("video-cut-short-silent/k_m.mkv", "25 of 25", 1, told="damaged: 25 frames could be read"),
    Case("video-cut-short-silent/k_mf.mp4", "25 of 25", 1, told="damaged: 25 frames could be read"),
    Case("video-suffixes", "24 of 24"),
    Case("video-thumbnail-first/thumb_first.mp4", "6 of 6"),
    Case("video-title-not-utf8/sjis.avi", "6 of 6"),
    Case("two-runs-one-out/l.mp4", "12 of 12"),
]


@pytest.mark.parametrize("case", [*BAGS, *VIDEOS], ids=lambda case: case.path)
def test_a_case_is_done_and_told_as_it_should(case: Case, tmp_path: Path, artifact_dir: Path) -> None:
    """How many masks, which exit code, which line."""
    words = case.words if case in BAGS else ("--write", "rle")
    outcome = run(artifact_dir, CASES / case.path, *words, "--out", tmp_path / "12:30")
    assert outcome.stdout.startswith(f"{case.done} segmented"), outcome.stderr
    assert (outcome.returncode, "Traceback" in outcome.stderr) == (case.code, False)
    assert re.search(case.told, outcome.stdout + outcome.stderr)
    assert bool(outcome.stderr) == bool(case.code)


def test_ten_bits_have_the_mask_of_eight(tmp_path: Path, artifact_dir: Path) -> None:
    """The same picture from two sensors."""
    run(artifact_dir, CASES / "bag-mono16-10-bits" / "ten_bits.mcap", "--out", tmp_path)
    masks = masks_of(tmp_path / "ten_bits.masks.mcap")
    assert np.mean(masks["/ten/mask"][0] == masks["/eight/mask"][0]) > 0.97


def test_every_encoding_that_shows_one_picture_has_nearly_its_mask(tmp_path: Path, artifact_dir: Path) -> None:
    """Planes, mosaics, 16 bits and odd steps against plain JPEG."""
    run(artifact_dir, CASES / "bag-encodings" / "enc.mcap", "--out", tmp_path)
    masks = masks_of(tmp_path / "enc.masks.mcap")
    wanted = masks["/c/jpeg/mask"][0]
    for topic in ("nv12", "nv21", "i420", "yuv420", "rgb16", "bgr16", "8UC4", "padded", "padded_lastrow"):
        assert np.mean(masks[f"/{topic}/mask"][0] == wanted) > 0.9, topic
    for topic in ("c/bayerpng", "c/bayerjpg", "step0", "step_pixels", "upper", "bgr8sp", "JPEGenc"):
        assert np.mean(masks[f"/{topic}/mask"][0] == wanted) > 0.9, topic


def test_the_overlay_of_a_case_keeps_its_pixels_shape(tmp_path: Path, artifact_dir: Path) -> None:
    """64:45, as the film has it."""
    run(artifact_dir, CASES / "overlay-sar" / "sar.mp4", "--write", "overlays", "--out", tmp_path)
    with av.open(str(tmp_path / "sar.overlay.mp4")) as container:
        assert str(container.streams.video[0].sample_aspect_ratio) == "64/45"


def test_the_thumbnail_of_a_case_is_not_the_film(tmp_path: Path, artifact_dir: Path) -> None:
    """Lines of the film's own size."""
    run(artifact_dir, CASES / "video-thumbnail-first" / "thumb_first.mp4", "--write", "rle", "--out", tmp_path)
    assert {tuple(line["size"]) for line in lines_of(tmp_path / "thumb_first.masks.jsonl")} == {(240, 320)}


def test_one_name_from_two_folders_is_told(tmp_path: Path, artifact_dir: Path) -> None:
    """The second is done under a folder of its own, or not at all; never taken for finished."""
    shutil.copytree(CASES / "same-name-later-run", tmp_path / "in")
    words = ("--write", "rle", "--out", tmp_path / "m")
    assert run(artifact_dir, tmp_path / "in" / "cam1" / "0001.mp4", *words).returncode == 0
    second = run(artifact_dir, tmp_path / "in" / "cam2" / "0001.mp4", *words)
    assert (second.returncode, "finished before" in second.stdout) == (1, False)
    assert run(artifact_dir, tmp_path / "in", *words).returncode == 0
