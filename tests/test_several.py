"""The masks of several images as one reply."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import encodings
from service.encodings import Named, png
from service.encodings.several import file_stems
from service.errors import UnsupportedFormat


@given(st.lists(st.one_of(st.none(), st.text(max_size=200), st.sampled_from(["a.jpg", "A.JPG", "../a.png", "con", "c:\\a"]))))
def test_file_names_are_safe_and_none_occurs_twice(names: list[str | None]) -> None:
    """Whatever a caller sends names one file in one folder, on every system."""
    stems = file_stems(names)
    assert len(stems) == len(names)
    assert len({stem.casefold() for stem in stems}) == len(stems)
    for stem in stems:
        assert stem
        assert stem == stem.strip(". ")
        assert not set(stem) & set('/\\:*?"<>|\0\n')
        assert stem.casefold() not in ("con", "nul", "com1")
        assert len(stem) < 120
        stem.encode("utf-8")


def test_names_are_those_of_the_images() -> None:
    """Folders and endings go; a second one of a name is numbered; an image without a name has its place."""
    names = ["street.jpg", "b/street.png", None, "", "../../etc/passwd", "über.tar.gz", ".htaccess", "CON.png"]
    assert file_stems(names) == ["street", "street-2", "image-3", "image-4", "passwd", "über.tar", "htaccess", "_CON"]


def test_label_maps_come_back_from_a_zip() -> None:
    """One PNG an image, in the order of the images, the same bytes each time."""
    maps = [np.full((2, 3), value, np.uint8) for value in range(3)]
    masks = [Named(name, png.encode_gray(labels)) for name, labels in zip(("a.jpg", "b.jpg", None), maps, strict=True)]
    made = encodings.gather("png", masks)
    assert made.media_type == "application/zip"
    assert made.body == encodings.gather("png", masks).body
    with zipfile.ZipFile(io.BytesIO(made.body)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a.png", "b.png", "image-3.png"]
        for name, labels in zip(archive.namelist(), maps, strict=True):
            assert np.array_equal(encodings.decode("png", archive.read(name)), labels)


def test_documents_come_back_as_a_list_and_one_mask_as_itself() -> None:
    """A list is only made of several."""
    one, two = Named(None, b'{"a":1}'), Named(None, b'{"a":2}')
    assert json.loads(encodings.gather("rle", [one, two]).body) == [{"a": 1}, {"a": 2}]
    assert encodings.gather("rle", [one]).body == one.body
    assert encodings.gather("png", [one]).media_type == "image/png"


def test_a_format_of_one_image_refuses_several() -> None:
    """The message names the formats that can hold them."""
    with pytest.raises(UnsupportedFormat, match="png, rle"):
        encodings.gather("overlay", [Named(None, b"")] * 2)
    encodings.check_gathers("overlay", 1)
