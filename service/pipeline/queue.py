"""A bounded queue between an event loop and worker threads. Generic: it knows costs, keys and deadlines, but no images.

Callers are on one event loop; the work is done by threads of the queue's own. Two doors:

1. :meth:`WorkQueue.admit` takes a cost out of the capacity for as long as the caller is at it, or refuses at once. All
   that a caller makes (decoded images, results) lives inside its admission: what is admitted bounds the memory.
2. :meth:`WorkQueue.submit` hands one item to the workers and waits for its answer.

The future travels with the item; there is no table of ids that could lose one. A caller that goes away takes its item with
it if work has not begun, and harms nobody if it has. An exception belongs to its batch. If a worker itself breaks, the queue
is dead for good: ``alive`` turns False, and everyone who waits gets an error instead of waiting for ever.

May import: the standard library, ``service.errors``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from service.errors import DeadlineExceeded, NotReady, Overloaded

Item = TypeVar("Item")
Answer = TypeVar("Answer")

PACE_MEMORY = 0.9
"""How much of the measured pace is kept at each new measurement."""
LEAST_RETRY_S = 0.1

log = logging.getLogger(__name__)


class Served(NamedTuple, Generic[Answer]):
    """An answer, and how long its batch was worked on."""

    answer: Answer
    worked_s: float


@dataclass(eq=False)
class _Entry(Generic[Item, Answer]):
    item: Item
    key: Hashable
    deadline: float | None
    future: Future[Served[Answer]]


class WorkQueue(Generic[Item, Answer]):
    """The queue and its workers, who begin at once.

    Takes:
        work: called on a worker's thread with the items of a batch; gives as many answers, in order
        capacity: the sum of costs that may be admitted at a time; a single larger one is let in when nothing else is
        concurrency: worker threads
        max_batch: items of equal key that may be worked on together; never waited for
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        capacity: float,
        concurrency: int = 1,
        max_batch: int = 1,
    ) -> None:
        self.capacity = capacity
        self._work = work
        self._max_batch = max_batch
        self._entries: deque[_Entry[Item, Answer]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._death: BaseException | None = None
        self._admitted = 0
        self._load = 0.0
        self._pace = 0.0  # seconds for a unit of cost
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

    @contextmanager
    def admit(self, cost: float) -> Iterator[None]:
        """Be inside, or be refused at once. On the event loop only.

        Raises:
            Overloaded: if the capacity is taken, with the time after which there should be room
            NotReady: if the queue drains or is dead
        """
        self.check_open()
        if self._admitted and self._load + cost > self.capacity:
            seconds = max(LEAST_RETRY_S, (self._load + cost - self.capacity) * self._pace)
            raise Overloaded(f"the queue is full; try again in {seconds:.1f} s", retry_after_s=round(seconds, 3))
        self._admitted += 1
        self._load += cost
        self._idle.clear()
        ahead, start = self._load, time.monotonic()
        try:
            yield
        finally:
            pace = (time.monotonic() - start) / ahead if ahead else 0.0
            self._pace = PACE_MEMORY * self._pace + (1 - PACE_MEMORY) * pace if self._pace else pace
            self._admitted -= 1
            self._load = self._load - cost if self._admitted else 0.0  # no rounding error outlives a quiet moment
            if not self._admitted:
                self._idle.set()

    async def submit(self, item: Item, *, key: Hashable = None, deadline: float | None = None) -> Served[Answer]:
        """Wait for an item's answer.

        Takes:
            item: what ``work`` takes
            key: items may share a batch if their keys are equal
            deadline: a ``time.monotonic()`` after which the answer is of no use
        Raises:
            DeadlineExceeded: at the deadline; what no worker has begun by then is never computed
            NotReady: if a worker died
            whatever ``work`` raised for this item's batch
        """
        entry = _Entry(item, key, deadline, Future[Served[Answer]]())
        with self._changed:
            if self._death is not None or self._stopping:
                raise NotReady("the inference queue does not run")
            self._entries.append(entry)
            self._changed.notify()
        timeout = None if deadline is None else deadline - time.monotonic()
        try:
            async with asyncio.timeout(timeout) as timer:
                return await asyncio.wrap_future(entry.future)
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineExceeded("not begun or not finished before its deadline") from None

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
        """Wait for the oldest item and those that may share its batch; empty when the queue ends."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._entries or self._stopping or self._death is not None)
                if self._stopping or self._death is not None:
                    return []
                batch: list[_Entry[Item, Answer]] = []
                for entry in list(self._entries):
                    if not batch or entry.key == batch[0].key:
                        self._entries.remove(entry)
                        if _begin(entry):
                            batch.append(entry)
                    if len(batch) == self._max_batch:
                        break
                if batch:
                    return batch

    def _run(self, batch: Sequence[_Entry[Item, Answer]]) -> None:
        start = time.monotonic()
        try:
            answers = self._work([entry.item for entry in batch])
            answered = list(zip(batch, answers, strict=True))
        except Exception as error:  # noqa: BLE001 - it is the batch's own, whatever it is
            for entry in batch:
                entry.future.set_exception(error)
            return
        worked_s = time.monotonic() - start
        for entry, answer in answered:
            entry.future.set_result(Served(answer, worked_s))

    def _answer_all(self, error: Exception) -> None:
        for entry in self._entries:
            if entry.future.set_running_or_notify_cancel():
                entry.future.set_exception(error)
        self._entries.clear()


def _begin(entry: _Entry[Item, Answer]) -> bool:
    """Whether there is still somebody to work for; from here on the caller cannot take the item back."""
    if not entry.future.set_running_or_notify_cancel():
        return False
    if entry.deadline is not None and time.monotonic() >= entry.deadline:
        entry.future.set_exception(DeadlineExceeded("not begun before its deadline"))
        return False
    return True
