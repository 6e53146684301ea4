"""The scheduler between callers and workers, in order and under failure."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence

import pytest

from service.errors import DeadlineExceeded, NotReady, Overloaded
from service.serving.deadline import Deadline
from service.serving.scheduler import HEADROOM, Priority, Scheduler
from tests.waiting import wait_until, wait_until_async

WAIT_S = 30.0
"""Longer than any test takes; a test that waits this long has failed."""


class Gate:
    """Work that waits until the gate opens, and records its batches. Gives each item doubled."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.release()
        assert self.open.wait(WAIT_S)
        return [2 * item for item in items]

    async def busy(self) -> None:
        """Wait until a worker is inside."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=WAIT_S)


def doubled(items: Sequence[int]) -> list[int]:
    """Work that takes no time."""
    return [2 * item for item in items]


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test on an event loop of its own, within a time limit."""
    asyncio.run(asyncio.wait_for(test(), WAIT_S))


async def waiting(queue: Scheduler[int, int], items: int) -> None:
    """Wait until so many items have been submitted and not begun."""
    await wait_until_async(lambda: queue.waiting == items, f"{items} items to wait")


def test_each_caller_gets_the_answer_to_its_own_item() -> None:
    """A hundred callers at once, none mixed up."""

    async def test() -> None:
        queue = Scheduler(doubled, capacity=1, concurrency=3, max_batch=4)
        served = await asyncio.gather(*(queue.submit(number, key=number % 3) for number in range(100)))
        assert served == [2 * number for number in range(100)]
        await queue.aclose()

    run(test)


def test_costs_beyond_the_capacity_are_shed_at_once() -> None:
    """Capacity is a sum of costs, and the error says when to retry."""

    async def test() -> None:
        queue = Scheduler(doubled, capacity=10)
        with queue.admit(6), queue.admit(4):
            with pytest.raises(Overloaded) as caught, queue.admit(0.1):
                raise AssertionError
            assert caught.value.retry_after_s > 0
            assert (queue.admitted, queue.load) == (2, 10)
        with queue.admit(10):
            pass
        assert (queue.admitted, queue.load) == (0, 0)
        await queue.aclose()

    run(test)


def test_a_cost_above_the_capacity_is_admitted_when_nothing_else_is() -> None:
    """A limit on the queue does not limit the size of one image."""

    async def test() -> None:
        queue = Scheduler(doubled, capacity=1)
        with queue.admit(50), pytest.raises(Overloaded), queue.admit(0.1):
            pass
        await queue.aclose()

    run(test)


def test_a_failed_caller_gives_its_capacity_back() -> None:
    """An error or a cancelled caller does not shrink the queue."""

    async def test() -> None:
        queue = Scheduler(doubled, capacity=1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), queue.admit(1):
                raise ZeroDivisionError
        assert queue.admitted == 0
        await queue.aclose()

    run(test)


def test_retry_after_follows_the_measured_pace() -> None:
    """Slow work makes the suggested wait longer."""

    async def test() -> None:
        queue = Scheduler(doubled, capacity=2)
        with queue.admit(1):
            await asyncio.sleep(0.2)
        pace_s = queue.pace_s
        assert pace_s >= 0.2
        with queue.admit(2), pytest.raises(Overloaded) as caught, queue.admit(2):
            pass
        assert caught.value.retry_after_s == pytest.approx(HEADROOM * 2 * pace_s, abs=0.002)
        await queue.aclose()

    run(test)


def test_the_item_of_a_cancelled_caller_is_not_computed() -> None:
    """One of five is cancelled while waiting: four answers, four computations."""

    async def test() -> None:
        gate = Gate()
        queue = Scheduler(gate, capacity=1)
        tasks = [asyncio.create_task(queue.submit(number)) for number in range(5)]
        await gate.busy()
        await waiting(queue, 4)
        tasks[2].cancel()
        await asyncio.sleep(0)
        gate.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[2], asyncio.CancelledError)
        assert [result for result in results if isinstance(result, int)] == [0, 2, 6, 8]
        assert gate.batches == [[0], [1], [3], [4]]
        assert queue.alive
        await queue.aclose()

    run(test)


