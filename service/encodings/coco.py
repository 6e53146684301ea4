"""COCO's run-length encoding, one mask a class present (or a component), readable by ``pycocotools``.

``{"size": [H, W], "classes": [{id, name, pixels, share, "segmentation": {"size": [H, W], "counts": "..."}}]}``

COCO's runs go down the columns and alternate between outside and inside, beginning outside. Uncompressed, ``counts`` is the
list of them, for ``pycocotools.mask.frPyObjects``. Compressed, for ``pycocotools.mask.decode``, it is a string: each run is
written as its difference to the one two before (from the fourth on), in groups of five bits, low ones first: bit 5 says that
more follow, the top bit of the last group is the sign, and 48 is added to make it printable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings.document import reading, size_of
from service.encodings.format import json_format
from service.encodings.runs import (
    UNLABELLED,
    ClassRow,
    ValueMap,
    all_runs,
    fill,
    find_runs,
    masks_present,
    rows_present,
    value_of,
)


def encode(labels: ValueMap, classes: Iterable[ClassRow], *, compressed: bool = True) -> dict[str, Any]:
    """Encode each class that has a pixel as a mask of its own.

    Takes:
        labels: H x W, H and W at least 1
        classes: the class table, or the masks that ``things.split`` made of it
        compressed: ``counts`` as COCO's string, or else as a list of numbers
    Gives:
        the document, ready for JSON
    """
    size = list(labels.shape)
    values, lengths = find_runs(labels.T.reshape(-1))
    rows = rows_present(values, classes)
    present = masks_present(values, lengths, rows)
    runs = all_runs(values, lengths)
    counts: Mapping[int, str | list[int]]
    if compressed:
        counts = dict(zip(runs.values.tolist(), pack(runs.counts, runs.stops), strict=True))
    else:
        counts = {value: found.tolist() for value, found in runs.by_value().items()}
    for row, entry in zip(rows, present, strict=True):
        entry["segmentation"] = {"size": size, "counts": counts[value_of(row)]}
    return {"size": size, "classes": present}


def decode(document: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode a document back into its label map.

    Takes:
        document: as ``encode`` gives it, compressed or not
    Gives:
        H x W uint8; 255 where no class is
    Raises:
        ValueError: if a field is missing or makes no sense, or if a mask's runs do not fill the size exactly
    """
    with reading("COCO masks"):
        height, width = size_of(document)
        flat = np.full(height * width, UNLABELLED, np.uint8)
        for entry in document["classes"]:
            counts = entry["segmentation"]["counts"]
            fill(flat, unpack(counts) if isinstance(counts, str) else np.asarray(counts or [0], np.int64), entry["id"])
    return np.ascontiguousarray(flat.reshape(width, height).T)


def pack(counts: NDArray[np.int64], stops: NDArray[np.intp]) -> list[str]:
    """Write the runs of masks as COCO's strings.

    Takes:
        counts: R int64, the runs of one mask after the other, each in order and the first one outside; below 2 ** 34
        stops: M, where each mask's runs end, ascending, each mask with one run or more
    Gives:
        M strings that ``pycocotools`` calls ``counts``
    """
    first = np.append(0, stops[:-1])
    late = np.flatnonzero(np.arange(counts.size) - np.repeat(first, stops - first) >= 3)
    rest = counts.copy()
    rest[late] -= counts[late - 2]
    groups = []
    open_ = np.ones(rest.size, bool)
    written = []
    while open_.any():
        group = rest & 0x1F
        rest >>= 5
        more = np.where(group & 0x10, rest != -1, rest != 0) & open_
        groups.append(group + 0x20 * more + 48)
        written.append(open_)
        open_ = more
    used = np.stack(written, 1)
    text = np.stack(groups, 1)[used].astype(np.uint8).tobytes().decode("ascii")
    ends = np.cumsum(used.sum(1))[stops - 1].tolist()
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def unpack(text: str) -> NDArray[np.int64]:
    """Read COCO's string back into runs.

    Takes:
        text: ``counts`` of a compressed mask
    Gives:
        R int64, the runs in order, the first one outside
    """
    groups = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(groups & 0x20 == 0)
    first = np.append(0, last[:-1] + 1)
    place = np.arange(groups.size) - np.repeat(first, last - first + 1)
    counts = np.add.reduceat((groups & 0x1F) << (5 * place), first)
    counts -= np.where(groups[last] & 0x10, 1 << (5 * (last - first + 1)), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


FORMAT = json_format(
    "coco",
    "One COCO compressed run-length encoding a class, for `pycocotools.mask.decode` and what is built on it.",
    lambda labels, rows, _: encode(labels, rows),
    decode,
    "instances",
    "min_area",
)
