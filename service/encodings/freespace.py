"""Free space: of each image column the lowest pixel that is not drivable, and where it stands on the ground.

JSON here, bytes in ``freespace_binary``; the geometry is in ``ground``. Two numbers that JSON lacks are ``"Infinity"`` and
``"NaN"``, as in protobuf's JSON: ``float("Infinity")``, ``Number("Infinity")`` and ``numpy.array(ranges, float)`` read them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings.document import from_json, reading, size_of, to_json
from service.encodings.driving import TAKES, Driving
from service.encodings.format import Format
from service.encodings.ground import Camera, Scan, measure
from service.encodings.runs import UNLABELLED
from service.encodings.several import LISTED
from service.encodings.view import MaskView

_BAND_ROWS = 255
"""Rows that are numbered in one byte: 1 to 255."""


@dataclass(frozen=True, eq=False)
class Freespace:
    """The free space of one image with W columns."""

    size: tuple[int, int]
    """(height, width) of the image."""
    rows: NDArray[np.int32]
    """W: the row of the lowest pixel that is not drivable; -1 where the whole column is drivable."""
    labels: NDArray[np.uint8]
    """W: the class id of that pixel; 255 where it is unlabelled, or where there is none."""
    confidences: NDArray[np.uint8]
    """W: the probability of that class times 255; 0 where there is no such pixel."""
    distances: NDArray[np.float32] | None = None
    """W: metres on the ground from below the camera to that pixel's lower edge; None without a camera."""
    bearings: NDArray[np.float32] | None = None
    """W: radians, 0 ahead, positive to the left; None without a camera."""
    scan: Scan | None = None
    """The values of a ``sensor_msgs/LaserScan``; None without a camera."""


def lowest_obstacles(labels: NDArray[np.uint8], drivable: Iterable[int], ego_rows: int = 0) -> NDArray[np.int32]:
    """Find the lowest pixel of each column that is not drivable.

    Takes:
        labels: H x W uint8; 255 is not drivable
        drivable: class ids
        ego_rows: rows at the bottom that are left out
    Gives:
        W int32: its row; -1 where there is none
    """
    ids = sorted(set(drivable) - {UNLABELLED})
    rows = np.full(labels.shape[1], -1, np.int32)
    # Rows of a band are numbered within a byte: products and maxima of bytes are a tenth of those of wider numbers.
    for end in range(labels.shape[0] - ego_rows, 0, -_BAND_ROWS):
        band = labels[max(end - _BAND_ROWS, 0) : end]
        blocked = band != ids[0] if ids else np.ones(band.shape, bool)
        for number in ids[1:]:
            blocked &= band != number
        numbers = np.arange(1, len(band) + 1, dtype=np.uint8)[:, None]
        lowest = (blocked.view(np.uint8) * numbers).max(0)
        rows = np.where((rows < 0) & (lowest > 0), end - len(band) - 1 + lowest.astype(np.int32), rows)
        if rows.min() >= 0:
            break
    return rows


def find(
    labels: NDArray[np.uint8],
    confidence_at: Callable[[NDArray[np.intp], NDArray[np.intp]], NDArray[np.uint8]],
    driving: Driving,
    camera: Camera | None = None,
) -> Freespace:
    """Find the free space of an image.

    Takes:
        labels: H x W uint8
        confidence_at: (rows, columns) -> the winner's probability there times 255
        driving: what is drivable, and how columns become beams; its ``mount`` is not read
        camera: for distances; None without
    Raises:
        BadParameter: if ``ego_rows`` leaves no row, or if the camera would see no ground
    """
    height, width = labels.shape
    driving.check_rows(height)
    rows = lowest_obstacles(labels, driving.drivable, driving.ego_rows)
    columns = np.arange(width)
    some = rows >= 0
    # Of a column without such a pixel the first row is read, and then replaced.
    at = np.maximum(rows, 0).astype(np.intp)
    found = np.where(some, labels[at, columns], np.uint8(UNLABELLED))
    sure = np.where(some, confidence_at(at, columns), np.uint8(0))
    plain = Freespace((height, width), rows, found, sure)
    if camera is None:
        return plain
    ends, scan = measure(rows, some & (found == UNLABELLED), driving.sampling(camera, (height, width)))
    return dataclasses.replace(plain, distances=ends.distances, bearings=ends.bearings, scan=scan)


