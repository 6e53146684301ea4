"""ONNX graphs for tests, run by ONNX Runtime on noise."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from service.pipeline.manifest import INPUT, OUTPUT


def run(model: onnx.ModelProto, shape: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The scores of images of noise, N x H x W."""
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([OUTPUT], {INPUT: images})[0])
