"""YOLO's segmentation text: one line an outline, a class id and then x and y of each corner, as shares of width and height.

A region of a class is a line, holes included (see ``outlines``). With ``instances=true`` a thing is a line. Class ids are those
that are written elsewhere; YOLO's training wants them in the ``names`` of its dataset file.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from service.encodings import polygons
from service.encodings.document import check_size, reading
from service.encodings.format import Format
from service.encodings.outlines import outlines
from service.encodings.runs import UNLABELLED, ClassRow, ValueMap
from service.encodings.several import zipped


def encode(labels: ValueMap, classes: Iterable[ClassRow], *, tolerance: float = 0.0) -> bytes:
    """Write the outlines of every mask.

    Takes:
        labels: H x W, H and W at least 1
        classes: the class table, or the masks that ``things.split`` made of it
        tolerance: pixels by which outlines may stray, at least 0
    Gives:
        the text; six digits after the point place a corner within 0.04 pixels in any image
    """
    height, width = labels.shape
    lines = []
    for outline in outlines(labels, classes, tolerance):
        shares = outline.ring / (width, height)
        lines.append(f"{outline.row.id} " + " ".join(f"{x:.6f} {y:.6f}" for x, y in shares.tolist()) + "\n")
    return "".join(lines).encode("ascii")


def decode(text: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw the outlines into a label map.

    Takes:
        text: as :func:`encode` writes it
        size: (height, width), which the text does not say
    Gives:
        H x W uint8; 255 where no outline is; where outlines overlap the later one counts
    Raises:
        ValueError: if a line is not a class id and at least three corners
    """
    check_size(*size)
    labels = np.full(size, UNLABELLED, np.uint8)
    with reading("YOLO segmentation text"):
        for number, line in enumerate(text.decode("ascii").splitlines(), 1):
            words = line.split()
            if not words:
                continue
            if len(words) < 7 or len(words) % 2 == 0 or not words[0].isdecimal() or int(words[0]) > UNLABELLED:
                raise ValueError(f"line {number} is not a class id and at least three corners")
            shares = np.array(words[1:], np.float64).reshape(-1, 2)
            if not (np.abs(shares) <= 1e6).all():
                raise ValueError(f"line {number} has corners that are not shares of the picture's sides")
            corners = shares * (size[1], size[0])
            whole = corners.round()
            corners = np.where(np.abs(corners - whole) < 0.05, whole, corners)  # the rounding of the text
            polygons.draw(labels, [corners], int(words[0]))
    return labels


FORMAT = Format(
    "yolo",
    ".txt",
    "text/plain",
    "YOLO's segmentation text: a line an outline, class id and corners as shares of width and height.",
    encode=lambda view: encode(*view.masks(), tolerance=view.options.tolerance),
    decode_sized=decode,
    gather=zipped(".txt"),
    takes=frozenset(("instances", "min_area", "tolerance")),
)
