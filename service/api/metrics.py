"""The service's metrics, in Prometheus' text format."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial

import prometheus_client.core as prometheus
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

from service.api.record import RequestRecord
from service.errors import LEAVES
from service.log import LOSSES, StandardError

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MODEL_LABELS = ("name", "version", "sha256", "provider")
"""The labels of ``fcn_model_info``."""

CAPTURE_OUTCOMES = ("written", "dropped", "failed", "evicted")
"""Of ``fcn_captures_total``; 0 where nothing is captured."""

SWITCHING_PROTOCOLS = 101
"""The status of a stream that was opened."""

COUNTED_TOGETHER = 64
"""Finished requests and frames that are counted together. Between two images the network empties the processor's caches, and
counting one alone would take several times as long."""

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "GRPC"))
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PIXELS = (1e4, 1e5, 2.5e5, 5e5, 1e6, 2e6, 4e6, 8e6, 1.6e7, 3.2e7, 6.4e7)


class Metrics:
    """The Prometheus metrics, in a registry of their own: two applications in a process do not share them. On the event
    loop only.
    """

    def __init__(self) -> None:
        # The time at which each counter began would be as many lines again, without a reader.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        requests = Counter("fcn_requests", "Requests answered.", ("route", "method", "status"), registry=registry)
        errors = Counter("fcn_errors", "Requests answered with a problem, by its code.", ("code",), registry=registry)
        for leaf in LEAVES:  # an alert on one of them needs its 0 as well
            errors.labels(leaf.code)
        duration = Histogram(
            "fcn_request_duration_seconds", "First byte in to last byte out.", ("route",), buckets=_SECONDS, registry=registry
        )
        stages = Histogram(
            "fcn_stage_duration_seconds", "Time of a request by stage.", ("stage",), buckets=_SECONDS, registry=registry
        )
        self._due: list[Callable[[], None]] = []
        """Each counts a request or a frame that is finished."""
        # The library takes longer to find the child of some labels than to count in it.
        self._requests, self._errors = cache(requests.labels), cache(errors.labels)
        self._duration, self._stages = cache(duration.labels), cache(stages.labels)
        self._pixels = Histogram("fcn_image_pixels", "Sizes of the images segmented.", buckets=_PIXELS, registry=registry)
        self._bytes = Histogram(
            "fcn_image_bytes", "Sizes of the images as sent.", buckets=[4.0**n * 1024 for n in range(9)], registry=registry
        )
        self._in_flight = Gauge("fcn_requests_in_flight", "Requests that are being answered.", registry=registry)
        self._ready = Gauge("fcn_ready", "1 if the service accepts requests.", registry=registry)
        self._depth = Gauge("fcn_queue_depth", "Images admitted, waiting and in work.", registry=registry)
        self._megapixels = Gauge("fcn_queue_megapixels", "Megapixels admitted, waiting and in work.", registry=registry)
        Gauge("fcn_tasks", "Tasks on the event loop.", registry=registry).set_function(_tasks)
        Gauge("fcn_threads", "Threads of Python's.", registry=registry).set_function(threading.active_count)
        registry.register(_LostLines())
        self._connections = Gauge("fcn_connections", "Connections open now, streams too.", registry=registry)
        self._streams = Gauge("fcn_streams", "Streams open now.", registry=registry)
        self._frames = Counter("fcn_stream_frames", "Frames of streams by their outcome.", ("outcome",), registry=registry)
        self._models = Gauge("fcn_model_info", "A served model; always 1.", MODEL_LABELS, registry=registry)
        self._describe_models: Callable[[], Iterable[Mapping[str, str]]] = tuple
        self._refused = Gauge(
            "fcn_artifact_refused", "A file whose content is not served; always 1.", ("file",), registry=registry
        )
        self._list_refused: Callable[[], Iterable[str]] = tuple
        self._artifacts: Callable[[], Mapping[tuple[str, str], int]] = dict
        registry.register(_Collector(self._count_artifacts))
        self._captures: Callable[[], Mapping[str, int]] = lambda: dict.fromkeys(CAPTURE_OUTCOMES, 0)
        registry.register(_Collector(self._count_captures))
        self._capture_bytes = Gauge("fcn_capture_bytes", "Bytes of the captures on disk.", registry=registry)

    def watch(
        self,
        *,
        ready: Callable[[], bool],
        queue_depth: Callable[[], float],
        queue_megapixels: Callable[[], float],
        models: Callable[[], Iterable[Mapping[str, str]]],
        refused: Callable[[], Iterable[str]],
        artifacts: Callable[[], Mapping[tuple[str, str], int]],
    ) -> None:
        """Give the gauges of the models and their queue their sources, which are asked when the metrics are read.

        Takes:
            models: gives the :data:`MODEL_LABELS` of each that is served
            refused: gives the names of the files that are not
            artifacts: gives how many were served, refused or removed so far, by outcome and cause
        """
        self._ready.set_function(ready)
        self._depth.set_function(queue_depth)
        self._megapixels.set_function(queue_megapixels)
        self._describe_models, self._list_refused, self._artifacts = models, refused, artifacts

    def watch_traffic(
        self, *, in_flight: Callable[[], float], connections: Callable[[], float], streams: Callable[[], float]
    ) -> None:
        """Give the gauges of the traffic their sources, which are asked when the metrics are read."""
        self._in_flight.set_function(in_flight)
        self._connections.set_function(connections)
        self._streams.set_function(streams)

    def watch_captures(self, outcomes: Callable[[], Mapping[str, int]], size_bytes: Callable[[], float]) -> None:
        """Give the metrics of the captures their sources, which are asked when the metrics are read."""
        self._captures = outcomes
        self._capture_bytes.set_function(size_bytes)

    def _count_captures(self) -> Iterable[Metric]:
        counter = CounterMetricFamily("fcn_captures", "Frames kept for training, by their outcome.", labels=("outcome",))
        for outcome, count in dict(self._captures()).items():
            counter.add_metric((outcome,), count)
        return [counter]

    def _count_artifacts(self) -> Iterable[Metric]:
        counter = CounterMetricFamily("fcn_artifacts", "Artifacts taken up, by their outcome.", labels=("outcome", "cause"))
        for labels, count in dict(self._artifacts()).items():  # a copy: they may be counted on another thread meanwhile
            counter.add_metric(labels, count)
        return [counter]

    def count_refusal(self, code: str) -> None:
        """Count a rejection that happened before there was a request."""
        self._errors(code).inc()

    def observe(self, route: str, method: str, status: int, record: RequestRecord) -> None:
        """Count a finished request. The time for which a stream was open says nothing of the service, and is left out."""
        self._count_soon(partial(self._count_request, route, method, status, record.elapsed_s, record))

    def observe_frame(self, outcome: str, record: RequestRecord) -> None:
        """Count a frame of a stream."""
        self._count_soon(partial(self._count_frame, outcome, record))

    def _count_soon(self, count: Callable[[], None]) -> None:
        self._due.append(count)
        if len(self._due) >= COUNTED_TOGETHER:
            self._count_due()

    def _count_due(self) -> None:
        due, self._due = self._due, []
        for count in due:
            count()

    def _count_request(self, route: str, method: str, status: int, elapsed_s: float, record: RequestRecord) -> None:
        self._requests(route, method if method in _METHODS else "other", str(status)).inc()
        if status != SWITCHING_PROTOCOLS:
            self._duration(route).observe(elapsed_s)
        self._count_images(record)

    def _count_frame(self, outcome: str, record: RequestRecord) -> None:
        self._frames.labels(outcome).inc()
        self._count_images(record)

    def _count_images(self, record: RequestRecord) -> None:
        for stage, spent_s in record.timing_s.items():
            self._stages(stage).observe(spent_s)
        for size in record.sizes:
            self._pixels.observe(math.prod(size))
        if record.bytes_in:
            self._bytes.observe(record.bytes_in)
        if record.code is not None:
            self._errors(record.code).inc()

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        self._count_due()
        self._models.clear()
        for model in self._describe_models():
            self._models.labels(**model).set(1)
        self._refused.clear()
        for file in self._list_refused():
            self._refused.labels(file).set(1)
        return generate_latest(self._registry)


class _Collector(Collector):
    """A function that gives metrics, in the form that the registry takes."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._collect()


class _LostLines:
    """Counts the log lines that were not written: the log's handlers tell it when the metrics are read."""

    def collect(self) -> Iterator[prometheus.Metric]:
        """Yield the counter."""
        family = prometheus.CounterMetricFamily("fcn_log_lines_lost", "Log lines that were not written.", labels=["reason"])
        handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, StandardError)]
        for reason in LOSSES:
            family.add_metric([reason], sum(handler.lost[reason] for handler in handlers))
        yield family


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # read where no event loop runs
        return 0