def test_a_cancelled_item_is_freed_while_the_worker_waits() -> None:
    """A worker that skips a cancelled item does not keep it until the next one comes."""

    class Photo:
        """A large object."""

    entered, go_on = threading.Event(), threading.Event()

    def work(items: Sequence[Photo]) -> Sequence[Photo]:
        entered.set()
        assert go_on.wait(WAIT_S)
        return items

    async def test() -> None:
        queue: Scheduler[Photo, Photo] = Scheduler(work, capacity=2)
        first = asyncio.create_task(queue.submit(Photo()))
        assert await asyncio.to_thread(entered.wait, WAIT_S)
        photo = Photo()
        forgotten = weakref.ref(photo)
        leaver = asyncio.create_task(queue.submit(photo))
        del photo
        await wait_until_async(lambda: queue.waiting, "the item to wait")
        leaver.cancel()
        await asyncio.wait([leaver])
        del leaver
        go_on.set()
        await first
        await wait_until_async(lambda: forgotten() is None, "the item to be freed")
        await queue.aclose()

    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()


def test_a_caller_cancelled_in_mid_work_leaves_its_batch_intact() -> None:
    """Setting a result without a waiting caller does not end the worker."""

    async def test() -> None:
        gate = Gate()
        queue = Scheduler(gate, capacity=1, max_batch=3)
        first = asyncio.create_task(queue.submit(0))
        await gate.busy()
        batch = [asyncio.create_task(queue.submit(number)) for number in (1, 2, 3)]
        await waiting(queue, 3)
        gate.open.set()
        await first
        batch[0].cancel()
        results = await asyncio.gather(*batch[1:])
        assert results == [4, 6]
        assert await queue.submit(7) == 14
        await queue.aclose()

    run(test)


def test_the_deadline_is_kept_and_an_expired_item_is_not_computed() -> None:
    """The caller is answered at its deadline even while the worker is busy; the worker then skips the item."""

    async def test() -> None:
        gate = Gate()
        queue = Scheduler(gate, capacity=1)
        first = asyncio.create_task(queue.submit(1))
        await gate.busy()
        with pytest.raises(DeadlineExceeded):
            async with Deadline(0.05) as deadline:
                await queue.submit(2, deadline=deadline)
        gate.open.set()
        assert await first == 2
        assert await queue.submit(3, deadline=Deadline(WAIT_S)) == 6
        assert gate.batches == [[1], [3]]
        await queue.aclose()

    run(test)


def test_an_item_past_its_deadline_is_never_computed() -> None:
    """A worker that reaches such an item raises DeadlineExceeded for it."""

    async def test() -> None:
        gate = Gate()
        gate.open.set()
        queue = Scheduler(gate, capacity=1)
        with pytest.raises(DeadlineExceeded):
            await queue.submit(1, deadline=Deadline(-1))
        assert await queue.submit(2) == 4
        assert gate.batches == [[2]]
        await queue.aclose()

    run(test)


def test_a_timeout_inside_the_work_is_not_taken_for_the_deadline() -> None:
    """An exception keeps its identity."""

    def failing(items: Sequence[int]) -> list[int]:
        raise TimeoutError("of the work")

    async def test() -> None:
        queue = Scheduler(failing, capacity=1)
        with pytest.raises(TimeoutError, match="of the work"):
            await queue.submit(1, deadline=Deadline(WAIT_S))
        await queue.aclose()

    run(test)


def test_only_equal_keys_share_a_batch_and_keep_their_order() -> None:
    """Different keys form different batches; equal keys keep the order of arrival."""

    async def test() -> None:
        gate = Gate()
        queue = Scheduler(gate, capacity=1, max_batch=3)
        first = asyncio.create_task(queue.submit(0))
        await gate.busy()
        rest = [asyncio.create_task(queue.submit(number, key=number % 2)) for number in range(1, 9)]
        await waiting(queue, 8)
        gate.open.set()
        await asyncio.gather(first, *rest)
        assert gate.batches == [[0], [1, 3, 5], [2, 4, 6], [7], [8]]
        await queue.aclose()

    run(test)


