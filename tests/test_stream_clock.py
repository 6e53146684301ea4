"""Stamps of streams: the camera's own intervals, whatever the network does to the arrivals."""

from __future__ import annotations

import itertools
import time

from hypothesis import given
from hypothesis import strategies as st

from service.live.stream_clock import WINDOW_S, DriverClock, PlayClock, StreamClock, wall_ns

RATE = 30
delays = st.lists(st.floats(0.0, 0.3), min_size=2, max_size=60)


@given(delays, st.floats(-1e6, 1e6))
def test_no_stamp_is_later_than_its_arrival_and_each_is_later_than_the_one_before(delays: list[float], began_s: float) -> None:
    """Whatever the delays, time goes forward, and no frame is stamped with a time at which it was here already."""
    clock, now_s, before = StreamClock(), time.monotonic(), 0
    for number, delay_s in enumerate(delays):
        came_s = now_s + number / RATE + delay_s
        stamp = clock.stamp_ns(began_s + number / RATE, came_s)
        assert stamp > before
        assert stamp <= max(wall_ns(came_s) + 1_000_000, before + 1)
        before = stamp


@given(delays)
def test_after_an_undelayed_frame_stamps_are_the_moments_of_capture(delays: list[float]) -> None:
    """Once a frame came without delay, each later stamp is its frame's own moment, to a millisecond."""
    clock, now_s = StreamClock(), time.monotonic()
    clock.stamp_ns(1000.0, now_s)
    for number, delay_s in enumerate(delays, 1):
        stamp = clock.stamp_ns(1000 + number / RATE, now_s + number / RATE + delay_s)
        assert abs(stamp - wall_ns(now_s + number / RATE)) < 1_000_000


def test_two_clocks_that_drift_apart_are_followed() -> None:
    """A camera whose seconds are a thousandth too long is never stamped further off than that of two windows."""
    clock, now_s = StreamClock(), time.monotonic()
    worst = 0.0
    for number in range(RATE * 120):
        taken_s = number / RATE
        stamp = clock.stamp_ns(taken_s * 0.999, now_s + taken_s)
        worst = max(worst, abs(stamp - wall_ns(now_s + taken_s)) / 1e9)
    assert worst < 2 * WINDOW_S * 0.001 + 0.001


def test_a_stream_that_begins_again_is_stamped_by_its_arrival() -> None:
    """A camera that restarts counts from 0; its frames are not stamped with the past."""
    clock, now_s = StreamClock(), time.monotonic()
    clock.stamp_ns(5000.0, now_s)
    assert abs(clock.stamp_ns(0.0, now_s + 2) - wall_ns(now_s + 2)) < 1_000_000


def test_frames_sent_out_of_order_keep_their_own_moments() -> None:
    """A codec that sends frames out of order moves no stamp."""
    clock, now_s = StreamClock(), time.monotonic()
    stamps = {number: clock.stamp_ns(number / RATE, now_s + at / RATE) for at, number in enumerate((0, 3, 1, 2, 6, 4, 5))}
    intervals = [after - before for before, after in itertools.pairwise(stamps[number] for number in sorted(stamps) if number)]
    assert max(abs(interval - 1e9 / RATE) for interval in intervals) < 2_000_000


def test_a_stream_without_times_is_stamped_by_arrival() -> None:
    """Motion JPEG over HTTP has no times: nothing else is known."""
    now_s = time.monotonic()
    for clock in (StreamClock(), DriverClock(), PlayClock(now_s, 0.0)):
        assert abs(clock.stamp_ns(None, now_s) - wall_ns(now_s)) < 1_000_000


def test_a_drivers_time_is_taken_as_it_is_unless_it_cannot_be() -> None:
    """Of a driver the stamp is its own time; one in the future, or of long ago, is the arrival's instead."""
    clock, now_s = DriverClock(), time.monotonic()
    here_s = time.time()
    assert clock.stamp_ns(here_s - 0.02, now_s) == round((here_s - 0.02) * 1e9)
    for wrong in (here_s + 60, 12345.0):
        assert abs(clock.stamp_ns(wrong, now_s) - wall_ns(now_s)) < 1_000_000


def test_a_file_is_stamped_as_it_is_played() -> None:
    """The first frame is that of the beginning, and the others are as far away as the file says."""
    now_s = time.monotonic()
    clock = PlayClock(now_s, 4.0)
    first = clock.stamp_ns(4.0, now_s + 0.5)
    assert abs(first - wall_ns(now_s)) < 1_000_000
    assert clock.stamp_ns(5.25, now_s + 3) - first == 1_250_000_000
