"""Rejecting overload early: from the request's head if no image could meet the deadline, otherwise from the first bytes of the
image. That is before the rest is read and before there is a request for the application. Under overload most requests are
rejected, and that must not cost the masks of those that are accepted.

What is decided here is not decided again: an accepted request takes its :class:`Opening` along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import Scope

from service.api import problems
from service.api.keys import offered_key
from service.api.metrics import Metrics
from service.api.record import new_record
from service.api.schemas import MAX_DEADLINE_MS
from service.api.telemetry import finish
from service.errors import Overloaded, ServiceError, Unauthorized
from service.pipeline.codecs.decoding import Header
from service.serving.dataplane import DataPlane
from service.serving.deadline import Deadline

PATH = "/segment"
"""Where images are sent."""
_PATH = PATH.encode()

OPENING = "opening"
"""The entry of a request's state that has its :class:`Opening`, if there is one."""


@dataclass(eq=False)
class Opening:
    """The decisions on a request whose head was checked: the key is accepted, the deadline runs."""

    deadline: Deadline
    header: Header | None = None
    """The header of its image, once the first bytes tell it."""


def opening_of(scope: Scope) -> Opening | None:
    """Return what was decided of a request before it began, or None if nothing was."""
    opening: Opening | None = scope["state"].get(OPENING)
    return opening


class EarlyRefusal:
    """Rejects images that do not fit into the queue. It decides only what the first bytes tell; the rest is decided later.

    Takes:
        plane: has the queue, and the keys: a caller without one of them learns nothing of the load
        metrics: where rejections are counted
        deadline_s: of a request that names none
    """

    def __init__(self, plane: DataPlane, metrics: Metrics, deadline_s: float) -> None:
        self._plane, self._metrics, self._deadline_s = plane, metrics, deadline_s

    def open(self, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]]) -> Opening | None:
        """Check the head of a request. Return None if it must not be rejected early.

        Takes:
            url: as in the request line, without the prefix of a proxy
            headers: names in lower case
        """
        if not self._plane.scheduler.admitted or method != b"POST":
            return None
        path, _, query = url.partition(b"?")
        if path != _PATH or b"model" in query or b"resolution" in query:
            return None
        named = dict(headers)
        # Without Content-Length, or with Expect: 100-continue, a rejection must close the connection.
        if b"content-length" not in named or b"expect" in named or named.get(b"content-type", b"").startswith(b"multipart/"):
            return None
        try:
            if not self._plane.keys.is_open:
                self._plane.keys.check(offered_key(_words(named)))
            limit_s = float(named[b"x-deadline-ms"]) / 1000 if b"x-deadline-ms" in named else self._deadline_s
        except (Unauthorized, ValueError):
            return None
        return Opening(Deadline(limit_s)) if 0 < limit_s <= MAX_DEADLINE_MS / 1000 else None

    def rejection(self, opening: Opening, headers: list[tuple[bytes, bytes]], head: bytes) -> bytes | None:
        """Return the reply that rejects a request, as it goes over the wire; None if it may fit.

        Takes:
            head: the first bytes of the image, if any have come
        """
        try:
            opening.header = self._plane.check_capacity(head, opening.deadline)
        except Overloaded as error:
            record = new_record(headers)
            status, reply = problems.on_the_wire(record, error)
            finish(self._metrics, record, path=PATH, route=PATH, method="POST", status=status)
            return reply
        except ServiceError:
            pass  # for another reason, which the application gives
        return None


def _words(named: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in named.items()}