def test_items_of_higher_priority_go_first() -> None:
    """Ahead of all waiting items, but after work that has begun; equal ones keep their order."""

    async def test() -> None:
        gate = Gate()
        queue = Scheduler(gate, capacity=1)
        first = asyncio.create_task(queue.submit(0, priority=Priority.LOW))
        await gate.busy()
        order = [Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.LOW, Priority.NORMAL, Priority.HIGH]
        rest = [asyncio.create_task(queue.submit(number, priority=priority)) for number, priority in enumerate(order, 1)]
        await waiting(queue, 6)
        gate.open.set()
        await asyncio.gather(first, *rest)
        assert gate.batches == [[0], [3], [6], [2], [5], [1], [4]]
        await queue.aclose()

    run(test)


def test_admission_counts_only_the_work_that_goes_before() -> None:
    """Lower priorities do not count as delay; the capacity is the same for all."""

    async def test() -> None:
        queue = Scheduler(doubled, capacity=10, measured=(1.0, 1.0))  # a second a unit of work
        with queue.admit(5, priority=Priority.LOW):
            deadline = Deadline(3)
            with pytest.raises(Overloaded), queue.admit(1, deadline=deadline, priority=Priority.LOW):
                raise AssertionError
            with queue.admit(2, deadline=deadline):  # 2 units at 1.4 s
                with pytest.raises(Overloaded), queue.admit(1, deadline=deadline):
                    raise AssertionError
                with queue.admit(1, deadline=deadline, priority=Priority.HIGH):
                    pass
                with pytest.raises(Overloaded), queue.admit(4, priority=Priority.HIGH):
                    raise AssertionError
        await queue.aclose()

    run(test)


@pytest.mark.parametrize(
    ("cost", "work", "left_s", "wait_s"),
    [
        (1.5, 0.1, None, 1.4 * 2.0 * 3.0 * 1.0 / 2.0),  # one of the two admitted must end, and its share of the work
        (4.0, 0.1, None, 1.4 * 2.0 * 3.0),  # all work must end first
        (0.5, 1.0, 11.0, 1.4 * 2.0 * 4.0 - 11.0),  # a little too late
        (0.5, 9.0, 11.0, 1.4 * 2.0 * 3.0),  # too late even alone: when the queue is empty
        (0.5, 1.0, 11.19, 0.1),  # hardly too late: the shortest wait
    ],
)
def test_a_shed_caller_learns_when_capacity_will_be_free(cost: float, work: float, left_s: float | None, wait_s: float) -> None:
    """A queue of 2.5 with 2 inside, whose work of 3 takes 2 s a unit, and 1.4 times that to be safe."""

    async def test() -> None:
        queue = Scheduler[int, int](doubled, capacity=2.5, measured=(200.0, 100.0))
        with queue.admit(2.0, work=3.0):
            deadline = None if left_s is None else Deadline(left_s)
            with pytest.raises(Overloaded) as refused:
                queue.check_capacity(cost, work=work, deadline=deadline)
            assert refused.value.facts["retry_after_s"] == pytest.approx(wait_s, abs=0.02)
            queue.check_capacity(0.5, work=1.0, deadline=Deadline(11.3))
        queue.close()

    run(test)


def test_old_measurements_lose_their_weight() -> None:
    """A start that took a thousand seconds a unit is history after a hundred callers."""

    async def test() -> None:
        queue = Scheduler[int, int](doubled, capacity=10.0, measured=(1000.0, 1.0))
        assert queue.pace_s == 1000
        for _ in range(100):
            with queue.admit(1.0):
                await queue.submit(1)
        assert 0 < queue.pace_s < 1
        queue.close()
        fresh = Scheduler[int, int](doubled, capacity=1.0)
        assert fresh.pace_s == 0
        with fresh.admit(1.0, work=5.0), pytest.raises(Overloaded) as refused:
            fresh.check_capacity(1.0, work=5.0)
        assert refused.value.facts["retry_after_s"] == 0.1
        fresh.close()

    run(test)


def test_the_worker_checks_the_deadline_itself() -> None:
    """A busy event loop has not yet noticed the deadline when the worker takes the item."""

    async def test() -> None:
        gate = Gate()
        queue = Scheduler[int, int](gate, capacity=10.0)
        first = asyncio.ensure_future(queue.submit(1))
        await gate.busy()
        second = asyncio.ensure_future(queue.submit(2, deadline=Deadline(0.05)))
        await waiting(queue, 1)
        time.sleep(0.1)  # noqa: ASYNC251  (the point of it)
        gate.open.set()
        wait_until(lambda: not queue.waiting, "the worker to take the item")
        with pytest.raises(DeadlineExceeded):
            await second
        assert await first == 2
        assert gate.batches == [[1]]
        queue.close()

    run(test)


