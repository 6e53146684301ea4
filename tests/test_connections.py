"""The table of open connections, without sockets and without waiting: the time is a number."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.transport.bounds import Bounds
from service.api.transport.connections import Connections, Waits


class Clock:
    """An event loop's clock, moved by hand; what it is asked to call later is called by hand, too."""

    def __init__(self) -> None:
        self.now = 0.0
        self.later: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, call: Any, *arguments: Any) -> object:
        self.later.append((self.now + delay_s, lambda: call(*arguments)))
        return self.later[-1]

    def run_until(self, moment: float) -> None:
        """Make every call that is due."""
        while self.later and self.later[0][0] <= moment:
            self.now, call = self.later.pop(0)
            call()
        self.now = moment


class Caller:
    """A connection, as the table sees it."""

    def __init__(self, clock: Clock) -> None:
        self.loop = cast("asyncio.AbstractEventLoop", clock)
        self.closed: list[str] = []

    def give_up(self, reason: str) -> None:
        self.closed.append(reason)

    def evict(self) -> None:
        self.closed.append("evicted")


class Table:
    """A table whose callers are kept as a server keeps them."""

    def __init__(self, limit: int = 100, **bounds: float) -> None:
        self.clock, self.refused, self.open = Clock(), Counter[str](), set[Caller]()
        self.places: list[bool] = []
        """Of each new connection, whether there was a place."""
        self.connections = Connections(limit, self._count, Bounds(**cast("Any", bounds)))
        self.connections.open = self.open

    def _count(self, code: str) -> None:
        self.refused[code] += 1

    def caller(self) -> Caller:
        """A connection that has just been opened."""
        caller = Caller(self.clock)
        self.open.add(caller)
        self.places.append(self.connections.add(caller))
        return caller

    def serve(self, caller: Caller) -> None:
        """Complete a head."""
        self.connections.head.end(caller)
        self.connections.idle.end(caller)


@pytest.mark.parametrize(
    ("waits", "reason", "patience_s"),
    [
        ("head", "head_too_slow", 10.0),
        ("idle", "head_too_slow", 15.0),
        ("body", "body_too_slow", 30.0),
        ("reader", "reply_not_read", 30.0),
    ],
)
def test_whatever_a_connection_waits_for_it_is_closed_in_time(waits: str, reason: str, patience_s: float) -> None:
    """The sweep needs nothing of the application: a request that hangs, or a loop that was held up, changes nothing."""
    table = Table()
    caller = table.caller()
    table.serve(caller)
    getattr(table.connections, waits).begin(caller)
    table.clock.run_until(patience_s - 0.5)
    assert caller.closed == []
    table.clock.run_until(patience_s + 2 * Bounds().sweep_s)
    assert caller.closed == [reason]


def test_a_loop_that_was_held_up_closes_all_that_are_late_at_once() -> None:
    """The sweep after a pause of a minute takes every sender, however many there are."""
    table = Table()
    callers = [table.caller() for _ in range(50)]
    for caller in callers:
        table.serve(caller)
        table.connections.body.begin(caller)
    table.clock.now = 75.0
    table.connections.sweep(table.clock.now)
    assert [caller.closed for caller in callers] == [["body_too_slow"]] * 50


def test_a_wait_that_ended_closes_nothing() -> None:
    """A body that was complete in time, a reader who reads on, a head that came."""
    table = Table()
    caller = table.caller()
    for waits in (table.connections.idle, table.connections.body, table.connections.reader):
        waits.begin(caller)
        waits.end(caller)
    table.serve(caller)
    table.clock.run_until(1000.0)
    assert caller.closed == []


def test_a_connection_that_is_gone_is_forgotten() -> None:
    """Nothing of it stays in the table, and the sweep ends with the last one."""
    table = Table()
    caller = table.caller()
    table.connections.body.begin(caller)
    table.connections.remove(caller)
    table.open.discard(caller)
    table.clock.run_until(1000.0)
    assert caller.closed == []
    assert table.clock.later == []


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["begin", "end"]), st.floats(0.0, 3.0)), max_size=40))
def test_the_late_are_those_that_wait_for_longer_than_their_patience(steps: list[tuple[int, str, float]]) -> None:
    """Whatever begins, begins again and ends: the order in the table is that of the times."""
    clock = Clock()
    callers = [Caller(clock) for _ in range(10)]
    waits, since = Waits("slow", 5.0), dict[int, float]()
    for which, step, pause_s in steps:
        clock.now += pause_s
        if step == "begin":
            waits.begin(callers[which])
            since[which] = clock.now
        else:
            waits.end(callers[which])
            since.pop(which, None)
    late = {which for which, begun in since.items() if begun <= clock.now - 5.0}
    assert {callers.index(cast("Caller", caller)) for caller in waits.take_late(clock.now)} == late
    assert waits.take_late(clock.now) == []


def test_a_new_connection_takes_the_place_of_the_one_without_a_request_for_longest() -> None:
    """Opened or served last: the time counts, not the kind."""
    table = Table(limit=3)
    served, opened, busy = table.caller(), table.caller(), table.caller()
    for caller in (served, busy):
        table.serve(caller)
    table.clock.now = 1.0
    table.connections.idle.begin(served)
    table.clock.now = 2.0
    assert table.caller().closed == []
    assert all(table.places)
    assert (served.closed, opened.closed, busy.closed) == ([], ["evicted"], [])
    table.open.discard(opened)
    table.caller()
    assert served.closed == ["evicted"]
    assert table.refused == {"crowded_out": 2}


def test_a_new_connection_finds_no_place_where_every_other_one_has_a_request() -> None:
    """A request in work is not interrupted."""
    table = Table(limit=2)
    for _ in range(2):
        table.serve(table.caller())
    table.caller()
    assert table.places == [True, True, False]
    assert table.connections.is_full
    assert table.refused == {}
