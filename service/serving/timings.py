"""What a model has served so far: counts and times that only grow, so that two readings tell what happened between them.

May import: the standard library.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Duration:
    """How often something was timed, and how long it took in all."""

    count: int = 0
    total_s: float = 0.0

    def add(self, spent_s: float) -> None:
        """Count one more."""
        self.count += 1
        self.total_s += spent_s


@dataclass
class Steps:
    """What images cost, each timed by itself; ``infer`` is the whole batch's time for each image in it."""

    decode: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    finish: Duration = field(default_factory=Duration)
    """Labels, and whatever the caller made of them."""

    def add(self, decode_s: float, infer_s: float, finish_s: float) -> None:
        """Count one more image."""
        self.decode.add(decode_s)
        self.infer.add(infer_s)
        self.finish.add(finish_s)


@dataclass
class ModelStatistics:
    """The work of one version of one model. Written and read on one thread."""

    success: Duration = field(default_factory=Duration)
    """Requests that were answered, of one image or of several."""
    fail: Duration = field(default_factory=Duration)
    """Requests that were refused, failed, came too late or were abandoned."""
    queue: Duration = field(default_factory=Duration)
    """Every wait of an image."""
    steps: dict[int, Steps] = field(default_factory=dict)
    """By the number of images that the network worked on together."""
    last_request_s: float = 0.0
    """When the last one was answered: seconds since 1970."""

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request, by how it ends."""
        begun = time.monotonic()
        try:
            yield
        except BaseException:
            self.fail.add(time.monotonic() - begun)
            raise
        self.success.add(time.monotonic() - begun)
        self.last_request_s = time.time()

    def add_image(self, batch: int, *, decode_s: float, queue_s: float, infer_s: float, finish_s: float) -> None:
        """Count an image that was served.

        Takes:
            batch: how many the network worked on together
        """
        self.queue.add(queue_s)
        self.steps.setdefault(batch, Steps()).add(decode_s, infer_s, finish_s)

    def images(self) -> int:
        """Images that were served."""
        return self.queue.count

    def executions(self, batch: int) -> int:
        """How often the network ran on so many images together."""
        return round(self.steps[batch].infer.count / batch)
