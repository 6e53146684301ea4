"""The label map as a TIFF file, and its place on the map."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from service.encodings import tiff
from service.pipeline.codecs import georeference
from service.pipeline.codecs.georeference import Georeference
from tests.maps import street, streets

maps = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 255))
palettes = arrays(np.uint8, (256, 3))
finite = st.floats(-1e7, 1e7).filter(lambda value: value == 0 or abs(value) > 1e-9)


@given(maps, palettes)
def test_the_pixel_value_is_the_class_id(labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> None:
    """Any label map comes back bit for bit, with the palette's colours on top."""
    picture = Image.open(io.BytesIO(tiff.encode(labels, palette)))
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), labels)
    assert np.array_equal(np.asarray(picture.convert("RGB")), palette[labels])


@given(st.tuples(*[finite] * 6), st.one_of(st.none(), st.integers(1, 32766)), st.booleans())
def test_the_mask_lies_where_the_picture_lies(
    transform: tuple[float, float, float, float, float, float], epsg: int | None, projected: bool
) -> None:
    """The reader of GeoTIFFs finds the same place in the mask, upright, turned or mirrored."""
    _, x_column, x_row, _, y_column, y_row = transform
    if x_column * y_row == x_row * y_column:
        return
    place = Georeference(transform, epsg, projected and epsg is not None)
    found = georeference.of(tiff.encode(streets()[0], np.zeros((256, 3), np.uint8), place))
    assert found == place


@pytest.mark.parametrize(
    ("transform", "tags"),
    [((5.0, 2.0, 0, 9.0, 0, -2.0), {33550, 33922}), ((5.0, 2.0, 1, 9.0, 0, -2.0), {34264})],
)
def test_an_upright_picture_has_scale_and_tie_point(transform: tuple[float, ...], tags: set[int]) -> None:
    """As most readers want it; a turned one has the matrix."""
    data = tiff.encode(streets()[0], np.zeros((256, 3), np.uint8), Georeference(transform, 32632, True))  # type: ignore[arg-type]
    found = Image.open(io.BytesIO(data)).tag_v2  # type: ignore[attr-defined]
    assert {33550, 33922, 34264} & set(found) == tags
    assert found[42113] == "255"


def test_filters_ids_and_colours_reach_it() -> None:
    """As in every format; without a georeference there is no tag of one."""
    picture = Image.open(io.BytesIO(street("tiff", classes=["car"], ids="cityscapes-label", palette="bright")))
    assert np.array_equal(np.asarray(picture), np.where(streets()[0] == 8, 26, 255))
    assert not {33550, 33922, 34264, 34735} & set(picture.tag_v2)  # type: ignore[attr-defined]
