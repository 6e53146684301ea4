"""Label Studio's brush masks, against its own SDK."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.converter import brush
from numpy.typing import NDArray

from service.encodings import labelstudio
from tests.conftest import make_manifest
from tests.maps import STREET_CLASSES, maps, streets

CLASSES = make_manifest().classes


def check(labels: NDArray[np.uint8]) -> None:
    """Every region is, byte for byte, what Label Studio's own encoder makes of the class; its decoder reads it."""
    document = json.loads(json.dumps(labelstudio.encode(labels, CLASSES)))
    for entry, region in zip(document["classes"], document["result"], strict=True):
        inside = np.where(labels == entry["id"], 255, 0).astype(np.uint8)
        assert region["value"]["rle"] == brush.mask2rle(inside)
        alpha = brush.decode_rle(region["value"]["rle"]).reshape(*labels.shape, 4)[:, :, 3]
        assert np.array_equal(alpha, inside)
        assert region["value"]["brushlabels"] == [entry["name"]]
        assert (region["original_height"], region["original_width"]) == labels.shape


@given(maps)
def test_the_bytes_are_those_that_label_studio_writes_and_reads(labels: NDArray[np.uint8]) -> None:
    """After a trip through JSON, for any map."""
    check(labels)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 63, 64, 65, 16_383, 16_384, 16_385, 32_768, 40_000])
def test_runs_of_every_length_are_label_studios(length: int) -> None:
    """At each border between the sizes of a run's length, and beyond the longest of them."""
    flat = np.zeros((1, length + 2), np.uint8)
    flat[0, 1:-1] = 1
    check(flat)


@given(maps)
def test_any_map_comes_back(labels: NDArray[np.uint8]) -> None:
    """Decoding all classes gives the map again, 255 where there is none."""
    assert np.array_equal(labelstudio.decode(json.loads(json.dumps(labelstudio.encode(labels, CLASSES)))), labels)


def test_streets_come_back() -> None:
    """What holds for small maps holds for those that are served."""
    for labels in streets():
        assert np.array_equal(labelstudio.decode(labelstudio.encode(labels, STREET_CLASSES)), labels)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=60), st.lists(st.integers(1, 16), min_size=4, max_size=4))
def test_streams_that_spell_values_out_are_read(values: list[int], sizes: list[int]) -> None:
    """Label Studio's editor writes what its converter does not: values one by one, and other sizes of a length."""
    text = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    longest, place = max((1 << size, place) for place, size in enumerate(sizes))
    for start in range(0, len(values), longest):
        part = values[start : start + longest]
        text += f"0{place:02b}{len(part) - 1:0{sizes[place]}b}" + "".join(f"{value:08b}" for value in part)
    text += "0" * (-len(text) % 8)
    rle = [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]
    assert labelstudio.unpack(rle, len(values)).tolist() == values


def test_a_stream_that_does_not_fill_its_image_is_refused() -> None:
    """Too many values, too few bytes, another size: an error, and no memory is taken for them."""
    rle = labelstudio.pack(np.array([3, 5, 12]))
    with pytest.raises(ValueError, match="80 values"):
        labelstudio.unpack(rle.tolist(), 84)
    with pytest.raises(ValueError, match="ends within"):
        labelstudio.unpack(rle[:-4].tolist(), 80)
    with pytest.raises(ValueError, match="more than the 40 values"):
        labelstudio.unpack([*rle[:3].tolist(), 40, *rle[4:].tolist()], 40)