def test_check_capacity_and_admit_decide_alike() -> None:
    """Asking and admitting are one decision; asking takes no capacity."""

    async def scenario() -> None:
        queue = Scheduler[int, int](doubled, capacity=2.0, measured=(1.0, 1.0))
        try:
            soon = Deadline(2.5)
            queue.check_capacity(100.0, work=100.0, deadline=soon)  # a lone caller
            with queue.admit(1.0, deadline=soon):
                queue.check_capacity(1.0, work=0.5, deadline=soon)
                for cost, work in ((1.1, 0.1), (1.0, 1.0)):
                    with pytest.raises(Overloaded) as asked:
                        queue.check_capacity(cost, work=work, deadline=soon)
                    with pytest.raises(Overloaded) as taken, queue.admit(cost, work=work, deadline=soon):
                        raise AssertionError
                    assert asked.value.facts["retry_after_s"] == pytest.approx(taken.value.facts["retry_after_s"], abs=0.1)
                assert (queue.admitted, queue.load) == (1, 1.0)
        finally:
            queue.close()
        with pytest.raises(NotReady):
            queue.check_capacity(1.0, work=1.0)

    asyncio.run(scenario())


@pytest.mark.parametrize("max_batch", [1, 2, 3])
def test_an_exception_belongs_to_its_item(max_batch: int) -> None:
    """The others of its batch are served, and so is the next."""
    gate = Gate()

    def picky(items: Sequence[int]) -> list[int]:
        answers = gate(items)
        if 13 in items:
            raise ValueError("13")
        return answers

    async def test() -> None:
        queue = Scheduler(picky, capacity=1, max_batch=max_batch)
        first = asyncio.create_task(queue.submit(0))
        await gate.busy()
        tasks = [asyncio.create_task(queue.submit(number)) for number in (11, 12, 13, 14)]
        await waiting(queue, 4)
        gate.open.set()
        await first
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [int, int, ValueError, int]
        assert queue.alive
        await queue.aclose()

    run(test)


def test_capacity_is_held_while_work_goes_on_without_its_caller() -> None:
    """A caller cancelled in mid work frees its capacity only when the worker is done."""

    async def test() -> None:
        gate = Gate()
        queue = Scheduler(gate, capacity=1)

        async def caller() -> None:
            with queue.admit(1) as admission:
                await queue.submit(1, admission=admission)

        leaver = asyncio.create_task(caller())
        await gate.busy()
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        with pytest.raises(Overloaded), queue.admit(1):
            pass
        gate.open.set()
        await wait_until_async(lambda: not queue.admitted, "every admission to end")
        with queue.admit(1):
            pass
        await queue.aclose()

    run(test)


def test_capacity_of_an_item_that_never_began_is_given_back_at_once() -> None:
    """A waiting item leaves the queue with its caller."""

    async def test() -> None:
        gate = Gate()
        queue = Scheduler(gate, capacity=10)
        first = asyncio.create_task(queue.submit(0))
        await gate.busy()

        async def caller() -> None:
            with queue.admit(1) as admission:
                await queue.submit(1, admission=admission)

        leaver = asyncio.create_task(caller())
        await waiting(queue, 1)
        leaver.cancel()
        await wait_until_async(lambda: not queue.admitted, "every admission to end")
        gate.open.set()
        await first
        assert gate.batches == [[0]]
        await queue.aclose()

    run(test)


def test_a_late_caller_is_shed_and_a_lone_one_is_not() -> None:
    """The measured pace decides; the next lone caller measures it again."""

    async def test() -> None:
        queue = Scheduler(doubled, capacity=100, measured=(2.0, 1))
        soon = Deadline(10)
        with queue.admit(1, deadline=soon), queue.admit(1, deadline=soon):
            with pytest.raises(Overloaded) as caught, queue.admit(10, deadline=soon):
                pass
            assert 0.1 <= caught.value.retry_after_s < 10  # the admitted will be done by then
            with queue.admit(10), queue.admit(10, deadline=Deadline(20 * WAIT_S)):
                pass
        with queue.admit(50, deadline=soon):
            pass
        assert queue.pace_s < 2
        await queue.aclose()

    run(test)


