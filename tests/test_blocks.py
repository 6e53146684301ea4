"""Blocks with a halo: their kept parts cover the whole once, and give the whole's scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pipeline.blocks import blocks


@given(
    cells=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    halo_cells=st.integers(0, 5),
    multiple=st.sampled_from([1, 4, 8]),
    largest=st.integers(1, 90),
    rest=st.integers(0, 7),
)
def test_blocks_cover_the_whole_once(cells: list[int], halo_cells: int, multiple: int, largest: int, rest: int) -> None:
    """Every pixel is kept once, read with its halo as far as the whole goes, from a multiple on, in blocks of one shape."""
    rest %= multiple
    shape = [side * multiple + rest for side in cells]
    halo = halo_cells * multiple
    counted = np.zeros(shape, int)
    made = list(blocks(shape, halo=halo, multiple=multiple, largest=largest))
    assert len({tuple(read.stop - read.start for read in block.read) for block in made}) == 1
    for block in made:
        counted[block.place] += 1
        for read, keep, place, side in zip(block.read, block.keep, block.place, shape, strict=True):
            assert read.start % multiple == 0
            assert keep.start + read.start == place.start
            assert keep.stop + read.start == place.stop
            assert 0 <= read.start <= max(0, place.start - halo)
            assert min(side, place.stop + halo) <= read.stop <= side
            assert read.stop - read.start <= max(largest, 2 * halo + multiple + rest)
    assert (counted == 1).all()


@given(length=st.integers(1, 40), taps=st.integers(0, 4), largest=st.integers(1, 30))
def test_a_filter_gives_the_same_in_blocks(length: int, taps: int, largest: int) -> None:
    """A convolution with zero padding is exact in blocks whose halo is its reach."""
    rng = np.random.default_rng(length)
    whole, kernel = rng.integers(-9, 9, length), rng.integers(-9, 9, 2 * taps + 1)
    found = np.empty(length, int)
    for block in blocks([length], halo=taps, multiple=1, largest=largest):
        found[block.place] = _filtered(whole[block.read], kernel)[block.keep]
    np.testing.assert_array_equal(found, _filtered(whole, kernel))


def _filtered(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    reach = len(kernel) // 2
    return np.convolve(values, kernel)[reach : reach + len(values)]


def test_a_halo_that_is_not_a_multiple_is_refused() -> None:
    """The network's coarse cells would lie elsewhere in a block than in the whole."""
    with pytest.raises(ValueError, match="multiple of 8"):
        next(blocks([64], halo=12, multiple=8, largest=32))
