"""The goals for int8 as the default, in one table: ``python benchmarks/goals.py``, less than six minutes.

Serves the shipped model twice, in int8 and in float32, beside the bare networks (``bare.py``) and a straightforward service
with the float32 weights (``naive.py``), and takes them in turn, round after round: only ratios of one round are compared. The
load comes from wrk, on the same processors. Other servers are compared by ``bench_peers.py --precision int8``.

Prints the table and writes ``benchmarks/results/goals.{md,json}``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from os import sched_getaffinity
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  (after the path)

from benchmarks import harness  # noqa: E402
from benchmarks.bench import (  # noqa: E402
    ARTIFACT,
    BOUNDARY,
    RESULTS,
    SIZES,
    Goal,
    Tail,
    as_form,
    bare,
    median_of,
    naive_graph,
)
from benchmarks.callers import Callers, Tally  # noqa: E402
from service.pipeline.cpus import int8_instructions  # noqa: E402

ARTIFACTS = {"fp32": ARTIFACT, "int8": ARTIFACT.with_name(f"{ARTIFACT.stem}-int8.onnx")}
SMALL, LARGE = SIZES
LEAST_OVER_BARE = {SMALL: 0.88, LARGE: 0.78}
MOST_ALONE = {"fp32": {SMALL: 1.12, LARGE: 1.20}, "int8": {SMALL: 1.30, LARGE: 1.45}}
MOST_TAIL = 1.15
LEAST_OVER_NAIVE = {SMALL: 1.9, LARGE: 2.5}
LEAST_OVER_FLOAT = {SMALL: 1.8, LARGE: 1.6}
TAIL_SHARE = 0.8
"""Of the rate at saturation."""


class Measurements:
    """All servers, up; figures by name, one list entry a round."""

    def __init__(self, stack: ExitStack, folder: Path, seconds: float) -> None:
        self._seconds = seconds
        self.rates: dict[str, list[float]] = defaultdict(list)
        self.medians: dict[str, list[float]] = defaultdict(list)
        self._images, self._forms = {}, {}
        for name, size in SIZES.items():
            image = harness.sample(*size)
            self._images[name], self._forms[name] = folder / f"{size[1]}.jpg", folder / f"{size[1]}.form"
            self._images[name].write_bytes(image)
            self._forms[name].write_bytes(as_form(image))
        self.servers = {
            precision: stack.enter_context(harness.server(environment={"FCN_PRECISION": precision})) for precision in ARTIFACTS
        }
        command = (sys.executable, str(Path(__file__).with_name("naive.py")), str(naive_graph()), "{port}")
        self._naive = stack.enter_context(harness.server(command, probe="/health"))
        self.bare = {
            (precision, name): stack.enter_context(bare(size, artifact))
            for precision, artifact in ARTIFACTS.items()
            for name, size in SIZES.items()
        }
        self._connections = 4 * len(sched_getaffinity(0))

    def round(self) -> None:
        """Everything once; what is compared is measured side by side."""
        for size in SIZES:
            for precision in ARTIFACTS:
                self._alone(precision, size)
            for way in ("lanes", "together"):
                self._bare("int8", size, way)
            for precision in ("int8", "fp32"):
                self._load(f"{precision}, {size}", self.servers[precision].url, self._images[size])
            form = f"multipart/form-data; boundary={BOUNDARY}"
            self._load(f"naive, {size}", self._naive.url, self._forms[size], content_type=form)

    def _alone(self, precision: str, size: str) -> None:
        self._bare(precision, size, "alone")
        self._load(f"{precision} alone, {size}", self.servers[precision].url, self._images[size], connections=1)

    def _bare(self, precision: str, size: str, way: str) -> None:
        found = self.bare[precision, size].run(way, self._seconds)
        self.rates[f"bare {precision} {way}, {size}"].append(found["rate"])
        self.medians[f"bare {precision} {way}, {size}"].append(found["median_ms"])

    def _load(
        self, name: str, url: str, body: Path, *, connections: int | None = None, content_type: str = "image/jpeg"
    ) -> None:
        found = harness.load(
            url,
            body,
            connections=connections or self._connections,
            seconds=self._seconds,
            content_type=content_type,
        )
        self.rates[name].append(found.rate)
        self.medians[name].append(found.median_ms)

    def tail(self, size: str, seconds: float, rounds: int) -> Tail:
        """int8 at :data:`TAIL_SHARE` of its rate, evenly spaced; in between the bare network behind a queue, likewise."""
        rate = TAIL_SHARE * median_of(self.rates[f"int8, {size}"])
        bare_rate = TAIL_SHARE * median_of(self.rates[f"bare int8 lanes, {size}"])
        served, behind_queue = [], []
        for _ in range(rounds):
            tally = Tally()
            port = urlsplit(self.servers["int8"].url).port or 0
            Callers(port, self._images[size].read_bytes()).open_loop(tally, seconds, rate, 10.0)
            p50, p99 = np.percentile(tally.good_ms, [50, 99])
            served.append((float(p50), float(p99)))
            found = self.bare["int8", size].run("evenly", seconds, bare_rate)
            behind_queue.append((found["median_ms"], found["p99_ms"]))
        return Tail(rate, served, behind_queue)


def ratio(above: Sequence[float], *below: Sequence[float]) -> float:
    """Return the median over the rounds of one figure over another's; of several the largest of that round."""
    return median_of([a / max(b) for a, b in zip(above, zip(*below, strict=True), strict=True)])


