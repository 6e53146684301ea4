"""A GPU, end to end: ``python benchmarks/gpu.py`` on a machine that has one, some four minutes.

Starts the service with ``FCN_PROVIDER=cuda`` (further ``FCN_`` variables are passed on), compares its labels with those of the
processor, then measures: a lone request of 1280 x 720, its stages, frames a second at saturation, and the network alone by
batch and shape. Prints Markdown. Without a GPU it ends with the service's own error.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402  (after the path)
import numpy as np  # noqa: E402

from benchmarks import harness  # noqa: E402
from benchmarks.bench import ARTIFACT, STAGES  # noqa: E402
from models.scenes import street_scene  # noqa: E402
from service.compose import engine_options  # noqa: E402
from service.encodings import png  # noqa: E402
from service.pipeline.codecs.decoding import Limits  # noqa: E402
from service.pipeline.engine import Engine  # noqa: E402
from service.pipeline.plan import fit_size, resize_image  # noqa: E402
from service.pipeline.predictor import Predictor  # noqa: E402
from service.pipeline.repository import Repository  # noqa: E402
from service.settings import Settings  # noqa: E402

SIZES = {"480 x 360": (360, 480), "1280 x 720": (720, 1280), "1920 x 1080": (1080, 1920)}
HD = "1280 x 720"
BATCHES = (1, 2, 4, 8)
MEDIAN_MS, RATE = 6.0, 400.0
"""The goals: a request of 1280 x 720 at the median, frames a second at saturation."""
MOST_CHANGED = 0.001
"""Share of the labels that may differ from the processor's: float32 sums in another order."""
WARM = 20


def differing(url: str, images: dict[str, bytes]) -> dict[str, float]:
    """Return by size the share of labels that differ from those of the CPU provider."""
    predictor = Predictor(Repository(ARTIFACT), Limits())
    found = {}
    for size, image in images.items():
        mask = httpx.post(url, content=image, timeout=60).raise_for_status().content
        found[size] = float((png.decode(mask) != predictor.segment(image).labels).mean())
    predictor.close()
    return found


def lone(url: str, image: bytes, requests: int) -> tuple[float, float, dict[str, float]]:
    """Return the median and the 99th percentile of lone requests in ms, and the median of each stage."""
    totals, rows = [], []
    with httpx.Client(timeout=60) as client:
        for number in range(WARM + requests):
            begun = time.perf_counter()
            reply = client.post(url, content=image).raise_for_status()
            spent = 1000 * (time.perf_counter() - begun)
            if number >= WARM:
                parts = dict(part.split(";dur=") for part in reply.headers["Server-Timing"].split(", "))
                row = [float(parts[stage]) for stage in STAGES]
                totals.append(spent)
                rows.append([*row, spent - sum(row)])
    stages = dict(zip((*STAGES, "HTTP and client"), np.median(rows, axis=0).tolist(), strict=True))
    return statistics.median(totals), float(np.percentile(totals, 99)), stages


def batches(runs: int) -> list[str]:
    """Return a table: milliseconds an image of the network and its labels, by shape and batch."""
    engine = Engine.open(ARTIFACT, engine_options(Settings(provider="cuda")))
    lines = ["| ms an image, network and labels | " + " | ".join(f"batch {n}" for n in BATCHES) + " |"]
    lines.append("|---" * (len(BATCHES) + 1) + "|")
    for name, (height, width) in SIZES.items():
        fitted = resize_image(street_scene(height, width, seed=0)[0], fit_size(height, width, engine.manifest.input))
        cells = []
        for count in BATCHES:
            images = np.stack([fitted] * count)
            spent = []
            for number in range(5 + runs):
                begun = time.perf_counter()
                for outputs in engine.run_on_device(images):
                    outputs.labels((height, width))
                if number >= 5:
                    spent.append(1000 * (time.perf_counter() - begun) / count)
            cells.append(f"{statistics.median(spent):.2f}")
        lines.append(f"| {name}, network {fitted.shape[1]} x {fitted.shape[0]} | {' | '.join(cells)} |")
    engine.close()
    return lines


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--seconds", type=int, default=10, help="of saturation, each size")
    options = parser.parse_args()
    settings = {name: value for name, value in os.environ.items() if name.startswith("FCN_")}
    environment = {"FCN_PROVIDER": "cuda", "FCN_DEFAULT_MODEL": ARTIFACT.stem, **settings}
    images = {name: harness.sample(*size) for name, size in SIZES.items()}
    lines = ["# A GPU", "", f"`python benchmarks/gpu.py`, {time.strftime('%Y-%m-%d')}: {harness.machine()}. {settings}", ""]
    with tempfile.TemporaryDirectory() as folder, harness.server(environment=environment) as server:
        changed = differing(server.url, images)
        lines += [f"Labels that differ from the processor's: {', '.join(f'{k} {v:.4%}' for k, v in changed.items())}.", ""]
        if max(changed.values()) > MOST_CHANGED:
            print("\n".join(lines))
            print(
                f"more than {MOST_CHANGED:.1%} of the labels differ: the figures would be of another network", file=sys.stderr
            )
            return 1
        median, slowest, stages = lone(server.url, images[HD], options.requests)
        verdict = "met" if median <= MEDIAN_MS else "**missed**"
        lines += [
            f"A lone request of {HD}: {median:.2f} ms at the median ({MEDIAN_MS:g} wanted: {verdict}), {slowest:.2f} at p99.",
            "",
        ]
        lines += ["| " + " | ".join(stages) + " |", "|---" * len(stages) + "|"]
        lines += ["| " + " | ".join(f"{ms:.2f} ms, {ms / median:.0%}" for ms in stages.values()) + " |", ""]
        for name, image in images.items():
            file = Path(folder, "image.jpg")
            file.write_bytes(image)
            rates = [harness.load(server.url, file, connections=count, seconds=options.seconds).rate for count in (16, 32, 64)]
            goal = f" ({RATE:g} wanted: {'met' if max(rates) >= RATE else '**missed**'})" if name == HD else ""
            lines.append(f"{name} at saturation: {max(rates):.0f} frames/s{goal}.\n")
    lines += batches(100)
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
