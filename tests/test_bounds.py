"""The bounds of a connection, without one: counts of bytes, whatever the reads are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.api.transport.bounds import CONNECTIONS, BodyBound, Bounds, HeadBound, bounds_of, is_pipeline_full
from service.api.transport.connections import Connections

LIMIT = 1000

sizes = st.lists(st.integers(1, 400), max_size=30)


@given(sizes)
def test_complete_parts_are_too_much_beyond_the_limit_and_not_before(parts: list[int]) -> None:
    """The sum of the request line, headers and trailers decides."""
    head, total = HeadBound(LIMIT), 0
    for part in parts:
        total += part
        assert head.add_part(part) == (total > LIMIT)
        assert head.is_exceeded == (total > LIMIT)


@given(sizes)
def test_reads_that_complete_nothing_are_too_much_beyond_the_limit_and_not_before(reads: list[int]) -> None:
    """One header that never ends is bounded while it comes."""
    head, total = HeadBound(LIMIT), 0
    for read in reads:
        total += read
        assert head.add_read(read) == (total > LIMIT)


@given(sizes, sizes)
def test_the_next_request_begins_at_zero(parts: list[int], reads: list[int]) -> None:
    """The bytes of one request do not count against the next."""
    head = HeadBound(LIMIT)
    for part in parts:
        head.add_part(part)
    for read in reads:
        head.add_read(read)
    head.begin()
    assert not head.is_exceeded
    assert not head.add_part(LIMIT)
    assert not head.add_read(LIMIT)


@given(st.integers(0, LIMIT), st.integers(0, LIMIT))
def test_trailers_count_with_the_head_they_follow(of_head: int, of_trailers: int) -> None:
    """The end of a head forgets only what was incomplete."""
    head = HeadBound(LIMIT)
    head.add_part(of_head)
    head.add_read(LIMIT)
    head.end()
    assert head.add_part(of_trailers) == (of_head + of_trailers > LIMIT)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=30))
def test_what_stands_between_chunks_may_be_a_quarter_of_the_body_and_the_limit(reads: list[tuple[int, int]]) -> None:
    """Chunk lengths, extensions and trailers are bounded; the body itself is not bounded here."""
    bound, body, other = BodyBound(LIMIT), 0, 0
    for of_body, beside in reads:
        body, other = body + of_body, other + beside
        bound.body_bytes += of_body
        exceeded = bound.add_read(of_body + beside, of_body)
        assert exceeded == bound.is_exceeded == (other > LIMIT + body // 4)
    bound.begin()
    assert not bound.is_exceeded


@given(st.integers(1, 5000))
def test_chunks_of_a_byte_are_refused_and_chunks_of_a_packet_are_not(count: int) -> None:
    """A chunk of one byte costs five bytes beside it."""
    tiny, usual = BodyBound(LIMIT), BodyBound(LIMIT)
    for _ in range(count):
        tiny.body_bytes += 1
        tiny.add_read(6, 1)
        usual.body_bytes += 1400
        usual.add_read(1407, 1400)
    assert tiny.is_exceeded == (5 * count > LIMIT + count // 4)
    assert not usual.is_exceeded


def test_requests_that_wait_for_earlier_replies_are_bounded() -> None:
    """As many as allowed may wait; the next one may not."""
    assert [is_pipeline_full(waiting, 2) for waiting in range(4)] == [False, False, True, True]


def test_a_body_is_answered_before_its_connection_is_closed() -> None:
    """The time that the application gives a body, and the time to say so, end before the connection does."""
    bounds = Bounds()
    assert bounds.upload_s + bounds.linger_s < bounds.body_s <= 30


def test_a_request_has_the_bounds_of_its_connection() -> None:
    """Without a server, as in a test of the application alone, it has the usual ones."""
    bounds = Bounds(upload_s=1.0)
    connections = Connections(1, lambda _: None, bounds)
    assert bounds_of({"state": {CONNECTIONS: connections}}) is bounds
    assert bounds_of({"state": {}}) == bounds_of({}) == Bounds()
