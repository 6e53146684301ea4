"""Frames to calibrate int8 with, and a graph in half precision for CUDA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.transformers.float16 import convert_float_to_float16

from models.exporting.quiet import quiet
from models.training.data import DataError, spread_images
from service.pipeline.manifest import InputPolicy
from service.pipeline.plan import fit_size, resize_image

MOST_FRAMES = 48
"""Calibration frames beyond which the statistics hardly change."""


def calibration_frames(folder: Path, policy: InputPolicy) -> list[NDArray[np.uint8]]:
    """Frames of a folder, at the network's size.

    Takes:
        folder: images, or a data set with ``images/``; at most :data:`MOST_FRAMES` of them are used, evenly spread
    Gives:
        1 x h x w x 3 uint8 each
    Raises:
        DataError: if there is no image, or the network does not take colours
    """
    if policy.takes_grey or policy.takes_scans:
        raise DataError("int8 is for networks that take colours; leave --precision out")
    images = spread_images(folder, MOST_FRAMES)
    return [resize_image(image, fit_size(image.shape[0], image.shape[1], policy))[None] for image in images]


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute in half precision; the input stays uint8 and the scores float32."""
    with quiet():
        half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return half
