"""The raw label map as a .npy file."""

from __future__ import annotations

import io

import numpy as np
import pytest

from service.encodings import npy


def test_numpy_loads_it() -> None:
    """numpy.load gives the map, uint8 and of the same shape; so does our own decoder."""
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    data = npy.encode(labels)
    for loaded in (np.load(io.BytesIO(data)), npy.decode(data)):
        assert loaded.dtype == np.uint8
        assert np.array_equal(loaded, labels)


@pytest.mark.parametrize("array", [np.zeros((3, 4)), np.zeros(4, np.uint8)])
def test_an_array_of_another_kind_is_refused(array: np.ndarray) -> None:
    """Floats, or a vector, are a ValueError."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    with pytest.raises(ValueError, match="uint8 array of two or three dimensions"):
        npy.decode(buffer.getvalue())


@pytest.mark.parametrize("data", [b"", b"not numpy", npy.encode(np.zeros((3, 4), np.uint8))[:-1]])
def test_a_damaged_file_is_refused(data: bytes) -> None:
    """Nothing is unpickled and nothing is made up: a damaged file is a ValueError."""
    with pytest.raises(ValueError, match=r"."):
        npy.decode(data)
