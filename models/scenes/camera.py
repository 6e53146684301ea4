"""The effects of a dashboard camera on a scene: lens, exposure, noise, sharpening, JPEG. Geometry stays, so labels do too.

Imports numpy and cv2 only.
"""

import cv2
import numpy as np

from models.scenes.canvas import Image


def photograph(canvas: Image, samples: int, dim: bool, rng: np.random.Generator) -> Image:
    """Take the picture.

    Takes:
        canvas: (samples * H) x (samples * W) x 3 uint8 RGB
        samples: samples along one side of a pixel; the middle one is the pixel's centre
        dim: whether the light is poor
    Gives:
        H x W x 3 uint8 RGB; the lens blurs evenly around each pixel's centre, so edges do not move
    """
    street = max(float(canvas[canvas.shape[0] // 2 :: 4, ::4].mean()), 8.0)
    wanted = rng.uniform(38, 64) if dim else rng.uniform(68, 104)
    # Exposed before the lens's blur: a burnt-out sky must not eat into the roofs, or edges would leave their labels.
    exposed = cv2.LUT(canvas, _exposure(float(np.clip(wanted / street, 0.7, 1.9))))
    blurred = cv2.GaussianBlur(exposed, (0, 0), samples * rng.uniform(0.48, 0.62))
    picture = np.asarray(blurred[samples // 2 :: samples, samples // 2 :: samples], np.float32)
    height, width = picture.shape[:2]

    soft = cv2.GaussianBlur(picture, (0, 0), 1.0)
    picture += (picture - np.asarray(soft, np.float32)) * np.float32(rng.uniform(0.3, 0.8))  # cameras sharpen what lenses blur

    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    vignette = 1 - np.float32(rng.uniform(0.03, 0.14)) * (rows * rows + columns * columns)
    picture *= vignette[..., None] * rng.normal(1, 0.015, 3).astype(np.float32)
    pale = np.float32(rng.uniform(0, 0.3))  # dashboard cameras see pale colours
    picture += (picture.mean(axis=2, keepdims=True) - picture) * pale

    noise = rng.standard_normal((height, width, 1), np.float32)
    chroma = np.asarray(
        cv2.resize(rng.standard_normal(((height + 1) // 2, (width + 1) // 2, 3), np.float32), (width, height)), np.float32
    )
    strength = rng.uniform(0.9, 2.0) * (1.2 if dim else 1.0)
    picture = np.clip(picture + strength * noise + strength * 0.7 * chroma.reshape(height, width, 3), 0, 255)

    frame = picture.astype(np.uint8)
    quality = int(rng.integers(82, 96))
    kept, packed = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not kept:
        raise RuntimeError(f"the JPEG encoder refused a {height} x {width} picture")
    seen = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(seen, np.uint8)[..., ::-1])


def _exposure(gain: float) -> Image:
    """A curve that brightens by the gain and lets highlights roll off before they burn out. Gives 256 uint8."""
    bright = np.arange(256) * gain
    over = np.clip(bright - 185, 0, 150)
    return np.asarray(np.clip(np.minimum(bright, 185) + over - over * over / 300, 0, 255), np.uint8)
