"""Rejecting overload early: from the request's head if no image could meet the deadline, otherwise from the first bytes of the
image. That is before the rest is read and before there is a request for the application. Under overload most requests are
rejected, and that must not cost the masks of those that are accepted.

May import: starlette, ``service.errors``, ``service.serving``, ``service.api.keys``, ``metrics``, ``problems``,
``record``, ``schemas`` and ``telemetry``.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException

from service.api import problems
from service.api.keys import Keys, offered_key
from service.api.metrics import Metrics
from service.api.record import new_record
from service.api.schemas import MAX_DEADLINE_MS
from service.api.telemetry import finish
from service.errors import Overloaded, ServiceError
from service.serving.dataplane import DataPlane
from service.serving.deadline import Deadline

PATH = "/segment"
"""Where images are sent."""
_PATH = PATH.encode()


class EarlyRefusal:
    """Rejects images that do not fit into the queue. It decides only what the first bytes tell; the rest is decided later.

    Takes:
        plane: has the queue
        keys: a caller without one of them learns nothing of the load
        metrics: where rejections are counted
        deadline_ms: of a request that names none
    """

    def __init__(self, plane: DataPlane, keys: Keys, metrics: Metrics, deadline_ms: float) -> None:
        self._plane, self._keys, self._metrics, self._deadline_ms = plane, keys, metrics, deadline_ms

    def deadline_ms(self, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]]) -> float | None:
        """Return the request's deadline in ms, or None if this request must not be rejected early.

        Takes:
            url: as in the request line, without the prefix of a proxy
            headers: names in lower case
        """
        if not self._plane.scheduler.admitted or method != b"POST":
            return None
        path, _, query = url.partition(b"?")
        if path != _PATH or b"model" in query:
            return None
        named = dict(headers)
        # Without Content-Length, or with Expect: 100-continue, a rejection must close the connection.
        if b"content-length" not in named or b"expect" in named or named.get(b"content-type", b"").startswith(b"multipart/"):
            return None
        return self._named_deadline_ms(named)

    def refusal(self, deadline_ms: float, headers: list[tuple[bytes, bytes]], head: bytes) -> bytes | None:
        """Return the reply that rejects a request, as it goes over the wire; None if it may fit.

        Takes:
            head: the first bytes of the image, if any have come
        """
        try:
            self._plane.check_capacity(head, Deadline(deadline_ms / 1000))
        except Overloaded as error:
            record = new_record(headers)
            status, reply = problems.on_the_wire(record, error)
            finish(self._metrics, record, path=PATH, route=PATH, method="POST", status=status)
            return reply
        except ServiceError:
            pass  # for another reason, which the application gives
        return None

    def _named_deadline_ms(self, named: Mapping[bytes, bytes]) -> float | None:
        try:
            if not self._keys.is_open:
                words = {name.decode("latin-1"): value.decode("latin-1") for name, value in named.items()}
                self._keys.check(offered_key(words))
            deadline_ms = float(named.get(b"x-deadline-ms", self._deadline_ms))
        except (HTTPException, ValueError):
            return None
        return deadline_ms if 0 < deadline_ms <= MAX_DEADLINE_MS else None
