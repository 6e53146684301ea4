"""COCO's compressed run-length encoding, one mask a class present, readable by ``pycocotools.mask.decode``.

``{"size": [H, W], "classes": [{id, name, pixels, share, "segmentation": {"size": [H, W], "counts": "..."}}]}``

COCO's runs go down the columns and alternate between outside and inside, beginning outside. ``counts`` writes each run as its
difference to the one two before (from the fourth on), in groups of five bits, low ones first: bit 5 says that more follow, the
top bit of the last group is the sign, and 48 is added to make it printable.

May import: numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings.runs import ClassRow, classes_present, find_runs

_OUTSIDE = 255  # no class has this id (manifest.py)


def encode(labels: NDArray[np.uint8], classes: Iterable[ClassRow]) -> dict[str, Any]:
    """Encode each class that has a pixel as a mask of its own.

    Takes:
        labels: H x W uint8, H and W at least 1
        classes: the class table
    Gives:
        the document, ready for JSON
    """
    size = list(labels.shape)
    values, lengths = find_runs(labels.T.reshape(-1))
    ends = np.cumsum(lengths)
    present = classes_present(values, lengths, classes)
    for entry in present:
        inside = values == entry["id"]
        entry["segmentation"] = {"size": size, "counts": pack(_counts(ends[inside], lengths[inside], labels.size))}
    return {"size": size, "classes": present}


def decode(document: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode a document back into its label map.

    Takes:
        document: as ``encode`` gives it
    Gives:
        H x W uint8; 255 where no class is
    Raises:
        ValueError: if a mask's runs do not fill the size exactly
    """
    height, width = document["size"]
    flat = np.full(height * width, _OUTSIDE, np.uint8)
    for entry in document["classes"]:
        counts = unpack(entry["segmentation"]["counts"])
        if counts.min(initial=0) < 0 or counts.sum() != flat.size:
            raise ValueError(f"the runs of class {entry['id']} fill {counts.sum()} pixels, not {height} x {width}")
        flat[np.repeat(np.arange(counts.size) % 2 == 1, counts)] = entry["id"]
    return np.ascontiguousarray(flat.reshape(width, height).T)


def pack(counts: NDArray[np.int64]) -> str:
    """Write runs as COCO's string.

    Takes:
        counts: R int64, the runs in order, the first one outside; below 2 ** 34
    Gives:
        the string that ``pycocotools`` calls ``counts``
    """
    rest = counts.copy()
    rest[3:] -= counts[1:-2]
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
    text: bytes = np.stack(groups, 1)[np.stack(written, 1)].astype(np.uint8).tobytes()
    return text.decode("ascii")


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


def _counts(ends: NDArray[np.int64], lengths: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """The alternating runs of one class from where its own runs end: outside, inside, outside, …"""
    edges = np.stack((ends - lengths, ends), 1).reshape(-1)
    if edges[-1] != total:  # a last run outside is written only if it has a pixel
        edges = np.append(edges, total)
    return np.diff(edges, prepend=0)
