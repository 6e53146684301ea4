"""Draws ``docs/images/benchmark.svg`` from ``benchmarks/results/{bench,peers}.json``: ``python benchmarks/picture.py``.

Left, throughput over other servers' with the same model; right, what a lone request consists of. Plain SVG with a background of
its own, so that it reads on a light page and on a dark one.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from html import escape
from pathlib import Path

RESULTS = Path(__file__).with_name("results")
PICTURE = Path(__file__).resolve().parent.parent / "docs/images/benchmark.svg"
WIDTH, ROW, BAR = 960, 44, 12
INK, PALE, GRID = "#1f2430", "#69707d", "#d9dce3"
OURS, OTHER = "#68418c", "#9fb3cf"
STAGES = {
    "decode": "#7aa5d8",
    "queue": "#b6b1c4",
    "infer": "#68418c",
    "labels": "#5d9a55",
    "encode": "#dba546",
    "http": "#c9cbd1",
}


def text(
    x: float, y: float, words: str, *, size: int = 13, colour: str = INK, anchor: str = "start", bold: bool = False
) -> str:
    """One line."""
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'


def bar(x: float, y: float, width: float, colour: str, height: float = BAR) -> str:
    """One bar."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:g}" fill="{colour}" rx="2"/>'


def throughput(peers: dict[str, dict[str, dict[str, list[float]]]], left: float, width: float, top: float) -> Iterator[str]:
    """A row for each server, a bar for each size; fcn-serve's is as long as its median in all rounds."""
    yield text(left, top, "frames/s, the same model, two cores", bold=True, size=15)
    yield text(left, top + 18, "480 × 360 above, 1280 × 720 below", colour=PALE)
    ours = {size: statistics.median(values) for size, values in peers["rates"]["fcn-serve"].items()}
    rates = {"fcn-serve": ours}
    for name, ratios in peers["ratios"].items():  # measured against ours at that moment: the machine drifts
        rates[name] = {size: ours[size] / statistics.median(ratios[size]) for size in ours}
    longest = max(rate for sizes in rates.values() for rate in sizes.values())
    scale = (width - 190) / longest
    ordered = sorted(rates, key=lambda name: -sum(rates[name].values()))
    for at, name in enumerate(ordered):
        y = top + 38 + at * ROW
        product = name == "fcn-serve"
        yield text(left + 112, y + 18, name, anchor="end", bold=product)
        for line, (size, rate) in enumerate(rates[name].items()):
            y_bar = y + line * (BAR + 3)
            yield bar(left + 122, y_bar, rate * scale, OURS if product else OTHER)
            share = "" if product else f" · {100 * rate / ours[size]:.0f} %"
            yield text(left + 128 + rate * scale, y_bar + 10, f"{rate:.1f}{share}", size=11, colour=PALE)


def shares(stages: dict[str, dict[str, float]], left: float, width: float, top: float) -> Iterator[str]:
    """A bar for each size, cut into its stages."""
    yield text(left, top, "where a lone request's time goes", bold=True, size=15)
    yield text(left, top + 18, "as Server-Timing says; infer is the network", colour=PALE)
    for at, (size, row) in enumerate(stages.items()):
        y, x, total = top + 46 + at * 74, left, sum(row.values())
        yield text(left, y, f"{size.replace('x', '×')}: {total:.0f} ms, the network {100 * row['infer'] / total:.0f} %")
        for stage, spent in row.items():
            yield bar(x, y + 8, width * spent / total, STAGES[stage], 22)
            x += width * spent / total
    y, x = top + 46 + 2 * 74, left
    for stage, colour in STAGES.items():
        yield bar(x, y - 9, 10, colour, 10)
        yield text(x + 14, y, {"http": "HTTP, client"}.get(stage, stage), size=11, colour=PALE)
        x += 60


def main() -> None:
    """Read, draw, write."""
    peers = json.loads((RESULTS / "peers.json").read_text())
    bench = json.loads((RESULTS / "bench.json").read_text())
    height = 96 + ROW * len(peers["rates"])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fbfbfd" rx="10"/>',
        *throughput(peers, 24, 500, 36),
        f'<path d="M540 24V{height - 24}" stroke="{GRID}"/>',
        *shares(bench["stages_ms"], 568, 368, 36),
        "</svg>",
    ]
    PICTURE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
