"""What every peer serves: the shipped artifact, with this repository's own decoding, resizing, labelling and PNG writer.

A peer's file is then only what its framework asks for, and a difference in speed is the framework's alone. Each worker
process of a peer makes one of these, with a plain ONNX Runtime session that computes the scores alone, as fcn-serve does for a
mask.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import onnxruntime as ort

from service.encodings import png
from service.pipeline.codecs.decoding import Limits, decode
from service.pipeline.manifest import read_manifest
from service.pipeline.onnx_file import halves
from service.pipeline.plan import fit_size, resize_image
from service.pipeline.tasks.semantic import label_map

ARTIFACT = Path(
    os.environ.get("PEER_ARTIFACT", Path(__file__).resolve().parents[2] / "models/artifacts/fcn4s-lite0-streets.onnx")
)
"""``bench_peers.py`` chooses float32 or int8."""
WORKERS = int(os.environ.get("PEER_WORKERS", "1"))
"""Processes that segment; ``bench_peers.py`` chooses."""
THREADS = int(os.environ.get("PEER_THREADS", "0"))
"""Of each one's ONNX Runtime; 0 is its default, one a core."""


class Network:
    """The artifact, open."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)  # as fcn-serve does: what is resized here is too small for more
        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        self._session = ort.InferenceSession(halves(ARTIFACT, ("scores",)).first, options, providers=["CPUExecutionProvider"])
        self._manifest = read_manifest(self._session.get_modelmeta().custom_metadata_map)
        self._palette = self._manifest.palette()
        self._limits = Limits()

    def segment(self, data: bytes) -> bytes:
        """An image file in, an indexed PNG of class ids out."""
        image = decode(data, self._limits)
        height, width, _ = image.shape
        fitted = resize_image(image, fit_size(height, width, self._manifest.input))
        (scores,) = self._session.run(["scores"], {"image": fitted[None]})
        return png.encode_indexed(label_map(scores[0], (height, width)), self._palette)
