"""Draws the pictures of docs/upsampling.md: what each way of upsampling makes of one small map.

Run in the repository's environment: ``python docs/pictures/upsampling.py [FOLDER]``. The pictures are the same on every run; a
test draws them again and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from models.nets.upsampling import (
    MaxPool,
    MaxUnpool,
    bed_of_nails,
    bilinear,
    bilinear_kernel,
    nearest,
    transposed_convolution,
)

FOLDER = Path(__file__).resolve().parent.parent / "images"
SIDE = 192
"""Pixels on the side of every drawn map."""
GAP, CAPTION = 24, 22
LOW, HIGH, INK = (247, 244, 235), (23, 92, 132), (60, 60, 60)
"""Colours of zero, of a map's largest value, and of captions."""

SMALL = torch.tensor([[1.0, 3.0, 2.0], [4.0, 9.0, 5.0], [2.0, 6.0, 3.0]])
"""The map that is upsampled."""
FINE = torch.tensor([[2.0, 8.0, 1.0, 3.0], [5.0, 4.0, 7.0, 0.0], [6.0, 1.0, 2.0, 2.0], [3.0, 0.0, 4.0, 9.0]])
"""The map that is pooled, and unpooled again."""


def draw_panel(values: Tensor, caption: str) -> Image.Image:
    """One map as a grid of coloured cells with its values written in, where it fits.

    Takes:
        values: h x w float, none below zero
    """
    rows, columns = values.shape
    cell = SIDE // max(rows, columns)
    panel = Image.new("RGB", (SIDE + 1, SIDE + 1 + CAPTION), "white")
    draw = ImageDraw.Draw(panel)
    most = float(values.max())
    font = ImageFont.load_default(min(16.0, cell * 0.42))
    for row in range(rows):
        for column in range(columns):
            value = float(values[row, column])
            share = value / most
            colour = tuple(round(a + (b - a) * share) for a, b in zip(LOW, HIGH, strict=True))
            left, top = column * cell, row * cell
            draw.rectangle((left, top, left + cell, top + cell), fill=colour, outline=(200, 196, 185))
            if cell >= 24:
                ink = "white" if share > 0.55 else INK
                draw.text((left + cell / 2, top + cell / 2), f"{round(value, 2):g}", ink, font, anchor="mm")
    draw.text((cell * columns / 2, cell * rows + CAPTION / 2 + 2), caption, INK, ImageFont.load_default(13), anchor="mm")
    return panel


def draw_row(*panels: tuple[Tensor, str]) -> Image.Image:
    """Maps beside each other, left to right in the order in which they come about."""
    drawn = [draw_panel(values, caption) for values, caption in panels]
    picture = Image.new("RGB", (sum(panel.width for panel in drawn) + GAP * (len(drawn) - 1), drawn[0].height), "white")
    for index, panel in enumerate(drawn):
        picture.paste(panel, (index * (SIDE + 1 + GAP), 0))
    return picture


def draw_all() -> dict[str, Image.Image]:
    """Every picture, by the name of its file."""
    small, flat = SMALL[None, None], torch.ones(1, 1, 5, 5)
    pooled, switches = MaxPool()(FINE[None, None])
    tent, box = bilinear_kernel(4)[None, None], torch.ones(1, 1, 3, 3)
    return {
        "upsampling-nearest.png": draw_row((SMALL, "3 x 3"), (nearest(small, 2)[0, 0], "nearest, factor 2")),
        "upsampling-bed-of-nails.png": draw_row((SMALL, "3 x 3"), (bed_of_nails(small, 2)[0, 0], "bed of nails, factor 2")),
        "upsampling-max-unpooling.png": draw_row(
            (FINE, "before pooling"),
            (pooled[0, 0], "2 x 2 maxima"),
            (switches[0, 0].float(), "where they were"),
            (MaxUnpool()(pooled, switches)[0, 0], "unpooled"),
        ),
        "upsampling-bilinear.png": draw_row((SMALL, "3 x 3"), (bilinear(small, 2)[0, 0], "bilinear, factor 2")),
        "upsampling-transposed-convolution.png": draw_row(
            (SMALL, "3 x 3"),
            (bed_of_nails(small, 2)[0, 0], "zeros between"),
            (tent[0, 0], "kernel 4, bilinear"),
            (transposed_convolution(small, tent, 2, padding=1)[0, 0], "stride 2, padding 1"),
        ),
        "upsampling-checkerboard.png": draw_row(
            (flat[0, 0], "a constant map"),
            (transposed_convolution(flat, box, 2, padding=1)[0, 0, 1:-1, 1:-1], "kernel 3, stride 2"),
            (transposed_convolution(flat, torch.ones(1, 1, 4, 4), 2, padding=1)[0, 0, 1:-1, 1:-1], "kernel 4, stride 2"),
        ),
    }


def main() -> None:
    """Write them all."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in draw_all().items():
        picture.quantize(64).save(folder / name, optimize=True)


if __name__ == "__main__":
    main()
