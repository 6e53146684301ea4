"""Frame after frame: while the network works on one, the next ones are read and those before it are written.

May import: the standard library.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Frame = TypeVar("Frame")
Result = TypeVar("Result")

FRAMES_AHEAD = 4
"""Frames read before, and results written behind, the one that the network works on."""


def overlapped(
    frames: Iterator[Frame], segment: Callable[[Frame], Result], write: Callable[[Result], None]
) -> Generator[Result, None, None]:
    """Read, segment and write in order, each on a thread of its own; the network on the caller's.

    Takes:
        frames: advanced on one thread
        segment: called on the caller's thread
        write: called on another thread, in order
    Gives:
        each result when it is written; left early, those that are begun are written first
    Raises:
        whatever one of the three raises
    """
    with ThreadPoolExecutor(1, "fcn-read") as reader, ThreadPoolExecutor(1, "fcn-write") as writer:

        def read() -> list[Frame]:
            for frame in frames:
                return [frame]
            return []

        reading = deque(reader.submit(read) for _ in range(FRAMES_AHEAD))
        writing: deque[tuple[Result, Future[None]]] = deque()
        try:
            while frame := reading.popleft().result():
                reading.append(reader.submit(read))
                result = segment(frame[0])
                writing.append((result, writer.submit(write, result)))
                while writing and (len(writing) > FRAMES_AHEAD or writing[0][1].done()):
                    yield _written(*writing.popleft())
            while writing:
                yield _written(*writing.popleft())
        finally:
            reader.shutdown(cancel_futures=True)


def _written(result: Result, future: Future[None]) -> Result:
    future.result()
    return result
