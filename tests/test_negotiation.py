"""Which format a reply has."""

from __future__ import annotations

import pytest

from service.api.negotiation import chosen_format
from service.encodings import FORMATS, PICTURE_FORMATS
from service.errors import UnsupportedFormat


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_query_wins_over_accept(name: str) -> None:
    """Who names a format gets it, whatever their HTTP library says that it accepts."""
    assert chosen_format(name, "text/html", volume=FORMATS[name].volumes == "only") == name


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        (None, "png"),
        ("", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/png", "png"),
        ("application/json", "rle"),
        ("Application/JSON; charset=utf-8", "rle"),
        ("application/x-npy", "npy"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", "png"),
        ("image/png;q=0.5, application/json", "rle"),
        ("application/json;q=0.2, */*;q=0.1", "rle"),
        ("*/*, image/png;q=0", "rle"),
        ("application/json;q=nonsense", "rle"),
    ],
)
def test_accept_chooses_by_media_type_and_weight(accept: str | None, name: str) -> None:
    """The most specific range counts, the heaviest wins, the first of equals is taken."""
    assert chosen_format(None, accept) == name


@pytest.mark.parametrize("accept", ["text/html", "image/jpeg", "application/json;q=0", "nonsense", ",;,;q=1"])
def test_a_caller_who_accepts_nothing_that_there_is_hears_so(accept: str) -> None:
    """A mask in a form that the caller cannot read would be worse than none."""
    with pytest.raises(UnsupportedFormat) as raised:
        chosen_format(None, accept)
    assert raised.value.allowed == list(PICTURE_FORMATS)


@pytest.mark.parametrize(
    ("accept", "name"),
    [(None, "nifti"), ("*/*", "nifti"), ("application/json", "rle"), ("image/png", "overlay"), ("application/x-npy", "npy")],
)
def test_a_scan_comes_back_as_nifti_unless_accept_says_otherwise(accept: str | None, name: str) -> None:
    """Among the formats that hold volumes, NIfTI is the first."""
    assert chosen_format(None, accept, volume=True) == name


def test_formats_of_scans_and_of_images_are_told_apart() -> None:
    """A name of the other kind is refused with those that exist for this one."""
    with pytest.raises(UnsupportedFormat, match="nifti is not for images"):
        chosen_format("nifti", None)
    with pytest.raises(UnsupportedFormat, match="png is not for scans") as raised:
        chosen_format("png", None, volume=True)
    assert set(raised.value.allowed) == {"rle", "overlay", "npy", "nifti"}


def test_a_format_that_does_not_exist_is_refused_with_those_that_do() -> None:
    """The message and the facts name the alternatives; what was sent comes back cut."""
    with pytest.raises(UnsupportedFormat) as raised:
        chosen_format("x" * 1000, None)
    assert raised.value.allowed == list(FORMATS)
    assert len(raised.value.message) < 400
