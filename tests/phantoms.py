"""Heads made of nested ellipsoids, and scans of them: small, exact, and asymmetric along every axis."""

from __future__ import annotations

import gzip
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray


def phantom_map(side: int = 56) -> NDArray[np.uint8]:
    """A label map of intensity classes: scalp, skull, fluid, cortex, white matter, ventricle, nucleus and vessel.

    Gives:
        side x side+6 x side-4 uint8
    """
    shape = (side, side + 6, side - 4)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt((x / 0.88) ** 2 + ((y + 0.05) / 0.9) ** 2 + ((z - 0.05) / 0.92) ** 2)
    classes = np.zeros(shape, np.uint8)
    for limit, value in ((1.0, 16), (0.92, 19), (0.84, 1), (0.76, 3), (0.6, 2)):
        classes[radius < limit] = value
    classes[(np.abs(x) < 0.12) & (np.abs(y) < 0.25) & (np.abs(z) < 0.2)] = 1
    classes[(np.hypot(x - 0.3, y - 0.1) < 0.12) & (np.abs(z) < 0.15)] = 7
    classes[(np.hypot(x + 0.3, y - 0.3) < 0.05) & (np.abs(z) < 0.1)] = 11
    return classes


def nifti_bytes(
    values: NDArray[Any],
    affine: NDArray[np.float64] | None = None,
    *,
    version: int = 1,
    big_endian: bool = False,
    compressed: bool = True,
    **fields: Any,
) -> bytes:
    """A NIfTI file in memory; ``fields`` are set in its header as they are."""
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    header = kind.header_class(endianness=">" if big_endian else "<")
    header.set_data_dtype(values.dtype)
    image = kind(values, np.eye(4) if affine is None else affine, header)
    for name, value in fields.items():
        image.header[name] = value
    data = bytes(image.to_bytes())
    return gzip.compress(data, 1) if compressed else data
