"""`python -m models.scenes --count N --size HxW --seed S --out DIR`: scenes, labels and objects, as training reads them."""

import argparse
import sys
from pathlib import Path

import cv2

from models.scenes import draw_scene


def main(arguments: list[str] | None = None) -> int:
    """Write scenes into a folder.

    DIR/images/*.jpg, DIR/labels/*.png (8-bit, the pixel value is the class id) and DIR/objects/*.png (16-bit, 1, 2, ... for the
    cars, pedestrians and bicyclists, 0 elsewhere).
    """
    parser = argparse.ArgumentParser(prog="python -m models.scenes", description="Street scenes with exact labels.")
    parser.add_argument("--count", type=int, default=1, help="how many scenes (default: 1)")
    parser.add_argument(
        "--size", type=_size, default=(360, 480), metavar="HxW", help="height x width in pixels (default: 360x480)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the first scene's seed; the next ones count up (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets images/ and labels/")
    options = parser.parse_args(arguments)
    if options.count < 1 or options.seed < 0:
        parser.error("--count is 1 or more, --seed 0 or more")
    height, width = options.size
    for folder in ("images", "labels", "objects"):
        (options.out / folder).mkdir(parents=True, exist_ok=True)
    for seed in range(options.seed, options.seed + options.count):
        scene, name = draw_scene(height, width, seed), f"scene-{seed:06d}"
        picture = options.out / "images" / f"{name}.jpg"
        # The camera has already pressed the picture as JPEG: this second time must change next to nothing.
        _write(
            picture,
            scene.image[..., ::-1],
            [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
        )
        _write(options.out / "labels" / f"{name}.png", scene.labels, [])
        _write(options.out / "objects" / f"{name}.png", scene.objects, [])
        print(picture)
    return 0


def _write(path: Path, pixels: object, options: list[int]) -> None:
    if not cv2.imwrite(str(path), pixels, options):  # type: ignore[call-overload]
        raise OSError(f"{path} could not be written")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and min(int(height), int(width)) >= 16):
        raise argparse.ArgumentTypeError(f"{text} is not HxW with sides of 16 pixels or more, like 360x480")
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(main())
