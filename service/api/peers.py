"""The workers of one service (``FCN_WORKERS``), and their metrics as one set.

Each worker writes its metrics as text into a folder that all share: twice a second, and at its end. The one that is asked adds
them up. Counters and histograms of a worker that has ended stay, so that sums never fall; its gauges go. Each worker also
writes how many connections it has, at every change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

PUBLISH_S = 0.5
"""Seconds between two writes. A worker that is killed loses what it counted since the last one."""

_JOINED: dict[str, Callable[[float, float], float]] = {
    "fcn_ready": min,
    "fcn_model_info": max,
    "fcn_artifact_refused": max,
    "process_start_time_seconds": min,
    "process_max_fds": min,
}
"""Gauges whose values of several workers are not summed."""

log = logging.getLogger(__name__)


@dataclass
class Peers:
    """This worker and the others.

    Takes:
        folder: where all write their metrics
        on_start: called when this worker accepts requests
    """

    folder: Path
    on_start: Callable[[], None] = lambda: None
    _failing: bool = field(default=False, init=False)
    """Whether the last write failed: one line of the log for each time that the folder cannot be written."""
    _is_leaving: bool = field(default=False, init=False)

    def publish(self, text: bytes, pid: int | None = None) -> None:
        """Write the metrics of a worker; of this one if none is named. Where that fails, the log says so: serving goes on, and
        the next write may succeed.
        """
        path = self._path(os.getpid() if pid is None else pid)
        partial = path.with_suffix(".part")
        try:
            partial.write_bytes(text)
            partial.replace(path)
        except OSError as error:
            if not self._failing:
                log.warning("the metrics of a worker cannot be written, and other workers tell older ones: %s", error)
            self._failing = True
        else:
            self._failing = False

    async def keep_publishing(self, text: Callable[[], bytes]) -> None:
        """Write the metrics of this worker again and again."""
        while True:
            self.publish(text())
            await asyncio.sleep(PUBLISH_S)

    def tell_open(self, count: int) -> None:
        """Tell the other workers how many connections this one has; one that drains tells nothing."""
        if not self._is_leaving:
            with contextlib.suppress(OSError):  # a full disk: the others know an older number
                self._open_path(os.getpid()).write_text(f"{count}\n", "ascii")

    def has_fewer_open(self, count: int) -> bool:
        """Return whether another worker takes the next connection: it has fewer of them, or this one drains."""
        others = [path for path in self.folder.glob("*.open") if path != self._open_path(os.getpid())]
        told = []
        for path in others:
            with contextlib.suppress(OSError, ValueError):  # it has just ended, or writes
                told.append(int(path.read_text("ascii")))
        return bool(told) and (self._is_leaving or min(told) < count)

    def leave(self) -> None:
        """Leave new connections to the other workers, from now on."""
        self._is_leaving = True
        self._open_path(os.getpid()).unlink(missing_ok=True)

    def forget(self, pid: int) -> None:
        """Note that a worker has ended: its gauges and its connections no longer count."""
        self._open_path(pid).unlink(missing_ok=True)
        path = self._path(pid)
        if path.exists():
            registry = CollectorRegistry()
            registry.register(_Fixed(family for family in _families(path) if family.type != "gauge"))
            self.publish(generate_latest(registry), pid)

    def text(self, own: bytes) -> bytes:
        """Return the metrics of all workers in Prometheus' text format.

        Takes:
            own: those of this worker, which are written first; they are told as they are here also where that fails
        """
        self.publish(own)
        mine = self._path(os.getpid())
        others = (_families(path) for path in sorted(self.folder.glob("*.prom")) if path != mine)
        families: dict[str, Metric] = {}
        values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for found_families in (text_string_to_metric_families(own.decode("utf-8")), *others):
            for family in found_families:
                families.setdefault(family.name, family)
                found = values.setdefault(family.name, {})
                join = _JOINED.get(family.name)
                for sample in family.samples:
                    key = sample.name, tuple(sorted(sample.labels.items()))
                    before = found.get(key)
                    if before is None:
                        found[key] = sample.value
                    else:
                        found[key] = join(before, sample.value) if join else before + sample.value
        merged = []
        for name, family in families.items():
            metric = Metric(name, family.documentation, family.type)
            for (series, labels), value in values[name].items():
                metric.add_sample(series, dict(labels), value)
            merged.append(metric)
        registry = CollectorRegistry()
        registry.register(_Fixed(merged))
        return generate_latest(registry)

    def _path(self, pid: int) -> Path:
        return self.folder / f"{pid}.prom"

    def _open_path(self, pid: int) -> Path:
        return self.folder / f"{pid}.open"


def _families(path: Path) -> Iterable[Metric]:
    return text_string_to_metric_families(path.read_text("utf-8"))


class _Fixed(Collector):
    """Metrics that are known already, in the form that the registry takes."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._metrics
