"""The same artifact behind other servers: ``make bench-peers``, some five minutes once the environments are made.

LitServe, BentoML, Ray Serve and MLServer serve the shipped model with this repository's own decoding, labelling and PNG
writer (``benchmarks/peers``), each in an environment of its own with pinned versions; beside them a straightforward service
(``naive.py``). First each one's mask is compared with fcn-serve's; then each is taken in turn, round after round: fcn-serve
under load, and at once the peer, started for it and ended after it, because some of them compute while
idle. The load comes from wrk, on the same processors. Writes ``benchmarks/results/peers.{md,json}``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from os import sched_getaffinity
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402  (after the path)

from benchmarks import harness  # noqa: E402
from benchmarks.bench import ARTIFACT, BOUNDARY, RESULTS, SIZES, as_form, naive_graph  # noqa: E402
from service.encodings import png  # noqa: E402

ENVIRONMENTS = ROOT / ".venv-peers"
CORES = len(sched_getaffinity(0))
CONNECTIONS = 4 * CORES
WARM_S = 1.0
NAIVE_AGREEMENT = 0.95
"""Share of the pixels: it resizes by Pillow, whose bilinear filter is another one."""
LEFT_OVER_S = 5.0
NAIVE = "straightforward"
PRODUCT = "fcn-serve"


@dataclass(frozen=True)
class Peer:
    """Another server, and how it is run here."""

    name: str
    command: tuple[str, ...]
    """With ``{python}`` and ``{port}``."""
    configuration: str
    """As the table says it."""
    path: str = "/segment"
    probe: str = "/health"
    form: bool = False
    """Whether it takes the image as a field of a form; otherwise as the body."""
    environment: Mapping[str, str] = field(default_factory=dict)
    locked: str | None = None
    """Its requirements, in ``benchmarks/peers``; none: our own environment."""


LANES = {"PEER_WORKERS": str(CORES), "PEER_THREADS": "1"}
"""A worker process a core, each with one thread, as fcn-serve itself computes under load; see benchmarks/README.md."""
PEERS = (
    Peer(
        "LitServe",
        ("{python}", "-m", "benchmarks.peers.with_litserve", "{port}"),
        "workers_per_device = cores",
        path="/predict",
        form=True,
        environment=LANES,
        locked="litserve",
    ),
    Peer(
        "BentoML",
        ("{python}", "-m", "bentoml", "serve", "benchmarks.peers.with_bentoml:Segmenter", "--port", "{port}"),
        "workers = cores, access log off",
        probe="/readyz",
        environment={
            **LANES,
            "BENTOML_HOST": "127.0.0.1",
            "BENTOML_HOME": str(ENVIRONMENTS / "home"),
            "BENTOML_DO_NOT_TRACK": "True",
        },
        locked="bentoml",
    ),
    Peer(
        "Ray Serve",
        ("{python}", "-m", "benchmarks.peers.with_ray", "{port}"),
        "num_replicas = cores, no dashboard",
        path="/",
        probe="/",
        environment={**LANES, "RAY_USAGE_STATS_ENABLED": "0"},
        locked="ray",
    ),
    Peer(
        "MLServer",
        ("{python}", "-m", "benchmarks.peers.with_mlserver", "{port}"),
        "parallel_workers = cores, gzip off",
        probe="/v2/health/ready",
        form=True,
        environment=LANES,
        locked="mlserver",
    ),
    Peer(
        NAIVE,
        ("{python}", str(Path(__file__).with_name("naive.py")), "{graph}", "{port}"),
        "FastAPI, Pillow, numpy; ONNX Runtime's defaults",
        form=True,
    ),
)


def python_of(peer: Peer, base: str) -> str:
    """The interpreter of a peer's environment, which is made where it is missing or its requirements have changed."""
    if peer.locked is None:
        return sys.executable
    folder, locked = ENVIRONMENTS / peer.locked, Path(__file__).with_name("peers") / f"{peer.locked}.txt"
    python, mark = folder / "bin/python", folder / ".made"
    wanted = hashlib.sha256(locked.read_bytes()).hexdigest()
    if not (mark.is_file() and mark.read_text() == wanted):
        print(f"making {folder.relative_to(ROOT)}", file=sys.stderr, flush=True)
        subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-input", "--no-deps"]
        subprocess.run([*pip, "--only-binary", ":all:", "--requirement", str(locked)], check=True)
        mark.write_text(wanted)
    return str(python)


