"""Packets before a decoder: bounded, in order, and never one without those that it needs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.live.backlog import CATCH_UP, LONGEST, PATIENCE, Backlog, Entry

steps = st.lists(st.one_of(st.just("put"), st.integers(1, 40)), max_size=200)


@given(steps, st.integers(1, 25))
def test_a_packet_is_decoded_only_after_those_that_it_needs(steps: list[str | int], group: int) -> None:
    """Whatever the decoder's pace: packets come in order, and a gap is followed by a key frame and announced with it."""
    backlog, number = Backlog(independent=False), 0
    got: list[Entry] = []

    def get() -> None:
        entry = backlog.get()
        assert entry is not None
        got.append(entry)

    for step in steps:
        if step == "put":
            backlog.put(number, 0.0, is_key=number % group == 0)
            number += 1
            continue
        for _ in range(min(int(step), number - backlog.dropped - len(got))):
            get()
    backlog.close(drop=False)
    while number - backlog.dropped > len(got):
        get()
    assert backlog.get() is None
    expected = 0
    for entry in got:
        assert entry.packet >= expected
        assert entry.after_gap == (entry.packet > expected)
        if entry.after_gap:
            assert entry.packet % group == 0
        expected = entry.packet + 1


def test_a_decoder_that_stands_still_costs_no_memory() -> None:
    """However many packets come, no more than a second's wait."""
    for independent, most in ((False, LONGEST), (True, 1)):
        backlog = Backlog(independent=independent)
        for number in range(10 * LONGEST):
            backlog.put(number, 0.0, is_key=number % 50 == 0)
            assert number + 1 - backlog.dropped <= most


def test_the_newest_wins_where_each_packet_is_a_picture() -> None:
    """Of Motion JPEG the decoder gets the newest, without a gap to announce."""
    backlog = Backlog(independent=True)
    for number in range(5):
        backlog.put(number, 0.0, is_key=True)
    entry = backlog.get()
    assert entry is not None
    assert (entry.packet, entry.after_gap, backlog.dropped) == (4, False, 4)


def test_a_decoder_that_is_behind_goes_on_with_the_key_frame() -> None:
    """A key frame frees the decoder from what waits before it; a decoder that is hardly behind loses nothing."""
    behind = Backlog(independent=False)
    for number in range(CATCH_UP + 1):
        behind.put(number, 0.0, is_key=number == 0)
    behind.put("key", 0.0, is_key=True)
    entry = behind.get()
    assert entry is not None
    assert (entry.packet, entry.after_gap) == ("key", True)
    near = Backlog(independent=False)
    near.put(0, 0.0, is_key=True)
    near.put("key", 0.0, is_key=True)
    assert near.dropped == 0


def test_a_stream_without_key_frames_goes_on_after_a_gap() -> None:
    """Some encoders never send a key frame after the first: a gap does not end the picture for ever."""
    backlog = Backlog(independent=False)
    for number in range(LONGEST + PATIENCE + 2):
        backlog.put(number, 0.0, is_key=number == 0)
    entry = backlog.get()
    assert entry is not None
    assert (entry.packet, entry.after_gap) == (LONGEST + PATIENCE, True)
