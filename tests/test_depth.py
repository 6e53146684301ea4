"""Samples of 10 to 16 bits as 8: scaled by their depth."""

from __future__ import annotations

import numpy as np
import pytest

from service.pipeline.codecs.depth import DEPTHS, significant_bits, to_8_bits, to_uint16


@pytest.mark.parametrize("bits", DEPTHS)
def test_every_depth_is_scaled_to_8_bits_by_rounding(bits: int) -> None:
    """0 stays 0, the largest number becomes 255, every number goes to its nearest."""
    numbers = np.arange(1 << bits, dtype=np.uint16)
    assert np.array_equal(to_8_bits(numbers, bits), np.rint(numbers / (2**bits - 1) * 255))


@pytest.mark.parametrize("bits", DEPTHS)
def test_a_depth_is_recognised_by_its_largest_number_and_by_one_above_the_next_lower(bits: int) -> None:
    """The depth is a step: all pictures between two depths are scaled alike."""
    below = {8: 1, 10: 256, 12: 1024, 14: 4096, 16: 16384}[bits]
    assert significant_bits(2**bits - 1) == significant_bits(below) == bits


def test_zeros_have_no_depth_of_their_own() -> None:
    """A black picture says nothing, and stays black."""
    assert significant_bits(0) == 16


def test_a_sample_beyond_the_depth_is_white() -> None:
    """A stream whose depth was judged too small clips; it never wraps around to black."""
    assert to_8_bits(np.array([1023, 1024, 65535], np.uint16), 10).tolist() == [255, 255, 255]


def test_whole_numbers_are_clipped_to_16_bits() -> None:
    """Negative numbers are black, larger ones white, of every type."""
    assert to_uint16(np.array([-5, 0, 65535, 10**12])).tolist() == [0, 0, 65535, 65535]
