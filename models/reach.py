"""``python -m models.reach ARTIFACT --data FOLDER``: measure the effective halo of an artifact, and write it into its manifest.

Far pixels of the receptive field hardly change a score (Luo et al., "Understanding the Effective Receptive Field in Deep
Convolutional Neural Networks", NeurIPS 2016). This measures it on real frames, by perturbation: tiles with a smaller halo lack
all that is farther away, and the labels that change are counted. The smallest halo that changes few enough is effective. It
goes into the manifest and the card; the graph stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from models.exporting import artifact
from models.training.data import DataError, split_of, spread_images
from service.errors import BadParameter, ServiceError
from service.pipeline import plan
from service.pipeline.blocks import blocks
from service.pipeline.engine import Engine
from service.pipeline.manifest import OUTPUT, Effective
from service.pipeline.tasks.semantic import label_map

KEPT = 512
"""Pixels on a side that a tile keeps while it is measured. Those of the service keep more, and differ in fewer labels."""
MOST = 0.001
"""The share of labels that may differ."""

FRAMES = 16
"""Frames that are taken of a folder."""

Scores = NDArray[np.float32]


def measure(
    engine: Engine, images: Sequence[NDArray[np.uint8]], split: str, *, most: float = MOST, kept: int = KEPT
) -> Effective:
    """Measure the effective halo of a network.

    Takes:
        images: H x W x 3 uint8 RGB; what lies around each is its own mirror image, as far as the exact halo sees
        split: what the images are called in the manifest
        most: the share of labels that may differ from those of exact tiles, 0..1
        kept: pixels on a side that a tile keeps
    Raises:
        BadParameter: if the manifest does not know its halo, or the network takes no pictures in colours
    """
    manifest = engine.manifest
    if manifest.halo is None or manifest.input.takes_scans or manifest.input.channels != 3 or manifest.input.fit == "stretch":
        raise BadParameter(f"{manifest.name} has no tiles: its halo is unknown, or it takes no pictures in colours of any size")
    coarsest = manifest.halo & -manifest.halo
    step = max(coarsest, manifest.input.multiple)
    halos = [*range(step, manifest.halo, step), manifest.halo]
    low, high, found = 0, len(halos) - 1, 0.0
    each = track(images, description="exact tiles", console=Console(stderr=True))
    exact = [_labels(engine, image, manifest.halo, kept, step) for image in each]
    while low < high:  # fewer labels differ the larger the halo is
        middle = (low + high) // 2
        differing = _differing(engine, images, exact, halos[middle], kept, step)
        print(f"halo {halos[middle]}: {differing:.4%} of the labels differ", file=sys.stderr)
        if differing <= most:
            high, found = middle, differing
        else:
            low = middle + 1
    return Effective(halo=halos[high], disagreement=found, kept=kept, measured_on=split, frames=len(images))


def _differing(
    engine: Engine, images: Sequence[NDArray[np.uint8]], exact: Sequence[NDArray[np.uint8]], halo: int, kept: int, step: int
) -> float:
    """Return the share of labels that differ from exact ones with a halo."""
    pairs = zip(images, exact, strict=True)
    differ = [np.count_nonzero(_labels(engine, image, halo, kept, step) != labels) for image, labels in pairs]
    return sum(differ) / sum(labels.size for labels in exact)


def _labels(engine: Engine, image: NDArray[np.uint8], halo: int, kept: int, step: int) -> NDArray[np.uint8]:
    """Label an image in tiles. Its mirror image lies around it, so every tile has its whole halo."""
    manifest = engine.manifest
    height, width = (max(step, side // step * step) for side in image.shape[:2])
    fitted = plan.native_image(image, (height, width))
    around = -(-halo // step) * step
    wide = np.pad(fitted, ((around, around), (around, around), (0, 0)), mode="symmetric")
    stride = manifest.stride
    scores: Scores | None = None
    for block in blocks([height, width], halo=0, multiple=step, largest=kept):
        rows, columns = block.place
        tile = wide[rows.start : rows.stop + 2 * around, columns.start : columns.stop + 2 * around]
        (values,) = engine.run(np.ascontiguousarray(tile)[None], (OUTPUT,))[OUTPUT]
        if scores is None:
            scores = np.empty((len(values), height // stride, width // stride), np.float32)
        inner = around // stride
        place = slice(rows.start // stride, rows.stop // stride), slice(columns.start // stride, columns.stop // stride)
        high, wide_cells = place[0].stop - place[0].start, place[1].stop - place[1].start
        scores[:, place[0], place[1]] = values[:, inner : inner + high, inner : inner + wide_cells]
    if scores is None:
        raise AssertionError("an image has at least one tile")
    return label_map(scores, (height, width))


def main(arguments: list[str] | None = None) -> int:
    """Measure; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.reach", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, nargs="+", help="artifacts (.onnx); each is measured")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="images/: real frames")
    parser.add_argument("--split", metavar="NAME", help="the folder's name in the manifest; its last two parts where absent")
    parser.add_argument("--frames", type=int, default=FRAMES, metavar="N", help="frames that are taken, evenly spread")
    parser.add_argument("--most", type=float, default=MOST, metavar="SHARE", help="of labels that may differ")
    args = parser.parse_args(arguments)
    try:
        split = args.split or split_of(args.data)
        for file in args.model:
            engine = Engine.open(file)
            found = measure(engine, list(spread_images(args.data, args.frames)), split, most=args.most)
            artifact.rewrite(file, engine.manifest.model_copy(update={"effective": found}))
            print(
                f"{file.name}: effective halo {found.halo} of {engine.manifest.halo} pixels; {found.disagreement:.4%} of the "
                f"labels differ on {found.frames} frames of {split}, in tiles that keep {found.kept} pixels"
            )
    except (ServiceError, DataError, ValueError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
