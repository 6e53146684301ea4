"""Runs of equal labels, found in one pass over all classes, and what they say of the classes present.

May import: numpy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class ClassRow(Protocol):
    """What an encoding asks of a row of the class table."""

    @property
    def id(self) -> int:
        """The pixel value."""

    @property
    def name(self) -> str:
        """For people."""


def find_runs(flat: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Cut a sequence of labels where they change.

    Takes:
        flat: N uint8, N at least 1
    Gives:
        R uint8, the label of each run, no two neighbours alike
        R int64, the length of each run, at least 1; they add up to N
    """
    last = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    return flat[last], np.diff(last, prepend=-1)


def classes_present(values: NDArray[np.uint8], lengths: NDArray[np.int64], classes: Iterable[ClassRow]) -> list[dict[str, Any]]:
    """Count the pixels of each class.

    Takes:
        values, lengths: the runs of a label map
        classes: the class table
    Gives:
        ``{id, name, pixels, share}`` for each class of the table that has a pixel, in the table's order; ``share`` is of all
        pixels, so that what is missing from 1 is unlabelled
    """
    pixels = np.bincount(values, weights=lengths, minlength=256)  # float64: exact below 2 ** 53 pixels
    total = pixels.sum()
    return [
        {"id": row.id, "name": row.name, "pixels": int(pixels[row.id]), "share": float(pixels[row.id] / total)}
        for row in classes
        if pixels[row.id]
    ]
