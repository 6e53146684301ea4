"""The record of every request, the headers of its reply, its count and its line in the log.

:class:`Telemetry` wraps the whole application as plain ASGI. starlette's ``BaseHTTPMiddleware`` would run every request in a
second task and copy its body through a queue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.in_flight import InFlight
from service.api.metrics import SWITCHING_PROTOCOLS, Metrics
from service.api.record import RequestRecord, is_closed, join_trace, new_record

PROBES = frozenset(("/livez", "/readyz", "/metrics"))
"""Machines call these all the time: they leave no line in the log and no trace."""

_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))

log = logging.getLogger("service.request")


class Telemetry:
    """Gives every request its record, every reply its headers, and every finished request a count and a line in the log.

    Takes:
        app: the application below
        metrics: where requests are counted
        in_flight: has the requests that are being answered
        on_crash: makes the reply to an unhandled exception, from the request's id
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, in_flight: InFlight, on_crash: Callable[[str], Response]) -> None:
        self._app = app
        self._in_flight = in_flight
        self._metrics = metrics
        self._on_crash = on_crash

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on any other call of ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        record = new_record(scope["headers"])
        join_trace(record)
        scope.setdefault("state", {})["record"] = record
        self._in_flight.add(record)
        method, status = scope.get("method", "GET"), 0
        if method == "HEAD":  # routed as GET; the server keeps the scope that it made, and leaves the body out
            scope = {**scope, "method": "GET"}

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] in _STARTS:
                status = message.get("status", SWITCHING_PROTOCOLS)
                message["headers"] = [*message.get("headers", ()), *record.headers()]
            else:
                record.bytes_out += len(message.get("body") or message.get("bytes") or b"")
            try:
                await send(message)
            except RuntimeError:  # uvloop's, of a transport that is closed
                if not is_closed(scope):
                    raise
                log.debug("the caller hung up before the reply", extra={"fields": {"request_id": record.request_id}})

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("unhandled exception", extra={"fields": {"request_id": record.request_id}})
            record.code = "internal_error"
            if status:  # half a reply is out already: uvicorn closes the connection
                raise
            await self._on_crash(record.request_id)(scope, receive, send_with_headers)
        finally:
            self._in_flight.discard(record)
            route = getattr(scope.get("route"), "path", "unmatched")
            finish(self._metrics, record, path=scope["path"], route=route, method=method, status=status)


def path_of(scope: Scope) -> str:
    """Return the path of a request without the prefix of a proxy (``FCN_ROOT_PATH``)."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def finish(metrics: Metrics, record: RequestRecord, *, path: str, route: str, method: str, status: int) -> None:
    """Count a request that has its reply, and write its line in the log.

    Takes:
        route: the template of the route, never the path: a label must not grow with what callers send
    """
    metrics.observe(route, method, status, record)
    level = logging.WARNING if status >= 500 else logging.DEBUG if route in PROBES else logging.INFO
    if log.isEnabledFor(level):
        log.log(level, "request", extra={"fields": _line(path, method, status, record)})


def _line(path: str, method: str, status: int, record: RequestRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "method": method,
        "path": path[:128],
        "status": status,
        "duration_ms": round(1000 * record.elapsed_s, 2),
        "code": record.code,
        "model": record.model,
        "bytes_in": record.bytes_in or None,
        "bytes_out": record.bytes_out,
        "images": ["x".join(map(str, size)) for size in record.sizes] or None,
        **{f"frames_{outcome}": number for outcome, number in record.frames.items()},
        **{name.decode()[2:].replace("-", "_"): value.decode("latin-1") for name, value in record.echo},
        **{f"{stage}_ms": round(1000 * spent_s, 2) for stage, spent_s in record.timing_s.items()},
    }
    return {name: value for name, value in fields.items() if value is not None}
