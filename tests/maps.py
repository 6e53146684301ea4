"""Label maps for the tests of encodings: random ones, drawn streets, and real ones where they are at hand."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from models.scenes import street_scene
from models.training.classes import CAMVID

ROOT = Path(__file__).resolve().parent.parent
CAMVID_LABELS = ROOT.parent / "shared" / "camvid" / "val" / "labels"

STREET_CLASSES = CAMVID.entries
"""The class table of :func:`streets`."""

maps = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.sampled_from([0, 1, 2, 255]))
"""Any small map of the three classes of ``conftest.make_manifest``, unlabelled pixels too."""


@functools.cache
def streets() -> tuple[NDArray[np.uint8], ...]:
    """Maps of streets: drawn ones of two sizes, and CamVid's where ``../shared`` is there."""
    drawn = [street_scene(*size, seed)[1] for seed, size in enumerate([(180, 240), (97, 333)])]
    files = sorted(CAMVID_LABELS.glob("*.png"))[:2]
    return (*drawn, *(CAMVID.class_ids(np.asarray(Image.open(file))) for file in files))
