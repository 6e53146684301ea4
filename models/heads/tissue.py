"""The classes of a label map: what has an intensity of its own, and which tissue it counts as.

A map holds intensity classes 0..24: 1 cerebrospinal fluid, 2 and 3 cerebral white matter and cortex, 4 and 5 those of the
cerebellum, 6 thalamus, 7 putamen, 8 pallidum, 9 ventral diencephalon, 10 lesion, 11 vessel, 12 other, 13 brain stem, 14 and up
skull, fat, skin, eyes.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

TISSUES = ("background", "csf", "grey-matter", "white-matter")
"""Class names of the labels, in the order of their ids."""

IGNORED = 255
"""Label of a voxel that no loss and no score counts."""

CLASSES = 25
"""Intensity classes of a map."""

OUTSIDE = 14
"""The first class outside the brain and its fluid."""

_TISSUE = np.array([0, 1, 3, 2, 3, 2, 2, 2, 2, 3, 3, IGNORED, IGNORED, 3] + [0] * (CLASSES - OUTSIDE), np.uint8)


def tissue_labels(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Translate intensity classes to tissues.

    Takes:
        classes: any shape, 0..24
    Gives:
        the same shape; 0..3 as :data:`TISSUES`, :data:`IGNORED` for vessels and what has no name
    """
    return _TISSUE[classes]


def read_map(path: Path) -> NDArray[np.uint8]:
    """Read a label map, axes to the right, anterior and superior.

    Gives:
        X x Y x Z uint8, 0..24, 1 mm
    Raises:
        ValueError: if a value is not an intensity class
    """
    image = nibabel.as_closest_canonical(nibabel.load(path))
    values = np.asanyarray(image.dataobj)
    if values.ndim != 3 or values.min() < 0 or values.max() >= CLASSES:
        raise ValueError(f"{path}: expected a volume of intensity classes 0..{CLASSES - 1}")
    return np.ascontiguousarray(values, dtype=np.uint8)
