"""What Ray costs and gains, against the same work without it.

    python benchmarks/cluster.py segment     one command alone; one and two workers here; two machines (network namespaces)
    python benchmarks/cluster.py serve       one replica behind Ray's proxy, with its variants, and fcn-serve serve beside it

Frames a second are counted from the first recorded result to the last one, so the start of Ray and of the models is left out;
it is printed apart. Needs the right to make network namespaces. On a busy machine only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from service.batch.records import NAME  # noqa: E402
from tests import clusters  # noqa: E402
from tests.live import live_process  # noqa: E402

VARIANTS = {
    "Ray Serve": {},
    "RAY_SERVE_ENABLE_HA_PROXY=1": {"RAY_SERVE_ENABLE_HA_PROXY": "1"},
    "RAY_SERVE_THROUGHPUT_OPTIMIZED=1": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
}
PORT = 8123
CASES = ("alone", "1", "2", "machines")
"""Without Ray; so many workers on one node; one worker on each of two nodes."""


def frame(seed: int) -> bytes:
    """Return a JPEG of 1280 x 720."""
    small = np.random.default_rng(seed).integers(0, 256, (45, 80, 3), np.uint8)
    body = io.BytesIO()
    Image.fromarray(small).resize((1280, 720), Image.Resampling.BICUBIC).save(body, "JPEG", quality=90)
    return body.getvalue()


def recorded(out: Path) -> int:
    """Return how many results are recorded."""
    return sum(path.read_bytes().count(b"\n") for path in out.rglob(NAME))


def timed(name: str, command: list[str], environment: dict[str, str], out: Path) -> None:
    """Run a command, and print the frames a second and what went before the first one."""
    begun = time.monotonic()
    seen: list[tuple[float, int]] = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            count = recorded(out)
            if count and (not seen or count != seen[-1][1]):
                seen.append((time.monotonic(), count))
            time.sleep(0.05)
    (first_s, first), (last_s, last) = seen[0], seen[-1]
    rate = (last - first) / (last_s - first_s)
    print(f"{name}: {rate:.1f} frames/s, first result after {first_s - begun:.0f} s, exit code {process.returncode}")


def segment(frames: int, cases: Sequence[str]) -> None:
    """Compare runs over one folder.

    Takes:
        cases: of :data:`CASES`
    """
    with tempfile.TemporaryDirectory() as folder:
        drive = Path(folder) / "in"
        drive.mkdir()
        for number in range(frames):
            (drive / f"{number:05d}.jpg").write_bytes(frame(number))

        def words(name: str) -> list[str]:
            out = f"{folder}/{name}"
            return [sys.executable, "-m", "service", "segment", str(drive), "--out", out, "--write", "masks"]

        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if "alone" in cases:
            timed("one command alone", words("alone"), environment, Path(folder) / "alone")
        for cpus in [int(case) for case in cases if case.isdigit()]:
            with clusters.own_network(), clusters.cluster(cpus=cpus) as here:
                command = [*words(f"workers{cpus}"), "--cluster", here.address]
                timed(f"{cpus} workers on one node", command, here.environment, Path(folder) / f"workers{cpus}")
        if "machines" in cases:
            with clusters.two_machines() as (there, _):
                command = [*words("machines"), "--cluster", there.address]
                timed("one worker on each of two nodes", command, there.environment, Path(folder) / "machines")


@contextlib.contextmanager
def replica(variant: dict[str, str]) -> Iterator[str]:
    """Serve by one replica, and give its URL."""
    with clusters.cluster(environment=variant) as here:
        words = ["cluster", "serve", "--replicas", "1", "--port", str(PORT), "--address", here.address]
        done = here.run(*words, threads=1, log_level="warning")
        if done.returncode:
            raise SystemExit(done.stderr)
        yield f"http://127.0.0.1:{PORT}"


def serve(calls: int) -> None:
    """Compare the time of a call, of one caller, in turns."""
    body = frame(0)
    settings = {"threads": 1, "log_level": "warning"}
    with tempfile.TemporaryDirectory() as folder, clusters.own_network():
        for name, variant in VARIANTS.items():
            with live_process(Path(folder), settings) as plain, replica(variant) as url, httpx.Client(timeout=60) as client:
                spent: dict[tuple[str, str], list[float]] = {}
                for _ in range(calls):
                    for base in (plain.base_url, url):
                        for path in ("/livez", "/segment"):
                            begun = time.perf_counter()
                            method, content = ("GET", None) if path == "/livez" else ("POST", body)
                            client.request(method, base + path, content=content).raise_for_status()
                            spent.setdefault((base, path), []).append(1000 * (time.perf_counter() - begun))
                for path in ("/livez", "/segment"):
                    alone, behind = spent[plain.base_url, path], spent[url, path]
                    medians = f"{statistics.median(behind):.1f} ms against {statistics.median(alone):.1f} ms"
                    print(f"{name}, {path}: {medians} (medians), {min(behind):.1f} against {min(alone):.1f} (least)")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("segment", "serve"))
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--calls", type=int, default=100)
    asked = parser.parse_args()
    if asked.what == "segment":
        segment(asked.frames, asked.cases)
    else:
        serve(asked.calls)


if __name__ == "__main__":
    main()
