"""When freed memory goes back to the system, on a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from service.serving.trimming import TRIM_AFTER_S, TRIM_EVERY_S, TRIM_MEGAPIXELS, Trimmer


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes when it is told to."""

    now = 0.0

    def time(self) -> float:
        """Return its own time."""
        return self.now


class Service:
    """A trimmer, and the moments of its trims."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.trims: list[float] = []
        self._trimmer = Trimmer(lambda: self.trims.append(clock.now))

    async def serve(self, megapixels: float = 1.0) -> None:
        """Take one image in and out again."""
        self._trimmer.count(megapixels)
        self._trimmer.idle()
        await asyncio.sleep(0)

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._clock.now += seconds
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def on_a_clock(story: Callable[[Service], Awaitable[None]]) -> list[float]:
    """Run a story; gives the moments of the trims."""
    with asyncio.Runner(loop_factory=Clock) as runner:
        clock = runner.get_loop()
        assert isinstance(clock, Clock)
        service = Service(clock)

        async def whole() -> None:
            await story(service)

        runner.run(whole())
    return service.trims


def test_an_idle_second_is_followed_by_one_trim() -> None:
    """And by no other until there was traffic again."""

    async def story(service: Service) -> None:
        await service.serve()
        await service.wait(TRIM_AFTER_S)
        await service.wait(10)
        await service.serve()
        await service.wait(TRIM_AFTER_S)

    assert on_a_clock(story) == [1.0, 12.0]


def test_there_is_no_trim_within_a_second_of_traffic() -> None:
    """However much was served: half a minute of a camera, and then the pause."""

    async def story(service: Service) -> None:
        for _ in range(100):
            await service.serve(TRIM_MEGAPIXELS)
            await service.wait(0.3)
        await service.wait(1)

    (trimmed_s,) = on_a_clock(story)
    assert trimmed_s > 30.9


def test_traffic_without_a_pause_is_trimmed_in_once_a_minute() -> None:
    """Or the memory of one large image would stay for as long as a camera sends."""

    async def story(service: Service) -> None:
        for _ in range(round(150 / 0.25)):
            await service.serve()
            await service.wait(0.25)

    trims = on_a_clock(story)
    assert len(trims) == 2
    assert trims[1] - trims[0] >= TRIM_EVERY_S


def test_little_work_is_never_trimmed_in() -> None:
    """Small images leave little behind."""

    async def story(service: Service) -> None:
        for _ in range(round(150 / 0.25)):
            await service.serve(0.001)
            await service.wait(0.25)

    assert on_a_clock(story) == []
