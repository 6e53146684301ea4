"""Compressed bodies: what goes in comes out, bombs do not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from service.api.compression import CODINGS, PIECE_BYTES, Inflater, accepted_coding, compressed
from service.errors import BadParameter

INFLATE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
DEFLATE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


def inflate(body: bytes, coding: str | None, chunk: int) -> bytes:
    """Inflate a body that comes in chunks."""
    inflater = Inflater(coding)
    pieces = [piece for at in range(0, len(body), chunk) for piece in inflater.pieces(body[at : at + chunk])]
    inflater.end()
    assert coding is None or all(len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("coding", CODINGS)
@given(body=st.binary(), chunk=st.integers(1, 50))
def test_what_others_compressed_is_read(coding: str, body: bytes, chunk: int) -> None:
    """In whatever chunks it comes."""
    assert inflate(DEFLATE[coding](body), coding, chunk) == body


@pytest.mark.parametrize("coding", CODINGS)
def test_more_than_a_piece_comes_out_whole(coding: str) -> None:
    """Also where a piece ends exactly with the stream."""
    for size in (PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES):
        body = bytes(size)
        assert inflate(DEFLATE[coding](body), coding, 1 << 20) == body


@pytest.mark.parametrize("coding", CODINGS)
@given(body=st.binary())
def test_what_we_compressed_is_read_by_others(coding: str, body: bytes) -> None:
    """By Python's own readers."""
    assert INFLATE[coding](compressed(body, coding)) == body


@pytest.mark.parametrize("coding", CODINGS)
def test_damage_is_the_senders(coding: str) -> None:
    """A stream of another kind, one that is cut off, one that goes on behind its end."""
    good = DEFLATE[coding](b"text" * 100)
    for bad, reason in (
        (b"text", "is not what"),
        (good[:-1], "its end is missing"),
        (good + b"x", "bytes follow its end"),
        (b"", "end"),
    ):
        with pytest.raises(BadParameter, match=reason):
            inflate(bad, coding, 64)


@given(st.binary(), st.sampled_from(list(CODINGS)), st.integers(1, 50))
def test_any_bytes_inflate_or_are_refused(body: bytes, coding: str, chunk: int) -> None:
    """Nothing else."""
    try:
        assert inflate(body, coding, chunk) == INFLATE[coding](body)
    except BadParameter as error:
        parameter = error.parameter
    else:
        parameter = "Content-Encoding"
    assert parameter == "Content-Encoding"


def test_a_body_that_is_not_compressed_is_left_alone() -> None:
    """Without a coding, or with the one that is none."""
    assert inflate(b"text", None, 2) == inflate(b"text", " Identity", 2) == b"text"


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "ä"])
def test_other_codings_are_refused_by_name(coding: str) -> None:
    """And those that are read are told."""
    with pytest.raises(HTTPException) as caught:
        Inflater(coding)
    assert caught.value.status_code == 415
    assert caught.value.headers == {"Accept-Encoding": "gzip, deflate"}


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, None),
        ("", None),
        ("br", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("GZIP;q=0.1, deflate;q=0.5", "deflate"),
        ("gzip;q=0", None),
        ("identity, gzip;q=0.5", None),
        ("gzip;q=nonsense", None),
        ("*", None),
    ],
)
def test_a_reply_is_compressed_as_the_caller_likes_it_best(header: str | None, coding: str | None) -> None:
    """Without the header nothing is compressed."""
    assert accepted_coding(header) == coding
