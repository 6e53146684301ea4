"""Names of results: no two of them the same file, none over an input, and none taken for an input the next time."""

from __future__ import annotations

import enum
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from service.encodings import FORMATS

MASK, OVERLAY, FILM = ".mask", ".overlay.png", ".overlay.mp4"
LINES, MASKS, BAG = ".masks.jsonl", ".masks", ".masks.mcap"
ALL_LINES = "masks.jsonl"
"""The file with the lines of all images of a run."""


class Write(enum.StrEnum):
    """What may be written of an image or a frame."""

    MASKS = "masks"
    OVERLAYS = "overlays"
    RLE = "rle"


_ENDINGS = (*sorted({f"{MASK}{form.suffix}" for form in FORMATS.values()}), f"{MASK}.nii", OVERLAY, FILM, LINES, MASKS, BAG)


_LONGEST_STEM = 255 - max(map(len, _ENDINGS)) - len("..0123456789abcdef.part")
"""Bytes of a name that leave space for the endings of every result and of its journal: file systems take 255."""


def stem_that_fits(stem: str) -> str:
    """Return what results are called after: a longer name is cut, and ends with a hash of all of it."""
    if len(os.fsencode(stem)) <= _LONGEST_STEM:
        return stem
    ending = "-" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:16]
    cut = len(stem)
    while len(os.fsencode(stem[:cut])) > _LONGEST_STEM - len(ending):  # whole characters
        cut -= 1
    return stem[:cut] + ending


def is_result(path: Path) -> bool:
    """Say whether a file or a folder is named as the results of a run are."""
    return path.name == ALL_LINES or path.name.endswith(_ENDINGS)


def unfinished(result: Path) -> Path:
    """Return the name under which a result grows; it is renamed when it is whole."""
    return result.with_name(f".{result.name}.part")


def spoken(path: Path | str) -> str:
    """Return a path as text that every terminal and every JSON takes; bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Targets:
    """The results of one run."""

    def __init__(self) -> None:
        self._taken: set[Path] = set()

    def spare(self, inputs: Iterable[Path]) -> None:
        """Never let anything be written over these."""
        self._taken |= {path.resolve() for path in inputs}

    def take(self, results: Iterable[Path]) -> str | None:
        """Allot results to one source; or say why they cannot be."""
        wanted = {path.resolve() for path in results}
        if collision := wanted & self._taken:
            return f"{spoken(min(collision))} is an input, or the result of another one: {REMEDY}"
        self._taken |= wanted
        return None


REMEDY = "use another --out, or name the folder above"
