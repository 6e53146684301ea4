"""The masks of several images as one reply: a JSON list, or a zip of files."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LONGEST = 100
"""Characters of a name inside a zip, without its ending."""
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
"""Names that Windows keeps for devices."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip can hold: the same masks make the same bytes."""


@dataclass(frozen=True)
class Encoded:
    """One or several masks, ready to be sent or stored."""

    body: bytes
    media_type: str


@dataclass(frozen=True)
class Named:
    """The mask of one of several images."""

    name: str | None
    """The image's file name as the caller sent it; None where there was none."""
    body: bytes


@dataclass(frozen=True)
class Gather:
    """How the masks of several images become one reply."""

    media_type: str
    join: Callable[[Sequence[Named]], bytes]
    """Joins the masks, in the order of the images."""
    merges: bool = False
    """Whether one document holds all of them, instead of a list or a zip."""


def _list(masks: Sequence[Named]) -> bytes:
    return b"[" + b",".join(mask.body for mask in masks) + b"]"


LISTED = Gather("application/json", _list)
"""A JSON list of documents."""


def zipped(suffix: str) -> Gather:
    """Pack one file a mask into a zip.

    Takes:
        suffix: the files' ending, with its dot
    """

    def join(masks: Sequence[Named]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED if suffix == ".png" else zipfile.ZIP_DEFLATED) as archive:
            for stem, mask in zip(file_stems([mask.name for mask in masks]), masks, strict=True):
                entry = zipfile.ZipInfo(stem + suffix, _EPOCH)
                entry.external_attr = 0o644 << 16
                entry.compress_type = archive.compression
                archive.writestr(entry, mask.body)
        return buffer.getvalue()

    return Gather("application/zip", join)


def file_stems(names: Sequence[str | None]) -> list[str]:
    """Name a file for each image: safe on every system, none twice.

    Takes:
        names: file names as callers sent them, paths included
    Gives:
        names without folders and without endings, in the same order; ``image-1``, ... where nothing is left of one
    """
    stems: list[str] = []
    taken: set[str] = set()
    for number, name in enumerate(names, 1):
        stem = safe_stem(name) or f"image-{number}"
        unique, copy = stem, 2
        while unique.casefold() in taken:  # some file systems ignore case
            unique, copy = f"{stem}-{copy}", copy + 1
        taken.add(unique.casefold())
        stems.append(unique)
    return stems


def file_names(names: Sequence[str | None]) -> list[str]:
    """Name the images in a document: as :func:`file_stems`, each with its own ending."""
    return [stem + ending_of(name) for stem, name in zip(file_stems(names), names, strict=True)]


def file_name(name: str | None) -> str:
    """Name one image in a document: safe, without a folder; ``image`` where nothing is left of a name."""
    return (safe_stem(name) or "image") + ending_of(name)


def ending_of(name: str | None) -> str:
    """The ending of a file name, with its dot; empty if it has none that is short and plain."""
    found = re.search(r"[^./\\\\](\.[A-Za-z0-9]{1,8})$", name or "")
    return found[1] if found else ""


def safe_stem(name: str | None) -> str:
    """Make a file name without folder and ending of a name that a caller sent; empty if nothing is left."""
    base = re.split(r"[/\\]", name or "")[-1]
    stem = base.rpartition(".")[0] or base
    stem = _UNSAFE.sub("_", stem).encode("utf-8", "replace").decode("utf-8")
    stem = stem.strip(". ")[:_LONGEST].strip(". ")
    return f"_{stem}" if _RESERVED.fullmatch(stem) else stem
