"""What a run is given: images, videos and bags, found in folders and told apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from service.batch.inputs import Inputs, gather
from service.errors import BadSetting


def touch(folder: Path, *names: str) -> None:
    """Make empty files, and the folders above them."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(found: Inputs, folder: Path) -> dict[str, list[str]]:
    """What was found of each kind, by its path within the folder."""
    return {
        kind: [str(entry.path.relative_to(folder)) for entry in getattr(found, kind)] for kind in ("images", "videos", "bags")
    }


def test_kinds_are_told_apart_by_name(tmp_path: Path) -> None:
    """Every suffix that cameras and robots write, whatever its case."""
    videos = [f"v/{n}{end}" for n, end in enumerate((".mp4", ".MOV", ".h264", ".hevc", ".m2ts", ".3gp", ".flv", ".asf"))]
    videos += [f"v/{n}{end}" for n, end in enumerate((".insv", ".lrv", ".mjpeg", ".264", ".265", ".360"), 10)]
    bags = ["b/a.mcap", "b/c.db3", "b/d.bag", "b/e.mcap.zst", "b/f.db3.zstd", "b/g.BAG"]
    touch(tmp_path, "i/a.jpg", "i/b.PNG", "i/c.tiff", *videos, *bags, "notes.txt", "b/metadata.txt", "x.zst")
    found = names(gather([tmp_path], None), tmp_path)
    assert found == {"images": ["i/a.jpg", "i/b.PNG", "i/c.tiff"], "videos": sorted(videos), "bags": sorted(bags)}


def test_what_systems_leave_behind_is_left_out(tmp_path: Path) -> None:
    """macOS's shadows, trash of every system, thumbnails of a NAS, our own unfinished folders."""
    litter = [
        "._a.jpg",
        "._drive.mp4",
        "__MACOSX/a.jpg",
        ".Trash/a.jpg",
        ".Trash-1000/files/a.jpg",
        ".Trashes/501/a.jpg",
        "$RECYCLE.BIN/S-1/a.mp4",
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
        "#recycle/a.mcap",
        ".drive.masks.part/000001.png",
        "drive.masks/000001.png",
        "a.mask.png",
        "a.overlay.png",
        "drive.overlay.mp4",
        "drive.masks.mcap",
    ]
    touch(tmp_path, "a.jpg", "deep/er/b.jpg", *litter)
    assert names(gather([tmp_path], None), tmp_path) == {"images": ["a.jpg", "deep/er/b.jpg"], "videos": [], "bags": []}
    everything = [path for path in tmp_path.iterdir() if path.is_file()]
    assert [entry.path.name for entry in gather(everything, None).images] == ["a.jpg"]


def test_a_folder_with_metadata_is_one_bag_and_others_are_searched(tmp_path: Path) -> None:
    """A folder of bags; one whose metadata are lost; images beside metadata of another kind."""
    touch(tmp_path, "one/one_0.mcap", "one/one_1.mcap", "lost/lost_0.db3", "lost/lost_1.db3", "photos/a.jpg")
    (tmp_path / "one" / "metadata.yaml").write_text("rosbag2_bagfile_information:\n")
    (tmp_path / "photos" / "metadata.yaml").write_text("author: me\n")
    found = names(gather([tmp_path], None), tmp_path)
    assert found == {"images": ["photos/a.jpg"], "videos": [], "bags": ["lost/lost_0.db3", "lost/lost_1.db3", "one"]}
    assert [entry.path for entry in gather([tmp_path / "one"], None).bags] == [tmp_path / "one"]


def test_results_keep_the_shape_of_the_folder(tmp_path: Path) -> None:
    """Below ``--out`` as below the input; beside each input otherwise; a whole name where two stems are alike."""
    touch(tmp_path, "in/a.jpg", "in/a.png", "in/night/b.jpg", "in/c.mcap.zst", "in/c.mp4")
    found = gather([tmp_path / "in"], tmp_path / "out")
    places = {entry.path.name: (str(entry.folder.relative_to(tmp_path)), entry.stem) for entry in found.images}
    assert places == {"a.jpg": ("out", "a.jpg"), "a.png": ("out", "a.png"), "b.jpg": ("out/night", "b")}
    assert [(entry.stem, entry.folder) for entry in found.bags] == [("c", tmp_path / "out")]
    assert {entry.folder for entry in gather([tmp_path / "in"], None).images} == {tmp_path / "in", tmp_path / "in" / "night"}


def test_what_is_named_as_an_input_and_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A link to a missing file, one to itself, and a pipe are failures; links to files are inputs."""
    touch(tmp_path, "real.jpg")
    (tmp_path / "gone.jpg").symlink_to("missing.jpg")
    (tmp_path / "self.mp4").symlink_to("self.mp4")
    (tmp_path / "good.jpg").symlink_to("../other.jpg")
    touch(tmp_path.parent, "other.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    found = gather([tmp_path], None)
    assert {path.name: why for path, why in found.failures} == {
        "gone.jpg": "a link to missing.jpg, which is not there",
        "self.mp4": "a link to self.mp4, which is not there",
        "pipe.png": "not a regular file",
    }
    assert sorted(entry.path.name for entry in found.images) == ["good.jpg", "real.jpg"]


@pytest.mark.parametrize("letter", ["a", "ä", "\U0001f697"])
def test_results_of_long_names_fit_and_differ(tmp_path: Path, letter: str) -> None:
    """A name as long as a file system takes is cut to whole characters; names that differ at the end stay apart."""
    stems = [letter * (249 // len(letter.encode())) + end for end in "xy"]
    touch(tmp_path, *(f"{stem}.jpg" for stem in stems))
    made = [entry.stem for entry in gather([tmp_path], None).images]
    assert len(set(made)) == 2
    for stem, short in zip(stems, made, strict=True):
        assert short != stem
        assert short.startswith(letter * 30)
        for name in (f".{short}.overlay.png.{'0' * 16}.part", f".{short}.masks.jsonl.{'0' * 16}.part"):
            assert len(name.encode()) <= 255
            touch(tmp_path, name)


def test_each_thing_is_found_once(tmp_path: Path) -> None:
    """By itself, through its folder, through a link and through a pattern."""
    touch(tmp_path, "in/a.jpg")
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "in" / "a.jpg")
    found = gather([tmp_path / "in" / "a.jpg", tmp_path / "in", tmp_path / "*" / "a.jpg"], None)
    assert [entry.path for entry in found.images] == [tmp_path / "in" / "a.jpg"]


def test_an_animated_gif_is_a_video_and_another_is_an_image(tmp_path: Path) -> None:
    """Told by the file's content."""
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.gif")
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    found = names(gather([tmp_path], None), tmp_path)
    assert found == {"images": ["broken.gif", "still.gif"], "videos": ["moving.gif"], "bags": []}


def test_an_empty_folder_is_named_and_nothing_but_results_is_refused(tmp_path: Path) -> None:
    """The first is a failure of its own, the second a mistake."""
    assert gather([tmp_path], None).failures == [(tmp_path, "there is no image in this folder, nor a video or a bag")]
    touch(tmp_path, "a.mask.png", "b.mask.png")
    with pytest.raises(BadSetting, match="name one alone"):
        gather(sorted(tmp_path.iterdir()), None)
    assert [entry.path.name for entry in gather([tmp_path / "a.mask.png"], None).images] == ["a.mask.png"]
