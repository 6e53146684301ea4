"""The intensity policy: robust percentiles of a whole volume, the same for training and serving."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.pipeline import intensity
from service.pipeline.intensity import Window, normalised, window, window_of
from service.pipeline.manifest import Percentiles

PLAIN = Percentiles(lower=10, upper=90, scope="volume")
TISSUE = Percentiles(lower=1, upper=50, scope="volume", foreground=True, ceiling=3)


def test_the_percentiles_become_0_and_1() -> None:
    """By rank, as numpy's lower method."""
    values = np.random.default_rng(0).normal(50, 20, (11, 12, 13)).astype(np.float32)
    found = window(values, PLAIN)
    assert found == Window(*(float(np.percentile(values, p, method="lower")) for p in (10, 90)))
    scaled = normalised(values, found, PLAIN)
    assert scaled.dtype == np.float32
    assert scaled.min() == 0
    assert scaled.max() == 1
    np.testing.assert_allclose(
        scaled[(scaled > 0) & (scaled < 1)],
        ((values - found.low) / (found.high - found.low))[(scaled > 0) & (scaled < 1)],
        rtol=1e-4,
    )


@given(gain=st.floats(0.01, 1e4), offset=st.floats(-1e3, 1e3))
def test_the_unit_of_a_scan_does_not_matter(gain: float, offset: float) -> None:
    """Another gain and offset give the same normalised volume."""
    values = np.random.default_rng(1).gamma(2, 30, (9, 9, 9))
    first, second = (normalised(v, window(v, PLAIN), PLAIN) for v in (values, values * gain + offset))
    np.testing.assert_allclose(first, second, atol=1e-3 + 1e-6 * abs(offset) / gain)


def test_air_around_a_head_does_not_matter() -> None:
    """With ``foreground`` the upper percentile is that of the tissue, however much air surrounds it."""
    tissue = np.random.default_rng(2).normal(100, 10, (12, 12, 12)).astype(np.float32)
    tight, wide = np.pad(tissue, 3), np.pad(tissue, 14)
    assert window(wide, TISSUE).high == pytest.approx(window(tight, TISSUE).high, rel=0.02)
    assert window(wide, TISSUE).low == window(tight, TISSUE).low == 0


@pytest.mark.parametrize("levels", [2, 200, 100_000])
@pytest.mark.parametrize("sample", [100, 2**16])
def test_percentiles_are_exact_whatever_a_sample_tells(levels: int, sample: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few levels, in order of size and not, and where a small sample misses the value's surroundings."""
    monkeypatch.setattr(intensity, "SAMPLE", sample)
    rng = np.random.default_rng(levels)
    for values in (rng.integers(levels, size=(40, 41, 43)), np.arange(70_520).reshape(40, 41, 43) * levels // 70_520):
        shaped = values.astype(np.float32)
        bright = shaped[shaped > shaped.mean(dtype=np.float64)]
        for policy, of in ((PLAIN, shaped), (TISSUE, bright), (Percentiles(lower=0, upper=100, scope="volume"), shaped)):
            exact = np.percentile(shaped, policy.lower, method="lower"), np.percentile(of, policy.upper, method="lower")
            assert window(shaped, policy) == Window(*map(float, exact))


def test_values_that_are_not_numbers_count_as_the_lowest() -> None:
    """NaN and infinity are left out of the percentiles, and become 0."""
    values = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    holes = values.copy()
    holes[0, 0, :3] = np.nan, np.inf, -np.inf
    found = window(holes, PLAIN)
    assert abs(found.low - window(values, PLAIN).low) < 5
    scaled = normalised(holes, found, PLAIN)
    assert not scaled[0, 0, :3].any()
    assert np.isfinite(scaled).all()


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, 2.0**60, -1e20, 3e38])
@pytest.mark.parametrize("policy", [PLAIN, TISSUE])
def test_a_volume_of_one_value_is_0(value: float, policy: Percentiles) -> None:
    """An empty scan causes no division by zero."""
    volume = np.full((3, 4, 5), value, np.float32)
    found = window(volume, policy)
    assert not normalised(volume, found, policy).any()
    assert window_of(lambda: volume, policy) == found


@given(
    values=hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 9)), elements=st.floats(width=32)),
    percents=st.tuples(st.integers(0, 49), st.integers(50, 100)),
    foreground=st.booleans(),
    rows=st.integers(1, 7),
)
def test_the_window_of_rows_is_that_of_the_whole(
    values: NDArray[np.float32], percents: tuple[int, int], foreground: bool, rows: int
) -> None:
    """Of any floats: negative ones, the smallest, infinity and NaN too."""
    values = np.where(np.abs(values) < 1e30, values, np.float32(np.nan))  # their sum is finite
    policy = Percentiles(lower=percents[0], upper=percents[1], scope="volume", foreground=foreground)
    bands = [values[top : top + rows] for top in range(0, len(values), rows)]
    assert window_of(lambda: bands, policy) == window(values, policy)