def family(pid: int) -> dict[int, str]:
    """A process and its descendants: when each one started, by which it is told from a later one of its number."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(words[1]), words[19]
    found = {pid: parents[pid][1]} if pid in parents else {}
    more = True
    while more:
        grown = {child: started for child, (parent, started) in parents.items() if parent in found and child not in found}
        found |= grown
        more = bool(grown)
    return found


def memory_mb(pid: int) -> float:
    """Resident memory of a process and its descendants; what several of them share counts once (``Pss``)."""
    total = 0.0
    for member in family(pid):
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
            total += float(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024
    return total


@contextmanager
def served(peer: Peer, python: str, artifact: Path) -> Iterator[harness.Server]:
    """A peer with an artifact, ready; ended afterwards with all that it started."""
    graph = str(naive_graph()) if "{graph}" in peer.command else ""
    command = [word.format(python=python, graph=graph, port="{port}") for word in peer.command]
    members: dict[int, str] = {}
    try:
        environment = {**peer.environment, "PEER_ARTIFACT": str(artifact)}
        with harness.server(command, path=peer.path, probe=peer.probe, environment=environment) as server:
            try:
                yield server
            finally:
                members = family(server.pid)
    finally:
        deadline = time.monotonic() + LEFT_OVER_S
        while (left := [pid for pid, started in members.items() if family(pid).get(pid) == started]) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.1)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def mask_of(url: str, image: bytes, *, form: bool) -> bytes:
    """One answer."""
    sent = as_form(image) if form else image
    kind = f"multipart/form-data; boundary={BOUNDARY}" if form else "image/jpeg"
    return httpx.post(url, content=sent, headers={"Content-Type": kind}, timeout=60).raise_for_status().content


class Comparison:
    """fcn-serve, up all the time, and the peers one at a time."""

    def __init__(self, product: harness.Server, artifact: Path, folder: Path, seconds: int) -> None:
        self._product = product
        self._artifact = artifact
        self._seconds = seconds
        self._images = {name: harness.sample(*size) for name, size in SIZES.items()}
        self._files: dict[tuple[str, bool], Path] = {}
        for (name, image), (_, width) in zip(self._images.items(), SIZES.values(), strict=True):
            for form in (False, True):
                path = self._files[name, form] = folder / f"{width}{'-form' * form}"
                path.write_bytes(as_form(image) if form else image)
        self._masks = {name: mask_of(product.url, image, form=False) for name, image in self._images.items()}
        self.rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        """By server and size; a server's entry k is of round k."""
        self.ratios: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        """fcn-serve's rate over the peer's, taken one after the other."""
        self.memory_mb: dict[str, list[float]] = defaultdict(list)
        self.ready_s: dict[str, list[float]] = defaultdict(list)
        self.agreement: dict[str, float] = {}

    def take(self, peer: Peer, python: str) -> None:
        """One peer once, at every size."""
        ours = {size: self._load(self._product.url, size, form=False, seconds=self._seconds) for size in SIZES}
        self.memory_mb[PRODUCT].append(memory_mb(self._product.pid))
        with served(peer, python, self._artifact) as server:
            self.ready_s[peer.name].append(server.ready_s)
            for size in SIZES:
                self._verify(peer, server.url, size)
                self._load(server.url, size, form=peer.form, seconds=WARM_S)
                theirs = self._load(server.url, size, form=peer.form, seconds=self._seconds)
                self.rates[PRODUCT][size].append(ours[size])
                self.rates[peer.name][size].append(theirs)
                self.ratios[peer.name][size].append(ours[size] / theirs)
            self.memory_mb[peer.name].append(memory_mb(server.pid))

    def _load(self, url: str, size: str, *, form: bool, seconds: float) -> float:
        kind = f"multipart/form-data; boundary={BOUNDARY}" if form else "image/jpeg"
        found = harness.load(url, self._files[size, form], connections=CONNECTIONS, seconds=seconds, content_type=kind)
        return found.rate

    def _verify(self, peer: Peer, url: str, size: str) -> None:
        """Whether it does the same work."""
        mask = mask_of(url, self._images[size], form=peer.form)
        same = float((png.decode(mask) == png.decode(self._masks[size])).mean())
        self.agreement[peer.name] = min(same, self.agreement.get(peer.name, 1.0))
        if same < (NAIVE_AGREEMENT if peer.name == NAIVE else 1.0):
            raise SystemExit(f"{peer.name}, {size}: {100 * same:.2f} % of the labels are fcn-serve's")


