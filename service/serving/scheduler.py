"""Admission, lanes and batches between an event loop and worker threads. Generic: costs, keys and deadlines, but no images.

Callers live on one event loop; the scheduler's own threads do the work. There are two steps:

1. :meth:`Scheduler.admit` gives an :class:`Admission` or sheds at once: if the capacity is taken, or if the pace measured so
   far says that the deadline would be missed. Its capacity is held until the caller has left *and* every thread that works for
   it is done, even if the caller left early: what is admitted bounds the memory.
2. :meth:`Scheduler.submit` hands one item to the workers and waits for its answer.

A :class:`Priority` orders the items that wait for a worker, and admission predicts accordingly: ahead of an item is the work of
its own priority and of higher ones. Priority changes the order of waiting items only; it never evicts or preempts.

The future travels with the item; no table of ids could lose one. It is the event loop's own, and a worker settles it by one
call there: a future of threads, chained to one of the loop, takes two calls and some thirty functions. A caller that is
cancelled takes its item along if work has not begun, and does not disturb the batch if it has. An exception belongs to its
item: a batch that fails is run again, one item at a time. If a worker itself fails, the scheduler is dead: ``alive`` turns
False, and every waiting caller gets an error.
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
from typing import Any, Generic, NoReturn, TypeVar

from service.errors import NotReady, Overloaded
from service.serving.deadline import Deadline

Item = TypeVar("Item")
Result = TypeVar("Result")

PACE_MEMORY = 0.95
"""The share of earlier measurements that each new one keeps: the last twenty or so count."""
HEADROOM = 1.4
"""Factor on the predicted time: the pace of the next seconds is not quite that of the last."""
LEAST_RETRY_S = 0.1

log = logging.getLogger(__name__)


class Priority(IntEnum):
    """The order of waiting items; equal ones keep the order of their arrival."""

    HIGH = 1
    NORMAL = 2
    LOW = 3


class Admission:
    """Capacity held inside the scheduler. On the event loop only, but for the futures that hold it.

    Takes:
        give_back: called once, on the event loop, when the caller and every future are done
    """

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._holders = 1
        self._loop = asyncio.get_running_loop()

    def hold(self) -> None:
        """Keep the capacity until one more :meth:`leave`."""
        self._holders += 1

    def hold_for(self, work: Future[Any]) -> None:
        """Keep the capacity until this future is done or cancelled too: a thread cannot be stopped when its caller leaves."""
        self.hold()
        work.add_done_callback(self._done)

    def leave(self) -> None:
        """Release one hold."""
        self._holders -= 1
        if not self._holders:
            self._give_back()

    def _done(self, _work: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the count no longer matters
            self._loop.call_soon_threadsafe(self.leave)


@dataclass(eq=False)
class _Entry(Generic[Item, Result]):
    """An item, and the caller that waits for its answer."""

    item: Item
    key: Hashable
    deadline: Deadline | None
    priority: Priority
    answer: asyncio.Future[Result]
    """The event loop's."""
    admission: Admission | None
    """Held until the entry is over; None afterwards."""

    def succeed(self, result: Result) -> None:
        """Give the caller its answer, unless it is gone. From any thread."""
        self._settle(self.answer.set_result, result)

    def fail(self, error: Exception) -> None:
        """Give the caller an error, unless it is gone. From any thread."""
        self._settle(self.answer.set_exception, error)

    def end(self) -> None:
        """Release the capacity. On the event loop only."""
        admission, self.admission = self.admission, None
        if admission is not None:
            admission.leave()

    def _settle(self, settle: Callable[[Any], None], outcome: Result | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed, and no caller waits
            self.answer.get_loop().call_soon_threadsafe(self._end_with, settle, outcome)

    def _end_with(self, settle: Callable[[Any], None], outcome: Result | Exception) -> None:
        self.end()
        if not self.answer.done():
            settle(outcome)


class Scheduler(Generic[Item, Result]):
    """Admission and worker threads, which start at once.

    Takes:
        work: called on a worker's thread with the items of a batch; gives as many answers, in order
        capacity: the sum of costs that may be admitted at a time; a single larger one is admitted when nothing else is
        concurrency: worker threads
        max_batch: items of equal key that may be worked on together; a worker never waits for more
        measured: the pace to begin with, as (seconds, work done in them); finished work updates it
        on_idle: called on the event loop when the last admission ends
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
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
        self._entries: list[_Entry[Item, Result]] = []  # in the order in which they will be begun
        self._changed = threading.Condition()
        self._stopping = False
        self._death: BaseException | None = None
        self._admitted = 0
        self._load = 0.0
        self._todo = [0.0] * (1 + max(Priority))  # admitted work, by its priority
        self._on_idle = on_idle
        self._busy_s, self._done = measured  # seconds in which anything was admitted, and the work done in them
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
        """Admissions that have not ended."""
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
        """Return None if callers may be admitted.

        Raises:
            NotReady: if the scheduler drains or is dead
        """
        if self._death is not None:
            raise NotReady("the inference worker died; restart the service")
        if self._closing:
            raise NotReady("the service shuts down")

    @property
    def pace_s(self) -> float:
        """Seconds that a unit of work takes all workers together, measured while anything was admitted."""
        return self._busy_s / self._done if self._done else 0.0

    @contextmanager
    def admit(
        self,
        cost: float,
        *,
        work: float | None = None,
        deadline: Deadline | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> Iterator[Admission]:
        """Hold capacity for as long as the block lasts, or shed at once. On the event loop only.

        Takes:
            cost: the share of the capacity that the caller takes
            work: how long it will take, in units of any kind; ``cost`` if they are the same
            deadline: after which the answer is of no use
            priority: with which its items will be submitted
        Raises:
            Overloaded: if the capacity is taken, or the deadline would be missed; with the time after which to retry
            NotReady: if the scheduler drains or is dead
        """
        work = cost if work is None else work
        self.check_capacity(cost, work=work, deadline=deadline, priority=priority)
        if not self._admitted:
            self._measured = time.monotonic()  # idle time is not measured
        self._admitted += 1
        self._load += cost
        self._todo[priority] += work
        self._idle.clear()
        admission = Admission(lambda: self._give_back(cost, work, priority))
        try:
            yield admission
            self._measure(work)
        finally:
            admission.leave()

    def check_capacity(
        self, cost: float, *, work: float, deadline: Deadline | None = None, priority: Priority = Priority.NORMAL
    ) -> None:
        """Return None if :meth:`admit` would admit the same at this moment.

        Raises:
            Overloaded, NotReady: as :meth:`admit`
        """
        self.check_open()
        if not self._admitted:  # a lone caller is admitted in any case: its time is the next measurement
            return
        pace_s = HEADROOM * self.pace_s
        excess = self._load + cost - self.capacity
        if excess > 0:
            _shed("the queue is full", pace_s * sum(self._todo) * min(1.0, excess / self._load))
        ahead_s = pace_s * sum(self._todo[: priority + 1])
        through_s = ahead_s + pace_s * work
        if deadline is not None and through_s > (left_s := deadline.at - time.monotonic()):
            # If the work alone exceeds the deadline, suggest retrying when the queue is empty.
            _shed(f"it would take {through_s:.1f} s, and {left_s:.1f} s are left", min(through_s - left_s, ahead_s))

    def _measure(self, work: float) -> None:
        """Count finished work and the time since the last that finished."""
        now = time.monotonic()
        self._busy_s = PACE_MEMORY * self._busy_s + now - self._measured
        self._done = PACE_MEMORY * self._done + work
        self._measured = now

    def _give_back(self, cost: float, work: float, priority: Priority) -> None:
        self._admitted -= 1
        self._load -= cost
        self._todo[priority] -= work
        if not self._admitted:
            self._load = 0.0  # rounding errors do not outlive an idle moment
            self._todo = [0.0] * len(self._todo)
            self._idle.set()
            self._on_idle()

    async def submit(
        self,
        item: Item,
        *,
        key: Hashable = None,
        deadline: Deadline | None = None,
        priority: Priority = Priority.NORMAL,
        admission: Admission | None = None,
    ) -> Result:
        """Wait for an item's answer. The caller enforces the deadline; here an item past it is not begun.

        Takes:
            item: what ``work`` takes
            key: items may share a batch if their keys are equal
            deadline: after which the answer is of no use
            priority: the item's place among those that wait
            admission: the caller's; held while a worker is at the item
        Raises:
            DeadlineExceeded: if a worker reaches the item after its deadline
            NotReady: if a worker died
            whatever ``work`` raised for this item
        """
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        entry = _Entry(item, key, deadline, priority, answer, admission)
        with self._changed:
            if self._death is not None or self._stopping:
                raise NotReady("the inference queue does not run")
            if admission is not None:
                admission.hold()
            insort(self._entries, entry, key=lambda entry: entry.priority)
            self._changed.notify()
        try:
            return await answer
        except asyncio.CancelledError:
            self._withdraw(entry)
            raise
        finally:
            del entry, answer  # break the reference cycle future -> error -> traceback -> this frame

    def _withdraw(self, entry: _Entry[Item, Result]) -> None:
        """Take an item back, unless a worker has begun it."""
        with self._changed:
            waits = entry in self._entries
            if waits:
                self._entries.remove(entry)
        if waits:
            entry.end()

    async def aclose(self, timeout_s: float | None = None) -> None:
        """Admit no more, let the admitted finish, end the threads.

        Takes:
            timeout_s: how long to wait for the admitted; those still waiting then get ``NotReady``
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
        batch: list[_Entry[Item, Result]] = []
        try:
            while batch := self._next_batch():
                self._run(batch)
                batch = []  # while the worker waits for the next batch, nothing keeps this one in memory
        except BaseException as error:  # no caller would ever see it
            log.critical("an inference worker died", exc_info=error)
            with self._changed:
                self._death = error
                for entry in batch:
                    entry.fail(NotReady("the inference worker died"))
                self._answer_all(NotReady("the inference worker died"))
                self._changed.notify_all()

    def _next_batch(self) -> list[_Entry[Item, Result]]:
        """Wait for the next item and those that may share its batch; empty when the scheduler ends."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._entries or self._stopping or self._death is not None)
                if self._stopping or self._death is not None:
                    return []
                if batch := self._take_batch():
                    return batch

    def _take_batch(self) -> list[_Entry[Item, Result]]:
        """Take the waiting items of one key; none if they are past their deadlines. A frame of its own keeps no reference."""
        batch: list[_Entry[Item, Result]] = []
        for entry in list(self._entries):
            if not batch or entry.key == batch[0].key:
                self._entries.remove(entry)
                if entry.deadline is not None and entry.deadline.left_s <= 0:
                    entry.fail(entry.deadline.error())
                else:
                    batch.append(entry)
            if len(batch) == self._max_batch:
                break
        return batch

    def _run(self, batch: Sequence[_Entry[Item, Result]]) -> None:
        try:
            answers = self._work([entry.item for entry in batch])
            answered = list(zip(batch, answers, strict=True))
        except Exception as error:  # noqa: BLE001 - it belongs to the item, whatever it is
            if len(batch) > 1:  # one item may have spoilt it for the others
                for entry in batch:
                    self._run([entry])
            else:
                batch[0].fail(error)
                batch = ()  # the error's traceback refers to this frame
            return
        for entry, answer in answered:
            entry.succeed(answer)

    def _answer_all(self, error: Exception) -> None:
        for entry in self._entries:
            entry.fail(error)
        self._entries.clear()


def _shed(reason: str, wait_s: float) -> NoReturn:
    wait_s = round(max(LEAST_RETRY_S, wait_s), 3)
    raise Overloaded(f"{reason}; try again in {wait_s:.1f} s", retry_after_s=wait_s)
