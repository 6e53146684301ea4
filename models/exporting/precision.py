"""Smaller numbers: an exported graph in int8 for CPUs, or in half precision for CUDA.

int8 is static post-training quantisation (Jacob et al., CVPR 2018): weights signed and per channel, activations unsigned with
ranges from calibration frames. Weights use 7 of their 8 bits: on CPUs without VNNI the 8-bit products of a full range overflow
the 16-bit sums of ``vpmaddubsw``, and on the others the shorter range costs neither accuracy nor time (measured on the shipped
model: 0.780 mean IoU either way). The bilinear steps of the fusion stay in float32, where they are faster than in int8.

May import: numpy, onnx, onnxruntime, ``models.training.data``, ``normalisation`` and ``quiet``, ``service.pipeline.plan`` and
``manifest``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from models.exporting.quiet import quiet
from models.nets.normalisation import by_rows
from models.training.data import DataError, image_files, read_image
from service.pipeline.manifest import InputPolicy
from service.pipeline.plan import fit_size, resize_image

QUANTISED = ["Conv", "Add", "Clip", "Concat", "MaxPool", "ConvTranspose"]
"""Operators that run in int8."""

MOST_FRAMES = 64
"""Calibration frames beyond which ranges hardly change."""


class _Frames(CalibrationDataReader):  # type: ignore[misc]
    """Feeds calibration frames, one at a time, as the service would."""

    def __init__(self, name: str, batches: Iterator[NDArray[np.uint8]]) -> None:
        self.name = name
        self.batches = batches

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {self.name: batch}


def calibration_frames(folder: Path, policy: InputPolicy) -> list[NDArray[np.uint8]]:
    """Frames of a folder, at the network's size.

    Takes:
        folder: images, or a data set with ``images/``; at most :data:`MOST_FRAMES` of them are used, evenly spread
    Gives:
        1 x h x w x 3 uint8 each
    Raises:
        DataError: if there is no image
    """
    files = image_files(folder / "images") or image_files(folder)
    if not files:
        raise DataError(f"{folder}: no images to calibrate with")
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(MOST_FRAMES, len(files))).round().astype(int))]
    images = (read_image(path) for path in chosen)
    return [resize_image(image, fit_size(image.shape[0], image.shape[1], policy))[None] for image in images]


def to_int8(model: onnx.ModelProto, frames: list[NDArray[np.uint8]]) -> onnx.ModelProto:
    """Quantise a graph.

    Takes:
        model: float32, as :func:`models.export.to_onnx` makes it
        frames: from :func:`calibration_frames`
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, prepared, result = (Path(folder) / name for name in ("source.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(model, source)
        # Symbolic shapes would need sympy and tell nothing that quantising uses.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            result,
            _Frames(model.graph.input[0].name, iter(frames)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=QUANTISED,
        )
        quantised = onnx.load(result)
    del quantised.metadata_props[:]  # the tools' own traces
    return by_rows(quantised)


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute in half precision; the input stays uint8 and the scores float32."""
    with quiet():
        half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return half
