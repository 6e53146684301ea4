"""Autoware's run-length encoding: all classes in one row-major sequence, five bytes a run, no header.

Each run is the class id as one byte and the number of pixels as four, little-endian and signed, as ``perception_utils`` of
Autoware writes and reads them in the ``data`` of a ``sensor_msgs/Image``, whose height and width say the size. Its reader
checks next to nothing, so the runs add up to height times width exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.encodings.format import Format
from service.encodings.runs import find_runs

RUN = np.dtype([("label", "u1"), ("length", "<i4")])
"""One run: five bytes, without padding."""


def encode(labels: NDArray[np.uint8]) -> bytes:
    """Write a label map.

    Takes:
        labels: H x W uint8, H and W at least 1
    Gives:
        5 bytes a run; a run is at most 2 ** 31 - 1 pixels long, more than an image has
    """
    values, lengths = find_runs(labels.reshape(-1))
    runs = np.empty(values.size, RUN)
    runs["label"], runs["length"] = values, lengths
    return runs.tobytes()


def decode(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a label map back.

    Takes:
        data: the runs
        size: (height, width), which the runs do not say
    Gives:
        H x W uint8
    Raises:
        ValueError: if they end within a run, or do not fill the size exactly
    """
    height, width = size
    if len(data) % RUN.itemsize:
        raise ValueError(f"{len(data)} bytes are not a whole number of runs of {RUN.itemsize}")
    runs = np.frombuffer(data, RUN)
    lengths = runs["length"].astype(np.int64)
    if lengths.min(initial=0) < 0 or lengths.sum() != height * width:
        raise ValueError(f"the runs fill {lengths.sum()} pixels, not {height} x {width}")
    return np.repeat(runs["label"], lengths).reshape(height, width)


FORMAT = Format(
    "autoware",
    ".rle",
    "application/x-autoware-rle",
    "Autoware's runs, five bytes each, for its point cloud fusion; with `ids=autoware` its class ids.",
    encode=lambda view: encode(view.labels),
    decode_sized=decode,
)
