"""How much of a request is the network itself: ``make bench``, less than five minutes.

Serves the shipped model as users do, beside the bare network (``bare.py``) and a straightforward service (``naive.py``), and
takes them in turn, round after round: only ratios of one round are compared, since a machine's speed drifts. The load comes
from wrk, on the same processors. Writes ``benchmarks/results/bench.{md,json}``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import sched_getaffinity
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402  (after the path)
import numpy as np  # noqa: E402

from benchmarks import harness  # noqa: E402
from benchmarks.callers import Callers, Tally  # noqa: E402
from service.pipeline.manifest import read_manifest  # noqa: E402
from service.pipeline.onnx_file import outline  # noqa: E402
from service.pipeline.plan import fit_size  # noqa: E402

MODEL = "fcn4s-lite0-streets"
ARTIFACT = ROOT / f"models/artifacts/{MODEL}.onnx"
CHECKPOINT = ROOT / f"models/checkpoints/{MODEL}.pt"
SIZES = {"480 x 360": (360, 480), "1280 x 720": (720, 1280)}
RESULTS = Path(__file__).with_name("results")
BOUNDARY = "fcn-bench"
STAGES = ("decode", "queue", "infer", "labels", "encode")
TAIL_ROUNDS, TAIL_S = 3, 8
MIXED = [(16, 16), (48, 64), (360, 480), (640, 480), (480, 1280), (720, 1280), (1080, 1920), (2160, 3840)]
"""Height and width of the images after which the memory is read."""


@dataclass(frozen=True)
class Goal:
    """One line of the table."""

    name: str
    ratio: float
    limit: float
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure is on the right side."""
        return self.ratio <= self.limit if self.at_most else self.ratio >= self.limit


@dataclass(frozen=True)
class Tail:
    """The 50th and 99th percentile in milliseconds, round by round."""

    rate: float
    served: list[tuple[float, float]]
    bare: list[tuple[float, float]]

    @staticmethod
    def ratio(rounds: list[tuple[float, float]]) -> float:
        """Median over the rounds of p99 over p50."""
        return median_of([p99 / p50 for p50, p99 in rounds])

    @property
    def note(self) -> str:
        """A remark beside the figure."""
        p50, p99 = (statistics.median(values) for values in zip(*self.served, strict=True))
        bare = self.ratio(self.bare)
        return f"{p50:.0f} and {p99:.0f} ms at {self.rate:.1f} frames/s; the bare network behind a queue: {bare:.2f}"


class Bare:
    """``bare.py`` for one image size."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()

    def _answer(self) -> str:
        return cast(IO[str], self._process.stdout).readline() or sys.exit("bare.py ended")

    def run(self, way: str, *numbers: float) -> dict[str, float]:
        """One measurement, as ``bare.py`` says: of so many seconds, at such a rate."""
        orders = cast(IO[str], self._process.stdin)
        orders.write(f"{' '.join([way, *map(str, numbers)])}\n")
        orders.flush()
        found: dict[str, float] = json.loads(self._answer())
        return found


@contextmanager
def bare(size: tuple[int, int], artifact: Path = ARTIFACT) -> Iterator[Bare]:
    """The bare network on images of a size, as the service would fit them."""
    height, width = fit_size(*size, read_manifest(outline(artifact).metadata).input)
    command = [sys.executable, str(Path(__file__).with_name("bare.py")), str(artifact), str(height), str(width)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Bare(process)
        finally:
            process.terminate()


def naive_graph() -> Path:
    """The shipped weights as ``torch.onnx.export`` wrote them for years; made once."""
    path = ROOT / f"build/bench/naive-{MODEL}.onnx"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("legacy_export.py")), str(CHECKPOINT), str(path)],
            check=True,
        )
    return path


def as_form(image: bytes) -> bytes:
    """An image as the one field of a form."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


def median_of(values: Sequence[float]) -> float:
    """With two decimals more than anyone needs."""
    return round(statistics.median(values), 4)


