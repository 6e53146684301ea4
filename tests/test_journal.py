"""The journal of an unfinished video or bag: what it gives back, and what it never takes for its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.batch.journal import Journal

RUN = {"model": "a" * 64, "ids": None}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file that is worked on."""
    path = tmp_path / "drive.mp4"
    path.write_bytes(b"film")
    return path


@contextmanager
def opened(source: Path, run: dict[str, Any] = RUN, *, afresh: bool = False) -> Iterator[Journal]:
    """The journal of ``drive.jsonl``."""
    journal = Journal(source.with_name("drive.jsonl"), source, run, afresh=afresh)
    try:
        yield journal
    finally:
        journal.close()


def line(number: int) -> bytes:
    """Of a frame."""
    return json.dumps({"frame": number, "labels": [number]}).encode()


def interrupted_after(source: Path, frames: int) -> None:
    """A run that was."""
    with opened(source) as journal:
        for number in range(frames):
            assert journal.known({"frame": number}) is None
            journal.add(line(number))


def known(journal: Journal, frames: int) -> list[int]:
    """Which of the first frames it knows."""
    return [number for number in range(frames) if journal.known({"frame": number}) == {"frame": number, "labels": [number]}]


def test_the_next_run_gets_what_was_written_and_adds_the_rest(source: Path) -> None:
    """Interrupted twice, and then whole: every line once and in order, under the result's name."""
    interrupted_after(source, 2)
    with opened(source) as journal:
        assert known(journal, 3) == [0, 1]
        journal.add(line(2))
    with opened(source) as journal:
        assert known(journal, 1) == [0]  # interrupted once more, before it had come to the end of what is known
    with opened(source) as journal:
        assert known(journal, 4) == [0, 1, 2]
        journal.add(line(3))
        journal.finish(source.with_name("drive.jsonl"))
    assert source.with_name("drive.jsonl").read_bytes().splitlines() == [line(number) for number in range(4)]
    assert sorted(path.name for path in source.parent.iterdir()) == ["drive.jsonl", "drive.mp4"]


@pytest.mark.parametrize(
    "tail",
    [b'{"frame": 2', b'{"frame": 2, "labels": [2]}', b"\x00" * 40 + b"\n", b'{"frame": 7, "labels": [7]}\n', b"[]\n", b"{}\n"],
    ids=["half", "without its end", "zeros", "another frame", "a list", "nothing"],
)
def test_what_is_torn_or_another_frames_is_cut_off_with_all_behind_it(source: Path, tail: bytes) -> None:
    """As a power cut or a full disk may leave it."""
    interrupted_after(source, 2)
    with opened(source) as journal:
        path = journal.path
    with path.open("ab") as torn:
        torn.write(tail + (line(3) + b"\n" if tail.endswith(b"\n") else b""))
    with opened(source) as journal:
        assert known(journal, 4) == [0, 1]
        journal.add(line(2))
    assert path.read_bytes().splitlines() == [line(0), line(1), line(2)]


@pytest.mark.parametrize("change", ["options", "afresh", "content", "time"])
def test_lines_of_another_run_are_thrown_away(source: Path, change: str) -> None:
    """Of another model or other options, of a file that has changed, and of this run if it is to begin afresh."""
    interrupted_after(source, 1)
    if change == "content":
        source.write_bytes(b"another film")
    if change == "time":
        os.utime(source, ns=(0, 0))
    run: dict[str, Any] = {**RUN, "ids": [1, 2]} if change == "options" else RUN
    with opened(source, run, afresh=change == "afresh") as journal:
        assert known(journal, 1) == []
    assert [path.name for path in source.parent.iterdir()] == ["drive.mp4"]


def test_a_folder_is_known_by_the_files_in_it(tmp_path: Path) -> None:
    """A bag of ROS 2 is a folder; a file more is another one."""
    bag = tmp_path / "bag"
    bag.mkdir()
    (bag / "metadata.yaml").write_text("bag")
    interrupted_after(bag, 1)
    with opened(bag) as journal:
        assert known(journal, 1) == [0]
    (bag / "bag_1.mcap").write_bytes(b"more")
    with opened(bag) as journal:
        assert known(journal, 1) == []


def test_others_files_are_left_alone(source: Path) -> None:
    """Only what has a journal's very name is one: not another video's, and not an overlay that is being written."""
    others = [".drive.jsonl.part", ".drive.jsonl.short.part", ".drive.jsonl2.0123456789abcdef.part", "drive.jsonl"]
    for name in others:
        (source.parent / name).touch()
    with opened(source, afresh=True) as journal:
        journal.finish(None)
    assert sorted(path.name for path in source.parent.iterdir()) == sorted([*others, "drive.mp4"])
