"""Measure the cost of each format: ``python benchmarks/encodings.py``. Half a minute.

Segments a drawn street at 1280 x 720 with the shipped network, then writes its mask in every format and reads it back.
Milliseconds are medians of CPU time on one thread, so that other work on the machine counts for little.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models.scenes import street_scene  # noqa: E402  (after the path)
from service.encodings import FORMATS, PICTURE_FORMATS, MaskView, decode, encode, understood  # noqa: E402
from service.pipeline.codecs.decoding import Limits  # noqa: E402
from service.pipeline.engine import EngineOptions  # noqa: E402
from service.pipeline.predictor import Predictor  # noqa: E402
from service.pipeline.repository import Repository  # noqa: E402
from service.pipeline.tasks.semantic import confidence_map  # noqa: E402
from service.process import configure_process  # noqa: E402

SIZE = (720, 1280)
ROUNDS = 15

ROWS: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in PICTURE_FORMATS),
    ("png", {"ids": "cityscapes-label"}),
    ("png", {"min_confidence": 0.5}),
    ("rle", {"statistics": True}),
    ("coco", {"instances": True}),
    ("polygons", {"tolerance": 2}),
    ("overlay", {"legend": True}),
]


def main() -> None:
    """Print the table that docs/formats.md shows."""
    configure_process()
    predictor = Predictor(Repository(ROOT / "models" / "artifacts", EngineOptions("cpu", 1)), Limits(1 << 26, 1 << 26, 1 << 13))
    image, _ = street_scene(*SIZE, seed=3)
    result = predictor.segment(image)
    print("| format | written, ms | kB | read, ms |\n|---|---|---|---|")
    for name, query in ROWS:
        options = understood(name, result.manifest.classes, **query)  # type: ignore[arg-type]  # names and types are above
        view = MaskView(
            result.labels,
            result.image,
            result.manifest,
            result.sha256,
            lambda: confidence_map(result.scores, result.labels),  # computed each time, as for each request
            options,
        )
        body = encode(name, view).body
        spent = milliseconds(lambda name=name, view=view: encode(name, view))  # type: ignore[misc]
        readable = FORMATS[name].decode or FORMATS[name].decode_sized
        read = milliseconds(lambda name=name, body=body: decode(name, body, SIZE)) if readable else None  # type: ignore[misc]
        asked = "".join(f"&{key}={value}".lower() for key, value in query.items())
        print(f"| `{name}{asked}` | {spent:.1f} | {len(body) / 1000:.0f} | {'' if read is None else f'{read:.1f}'} |")
    predictor.close()


def milliseconds(work: Callable[[], object]) -> float:
    """The median of some rounds."""
    times = []
    for _ in range(ROUNDS):
        begun = time.thread_time()
        work()
        times.append(1000 * (time.thread_time() - begun))
    return statistics.median(times)


if __name__ == "__main__":
    main()
