"""Measure what objects cost after the network: ``python benchmarks/grouping.py``. Half a minute.

Segments drawn streets at 1280 x 720 with the shipped panoptic network, then groups each answer with objects.c and with numpy in
turn. Milliseconds are medians of CPU time on one thread; their ratio is what counts. Labels by labels.c stand beside them.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models.scenes import street_scene  # noqa: E402  (after the path)
from service.pipeline.codecs.decoding import Limits  # noqa: E402
from service.pipeline.engine import EngineOptions  # noqa: E402
from service.pipeline.predictor import Predictor  # noqa: E402
from service.pipeline.repository import Repository  # noqa: E402
from service.pipeline.tasks import compiled, panoptic  # noqa: E402
from service.pipeline.tasks.semantic import label_map  # noqa: E402
from service.process import configure_process  # noqa: E402

ARTIFACT = ROOT / "models" / "artifacts" / "fcn4s-lite0-streets.onnx"
SIZE = (720, 1280)
SEEDS = range(3, 7)
ROUNDS = 21


def main() -> int:
    """Print a row a street."""
    configure_process()
    library = compiled.loaded()
    if library is None:
        print("objects.c is not compiled: python service/pipeline/tasks/compiled.py", file=sys.stderr)
        return 1
    predictor = Predictor(Repository(ARTIFACT, EngineOptions("cpu", 1)), Limits(1 << 26, 1 << 26, 1 << 13))
    print("| objects | pixels of things | labels, ms | C, ms | numpy, ms | C / numpy |\n|---|---|---|---|---|---|")
    for seed in SEEDS:
        result = predictor.segment(street_scene(*SIZE, seed=seed)[0], instances=True)
        found = result.instances()
        countable = tuple(entry.id for entry in result.manifest.classes if entry.countable)
        stride = next(output.stride for output in result.manifest.outputs if output.kind == "offsets")
        given = [result.outputs[name] for name in ("scores", "centers", "offsets")]
        spent: dict[str, list[float]] = {"labels": [], "C": [], "numpy": []}
        for _ in range(ROUNDS):
            begun = time.thread_time()
            label_map(result.scores, SIZE)
            spent["labels"].append(time.thread_time() - begun)
            for name, way in (("C", library), ("numpy", None)):
                panoptic._compiled = way  # noqa: SLF001
                begun = time.thread_time()
                panoptic.group(result.labels, *given, stride=stride, countable=countable)
                spent[name].append(time.thread_time() - begun)
        labels, fast, slow = (1000 * statistics.median(times) for times in spent.values())
        share = (found.ids > 0).mean()
        print(f"| {len(found.rows)} | {share:.1%} | {labels:.2f} | {fast:.2f} | {slow:.1f} | {fast / slow:.3f} |")
    predictor.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
