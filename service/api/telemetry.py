"""What the service says of itself: request ids, ``Server-Timing``, metrics, traces, one log line a request, readiness.

:class:`Telemetry` wraps the whole application as plain ASGI (starlette's ``BaseHTTPMiddleware`` runs every request in a second
task and copies its body through a queue). It keeps one :class:`RequestRecord` a request, in the scope, which routes and error
handlers fill in; headers, metrics, stages of traces and the log line are written from it. The span of the request itself is
FastAPI's, as are its parent from ``traceparent`` and the exporter; without an SDK nothing of it happens.

May import: starlette, prometheus_client, opentelemetry's API, ``service.errors``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import re
import secrets
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import prometheus_client.core as prometheus
from opentelemetry import trace
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import LEAVES, NotReady

STAGES = ("decode", "queue", "infer", "labels", "encode")
"""The stages of a request, in order, as ``Server-Timing`` and the latency histogram name them."""

FRAME_HEADERS = (b"x-frame-id", b"x-frame-stamp")
MAX_FRAME_HEADER = 256
"""Bytes of a frame header that are sent back; a request with a longer one is refused."""

MODEL_LABELS = ("name", "version", "sha256", "provider")
"""What ``fcn_model_info`` says of a model."""

MAX_WAITING_LINES = 10_000
"""Log lines that wait to be written; about 3 MB."""
LINES_A_SECOND = 200
"""Log lines of one kind that are written in a second; a kind is a logger's message and a problem's code."""
MAX_KINDS = 64
"""Kinds that are told apart in a second; whatever comes beyond them is one more."""
GATHER_S = 0.02
"""How long a line waits for others that are written together with it."""
LINES_AT_ONCE = 100
FLUSH_S = 1.0
"""How long the end of the process waits for them."""

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

PROBES = frozenset(("/livez", "/readyz", "/metrics"))
"""Asked all the time by machines: no line in the log, no trace."""

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
SWITCHING_PROTOCOLS = 101
"""The status of a stream that was opened."""

_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PIXELS = (1e4, 1e5, 2.5e5, 5e5, 1e6, 2e6, 4e6, 8e6, 1.6e7, 3.2e7, 6.4e7)

log = logging.getLogger("service.request")
_tracer = trace.get_tracer("fcn-serve")


@dataclass(eq=False)
class RequestRecord:
    """What is known of one request so far."""

    request_id: str
    started_s: float = field(default_factory=time.perf_counter)
    echo: list[tuple[bytes, bytes]] = field(default_factory=list)
    """The caller's frame headers, byte for byte."""
    model: str | None = None
    """``name@version`` of the model that answers."""
    sha256: str | None = None
    """Of that model's artifact: two builds may have one version."""
    timing_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds by stage, summed over the request's images."""
    bytes_in: int = 0
    """Of its images."""
    bytes_out: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """(height, width) of every image that was segmented."""
    frames: dict[str, int] = field(default_factory=dict)
    """Of a stream: how many had which outcome."""
    code: str | None = None
    """The problem's code, where it failed."""
    trace_id: str | None = None
    """Of the trace that the request is part of, where traces are sent."""

    def add_timing(self, timing_ms: Mapping[str, float]) -> None:
        """Count the stages of one more image in, which has just been finished."""
        _trace_stages(timing_ms)
        for stage, spent_ms in timing_ms.items():
            self.timing_ms[stage] = self.timing_ms.get(stage, 0.0) + spent_ms

    def elapsed_ms(self) -> float:
        """Milliseconds since the request's headers arrived."""
        return (time.perf_counter() - self.started_s) * 1000

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that every reply carries, as far as they are known."""
        headers = [(b"x-request-id", self.request_id.encode()), *self.echo]
        if self.model is not None:
            headers.append((b"x-model", self.model.encode()))
        if self.sha256 is not None:
            headers.append((b"x-model-sha256", self.sha256.encode()))
        stages = [f"{stage};dur={self.timing_ms[stage]:.2f}" for stage in STAGES if stage in self.timing_ms]
        if stages:
            headers.append((b"server-timing", ", ".join(stages).encode()))
        return headers


def _trace_stages(timing_ms: Mapping[str, float]) -> None:
    """A span a stage below the request's, one after another up to now."""
    if not trace.get_current_span().is_recording():
        return
    at_ns = time.time_ns() - int(1e6 * sum(timing_ms.values()))
    for stage in STAGES:
        if stage in timing_ms:
            span = _tracer.start_span(stage, start_time=at_ns)
            at_ns += int(1e6 * timing_ms[stage])
            span.end(at_ns)


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request that a scope belongs to."""
    return cast(RequestRecord, scope["state"]["record"])


class Readiness:
    """Whether requests are welcome, and if not, why.

    Takes:
        check: raises NotReady with the reason, if the pipeline cannot serve
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._drained_s: float | None = None

    def drain(self) -> None:
        """From now on no new request is welcome."""
        if self._drained_s is None:
            self._drained_s = time.monotonic()

    @property
    def draining_s(self) -> float:
        """Seconds since then; 0 before."""
        return 0.0 if self._drained_s is None else time.monotonic() - self._drained_s

    def check(self) -> None:
        """Nothing, if requests are welcome.

        Raises:
            NotReady: with the reason
        """
        if self._drained_s is not None:
            raise NotReady("the service is about to end, and finishes what it has; ask another instance")
        self._check()

    def is_green(self) -> bool:
        """Whether requests are welcome."""
        try:
            self.check()
        except NotReady:
            return False
        return True


