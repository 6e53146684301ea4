"""The type of a format: one object a file, read by everything that offers formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.encodings import shares, volume
from service.encodings.by_rows import ByRows
from service.encodings.document import from_json, to_json
from service.encodings.runs import ClassRow, ValueMap, value_of
from service.encodings.several import LISTED, Encoded, Gather
from service.encodings.view import MaskView

Document = dict[str, Any]
Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Format:
    """One way to write a mask."""

    name: str
    """The value of ``format=``."""
    suffix: str
    """The ending of a file, with its dot."""
    media_type: str
    """The Content-Type of one mask; where formats share one, ``Accept`` gets the first of the registry."""
    about: str
    """One sentence for the documentation and the page."""
    encode: Callable[[MaskView], bytes]
    """Writes a view whose options have been applied: see ``registry.encode``."""
    decode: Callable[[bytes], Labels] | None = None
    """Reads labels back; None where the bytes do not hold them, or do not hold their size."""
    decode_sized: Callable[[bytes, tuple[int, int]], Labels] | None = None
    """Reads labels back, given (height, width); for a format that does not say its size."""
    document: Callable[[MaskView], Document] | None = None
    """For a JSON format: the same as ``encode``, before it becomes text."""
    gather: Gather | None = None
    """How the masks of several images become one reply; None where a request holds one image only."""
    takes: frozenset[str] = frozenset()
    """The options that only some formats understand, this one among them."""
    things: bool = False
    """Whether it always shows things one by one, without ``instances=true``."""
    confident: bool = False
    """Whether it always needs the confidence of every pixel."""
    volumes: Literal["no", "yes", "only"] = "no"
    """Whether it writes the labels of scans: ``only`` does not write those of images."""
    by_rows: ByRows | None = None
    """How it writes the mask of a picture that is read by rows; None: it needs the whole."""
    check: Callable[[Sequence[ClassRow]], None] | None = None
    """Raises BadParameter if the format cannot hold the ids of the classes that are written."""


def _classes(document: Document) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = document["classes"]
    return entries


def json_format(
    name: str,
    about: str,
    write: Callable[[ValueMap, Sequence[ClassRow], MaskView], Document],
    read: Callable[[Any], Labels] | None,
    *takes: str,
    entries: Callable[[Document], list[dict[str, Any]]] = _classes,
    media_type: str = "application/json",
    suffix: str = ".json",
    gather: Gather = LISTED,
    volumes: Literal["no", "yes"] = "no",
) -> Format:
    """Make the format of a JSON document with one entry a mask.

    Takes:
        name, about: as of :class:`Format`
        write: (value map, its rows, the view) -> the document, without ``model``
        read: the document -> H x W uint8 labels; raises ValueError
        takes: options beside ``statistics``
        entries: finds the entries of a document, one a mask present, in the order of the rows
        media_type, suffix, gather, volumes: as of :class:`Format`
    """

    def document(view: MaskView) -> Document:
        labels, rows = view.masks()
        made = write(labels, rows, view)
        if view.options.statistics:
            for entry, more in zip(entries(made), _statistics(labels, rows, view), strict=True):
                entry.update(more)
        return made | {"model": view.made_by}

    return Format(
        name,
        suffix,
        media_type,
        about,
        encode=lambda view: to_json(document(view)),
        decode=None if read is None else lambda body: read(from_json(body)),
        document=document,
        gather=gather,
        takes=frozenset(("statistics", *takes)),
        volumes=volumes,
    )


def _statistics(labels: ValueMap, rows: Sequence[ClassRow], view: MaskView) -> list[dict[str, Any]]:
    if view.volume is None:
        return shares.describe(labels, rows, view.confidence())
    found = frozenset(np.unique(labels).tolist())
    present = [value_of(row) for row in rows if value_of(row) in found]
    return volume.describe(labels, present, view.confidence(), view.volume.voxel_ml)


__all__ = ["Document", "Encoded", "Format", "Labels", "json_format"]
