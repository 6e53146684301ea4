"""`python -m models.heads --maps DIR --count N --seed S --out DIR`: generated scans and labels, as training reads them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from models.heads import ANY, USUAL, generate, read_map


def main(arguments: list[str] | None = None) -> int:
    """Write DIR/images/*.nii.gz and DIR/labels/*.nii.gz: 1 mm, axes to the right, anterior and superior."""
    parser = argparse.ArgumentParser(prog="python -m models.heads", description="Generated brain scans with exact labels.")
    parser.add_argument("--maps", type=Path, required=True, help="folder of label maps (*.nii.gz) of intensity classes 0..24")
    parser.add_argument("--count", type=int, default=1, help="how many heads (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="the first head's seed; the next ones count up (default: 0)")
    parser.add_argument("--skull", choices=("drawn", "kept", "stripped"), default="drawn", help="default: drawn, one to one")
    parser.add_argument(
        "--usual", action="store_true", help="T1 scans at 1 mm with little noise and clear contrast; else good and bad ones"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder that gets images/ and labels/")
    options = parser.parse_args(arguments)
    maps = sorted(options.maps.glob("*.nii.gz"))
    if not maps:
        parser.error(f"no *.nii.gz in {options.maps}")
    if options.count < 1 or options.seed < 0:
        parser.error("--count is 1 or more, --seed 0 or more")
    stripped = {"drawn": None, "kept": False, "stripped": True}[options.skull]
    for folder in ("images", "labels"):
        (options.out / folder).mkdir(parents=True, exist_ok=True)
    for seed in range(options.seed, options.seed + options.count):
        head = generate(read_map(maps[seed % len(maps)]), seed, stripped=stripped, conditions=USUAL if options.usual else ANY)
        name = f"head-{seed:06d}.nii.gz"
        _write(options.out / "images" / name, head.image.astype(np.float32))
        _write(options.out / "labels" / name, head.labels)
        print(options.out / "images" / name)
    return 0


def _write(path: Path, values: NDArray[np.float32] | NDArray[np.uint8]) -> None:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


if __name__ == "__main__":
    sys.exit(main())