class _Collector(Collector):
    """A function that gives metrics, as the registry wants it."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        """Give them."""
        return self._collect()


class Metrics:
    """The Prometheus metrics, in a registry of their own, so that two applications in a process do not share them."""

    def __init__(self) -> None:
        # When each counter began would be as many lines again, and nobody reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("fcn_requests", "Requests answered.", ("route", "method", "status"), registry=registry)
        self._errors = Counter("fcn_errors", "Requests answered with a problem, by its code.", ("code",), registry=registry)
        for leaf in LEAVES:  # an alert on one of them needs its 0 as well
            self._errors.labels(leaf.code)
        self._duration = Histogram(
            "fcn_request_duration_seconds", "First byte in to last byte out.", ("route",), buckets=_SECONDS, registry=registry
        )
        self._stages = Histogram(
            "fcn_stage_duration_seconds", "Time of a request by stage.", ("stage",), buckets=_SECONDS, registry=registry
        )
        self._pixels = Histogram("fcn_image_pixels", "Sizes of the images segmented.", buckets=_PIXELS, registry=registry)
        self._bytes = Histogram(
            "fcn_image_bytes", "Sizes of the images as sent.", buckets=[4.0**n * 1024 for n in range(9)], registry=registry
        )
        self.inside: set[RequestRecord] = set()
        """The requests that are being answered."""
        in_flight = Gauge("fcn_requests_in_flight", "Requests that are being answered.", registry=registry)
        in_flight.set_function(lambda: len(self.inside))
        self._ready = Gauge("fcn_ready", "1 if requests are welcome.", registry=registry)
        self._depth = Gauge("fcn_queue_depth", "Images admitted, waiting and in work.", registry=registry)
        self._megapixels = Gauge("fcn_queue_megapixels", "Megapixels admitted, waiting and in work.", registry=registry)
        Gauge("fcn_tasks", "Tasks on the event loop.", registry=registry).set_function(_tasks)
        Gauge("fcn_threads", "Threads of Python's.", registry=registry).set_function(threading.active_count)
        registry.register(_LostLines())
        self._streams = Gauge("fcn_streams", "Streams open now.", registry=registry)
        self._frames = Counter(
            "fcn_stream_frames", "Frames of streams by what became of them.", ("outcome",), registry=registry
        )
        self._models = Gauge("fcn_model_info", "A served model; always 1.", MODEL_LABELS, registry=registry)
        self._describe_models: Callable[[], Iterable[Mapping[str, str]]] = tuple
        self._refused = Gauge(
            "fcn_artifact_refused", "A file whose content is not served; always 1.", ("file",), registry=registry
        )
        self._list_refused: Callable[[], Iterable[str]] = tuple
        self._artifacts: Callable[[], Mapping[tuple[str, str], int]] = dict
        registry.register(_Collector(self._count_artifacts))

    def watch(
        self,
        *,
        ready: Callable[[], bool],
        queue_depth: Callable[[], float],
        queue_megapixels: Callable[[], float],
        models: Callable[[], Iterable[Mapping[str, str]]],
        refused: Callable[[], Iterable[str]],
        artifacts: Callable[[], Mapping[tuple[str, str], int]],
        streams: Callable[[], float],
    ) -> None:
        """Give the gauges their sources, which are asked when the metrics are read.

        Takes:
            models: gives the :data:`MODEL_LABELS` of each that is served
            refused: gives the names of the files that are not
            artifacts: gives how many were served, refused or removed so far, by outcome and cause
        """
        self._ready.set_function(ready)
        self._depth.set_function(queue_depth)
        self._megapixels.set_function(queue_megapixels)
        self._describe_models, self._list_refused, self._artifacts = models, refused, artifacts
        self._streams.set_function(streams)

    def _count_artifacts(self) -> Iterable[Metric]:
        counter = CounterMetricFamily(
            "fcn_artifacts", "Artifacts taken up, by what became of them.", labels=("outcome", "cause")
        )
        for labels, count in self._artifacts().items():
            counter.add_metric(labels, count)
        return [counter]

    def count_refusal(self, code: str) -> None:
        """Count what was refused before it was a request."""
        self._errors.labels(code).inc()

    def observe(self, route: str, method: str, status: int, record: RequestRecord) -> None:
        """Count a finished request. How long a stream was open is no measure of the service."""
        self._requests.labels(route, method if method in _METHODS else "other", str(status)).inc()
        if status != SWITCHING_PROTOCOLS:
            self._duration.labels(route).observe(record.elapsed_ms() / 1000)
        self._observe_images(record)

    def observe_frame(self, outcome: str, record: RequestRecord) -> None:
        """Count a frame of a stream."""
        self._frames.labels(outcome).inc()
        self._observe_images(record)

    def _observe_images(self, record: RequestRecord) -> None:
        for stage, spent_ms in record.timing_ms.items():
            self._stages.labels(stage).observe(spent_ms / 1000)
        for height, width in record.sizes:
            self._pixels.observe(height * width)
        if record.bytes_in:
            self._bytes.observe(record.bytes_in)
        if record.code is not None:
            self._errors.labels(record.code).inc()

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        self._models.clear()
        for model in self._describe_models():
            self._models.labels(**model).set(1)
        self._refused.clear()
        for file in self._list_refused():
            self._refused.labels(file).set(1)
        return generate_latest(self._registry)


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # read where no event loop runs
        return 0


class _LostLines:
    """How many log lines were not written: asked of the log's handlers, which logging makes, when the metrics are read."""

    def collect(self) -> Iterator[prometheus.Metric]:
        """The counter."""
        family = prometheus.CounterMetricFamily("fcn_log_lines_lost", "Log lines that were not written.", labels=["reason"])
        handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, StandardError)]
        for reason in LOSSES:
            family.add_metric([reason], sum(handler.lost[reason] for handler in handlers))
        yield family


