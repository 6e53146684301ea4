"""The network and nothing else: ``session.run`` in a loop, on lines of standard input, for ``bench.py`` to compare with.

``alone SECONDS``: one caller, all processors, ONNX Runtime's own defaults, which are its fastest on an idle machine.
``lanes SECONDS``: one caller and one session a processor, one thread each. ``together``: one caller a processor, one session.
Each gives a line of JSON: ``rate`` a second and ``median_ms``. ``evenly SECONDS RATE``: RATE frames a second that wait for
the first free lane; ``median_ms`` and ``p99_ms`` from a frame's time to its scores.
"""

from __future__ import annotations

import json
import queue
import statistics
import sys
import threading
import time
from os import sched_getaffinity
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import onnxruntime as ort

from service.pipeline.onnx_file import halves


def opened(path: str, threads: int) -> ort.InferenceSession:
    """Return a session that gives the scores alone, with ONNX Runtime's defaults, except for the threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model = halves(Path(path), ("scores",)).first
    session: ort.InferenceSession = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session


def loop(sessions: list[ort.InferenceSession], image: np.ndarray, seconds: float) -> dict[str, float]:
    """Run one caller for each session without a pause."""
    spent: list[float] = []
    begun = time.perf_counter()

    def caller(session: ort.InferenceSession) -> None:
        while (before := time.perf_counter()) < begun + seconds:
            session.run(["scores"], {"image": image})
            spent.append(time.perf_counter() - before)

    callers = [threading.Thread(target=caller, args=(session,)) for session in sessions]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    return {"rate": len(spent) / (time.perf_counter() - begun), "median_ms": 1000 * statistics.median(spent)}


def evenly(sessions: list[ort.InferenceSession], image: np.ndarray, seconds: float, rate: float) -> dict[str, float]:
    """A frame at each of evenly spaced times: what a service's tail would be that took no time itself."""
    spent: list[float] = []
    frames: queue.SimpleQueue[float | None] = queue.SimpleQueue()

    def lane(session: ort.InferenceSession) -> None:
        while (came := frames.get()) is not None:
            session.run(["scores"], {"image": image})
            spent.append(time.perf_counter() - came)

    lanes = [threading.Thread(target=lane, args=(session,)) for session in sessions]
    for one in lanes:
        one.start()
    begun = time.perf_counter()
    for number in range(round(seconds * rate)):
        time.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        frames.put(time.perf_counter())
    for _ in lanes:
        frames.put(None)
    for one in lanes:
        one.join()
    p50, p99 = np.percentile(spent, [50, 99])
    return {"median_ms": 1000 * float(p50), "p99_ms": 1000 * float(p99)}


def main(path: str, height: str, width: str) -> None:
    """Serve the standard input."""
    cores = len(sched_getaffinity(0))
    image = np.random.default_rng(0).integers(0, 256, (1, int(height), int(width), 3), np.uint8)
    whole = opened(path, cores)
    ways = {"alone": [whole], "lanes": [opened(path, 1) for _ in range(cores)], "together": [whole] * cores}
    for sessions in ways.values():
        loop(sessions, image, 0.2)
    print("ready", flush=True)
    for line in sys.stdin:
        way, *numbers = line.split()
        seconds, *rate = map(float, numbers)
        found = evenly(ways["lanes"], image, seconds, *rate) if way == "evenly" else loop(ways[way], image, seconds)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