def of_view(view: MaskView) -> tuple[Freespace, Driving, Camera | None]:
    """Find the free space of a selected view, with its options."""
    driving = view.options.driving or Driving()
    camera = None if driving.mount is None else driving.mount.camera((view.labels.shape[0], view.labels.shape[1]))
    return find(view.labels, view.confidence_at, driving, camera), driving, camera


def encode(view: MaskView) -> dict[str, Any]:
    """Write the free space of a view as a document, ready for JSON. Metres have three decimals, radians five."""
    found, driving, camera = of_view(view)
    document: dict[str, Any] = {
        "size": list(found.size),
        "drivable": sorted(driving.drivable),
        "ego_rows": driving.ego_rows,
        "rows": found.rows.tolist(),
        "labels": found.labels.tolist(),
        "confidences": (found.confidences / 255).round(3).tolist(),
        "classes": [{"id": row.id, "name": row.name} for row in view.classes],
        "model": view.made_by,
    }
    if camera is None or found.scan is None or found.distances is None or found.bearings is None:
        return document
    scan = dataclasses.asdict(found.scan)
    return document | {
        "camera": dataclasses.asdict(camera),
        "distances": _spoken(found.distances),
        "bearings": found.bearings.astype(float).round(5).tolist(),
        "scan": {**scan, "ranges": _spoken(found.scan.ranges)},
    }


def decode(document: Mapping[str, Any]) -> Freespace:
    """Read a document back.

    Raises:
        ValueError: if a field is missing or makes no sense
    """
    with reading("free space"):
        size = size_of(document)
        rows = _column(document["rows"], size[1], np.int32)
        labels = _column(document["labels"], size[1], np.uint8)
        sure = np.rint(255 * _column(document["confidences"], size[1], np.float64)).astype(np.uint8)
        if rows.min() < -1 or rows.max() >= size[0]:
            raise ValueError(f"rows are -1..{size[0] - 1}")
        if "scan" not in document:
            return Freespace(size, rows, labels, sure)
        told = document["scan"]
        numbers = {field.name: told[field.name] for field in dataclasses.fields(Scan) if field.name != "ranges"}
        scan = Scan(**numbers, ranges=_column(told["ranges"], len(told["ranges"]), np.float32))
        distances = _column(document["distances"], size[1], np.float32)
        return Freespace(size, rows, labels, sure, distances, _column(document["bearings"], size[1], np.float32), scan)


def _spoken(metres: NDArray[np.float32]) -> list[float | str]:
    """Write metres for JSON, to the millimetre."""
    written: list[float | str] = metres.astype(float).round(3).tolist()
    for at in np.flatnonzero(~np.isfinite(metres)).tolist():
        written[at] = "NaN" if np.isnan(metres[at]) else "Infinity"
    return written


def _column(values: Sequence[Any], length: int, dtype: type[np.generic]) -> NDArray[Any]:
    """Read a list of numbers.

    Raises:
        ValueError: if it has another length, or holds anything else
    """
    made = np.array([float(value) for value in values])
    if made.shape != (length,) or length < 1:
        raise ValueError(f"a list has {len(made)} numbers, not {length}")
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)  # type: ignore[type-var]
        if not ((made >= limits.min) & (made <= limits.max) & (made == np.floor(made))).all():
            raise ValueError(f"a list has numbers that are not {np.dtype(dtype).name}")
    return made.astype(dtype)


FORMAT = Format(
    "freespace",
    ".json",
    "application/json",
    "Free space: of each column the lowest pixel that is not drivable; with a camera its distance, and a LaserScan's values.",
    encode=lambda view: to_json(encode(view)),
    document=encode,
    gather=LISTED,
    takes=TAKES,
)


def read(body: bytes) -> Freespace:
    """Read the JSON of ``format=freespace``.

    Raises:
        ValueError: if it is not that
    """
    return decode(from_json(body))