class Bench:
    """All servers, up; measurements by name, one list entry a round."""

    def __init__(self, stack: ExitStack, folder: Path, seconds: float) -> None:
        self._seconds = seconds
        self.rates: dict[str, list[float]] = defaultdict(list)
        self.medians: dict[str, list[float]] = defaultdict(list)
        self.images = {name: folder / f"{size[1]}.jpg" for name, size in SIZES.items()}
        self.forms = {name: folder / f"{size[1]}.form" for name, size in SIZES.items()}
        for name, size in SIZES.items():
            self.images[name].write_bytes(harness.sample(*size))
            self.forms[name].write_bytes(as_form(self.images[name].read_bytes()))
        self.product = stack.enter_context(harness.server(environment={"FCN_PRECISION": "fp32"}))
        graph = str(naive_graph())
        command = (sys.executable, str(Path(__file__).with_name("naive.py")), graph, "{port}")
        self.naive = stack.enter_context(harness.server(command, probe="/health"))
        self.bare = {name: stack.enter_context(bare(size)) for name, size in SIZES.items()}
        self.connections = 4 * len(sched_getaffinity(0))

    def round(self) -> None:
        """Everything once."""
        for size in SIZES:
            self._bare(size, "alone", f"bare alone, {size}")
            self._load("product", size, "", f"alone, {size}", connections=1)
            for way in ("lanes", "together"):
                self._bare(size, way, f"bare {way}, {size}")
            self._load("product", size, "", f"png, {size}")
            self._load("product", size, "?format=rle", f"rle, {size}")
            self._load("naive", size, "", f"naive, {size}")
        self._load("product", "480 x 360", f"?model={MODEL}-int8", "int8, 480 x 360")

    def _bare(self, size: str, way: str, name: str) -> None:
        found = self.bare[size].run(way, self._seconds)
        self.rates[name].append(found["rate"])
        self.medians[name].append(found["median_ms"])

    def _load(self, service: str, size: str, query: str, name: str, connections: int | None = None) -> None:
        plain = service == "product"
        found = harness.load(
            (self.product if plain else self.naive).url + query,
            (self.images if plain else self.forms)[size],
            connections=connections or self.connections,
            seconds=self._seconds,
            content_type="image/jpeg" if plain else f"multipart/form-data; boundary={BOUNDARY}",
        )
        self.rates[name].append(found.rate)
        self.medians[name].append(found.median_ms)

    def ratio(
        self, above: str, *below: str, of: Callable[[Bench], dict[str, list[float]]] = lambda bench: bench.rates
    ) -> float:
        """Median over the rounds of one figure over another's; of several the largest."""
        measured = of(self)
        return median_of(
            [a / max(b) for a, b in zip(measured[above], zip(*(measured[name] for name in below), strict=True), strict=True)]
        )

    def stages(self, size: str, images: int = 40) -> dict[str, float]:
        """Milliseconds by stage of a lone request, as the service says in ``Server-Timing``; ``http`` is what is left."""
        rows = []
        with httpx.Client() as client:
            for _ in range(images):
                begun = time.perf_counter()
                reply = client.post(self.product.url, content=self.images[size].read_bytes())
                spent = 1000 * (time.perf_counter() - begun)
                parts = dict(part.split(";dur=") for part in reply.headers["Server-Timing"].split(", "))
                row = [float(parts[stage]) for stage in STAGES]
                rows.append([*row, spent - sum(row)])
        return dict(zip((*STAGES, "http"), np.median(rows, axis=0).round(2).tolist(), strict=True))

    def tail(self, size: str, seconds: float, rounds: int) -> Tail:
        """At 80 % of the saturation rate, evenly spaced; the bare network behind a queue, at 80 % of its own, in between."""
        rate = 0.8 * median_of(self.rates[f"png, {size}"])
        bare_rate = 0.8 * median_of(self.rates[f"bare lanes, {size}"])
        served, bare = [], []
        for _ in range(rounds):
            tally = Tally()
            callers = Callers(urlsplit(self.product.url).port or 0, self.images[size].read_bytes())
            callers.open_loop(tally, seconds, rate, 10.0)
            p50, p99 = np.percentile(tally.good_ms, [50, 99])
            served.append((float(p50), float(p99)))
            found = self.bare[size].run("evenly", seconds, bare_rate)
            bare.append((found["median_ms"], found["p99_ms"]))
        return Tail(rate, served, bare)

    def memory_mb(self) -> tuple[float, float]:
        """Resident memory after images of many sizes, a moment later; and the most so far."""
        with httpx.Client(timeout=60) as client:
            for size in MIXED:
                client.post(self.product.url, content=harness.sample(*size)).raise_for_status()
        time.sleep(2)
        return harness.resident_mb(self.product.pid), harness.resident_mb(self.product.pid, "VmHWM")


