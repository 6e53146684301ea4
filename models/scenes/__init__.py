"""Street scenes with exact labels: procedural pictures of a road, in CamVid's 11 classes, at any size, from a seed.

    image, labels = street_scene(360, 480, seed=7)

Made for samples, tests and benchmarks, and as training data where there is none. Nothing here is taken from a photograph.
`python -m models.scenes` writes them to a folder of the form that training reads. Imports numpy and cv2 only, so that it runs
where nothing but serving is installed.

The files, in the order in which a scene is made: light (time of day), layout (what stands where), canvas (colour and class
painted by the same strokes), ground, buildings, greenery, furniture, vehicles, people, and camera (lens, noise, JPEG).
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from models.scenes.camera import photograph
from models.scenes.canvas import COUNTABLE, Canvas, Image, Noise
from models.scenes.layout import draw_street, draw_view, paint_scene
from models.scenes.light import draw_light

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")

VIEW = (480, 640)
"""Height and width at which :func:`street_view` paints."""

__all__ = ["CLASSES", "COUNTABLE", "Scene", "draw_scene", "street_scene", "street_view"]


@dataclass(frozen=True)
class Scene:
    """A picture and its truth."""

    image: Image
    """H x W x 3 uint8 RGB."""
    labels: Image
    """H x W uint8 class ids 0..10: the class at each pixel's centre."""
    objects: NDArray[np.uint16]
    """H x W: 1, 2, ... for the cars, pedestrians and bicyclists, each with the pixels that are seen of it; 0 elsewhere."""


def street_scene(height: int, width: int, seed: int) -> tuple[Image, Image]:
    """Make one scene's picture and classes; the same arguments give the same scene.

    Takes:
        height, width: the picture's size in pixels, 16 or more
        seed: 0 or more
    Gives:
        H x W x 3 uint8 RGB
        H x W uint8 class ids 0..10: the class at each pixel's centre
    Raises:
        ValueError: if a side is shorter than 16 pixels or the seed is negative
    """
    scene = draw_scene(height, width, seed)
    return scene.image, scene.labels


def draw_scene(height: int, width: int, seed: int) -> Scene:
    """Make one scene with its objects; takes and raises as :func:`street_scene`."""
    if min(height, width) < 16:
        raise ValueError(f"a scene is at least 16 x 16 pixels, not {height} x {width}")
    rng = np.random.default_rng(seed)
    light = draw_light(rng)
    samples = _samples(height * width)
    canvas = Canvas(draw_view(height, width, samples, rng), light, Noise(rng))
    paint_scene(canvas, draw_street(light, rng), rng)
    dim = light.ambient < 0.55 and light.sun == 0
    return Scene(photograph(canvas.color, samples, dim, rng), canvas.labels(samples), canvas.objects(samples))


def street_view(height: int, width: int, seed: int) -> Image:
    """A scene's picture alone, for where many sizes are wanted and no labels: painted once for a seed, then resized.

    Takes:
        height, width: the picture's size in pixels, 1 or more
        seed: 0 or more
    Gives:
        H x W x 3 uint8 RGB
    """
    view: Image = np.asarray(cv2.resize(_painted(seed), (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return view


@lru_cache(maxsize=8)
def _painted(seed: int) -> Image:
    return street_scene(*VIEW, seed)[0]


def _samples(pixels: int) -> int:
    """Samples along a pixel's side: the more pixels there are, the less each edge needs."""
    return 3 if pixels <= 100_000 else 2 if pixels <= 2_500_000 else 1