class Telemetry:
    """Gives every request its record, every reply its headers, and every finished request a count and a line in the log.

    Takes:
        app: the application below
        metrics: where requests are counted
        on_crash: makes the reply to an exception that nobody handled, from the request's id
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, on_crash: Callable[[str], Response]) -> None:
        self._app = app
        self._metrics = metrics
        self._on_crash = on_crash

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or whatever else ASGI calls us for."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        record = _new_record(scope["headers"])
        scope.setdefault("state", {})["record"] = record
        self._metrics.inside.add(record)
        method, status = scope.get("method", "GET"), 0
        if method == "HEAD":  # routed as GET; the server, who keeps the scope that it made, leaves the body out
            scope = {**scope, "method": "GET"}

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] in _STARTS:
                status = message.get("status", SWITCHING_PROTOCOLS)
                message["headers"] = [*message.get("headers", ()), *record.headers()]
            else:
                record.bytes_out += len(message.get("body") or message.get("bytes") or b"")
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("unhandled exception", extra={"fields": {"request_id": record.request_id}})
            record.code = "internal_error"
            if status:  # half a reply is out already: uvicorn closes the connection
                raise
            await self._on_crash(record.request_id)(scope, receive, send_with_headers)
        finally:
            self._finish(scope, method, status, record)

    def _finish(self, scope: Scope, method: str, status: int, record: RequestRecord) -> None:
        self._metrics.inside.discard(record)
        # The template of the route, never the path: a label must not grow with what callers send.
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.observe(route, method, status, record)
        level = logging.WARNING if status >= 500 else logging.DEBUG if route in PROBES else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "request", extra={"fields": _line(scope, method, status, record)})


def _new_record(headers: Iterable[tuple[bytes, bytes]]) -> RequestRecord:
    request_id, echo = b"", []
    for name, value in headers:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            request_id = value
        elif name in FRAME_HEADERS and len(value) <= MAX_FRAME_HEADER:
            echo.append((name, value))
    record = RequestRecord(request_id.decode() or secrets.token_hex(8), echo=echo)
    span = trace.get_current_span()
    if (context := span.get_span_context()).is_valid:
        record.trace_id = trace.format_trace_id(context.trace_id)
        span.set_attribute("fcn.request_id", record.request_id)
    return record


def _line(scope: Scope, method: str, status: int, record: RequestRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "method": method,
        "path": scope["path"][:128],
        "status": status,
        "duration_ms": round(record.elapsed_ms(), 2),
        "code": record.code,
        "model": record.model,
        "bytes_in": record.bytes_in or None,
        "bytes_out": record.bytes_out,
        "images": [f"{height}x{width}" for height, width in record.sizes] or None,
        **{f"frames_{outcome}": number for outcome, number in record.frames.items()},
        **{name.decode()[2:].replace("-", "_"): value.decode("latin-1") for name, value in record.echo},
        **{f"{stage}_ms": round(spent_ms, 2) for stage, spent_ms in record.timing_ms.items()},
    }
    return {name: value for name, value in fields.items() if value is not None}


def log_config(log_format: Literal["text", "json"], log_level: str = "info") -> dict[str, Any]:
    """The logging of the whole process, for ``uvicorn.run(log_config=...)`` with ``access_log=False``.

    Takes:
        log_format: lines for people or for machines
        log_level: the least severe lines that are written
    Gives:
        a dictionary for ``logging.config.dictConfig``; lines go to the standard error
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": JsonFormatter if log_format == "json" else TextFormatter}},
        "handlers": {"stderr": {"()": StandardError, "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        # Pillow's complaints about damaged files are not the operator's: each of them is an answer to its sender.
        "loggers": {**{name: {"level": log_level.upper()} for name in ("service", "uvicorn")}, "PIL": {"level": "CRITICAL"}},
    }


LOSSES = ("unread", "flood")
"""Why a log line is not written: nobody reads the log, or too many of its kind come."""


class StandardError(logging.Handler):
    """Writes lines to the standard error on a thread of its own. Where nobody reads them, they are dropped and counted: a pipe
    that is full must not stop the service. Nor must a flood of requests become one of lines: of each kind so many are written
    in a second, and the others counted.

    Takes:
        descriptor: the file to write to
        lines_a_second: of one kind
    """

    def __init__(self, descriptor: int = 2, lines_a_second: int = LINES_A_SECOND) -> None:
        super().__init__()
        self.dropped = 0
        """Lines since the last one that was taken."""
        self.lost: Tally[str] = Tally()
        """Lines since the start, by why they were not written."""
        self._lines_a_second = lines_a_second
        self._second = 0.0  # when it began
        self._came: Tally[str] = Tally()  # in it, by kind
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(MAX_WAITING_LINES)
        threading.Thread(target=self._write, name="fcn-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; never wait."""
        if time.monotonic() - self._second >= 1:
            self._begin_second()
        kind = _kind(record)
        if kind not in self._came and len(self._came) >= MAX_KINDS:
            kind = "other lines"
        self._came[kind] += 1
        if self._came[kind] > self._lines_a_second:
            self.lost["flood"] += 1
        else:
            self._take(record)

    def _begin_second(self) -> None:
        for kind, count in self._came.items():
            if count > self._lines_a_second:
                self._take(_news(f"{count - self._lines_a_second} more in a second were not written: {kind}"))
        self._came.clear()
        self._second = time.monotonic()

    def _take(self, record: logging.LogRecord) -> None:
        try:
            if self.dropped:
                self._lines.put_nowait(self.format(_news(f"{self.dropped} log lines were dropped: nobody read them")))
                self.dropped = 0
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1
            self.lost["unread"] += 1

    def flush(self) -> None:
        """Wait until everything is written, but not for ever."""
        with self.lock or contextlib.nullcontext():
            self._begin_second()
        deadline = time.monotonic() + FLUSH_S
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.001)

    def _write(self) -> None:
        # Straight to the descriptor: a buffer of Python's would be locked while a full pipe blocks, and end the process badly.
        while True:
            lines = [self._lines.get()]
            # Not one by one: waking this thread for each costs the event loop more than a request's refusal does.
            time.sleep(GATHER_S)
            with contextlib.suppress(queue.Empty):
                while len(lines) < LINES_AT_ONCE:
                    lines.append(self._lines.get_nowait())
            rest = "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")
            with contextlib.suppress(OSError):
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            for _ in lines:
                self._lines.task_done()


def _kind(record: logging.LogRecord) -> str:
    """What lines have in common that differ only in whom they are about."""
    return " ".join(filter(None, (record.name, str(record.msg)[:80], getattr(record, "fields", {}).get("code"))))


def _news(message: str) -> logging.LogRecord:
    """A line of the log about itself."""
    return logging.makeLogRecord({"name": __name__, "levelname": "WARNING", "msg": message})


class JsonFormatter(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, message, then ``name=value``; values that could break the line are quoted."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        fields = "".join(f" {name}={_quoted(value)}" for name, value in getattr(record, "fields", {}).items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():7} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _quoted(value: Any) -> str:
    text = ",".join(value) if isinstance(value, list) else str(value)
    return text if re.fullmatch(r"[!-~]+", text) else json.dumps(text)
