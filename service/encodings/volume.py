"""A scan as formats see it, and pictures of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

MOSAIC_SLICES = 5
"""Slices of each plane in a mosaic."""


class ScanGrid(Protocol):
    """Where the voxels of a scan lie; ``service.pipeline.volume`` has it."""

    @property
    def header(self) -> bytes:
        """The NIfTI header as it came."""

    @property
    def compressed(self) -> bool:
        """Whether the file was compressed."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """4 x 4, from voxel indices to mm."""


class SegmentedScan(Protocol):
    """The scan of a result; ``service.pipeline.segmentation`` has it."""

    @property
    def grid(self) -> ScanGrid:
        """Where the voxels lie."""

    @property
    def preview(self) -> NDArray[np.uint8]:
        """X x Y x Z uint8: the scan in grey."""


@dataclass(frozen=True, eq=False)
class VolumeFacts:
    """A scan in the place of an image."""

    header: bytes
    """The scan's NIfTI header, which the answer copies."""
    compressed: bool
    """Whether the answer is compressed."""
    affine: NDArray[np.float64]
    """4 x 4, from voxel indices to mm to the right, anterior and superior."""
    preview: NDArray[np.uint8]
    """X x Y x Z uint8: the scan in grey."""

    @classmethod
    def of(cls, scan: SegmentedScan) -> VolumeFacts:
        """Take what formats ask for."""
        return cls(scan.grid.header, scan.grid.compressed, scan.grid.affine, scan.preview)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


def mosaic(volume: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Lay slices of the three planes side by side: sagittal, coronal and axial rows, head up, the patient's right on the left.

    Takes:
        volume: X x Y x Z
        affine: 4 x 4, as of :class:`VolumeFacts`; oblique axes count as the nearest ones
    Gives:
        H x W, at one pixel a voxel; 0 between the slices
    """
    upright = _in_anatomical_order(volume, affine)
    rows = []
    for axis in range(3):
        count = upright.shape[axis]
        chosen = sorted({round((k + 1) * (count - 1) / (MOSAIC_SLICES + 1)) for k in range(MOSAIC_SLICES)})
        slices = [np.rot90(upright.take(k, axis)) for k in chosen]
        rows.append(np.hstack(slices))
    canvas = np.zeros((sum(row.shape[0] for row in rows), max(row.shape[1] for row in rows)), volume.dtype)
    top = 0
    for row in rows:
        canvas[top : top + row.shape[0], : row.shape[1]] = row
        top += row.shape[0]
    return canvas


def _in_anatomical_order(volume: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[Any]:
    """A view whose axes grow to the patient's left, anterior and superior."""
    cosines = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    order = max(itertools.permutations(range(3)), key=lambda axes: float(cosines[[0, 1, 2], axes].sum()))
    grows = [affine[world, axis] > 0 for world, axis in enumerate(order)]  # to the right, anterior, superior
    steps = (-1 if grows[0] else 1, 1 if grows[1] else -1, 1 if grows[2] else -1)
    return volume.transpose(order)[tuple(slice(None, None, step) for step in steps)]


def describe(labels: NDArray[Any], values: list[int], certainty: NDArray[np.uint8], voxel_ml: float) -> list[dict[str, float]]:
    """Describe each class of a volume.

    Takes:
        labels: X x Y x Z
        values: of the classes present, in the order of their entries
        certainty: X x Y x Z uint8, the winner's probability times 255
    Gives:
        ``{volume_ml, confidence}`` of each
    """
    flat = labels.reshape(-1)
    counts = np.bincount(flat)
    sums = np.bincount(flat, weights=certainty.reshape(-1))
    return [
        {
            "volume_ml": round(float(counts[value]) * voxel_ml, 3),
            "confidence": round(float(sums[value] / counts[value]) / 255, 4),
        }
        for value in values
    ]