def goals(found: Measurements, tail: Tail) -> list[Goal]:
    """The table of the issue, row by row."""
    rates, medians = found.rates, found.medians
    table = []
    for size, least in LEAST_OVER_FLOAT.items():
        table.append(
            Goal(
                f"int8 over float32 through HTTP at saturation, {size}",
                ratio(rates[f"int8, {size}"], rates[f"fp32, {size}"]),
                least,
            )
        )
    for size, least in LEAST_OVER_BARE.items():
        fastest = [rates[f"bare int8 {way}, {size}"] for way in ("alone", "lanes", "together")]
        table.append(Goal(f"int8, throughput over bare session.run, {size}", ratio(rates[f"int8, {size}"], *fastest), least))
    for precision, limits in MOST_ALONE.items():
        for size, most in limits.items():
            latency = ratio(medians[f"{precision} alone, {size}"], medians[f"bare {precision} alone, {size}"])
            name = f"{precision}, a lone request over session.run with all threads, {size}"
            table.append(Goal(name, latency, most, at_most=True))
    spread = median_of(
        [(p99 / p50) / (bare99 / bare50) for (p50, p99), (bare50, bare99) in zip(tail.served, tail.bare, strict=True)]
    )
    name = f"int8, p99 over p50 at 80 % of saturation over that of a bare session behind a queue, {SMALL}"
    table.append(Goal(name, spread, MOST_TAIL, at_most=True, note=f"{Tail.ratio(tail.served):.2f}; {tail.note}"))
    for size, least in LEAST_OVER_NAIVE.items():
        over = ratio(rates[f"int8, {size}"], rates[f"naive, {size}"])
        table.append(Goal(f"int8 over a straightforward service in float32, {size}", over, least))
    return table


def report(found: Measurements, table: Sequence[Goal], rounds: int, minutes: float) -> str:
    """The tables as Markdown."""
    instructions = int8_instructions() or "no instructions for int8 (AVX2 at the most)"
    lines = ["# Goals for int8", ""]
    machine = f"{time.strftime('%Y-%m-%d')}: {harness.machine()}; {instructions}"
    lines += [
        f"`python benchmarks/goals.py`, {machine}. Medians over {rounds} rounds, {minutes:.1f} minutes.",
        "",
        "| goal | measured | wanted | |",
        "|---|---|---|---|",
    ]
    for goal in table:
        verdict = ("met" if goal.met else "**missed**") + (f"; {goal.note}" if goal.note else "")
        wanted = f"{'at most' if goal.at_most else 'at least'} {goal.limit:g}"
        lines.append(f"| {goal.name} | {goal.ratio:.2f} | {wanted} | {verdict} |")
    lines += ["", "| | frames/s | median ms |", "|---|---|---|"]
    lines += [
        f"| {name} | {statistics.median(found.rates[name]):.1f} | {statistics.median(found.medians[name]):.1f} |"
        for name in found.rates
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=2, help="of one measurement")
    parser.add_argument("--tail-rounds", type=int, default=3)
    parser.add_argument("--tail-seconds", type=float, default=8)
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        found = Measurements(stack, Path(folder), options.seconds)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            found.round()
        tail = found.tail(SMALL, options.tail_seconds, options.tail_rounds)
    table = goals(found, tail)
    text = report(found, table, options.rounds, (time.monotonic() - begun) / 60)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "goals.md").write_text(text)
    figures = {
        "rates": found.rates,
        "medians_ms": found.medians,
        "tail_ms": {"served": tail.served, "bare": tail.bare},
        "goals": {goal.name: goal.ratio for goal in table},
    }
    (RESULTS / "goals.json").write_text(json.dumps({"machine": harness.machine(), **figures}, indent=1) + "\n")
    return 0 if all(goal.met for goal in table) else 1


if __name__ == "__main__":
    sys.exit(main())
