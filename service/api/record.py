"""The record of one request. Routes and error handlers fill it in; headers, metrics, traces and the log line are made from it.

The span of the request itself is FastAPI's, and so are its parent from ``traceparent`` and the exporter. The stages are spans
below it. Without an SDK there are no spans.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from opentelemetry import trace
from starlette.types import Scope

from service.pipeline.engine import Engine
from service.pipeline.segmentation import Timing

FRAME_HEADERS = (b"x-frame-id", b"x-frame-stamp")
MAX_FRAME_HEADER = 256
"""Bytes of a frame header that are sent back; a request with a longer one is refused."""

TRANSPORT = "transport"
"""The entry of a request's state that has the transport of its connection, where the server gives it."""

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

_tracer = trace.get_tracer("fcn-serve")


@dataclass(eq=False)
class RequestRecord:
    """Facts about one request, collected while it is answered."""

    request_id: str
    started_s: float = field(default_factory=time.monotonic)
    echo: list[tuple[bytes, bytes]] = field(default_factory=list)
    """The caller's frame headers, byte for byte."""
    model: str | None = None
    """``name@version`` of the model that answers."""
    sha256: str | None = None
    """The hash of that model's artifact: two builds may have one version."""
    timing_s: dict[str, float] = field(default_factory=dict)
    """Seconds by stage, summed over the request's images."""
    uncertain: float | None = None
    """The share of pixels below half confidence, 0..1: the largest of its images; None where confidence was not computed."""
    converted: tuple[str, ...] = ()
    """What was changed of pictures that are others than their network takes, of all its images."""
    bytes_in: int = 0
    """The bytes of its images."""
    bytes_out: int = 0
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    """(height, width) of every segmented image; three sides of a scan."""
    frames: dict[str, int] = field(default_factory=dict)
    """The number of a stream's frames by outcome."""
    code: str | None = None
    """The problem's code, where it failed."""
    trace_id: str | None = None
    """The trace that the request is part of, where traces are sent."""

    def answered_by(self, engine: Engine) -> None:
        """Note the model that answers."""
        self.model, self.sha256 = f"{engine.manifest.name}@{engine.manifest.version}", engine.sha256

    def add(self, size: tuple[int, ...], timing: Timing, converted: tuple[str, ...] = ()) -> None:
        """Count an image that has just been finished.

        Takes:
            size: (height, width), or three sides of a scan
            converted: what was changed of it
        """
        self.converted = tuple(dict.fromkeys((*self.converted, *converted)))
        stages = timing.stages()
        _trace_stages(stages)
        self.sizes.append(size)
        for stage, spent_s in stages.items():
            self.timing_s[stage] = self.timing_s.get(stage, 0.0) + spent_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since the request's headers arrived."""
        return time.monotonic() - self.started_s

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that every reply carries, as far as they are known."""
        headers = [(b"x-request-id", self.request_id.encode()), *self.echo]
        if self.model is not None:
            headers.append((b"x-model", self.model.encode()))
        if self.sha256 is not None:
            headers.append((b"x-model-sha256", self.sha256.encode()))
        if self.uncertain is not None:
            headers.append((b"x-uncertain", f"{self.uncertain:.4f}".encode()))
        if self.converted:
            headers.append((b"x-converted", ", ".join(self.converted).encode()))
        if self.timing_s:
            stages = [f"{stage};dur={1000 * spent_s:.2f}" for stage, spent_s in self.timing_s.items()]
            headers.append((b"server-timing", ", ".join(stages).encode()))
        return headers


def is_closed(scope: Scope) -> bool:
    """Return whether the connection of a request is known to be closed."""
    transport = scope["state"].get(TRANSPORT)
    return transport is not None and transport.is_closing()


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of the request that a scope belongs to."""
    return cast(RequestRecord, scope["state"]["record"])


def new_request_id() -> str:
    """Make an id for a request that brings none: sixteen hexadecimal digits, which need not be hard to guess."""
    return f"{random.getrandbits(64):016x}"


def new_record(headers: Iterable[tuple[bytes, bytes]]) -> RequestRecord:
    """Make the record of a request that begins: its id, and the headers to be echoed."""
    request_id, echo = b"", []
    for name, value in headers:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            request_id = value
        elif name in FRAME_HEADERS and len(value) <= MAX_FRAME_HEADER:
            echo.append((name, value))
    return RequestRecord(request_id.decode() or new_request_id(), echo=echo)


def join_trace(record: RequestRecord) -> None:
    """Give the record the id of the open span's trace, and the span the id of the request; do nothing without a span."""
    span = trace.get_current_span()
    if (context := span.get_span_context()).is_valid:
        record.trace_id = trace.format_trace_id(context.trace_id)
        span.set_attribute("fcn.request_id", record.request_id)


def _trace_stages(stages: Mapping[str, float]) -> None:
    """Add a span for each stage below the request's, one after another up to now.

    Takes:
        stages: seconds by name, in order
    """
    if not trace.get_current_span().is_recording():
        return
    at_ns = time.time_ns() - int(1e9 * sum(stages.values()))
    for stage, spent_s in stages.items():
        span = _tracer.start_span(stage, start_time=at_ns)
        at_ns += int(1e9 * spent_s)
        span.end(at_ns)
