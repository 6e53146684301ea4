"""Measure ``fcn-serve live`` as its users do, from the camera to the mask: ``python benchmarks/live.py``, eight minutes.

Cameras are another process that sends Motion JPEG over HTTP; each frame carries the time at which it was made. The loop
of ``fcn-serve live`` takes them with the shipped model, and a sink notes when it has each mask. One and six cameras send 10, 15
and 30 frames a second. Before each measurement that of the bare network (``bare.py``) is taken, so that the ratio holds where
the machine's speed drifts. Shown are medians over the rounds.
"""

from __future__ import annotations

import os
import socket
import socketserver
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  (after the path)

from benchmarks import harness  # noqa: E402
from benchmarks.bench import SIZES, bare  # noqa: E402
from service.cli.opened import opened  # noqa: E402
from service.live.frame import LiveFrame  # noqa: E402
from service.live.loop import Bell, run  # noqa: E402
from service.live.options import LiveOptions  # noqa: E402
from service.live.registry import open_source  # noqa: E402
from service.live.segmenter import OwnNetwork  # noqa: E402
from service.live.session import LiveResult, LiveSession  # noqa: E402
from service.pipeline.codecs.limits import Limits  # noqa: E402
from service.settings import Settings  # noqa: E402

CAMERAS, RATES, SIZE = (1, 6), (10, 15, 30), "1280 x 720"
ROUNDS, SECONDS, BARE_S = 2, 30.0, 10
_SOI, _COMMENT = b"\xff\xd8", b"\xff\xfe"


class Camera(socketserver.StreamRequestHandler):
    """Sends one picture again and again, each time with the time in its comment, at the rate that the path names."""

    picture = b""

    def handle(self) -> None:
        """Answer one request until it hangs up."""
        if not (asked := self.rfile.readline()):
            return
        rate = float(asked.split()[1].partition(b"?")[0].strip(b"/"))
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        begun, number = time.perf_counter(), 0
        while True:
            number += 1
            time.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            made = str(time.time_ns()).encode()
            jpeg = b"".join((_SOI, _COMMENT, (len(made) + 2).to_bytes(2, "big"), made, self.picture[2:]))
            head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
            try:
                self.wfile.write(head + jpeg + b"\r\n")
            except OSError:
                return


class Ruler:
    """A sink that notes how old each frame is when its mask is there."""

    address = "ruler"

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []

    def start(self, session: LiveSession) -> None:
        """Wait for masks."""

    def send(self, frame: LiveFrame, result: LiveResult) -> None:  # noqa: ARG002 - as every sink
        """Note one mask; the comment is the first segment of its JPEG."""
        jpeg = bytes(frame.image)
        length = int.from_bytes(jpeg[4:6], "big")
        self.latencies_ms.append((time.time_ns() - int(jpeg[6 : 4 + length])) / 1e6)

    def close(self) -> None:
        """Keep what was noted."""


@contextmanager
def cameras() -> Iterator[int]:
    """Cameras in a process of their own; gives their port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with subprocess.Popen([sys.executable, __file__, "cameras", str(port)]) as process:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def measure(network: OwnNetwork, port: int, count: int, rate: int) -> tuple[float, float, float, float]:
    """Median and 99th percentile in ms, masks a second of each camera, and the share of frames without a mask."""
    options, ruler, bell = LiveOptions(Limits()), Ruler(), Bell()
    sources = [open_source(f"http://127.0.0.1:{port}/{rate}?camera={number}", options) for number in range(count)]
    end = threading.Timer(SECONDS, bell.stop)
    end.start()
    found = run(sources, [ruler], network, options, bell)
    end.join()
    seen = [each.snapshot() for each in found.values()]
    middle, most = np.percentile(ruler.latencies_ms, [50, 99])
    dropped = sum(each.dropped for each in seen) / sum(each.received for each in seen)
    return float(middle), float(most), len(ruler.latencies_ms) / SECONDS / count, dropped


def main() -> None:
    """Print the table of docs/howto-live.md."""
    print(f"{harness.machine()}; {time.strftime('%Y-%m-%d')}; load {os.getloadavg()[0]:.0f} beside it")
    head = "cameras | frames/s of each | masks/s of each | dropped | latency, ms: median | 99 % | bare, ms | latency / bare"
    print(f"\n| {head} |\n|{'---|' * 8}")
    with cameras() as port, opened(Settings()) as predictor, bare(SIZES[SIZE]) as alone:
        network = OwnNetwork(predictor, LiveOptions(Limits()))
        for count in CAMERAS:
            for rate in RATES:
                bares, found = [], []
                for _ in range(ROUNDS):
                    bares.append(alone.run("alone", BARE_S)["median_ms"])
                    found.append(measure(network, port, count, rate))
                middle, most, masks, dropped = (statistics.median(column) for column in zip(*found, strict=True))
                ratio = statistics.median(each[0] / bare_ms for each, bare_ms in zip(found, bares, strict=True))
                figures = f"{middle:.0f} | {most:.0f} | {statistics.median(bares):.0f} | {ratio:.2f}"
                print(f"| {count} | {rate} | {masks:.1f} | {100 * dropped:.0f} % | {figures} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["cameras"]:
        Camera.picture = harness.sample(*SIZES[SIZE])
        socketserver.ThreadingTCPServer.daemon_threads = True
        socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[2])), Camera).serve_forever()
    else:
        main()
