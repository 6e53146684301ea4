"""Compare a stream with requests, and a video beside the bare network: ``python benchmarks/streams.py``, three minutes.

Serves the shipped model as users do and asks it through the public client: frame after frame by ``POST /segment`` and by
``WS /stream``, then without waiting, then a camera that is faster than the service. Segments a drawn video as ``fcn-serve
segment`` does, beside the bare network (``bare.py``). Both sides of a comparison are measured in turn,
round after round. A machine's speed drifts, so only the ratios within a round count, and their medians are shown.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import av  # noqa: E402  (after the path)
import numpy as np  # noqa: E402

from benchmarks import harness  # noqa: E402
from benchmarks.bench import SIZES, bare  # noqa: E402
from models.scenes import street_scene  # noqa: E402
from service.batch.config import RunConfig  # noqa: E402
from service.batch.inputs import Input  # noqa: E402
from service.batch.run import Plan, run  # noqa: E402
from service.batch.sources.video import plan_videos  # noqa: E402
from service.batch.targets import Write  # noqa: E402
from service.cli.opened import opened  # noqa: E402
from service.client import Client, FrameWithoutMask  # noqa: E402
from service.encodings.options import NO_OPTIONS  # noqa: E402
from service.pipeline.predictor import Predictor  # noqa: E402
from service.settings import Settings  # noqa: E402

ROUNDS, FRAMES = 5, 40
CAMERA_FPS, CAMERA_S = 60, 5.0
VIDEO_FRAMES = 90


def main() -> None:
    """Print the tables of docs/camera.md and docs/video.md."""
    print(harness.machine())
    with harness.server() as served, Client(served.url.removesuffix("/segment")) as client:
        print("\n| frames | POST, ms | stream, ms | stream / POST | POST, frames/s | stream, frames/s | stream / POST |")
        print("|---|---|---|---|---|---|---|")
        for name, size in SIZES.items():
            frame = harness.sample(*size)
            client.segment(frame)
            posted, streamed, rates, stream_rates = [], [], [], []
            for _ in range(ROUNDS):
                posted.append(median_ms(lambda frame=frame: client.segment(frame)))  # type: ignore[misc]
                streamed.append(one_by_one(client, frame))
                rates.append(1000 / posted[-1])
                stream_rates.append(without_waiting(client, frame))
            words = (row(posted, streamed, ".1f"), row(rates, stream_rates, ".1f"))
            print(f"| {name} | {' | '.join(words)} |")
        print(f"\n| camera of {CAMERA_FPS} frames/s | masks/s | superseded | age of a mask, ms: median | 95 % | largest |")
        print("|---|---|---|---|---|---|")
        for name, size in SIZES.items():
            print(f"| {name} | {camera(client, harness.sample(*size))} |")
    print("\n| video, 1280 x 720 | frames/s | bare network, frames/s | of the bare network |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, opened(Settings()) as predictor, bare(SIZES["1280 x 720"]) as network:
        path = Path(folder) / "drive.mp4"
        draw(path)
        for name in ("lines", "lines and overlay"):
            rates, bares = [], []
            for _ in range(ROUNDS):
                bares.append(network.run("alone", 3)["rate"])
                rates.append(video(path, predictor, overlay=name != "lines"))
            ratio = statistics.median(rate / bare_rate for rate, bare_rate in zip(rates, bares, strict=True))
            print(f"| {name} | {statistics.median(rates):.1f} | {statistics.median(bares):.1f} | {ratio:.2f} |")


def row(before: list[float], after: list[float], form: str) -> str:
    """The medians of both, and that of their ratios."""
    ratio = statistics.median(new / old for old, new in zip(before, after, strict=True))
    return f"{statistics.median(before):{form}} | {statistics.median(after):{form}} | {ratio:.2f}"


def median_ms(work: Callable[[], object]) -> float:
    """Of one call, over some."""
    spent = []
    for _ in range(FRAMES):
        begun = time.perf_counter()
        work()
        spent.append(1000 * (time.perf_counter() - begun))
    return statistics.median(spent)


def one_by_one(client: Client, frame: bytes) -> float:
    """Median milliseconds from a frame's sending to its mask, where each waits for the mask before it."""
    may_go = threading.Semaphore(1)
    sent: list[float] = []
    spent = []

    def frames() -> Iterator[bytes]:
        for _ in range(FRAMES):
            may_go.acquire()
            sent.append(time.perf_counter())
            yield frame

    for _ in client.stream(frames()):
        spent.append(1000 * (time.perf_counter() - sent[-1]))
        may_go.release()
    return statistics.median(spent)


def without_waiting(client: Client, frame: bytes) -> float:
    """Frames a second, none of them superseded: one in work and one under way."""
    begun = time.perf_counter()
    masks = sum(1 for _ in client.stream([frame] * FRAMES, every=True))
    return masks / (time.perf_counter() - begun)


def camera(client: Client, frame: bytes) -> str:
    """Measure a camera that is faster than the service."""
    superseded: list[FrameWithoutMask] = []

    def frames() -> Iterator[tuple[bytes, str, str]]:
        begun = time.perf_counter()
        for number in range(int(CAMERA_FPS * CAMERA_S)):
            time.sleep(max(0.0, begun + number / CAMERA_FPS - time.perf_counter()))
            yield frame, str(number), repr(time.perf_counter())

    begun = time.perf_counter()
    ages = [
        1000 * (time.perf_counter() - float(mask.frame_stamp or 0))
        for mask in client.stream(frames(), without_mask=superseded.append)
    ]
    seconds = time.perf_counter() - begun
    share = len(superseded) / (len(superseded) + len(ages))
    middle, most = np.percentile(ages, [50, 95])
    return f"{len(ages) / seconds:.1f} | {100 * share:.0f} % | {middle:.0f} | {most:.0f} | {max(ages):.0f}"


def draw(path: Path) -> None:
    """A video of a drawn street that moves a little from frame to frame, as a dashcam would encode it."""
    image, _ = street_scene(*SIZES["1280 x 720"], seed=3)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 30)
        for number in range(VIDEO_FRAMES):
            picture = av.VideoFrame.from_ndarray(np.roll(image, 3 * number, 1), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def video(path: Path, predictor: Predictor, *, overlay: bool) -> float:
    """Frames a second, from the opening of the file to its last result."""
    options = dict.fromkeys(("rle", "png", "overlay"), NO_OPTIONS)
    write = [Write.RLE, *([Write.OVERLAYS] if overlay else [])]
    begun = time.perf_counter()
    config = RunConfig(predictor.repository.get(None), options, predictor.limits, overwrite=True)
    with Plan(config) as plan:
        report = run(plan_videos(plan, [Input(path, path.parent)], write), predictor, plan, Silence())
    return report.done / (time.perf_counter() - begun)


class Silence:
    """A progress that nothing shows."""

    def begin(self, source: str, total: int | None) -> None:
        """Show nothing."""

    def part(self, done: int, total: int) -> None:
        """Show nothing."""

    def advance(self) -> None:
        """Show nothing."""


if __name__ == "__main__":
    main()