def median(values: Sequence[float]) -> float:
    """With two decimals more than anyone needs."""
    return round(statistics.median(values), 4)


def report(found: Comparison, peers: Sequence[Peer], rounds: int, precision: str) -> str:
    """The table as Markdown."""
    command = f"`make bench-peers ARGS='--precision {precision}'`"
    head = "".join(f" {size}, frames/s | fcn-serve over it |" for size in SIZES)
    lines = [
        "# Other servers",
        "",
        f"{command}: {harness.machine()}. Medians over {rounds} rounds, {CONNECTIONS} connections.",
        "",
        f"| |{head} memory, MB | ready, s | configuration |",
        "|---" * (2 * len(SIZES) + 4) + "|",
    ]
    rows = [(PRODUCT, "its defaults"), *((peer.name, peer.configuration) for peer in peers)]
    for name, configuration in rows:
        cells = ""
        for size in SIZES:
            ratio = "1" if name == PRODUCT else f"{median(found.ratios[name][size]):.2f}"
            cells += f" {median(found.rates[name][size]):.1f} | {ratio} |"
        lines.append(
            f"| {name} |{cells} {median(found.memory_mb[name]):.0f} | {median(found.ready_s[name]):.1f} | {configuration} |"
        )
    lines += [
        "",
        "Every label of every peer is fcn-serve's"
        + (
            f"; of the straightforward service, which resizes otherwise, {100 * found.agreement[NAIVE]:.1f} %."
            if NAIVE in found.agreement
            else "."
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Make the environments, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of one measurement")
    parser.add_argument(
        "--python", default="python3.11", help="what the peers' environments are made with; they are pinned for 3.11"
    )
    parser.add_argument("--only", action="append", choices=[peer.name for peer in PEERS], help="this peer; may be repeated")
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32", help="of the artifact that all serve")
    parser.add_argument("--prepare", action="store_true", help="only make the environments")
    options = parser.parse_args()
    peers = [peer for peer in PEERS if not options.only or peer.name in options.only]
    pythons = {peer.name: python_of(peer, options.python) for peer in peers}
    if options.prepare:
        return 0
    artifact = ARTIFACT if options.precision == "fp32" else ARTIFACT.with_name(f"{ARTIFACT.stem}-int8.onnx")
    settings = {"FCN_PRECISION": options.precision}
    with tempfile.TemporaryDirectory() as folder:
        starts = []
        for _ in range(3):
            with harness.server(environment=settings) as server:
                starts.append(server.ready_s)
        with harness.server(environment=settings) as product:
            found = Comparison(product, artifact, Path(folder), options.seconds)
            found.ready_s[PRODUCT] = starts
            for number in range(options.rounds):
                for peer in peers:
                    print(f"round {number + 1} of {options.rounds}: {peer.name}", file=sys.stderr, flush=True)
                    found.take(peer, pythons[peer.name])
    text = report(found, peers, options.rounds, options.precision)
    print(text)
    if options.only:
        return 0
    RESULTS.mkdir(exist_ok=True)
    name = "peers" if options.precision == "fp32" else "peers-int8"
    (RESULTS / f"{name}.md").write_text(text)
    figures = {"rates": found.rates, "ratios": found.ratios, "memory_mb": found.memory_mb, "ready_s": found.ready_s}
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": harness.machine(), **figures}, indent=1) + "\n")
    ahead = all(median(rates) > 1 for by_size in found.ratios.values() for rates in by_size.values())
    return 0 if ahead else 1


if __name__ == "__main__":
    sys.exit(main())
