"""Frame after frame: while the network works on one, the next ones are read and those before are written."""

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
    frames: Iterator[Frame], segment: Callable[[Frame], Result], write: Callable[[Result], Result]
) -> Generator[Result, None, None]:
    """Read, segment and write in order, each on a thread of its own; the network on the caller's.

    Takes:
        frames: advanced on one thread
        segment: called on the caller's thread
        write: called on another thread, in order
    Gives:
        what ``write`` returned, in order; results that are begun are written even if the caller stops early
    Raises:
        any error of the three
    """
    with ThreadPoolExecutor(1, "fcn-read") as reader, ThreadPoolExecutor(1, "fcn-write") as writer:

        def read() -> list[Frame]:
            for frame in frames:
                return [frame]
            return []

        reading = deque(reader.submit(read) for _ in range(FRAMES_AHEAD))
        writing: deque[Future[Result]] = deque()
        try:
            while frame := reading.popleft().result():
                reading.append(reader.submit(read))
                writing.append(writer.submit(write, segment(frame[0])))
                while writing and (len(writing) > FRAMES_AHEAD or writing[0].done()):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()
        finally:
            reader.shutdown(cancel_futures=True)
