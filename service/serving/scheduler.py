"""A bounded queue between an event loop and worker threads. Generic: it knows costs, keys and deadlines, but no images.

Callers are on one event loop; the work is done by threads of the queue's own. Two doors:

1. :meth:`WorkQueue.admit` gives a :class:`Place` inside or refuses at once, if the capacity is taken or if the pace measured
   so far says that the deadline would be missed. A place is held until its caller has left *and* every thread that works for
   him is done, even where he left early: what is admitted bounds the memory.
2. :meth:`WorkQueue.submit` hands one item to the workers and waits for its answer.

Callers have a :class:`Priority`. It orders who waits for a worker, and admission predicts accordingly: whoever comes has ahead
of him the work of his own priority and of higher ones. It buys no room, and work that has begun is never interrupted.

The future travels with the item; there is no table of ids that could lose one. A caller that goes away takes its item with
it if work has not begun, and harms nobody if it has. An exception belongs to its item: a batch that fails is worked on once
more, one by one. If a worker itself breaks, the queue is dead for good: ``alive`` turns False, and everyone who waits gets an
error instead of waiting for ever.

May import: the standard library, ``service.errors``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from bisect import insort
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from service.errors import DeadlineExceeded, NotReady, Overloaded

Item = TypeVar("Item")
Answer = TypeVar("Answer")

PACE_MEMORY = 0.95
"""How much of what was measured is kept when the next caller leaves: the last twenty or so count."""
HEADROOM = 1.4
"""How much longer than predicted the way through may take: the pace of the next seconds is not quite that of the last."""
LEAST_RETRY_S = 0.1

log = logging.getLogger(__name__)


class Priority(IntEnum):
    """Who goes first where several wait; of equals, whoever came first."""

    HIGH = 1
    NORMAL = 2
    LOW = 3


class Served(NamedTuple, Generic[Answer]):
    """An answer, how long its batch was worked on, and how many items that had."""

    answer: Answer
    worked_s: float
    batch: int


@dataclass(eq=False)
class _Entry(Generic[Item, Answer]):
    item: Item
    key: Hashable
    deadline: float | None
    priority: Priority
    future: Future[Served[Answer]]


class Place:
    """Room inside the queue. On the event loop only, but for the futures it holds on to.

    Takes:
        give_back: called once, on the event loop, when nobody needs the room any more
    """

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._holders = 1
        self._loop = asyncio.get_running_loop()

    def hold_for(self, work: Future[Any]) -> None:
        """Keep the room until this is done as well, or cancelled: a thread cannot be stopped when its caller leaves."""
        self._holders += 1
        work.add_done_callback(self._done)

    def leave(self) -> None:
        """One holder less."""
        self._holders -= 1
        if not self._holders:
            self._give_back()

    def _done(self, _work: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody counts any more
            self._loop.call_soon_threadsafe(self.leave)


class WorkQueue(Generic[Item, Answer]):
    """The queue and its workers, who begin at once.

    Takes:
        work: called on a worker's thread with the items of a batch; gives as many answers, in order
        capacity: the sum of costs that may be admitted at a time; a single larger one is let in when nothing else is
        concurrency: worker threads
        max_batch: items of equal key that may be worked on together; never waited for
        measured: seconds and the work that was done in them, as far as known; measured on from there
        on_idle: called on the event loop when the last one leaves
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        capacity: float,
        concurrency: int = 1,
        max_batch: int = 1,
        measured: tuple[float, float] = (0.0, 0.0),
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.capacity = capacity
        self._work = work
        self._max_batch = max_batch
        self._entries: list[_Entry[Item, Answer]] = []  # in the order in which they will be begun
        self._changed = threading.Condition()
        self._stopping = False
        self._death: BaseException | None = None
        self._admitted = 0
        self._load = 0.0
        self._todo = [0.0] * (1 + max(Priority))  # work inside, by its priority
        self._on_idle = on_idle
        self._busy_s, self._done = measured  # seconds with somebody inside, and the work done in them
        self._measured = 0.0  # when
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._workers = [
            threading.Thread(target=self._serve, name=f"fcn-worker-{number}", daemon=True) for number in range(concurrency)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def alive(self) -> bool:
        """Whether every worker runs."""
        return self._death is None and not self._stopping

    @property
    def admitted(self) -> int:
        """Callers inside."""
        return self._admitted

    @property
    def load(self) -> float:
        """The sum of their costs."""
        return self._load

    @property
    def waiting(self) -> int:
        """Items that no worker has begun."""
        return len(self._entries)

    def check_open(self) -> None:
        """Say why nobody is admitted.

        Raises:
            NotReady: if the queue drains or is dead
        """
        if self._death is not None:
            raise NotReady("the inference worker died; restart the service")
        if self._closing:
            raise NotReady("the service shuts down")

    @property
    def pace_s(self) -> float:
        """Seconds that a unit of work takes, as measured while somebody was inside; all workers together."""
        return self._busy_s / self._done if self._done else 0.0

    @contextmanager
    def admit(
        self,
        cost: float,
        *,
        work: float | None = None,
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> Iterator[Place]:
        """Be inside, or be refused at once. On the event loop only.

        Takes:
            cost: how much of the capacity the caller takes up
            work: how long it will take, in units of any kind; ``cost`` if they are the same
            deadline: a ``time.monotonic()`` after which it is of no use
            priority: with which he will submit
        Raises:
            Overloaded: if the capacity is taken, or the deadline would be missed; with the time after which to come back
            NotReady: if the queue drains or is dead
        """
        work = cost if work is None else work
        self.check_room(cost, work=work, deadline=deadline, priority=priority)
        if not self._admitted:
            self._measured = time.monotonic()  # idle time is no measure
        self._admitted += 1
        self._load += cost
        self._todo[priority] += work
        self._idle.clear()
        place = Place(lambda: self._give_back(cost, work, priority))
        try:
            yield place
            self._measure(work)
        finally:
            place.leave()

    def check_room(
        self, cost: float, *, work: float, deadline: float | None = None, priority: Priority = Priority.NORMAL
    ) -> None:
        """Nothing, if :meth:`admit` would let in who asks for the same at this moment.

        Raises:
            Overloaded, NotReady: as :meth:`admit`
        """
        self.check_open()
        if not self._admitted:  # whoever is alone is let in: what he takes is the next measurement
            return
        left_s = None if deadline is None else deadline - time.monotonic()
        pace_s = HEADROOM * self.pace_s
        excess = self._load + cost - self.capacity
        if excess > 0:
            _refuse("the queue is full", pace_s * sum(self._todo) * min(1.0, excess / self._load))
        ahead_s = pace_s * sum(self._todo[: priority + 1])
        through_s = ahead_s + pace_s * work
        if left_s is not None and through_s > left_s:
            # What could not make it behind anybody at all may come when nobody is there.
            _refuse(f"it would take {through_s:.1f} s, and {left_s:.1f} s are left", min(through_s - left_s, ahead_s))

    def _measure(self, work: float) -> None:
        """Somebody was served: how long after the one before him?"""
        now = time.monotonic()
        self._busy_s = PACE_MEMORY * self._busy_s + now - self._measured
        self._done = PACE_MEMORY * self._done + work
        self._measured = now

    def _give_back(self, cost: float, work: float, priority: Priority) -> None:
        self._admitted -= 1
        self._load -= cost
        self._todo[priority] -= work
        if not self._admitted:
            self._load = 0.0  # no rounding error outlives a quiet moment
            self._todo = [0.0] * len(self._todo)
            self._idle.set()
            self._on_idle()

    async def submit(
        self,
        item: Item,
        *,
        key: Hashable = None,
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
        place: Place | None = None,
    ) -> Served[Answer]:
        """Wait for an item's answer.

        Takes:
            item: what ``work`` takes
            key: items may share a batch if their keys are equal
            deadline: a ``time.monotonic()`` after which the answer is of no use
            priority: before whom it is begun
            place: the caller's; not given back while a worker is at the item
        Raises:
            DeadlineExceeded: at the deadline; what no worker has begun by then is never computed
            NotReady: if a worker died
            whatever ``work`` raised for this item
        """
        entry = _Entry(item, key, deadline, priority, Future[Served[Answer]]())
        if place is not None:
            place.hold_for(entry.future)
        with self._changed:
            if self._death is not None or self._stopping:
                entry.future.cancel()
                raise NotReady("the inference queue does not run")
            insort(self._entries, entry, key=lambda entry: entry.priority)
            self._changed.notify()
        timer = asyncio.timeout(None if deadline is None else deadline - time.monotonic())
        try:
            async with timer:
                return await asyncio.wrap_future(entry.future)
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineExceeded("not begun or not finished before its deadline") from None
        finally:
            del entry, timer  # they know the error, whose traceback knows this frame: a circle stays until it is looked for

    async def aclose(self, timeout_s: float | None = None) -> None:
        """Admit nobody any more, let those inside finish, end the threads.

        Takes:
            timeout_s: how long to wait for them; whoever still waits then gets ``NotReady``
        """
        self._closing = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d callers were still inside after %.1f s", self._admitted, timeout_s)
        self.close()
        await asyncio.gather(*(asyncio.to_thread(worker.join, timeout_s) for worker in self._workers))

    def close(self) -> None:
        """End at once: batches in work are finished, items that wait are answered with ``NotReady``."""
        self._closing = True
        with self._changed:
            self._stopping = True
            self._answer_all(NotReady("the service shuts down"))
            self._changed.notify_all()

    # --- on the workers' threads -------------------------------------------------------------------------------------

    def _serve(self) -> None:
        batch: list[_Entry[Item, Answer]] = []
        try:
            while batch := self._next_batch():
                self._run(batch)
                batch = []  # while the next one is waited for, nothing keeps this one in memory
        except BaseException as error:  # nobody else would ever hear of it
            log.critical("an inference worker died", exc_info=error)
            with self._changed:
                self._death = error
                for entry in batch:
                    if not entry.future.done():
                        entry.future.set_exception(NotReady("the inference worker died"))
                self._answer_all(NotReady("the inference worker died"))
                self._changed.notify_all()

    def _next_batch(self) -> list[_Entry[Item, Answer]]:
        """Wait for the item that is next and those that may share its batch; empty when the queue ends."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._entries or self._stopping or self._death is not None)
                if self._stopping or self._death is not None:
                    return []
                if batch := self._take_batch():
                    return batch

    def _take_batch(self) -> list[_Entry[Item, Answer]]:
        """As many as there are of one key, empty if their callers are gone; a frame of its own, which keeps nothing of them."""
        batch: list[_Entry[Item, Answer]] = []
        for entry in list(self._entries):
            if not batch or entry.key == batch[0].key:
                self._entries.remove(entry)
                if _begin(entry):
                    batch.append(entry)
            if len(batch) == self._max_batch:
                break
        return batch

    def _run(self, batch: Sequence[_Entry[Item, Answer]]) -> None:
        start = time.monotonic()
        try:
            answers = self._work([entry.item for entry in batch])
            answered = list(zip(batch, answers, strict=True))
        except Exception as error:  # noqa: BLE001 - it is the item's own, whatever it is
            if len(batch) > 1:  # one of them may have spoilt it for the others
                for entry in batch:
                    self._run([entry])
            else:
                batch[0].future.set_exception(error)
                batch = ()  # the error's traceback knows this frame
            return
        worked_s = time.monotonic() - start
        for entry, answer in answered:
            entry.future.set_result(Served(answer, worked_s, len(batch)))

    def _answer_all(self, error: Exception) -> None:
        for entry in self._entries:
            if entry.future.set_running_or_notify_cancel():
                entry.future.set_exception(error)
        self._entries.clear()


def _refuse(reason: str, wait_s: float) -> NoReturn:
    wait_s = round(max(LEAST_RETRY_S, wait_s), 3)
    raise Overloaded(f"{reason}; try again in {wait_s:.1f} s", retry_after_s=wait_s)


def _begin(entry: _Entry[Item, Answer]) -> bool:
    """Whether there is still somebody to work for; from here on the caller cannot take the item back."""
    if not entry.future.set_running_or_notify_cancel():
        return False
    if entry.deadline is not None and time.monotonic() >= entry.deadline:
        entry.future.set_exception(DeadlineExceeded("not begun before its deadline"))
        return False
    return True