def test_the_pace_is_that_of_all_workers_together() -> None:
    """Twenty callers of 10 ms each, two at a time, are 5 ms apart, however long each one waited."""

    def slow(items: Sequence[int]) -> Sequence[int]:
        time.sleep(0.01)
        return items

    async def test() -> None:
        queue = Scheduler(slow, capacity=100, concurrency=2)

        async def caller(number: int) -> None:
            with queue.admit(2, work=1) as admission:
                await queue.submit(number, admission=admission)

        begun = time.monotonic()
        await asyncio.gather(*(caller(number) for number in range(20)))
        assert queue.pace_s == pytest.approx((time.monotonic() - begun) / 20, rel=0.4)
        await queue.aclose()

    run(test)


def test_on_idle_is_called_when_the_last_admission_ends() -> None:
    """For work that should happen while the service is idle."""
    quiet = []

    async def test() -> None:
        queue = Scheduler(doubled, capacity=10, on_idle=lambda: quiet.append(queue.admitted))
        with queue.admit(1):
            with queue.admit(1):
                pass
            assert quiet == []
        assert quiet == [0]
        await queue.aclose()

    run(test)


def test_work_that_gives_too_few_answers_is_an_error_of_its_batch() -> None:
    """An item never gets the answer of another."""

    async def test() -> None:
        queue: Scheduler[int, int] = Scheduler(lambda items: [], capacity=1)
        with pytest.raises(ValueError, match="zip"):
            await queue.submit(1)
        assert queue.alive
        await queue.aclose()

    run(test)


def test_if_a_worker_dies_every_caller_gets_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """Items in work, waiting items and later ones all get NotReady."""
    entered, die = threading.Event(), threading.Event()

    def fatal(items: Sequence[int]) -> list[int]:
        entered.set()
        assert die.wait(WAIT_S)
        raise SystemExit

    async def test() -> None:
        queue = Scheduler(fatal, capacity=10, concurrency=1)
        tasks = [asyncio.create_task(queue.submit(number)) for number in range(4)]
        assert await asyncio.to_thread(entered.wait, WAIT_S)
        await waiting(queue, 3)
        queue.check_open()
        die.set()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, NotReady)
        assert not queue.alive
        with pytest.raises(NotReady):
            queue.check_open()
        with pytest.raises(NotReady), queue.admit(1):
            pass
        with pytest.raises(NotReady):
            await queue.submit(1)
        await queue.aclose()

    run(test)
    assert "worker died" in caplog.text


def test_closing_finishes_admitted_work_and_admits_no_more() -> None:
    """Draining loses no accepted request."""

    async def test() -> None:
        gate = Gate()
        queue = Scheduler(gate, capacity=10)

        async def caller(number: int) -> int:
            with queue.admit(1):
                return await queue.submit(number)

        tasks = [asyncio.create_task(caller(number)) for number in range(3)]
        await gate.busy()
        closing = asyncio.create_task(queue.aclose(WAIT_S))
        await asyncio.sleep(0.01)
        with pytest.raises(NotReady, match="shuts down"), queue.admit(1):
            pass
        gate.open.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4]
        await closing
        assert not queue.alive

    run(test)


def test_closing_ends_after_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    """After the timeout, waiting callers get NotReady."""

    async def test() -> None:
        gate = Gate()
        queue = Scheduler(gate, capacity=10)

        async def caller(number: int) -> int:
            with queue.admit(1):
                return await queue.submit(number)

        tasks = [asyncio.create_task(caller(number)) for number in range(2)]
        await gate.busy()
        await queue.aclose(0.05)
        with pytest.raises(NotReady):
            await tasks[1]
        gate.open.set()
        assert await tasks[0] == 0

    run(test)
    assert "2 callers were still inside" in caplog.text


def test_several_workers_work_at_the_same_time() -> None:
    """Concurrency is real."""

    async def test() -> None:
        gate = Gate()
        queue = Scheduler(gate, capacity=1, concurrency=2)
        tasks = [asyncio.create_task(queue.submit(number)) for number in range(2)]
        await gate.busy()
        await gate.busy()
        gate.open.set()
        await asyncio.gather(*tasks)
        await queue.aclose()

    run(test)
