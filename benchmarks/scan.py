"""A scan of 256 x 256 x 128 voxels through HTTP: seconds, their ratio to the bare network's, memory above idle.

``python benchmarks/scan.py [--rounds N] [--model NAME]``. The scan is drawn here: nested ellipsoids with noise, as .nii.gz.
In each round the service answers it, and then the bare network takes as many slices of the same sizes in the way that is the
fastest: one slice a run, a thread for each processor. The median of the rounds' ratios counts.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from os import sched_getaffinity
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402  (after the path)
import nibabel  # noqa: E402
import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.harness import machine, resident_mb, server  # noqa: E402
from service.pipeline import onnx_file  # noqa: E402
from service.pipeline.manifest import INPUT, Manifest, read_manifest  # noqa: E402
from service.pipeline.tasks.volume import slices  # noqa: E402

SHAPE = (256, 256, 128)
SECONDS, RATIO, MEMORY_MB = 6.0, 1.15, 400.0
"""The goals."""


def drawn_scan() -> bytes:
    """A head of nested ellipsoids in noise, 1 x 1 x 1 mm, axes to the right, anterior and superior."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in SHAPE), indexing="ij", sparse=True)
    radius = np.sqrt((x / 0.7) ** 2 + (y / 0.85) ** 2 + (z / 0.95) ** 2)
    values = np.zeros(SHAPE, np.float32)
    for limit, value in ((1.0, 700), (0.93, 100), (0.88, 150), (0.8, 420), (0.66, 640), (0.2, 140)):
        values[radius < limit] = value
    values += np.random.default_rng(0).normal(0, 20, SHAPE).astype(np.float32)
    image = nibabel.Nifti1Image(np.abs(values).astype(np.int16), np.eye(4))
    return gzip.compress(image.to_bytes(), 1)


def batches(manifest: Manifest) -> Iterator[NDArray[np.float32]]:
    """The slices that the service gives to the network for this scan, one after another."""
    values = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    for axis in range(len(manifest.input.planes)):
        across = np.moveaxis(values, axis, 0)
        for k in sorted({*range(0, len(across), manifest.input.slice_step), len(across) - 1}):
            yield slices(across, [k], manifest.input)


def bare_s(path: Path, manifest: Manifest) -> float:
    """Seconds of the network alone."""
    cores = len(sched_getaffinity(0))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    work = list(batches(manifest))
    session.run(None, {INPUT: work[0]})
    with ThreadPoolExecutor(cores) as pool:
        begun = time.perf_counter()
        for _ in pool.map(lambda batch: session.run(None, {INPUT: batch})[0].shape, work):
            pass
        return time.perf_counter() - begun


def main() -> int:
    """Measure; the exit status is 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="scan", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="head-tissue", help="a network of slices in models/artifacts")
    arguments = parser.parse_args()
    path = ROOT / "models" / "artifacts" / f"{arguments.model}.onnx"
    manifest = read_manifest(onnx_file.outline(path).metadata, source=path.name)
    body, spent, ratios = drawn_scan(), [], []
    print(machine())
    with server() as running, httpx.Client(timeout=300) as client:
        idle_mb = resident_mb(running.pid)
        for number in range(arguments.rounds):
            begun = time.perf_counter()
            reply = client.post(running.url, params={"model": arguments.model}, content=body).raise_for_status()
            spent.append(time.perf_counter() - begun)
            ratios.append(spent[-1] / bare_s(path, manifest))
            print(
                f"round {number + 1}: {spent[-1]:.2f} s, ratio {ratios[-1]:.2f}; {reply.headers['server-timing']}", flush=True
            )
        peak_mb = resident_mb(running.pid, "VmHWM") - idle_mb
    figures = (
        ("seconds", statistics.median(spent), SECONDS),
        ("over the bare network", statistics.median(ratios), RATIO),
        ("MB above idle, at the peak", peak_mb, MEMORY_MB),
    )
    for name, figure, goal in figures:
        print(f"{name}: {figure:.2f} (goal: at most {goal:g}){'' if figure <= goal else ', missed'}")
    return int(any(figure > goal for _, figure, goal in figures))


if __name__ == "__main__":
    sys.exit(main())
