"""Autoware's runs, against its own reader, written down from its C++."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from service.encodings import autoware
from tests.maps import maps, streets


def run_length_decoder(data: bytes, rows: int, columns: int) -> NDArray[np.uint8]:
    """``perception_utils::runLengthDecoder``, step by step; what it would write beyond the mask is an error here."""
    mask = np.zeros((rows, columns), np.uint8)
    index = 0
    for at in range(0, len(data), 1 + 4):
        value = data[at]
        (length,) = struct.unpack_from("<i", data, at + 1)
        for _ in range(length):
            mask[index // columns, index % columns] = value
            index += 1
    assert index == rows * columns
    return mask


@given(maps)
def test_autoware_reads_any_map(labels: NDArray[np.uint8]) -> None:
    """Its runs add up to the whole of the map, exactly."""
    assert np.array_equal(run_length_decoder(autoware.encode(labels), *labels.shape), labels)


@given(maps)
def test_any_map_comes_back(labels: NDArray[np.uint8]) -> None:
    """Decoding gives the map again."""
    assert np.array_equal(autoware.decode(autoware.encode(labels), labels.shape), labels)


def test_streets_are_read_by_autoware_and_come_back() -> None:
    """What holds for small maps holds for those that are served."""
    for labels in streets():
        data = autoware.encode(labels)
        assert np.array_equal(run_length_decoder(data, *labels.shape), labels)
        assert np.array_equal(autoware.decode(data, labels.shape), labels)


def test_a_run_is_five_bytes() -> None:
    """The id, then the length, low byte first."""
    assert autoware.encode(np.array([[9, 9, 9], [9, 255, 255]], np.uint8)) == b"\x09\x04\0\0\0\xff\x02\0\0\0"


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\0\4\0\0\0", b"\0\6\0\0\0\0", b"\0\6\0\0\0\1\1\0\0\0", b"\0\7\0\0\0\1\xff\xff\xff\xff"]
)
def test_runs_that_do_not_fill_the_size_are_refused(data: bytes) -> None:
    """Too few pixels, too many, half a run, a negative one."""
    with pytest.raises(ValueError, match=r"whole|fill"):
        autoware.decode(data, (2, 3))