def goals(bench: Bench, ready_s: float, memory: tuple[float, float], tail: Tail) -> list[Goal]:
    """The table."""
    table = []
    small, large = SIZES
    for size, least in ((small, 0.90), (large, 0.80)):
        fastest = [f"bare {way}, {size}" for way in ("alone", "lanes", "together")]
        table.append(Goal(f"throughput over bare session.run, {size}", bench.ratio(f"png, {size}", *fastest), least))
    table += [
        Goal(f"throughput of format=rle over png, {size}", bench.ratio(f"rle, {size}", f"png, {size}"), 0.99) for size in SIZES
    ]
    for size, most in ((small, 1.12), (large, 1.30)):
        latency = bench.ratio(f"alone, {size}", f"bare alone, {size}", of=lambda bench: bench.medians)
        table.append(Goal(f"latency alone over bare session.run alone, {size}", latency, most, at_most=True))
    name = f"p99 over p50 at 80 % of saturation, {small}"
    table.append(Goal(name, tail.ratio(tail.served), 1.6, at_most=True, note=tail.note))
    for size, least in ((small, 1.4), (large, 2.0)):
        table.append(
            Goal(f"throughput over the straightforward service, {size}", bench.ratio(f"png, {size}", f"naive, {size}"), least)
        )
    table.append(Goal(f"throughput of int8 over fp32, {small}", bench.ratio(f"int8, {small}", f"png, {small}"), 1.4))
    table.append(Goal("start to ready, seconds", ready_s, 1.5, at_most=True))
    note = f"{memory[1]:.0f} MB at the most"
    table.append(Goal("resident memory after mixed sizes, MB", memory[0], 250, at_most=True, note=note))
    return table


def report(bench: Bench, table: list[Goal], stages: dict[str, dict[str, float]], rounds: int) -> str:
    """The tables as Markdown."""
    lines = ["# Benchmark", "", f"`make bench`: {harness.machine()}. Medians over {rounds} rounds.", ""]
    lines += ["| goal | measured | wanted | |", "|---|---|---|---|"]
    for goal in table:
        verdict = ("met" if goal.met else "**missed**") + (f"; {goal.note}" if goal.note else "")
        lines.append(
            f"| {goal.name} | {goal.ratio:.2f} | {'at most' if goal.at_most else 'at least'} {goal.limit:g} | {verdict} |"
        )
    lines += [
        "",
        "| one request alone, ms | " + " | ".join((*STAGES, "HTTP and client")) + " |",
        "|---" * (len(STAGES) + 2) + "|",
    ]
    lines += [f"| {size} | " + " | ".join(f"{spent:.2f}" for spent in row.values()) + " |" for size, row in stages.items()]
    lines += ["", "| | frames/s | median ms |", "|---|---|---|"]
    for name in bench.rates:
        lines.append(f"| {name} | {median_of(bench.rates[name]):.1f} | {median_of(bench.medians[name]):.1f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=2, help="of one measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        starts = []
        for _ in range(3):
            with harness.server() as server:
                starts.append(server.ready_s)
        bench = Bench(stack, Path(folder), options.seconds)
        stages = {size: bench.stages(size) for size in SIZES}
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            bench.round()
        tail = bench.tail("480 x 360", TAIL_S, TAIL_ROUNDS)
        table = goals(bench, median_of(starts), bench.memory_mb(), tail)
        text = report(bench, table, stages, options.rounds)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench.md").write_text(text)
    figures = {
        "rates": bench.rates,
        "medians_ms": bench.medians,
        "stages_ms": stages,
        "tail_ms": {"served": tail.served, "bare": tail.bare},
        "goals": {goal.name: goal.ratio for goal in table},
    }
    (RESULTS / "bench.json").write_text(json.dumps({"machine": harness.machine(), **figures}, indent=1) + "\n")
    return 0 if all(goal.met for goal in table) else 1


if __name__ == "__main__":
    sys.exit(main())
