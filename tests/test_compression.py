"""Compressed bodies: what goes in comes out, bombs do not."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from service.api.compression import CODINGS, PIECE_BYTES, WORTHWHILE_BYTES, Inflater, accepted_coding, compressed
from service.errors import BadParameter
from service.settings import Settings
from tests.conftest import encode_image
from tests.live import live_server


def inflated(body: bytes) -> bytes:
    """``deflate`` as browsers read it: a zlib stream, or one without its header and its checksum."""
    is_zlib = body[:1] and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0
    stream = zlib.decompressobj(15 if is_zlib else -15)
    made = stream.decompress(body)
    if not stream.eof or stream.unused_data:
        raise zlib.error("cut off, or longer than its stream")
    return made


def deflated(body: bytes) -> bytes:
    """A ``deflate`` stream without zlib's header and checksum."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


INFLATE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": inflated}
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


@given(bodies=st.lists(st.binary(), min_size=1, max_size=5), chunk=st.integers(1, 50))
def test_all_members_of_a_gzip_are_read(bodies: list[bytes], chunk: int) -> None:
    """The body is that of all members, one after the other (RFC 1952, section 2.2)."""
    assert inflate(b"".join(map(gzip.compress, bodies)), "gzip", chunk) == b"".join(bodies)


@given(body=st.binary(), chunk=st.integers(1, 50))
def test_deflate_without_a_zlib_header_is_read(body: bytes, chunk: int) -> None:
    """Many clients send a bare stream; one that is cut off is still refused."""
    assert inflate(deflated(body), "deflate", chunk) == body
    with pytest.raises(BadParameter):
        inflate(deflated(body)[:-1], "deflate", chunk)


@pytest.mark.parametrize(
    "bad",
    [gzip.compress(b"a", mtime=0) + b"x", gzip.compress(b"a", mtime=0) + b"\x1f", gzip.compress(b"a", mtime=0) * 2 + b"\0"],
)
def test_what_follows_the_last_member_is_refused(bad: bytes) -> None:
    """Only another member may follow one."""
    with pytest.raises(BadParameter, match="end"):
        inflate(bad, "gzip", 8)


@pytest.mark.parametrize("coding", ["identity, gzip", "gzip, identity", " , X-GZIP ,"])
def test_identity_in_a_list_changes_nothing(coding: str) -> None:
    """A list may name the coding that is none, and have empty elements."""
    assert inflate(gzip.compress(b"text"), coding, 64) == b"text"


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


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "deflate, identity, gzip", "ä"])
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


# Replies over HTTP -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base_url(artifact_dir: Path) -> Iterator[str]:
    """A real server."""
    with live_server(Settings(models_dir=artifact_dir)) as url:
        yield url


@pytest.fixture(scope="module")
def limited_url(artifact_dir: Path) -> Iterator[str]:
    """A real server that takes bodies of a megabyte. At its end it waits for rejected ones that linger."""
    with live_server(Settings(models_dir=artifact_dir, max_image_bytes=1_000_000)) as url:
        yield url


def raw(base_url: str, path: str, **options: Any) -> tuple[httpx.Response, bytes]:
    """A reply, and its body as it travelled."""
    method = "POST" if "content" in options else "GET"
    with httpx.stream(method, base_url + path, **options) as reply:
        return reply, b"".join(reply.iter_raw())


@pytest.mark.parametrize("coding", INFLATE)
@pytest.mark.parametrize("path", ["/openapi.json", "/formats", "/segment?format=rle&statistics=true"])
def test_json_is_compressed_on_request(base_url: str, noise: bytes, coding: str, path: str) -> None:
    """The same document, in fewer bytes; the headers say how, and that caches must ask."""
    options: dict[str, Any] = {"content": noise} if "segment" in path else {}
    plain, expected = raw(base_url, path, headers={"Accept-Encoding": "identity"}, **options)
    assert "content-encoding" not in plain.headers
    assert len(expected) >= WORTHWHILE_BYTES
    reply, body = raw(base_url, path, headers={"Accept-Encoding": coding}, **options)
    assert (reply.status_code, reply.headers["content-encoding"]) == (200, coding)
    assert "accept-encoding" in reply.headers["vary"].lower()
    assert int(reply.headers["content-length"]) == len(body) < len(expected)
    assert INFLATE[coding](body) == expected


@pytest.fixture(scope="module")
def noise() -> bytes:
    """An image whose mask has many runs."""
    blocks = np.random.default_rng(0).integers(0, 2, (60, 80, 3), np.uint8) * 255
    return encode_image(blocks.repeat(8, 0).repeat(8, 1))


def test_large_json_is_compressed_off_the_event_loop_and_arrives_whole(base_url: str, noise: bytes) -> None:
    """More than a piece of the reply, in pieces."""
    options: dict[str, Any] = {"files": [("image", ("a.png", noise))] * 40}
    plain = httpx.post(f"{base_url}/segment?format=rle", headers={"Accept-Encoding": "identity"}, timeout=120, **options)
    assert len(plain.content) > 256 * 1024
    reply = httpx.post(f"{base_url}/segment?format=rle", headers={"Accept-Encoding": "gzip"}, timeout=120, **options)
    assert reply.headers["content-encoding"] == "gzip"
    assert reply.json() == plain.json()


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/nothing", "/segment", "/segment?format=npy", "/segment?format=color"])
def test_short_replies_and_masks_are_left_as_they_are(base_url: str, png: bytes, path: str) -> None:
    """Compressing a PNG again would cost time and gain nothing."""
    options: dict[str, Any] = {"content": png} if "segment" in path else {}
    reply, _ = raw(base_url, path, headers={"Accept-Encoding": "gzip, deflate, br"}, **options)
    assert "content-encoding" not in reply.headers


@pytest.mark.parametrize("accepted", ["", "br", "identity", "gzip;q=0", "zstd, br;q=0.5"])
def test_json_is_left_as_it_is_for_those_that_do_not_ask(base_url: str, accepted: str) -> None:
    """Or ask for what is not offered."""
    reply, body = raw(base_url, "/openapi.json", headers={"Accept-Encoding": accepted})
    assert "content-encoding" not in reply.headers
    assert json.loads(body)["openapi"]


def test_head_has_the_headers_of_get(base_url: str) -> None:
    """The length of the body that GET would send, compressed as it would be."""
    headers = {"Accept-Encoding": "gzip"}
    get, head = httpx.get(f"{base_url}/openapi.json", headers=headers), httpx.head(f"{base_url}/openapi.json", headers=headers)
    assert head.content == b""
    for name in ("content-length", "content-encoding", "content-type", "vary"):
        assert head.headers.get(name) == get.headers.get(name)


# Images over HTTP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "GZIP", "identity"])
@pytest.mark.parametrize("form", [False, True], ids=["raw", "form"])
def test_a_compressed_image_is_an_image(base_url: str, png: bytes, coding: str, form: bool) -> None:
    """Some clients compress every body: the bytes themselves, or the whole form."""
    expected = httpx.post(f"{base_url}/segment", content=png).content
    built = httpx.Request("POST", base_url, files={"image": png}) if form else httpx.Request("POST", base_url, content=png)
    deflate = DEFLATE.get(coding.lower().removeprefix("x-"), bytes)
    headers = {"Content-Encoding": coding}
    if form:
        headers["Content-Type"] = built.headers["Content-Type"]
    reply = httpx.post(f"{base_url}/segment", content=deflate(built.read()), headers=headers)
    assert (reply.status_code, reply.content) == (200, expected)


@pytest.mark.parametrize(
    ("codings", "deflate"),
    [
        (["gzip"], lambda body: gzip.compress(body[:99]) + gzip.compress(body[99:])),
        (["deflate"], deflated),
        (["identity, gzip"], gzip.compress),
        (["identity", "gzip"], gzip.compress),
    ],
    ids=["members", "bare deflate", "list", "two headers"],
)
def test_other_ways_to_compress_give_the_same_mask(
    base_url: str, png: bytes, codings: list[str], deflate: Callable[[bytes], bytes]
) -> None:
    """Several members, a bare stream, a list, and two headers that are one list."""
    expected = httpx.post(f"{base_url}/segment", content=png).content
    reply = httpx.post(
        f"{base_url}/segment", content=deflate(png), headers=[("Content-Encoding", coding) for coding in codings]
    )
    assert (reply.status_code, reply.content) == (200, expected)


def test_members_that_inflate_to_nothing_are_bounded(artifact_dir: Path) -> None:
    """A body without a length that never becomes an image is refused after as many bytes as an image may have."""

    def members() -> Iterator[bytes]:
        for _ in range(1000):
            yield gzip.compress(b"") * 500

    with live_server(Settings(models_dir=artifact_dir, max_image_bytes=100_000)) as url:
        reply = httpx.post(f"{url}/segment", content=members(), headers={"Content-Encoding": "gzip"}, timeout=60)
        assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "bomb", [gzip.compress(bytes(1 << 20), mtime=0) * 32, deflated(bytes(1 << 25))], ids=["members", "bare deflate"]
)
def test_a_bomb_of_another_kind_is_refused_while_it_inflates(limited_url: str, bomb: bytes) -> None:
    """Thirty-two members of a megabyte, or a bare stream, have the same bound."""
    coding = "gzip" if bomb.startswith(b"\x1f") else "deflate"
    reply = httpx.post(f"{limited_url}/segment", content=bomb, headers={"Content-Encoding": coding})
    assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("form", [False, True], ids=["raw", "form"])
def test_a_bomb_is_refused_while_it_inflates(limited_url: str, coding: str, form: bool) -> None:
    """Megabytes of zeros in some kilobytes: 413 after the limit, as for a body that is sent as it is."""
    stream = zlib.compressobj(9, zlib.DEFLATED, CODINGS[coding])
    lead = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' if form else b""
    bomb = stream.compress(lead) + b"".join(stream.compress(bytes(1 << 20)) for _ in range(64)) + stream.flush()
    assert len(bomb) < 100_000
    kind = "multipart/form-data; boundary=b" if form else "image/png"
    reply = httpx.post(f"{limited_url}/segment", content=bomb, headers={"Content-Encoding": coding, "Content-Type": kind})
    assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")
    assert httpx.get(f"{limited_url}/readyz").status_code == 200


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [("gzip", b"no gzip", 422), ("gzip", gzip.compress(b"x" * 100, mtime=0)[:-4], 422), ("br", b"x", 415), ("gzip", b"", 422)],
    ids=["not compressed", "cut off", "another coding", "empty"],
)
def test_a_body_that_is_not_what_its_coding_says_is_refused(base_url: str, coding: str, body: bytes, status: int) -> None:
    """The header is named, and the codings that are read."""
    reply = httpx.post(f"{base_url}/segment", content=body, headers={"Content-Encoding": coding})
    assert reply.status_code == status
    assert "Content-Encoding" in reply.json()["detail"]
    if status == 415:
        assert reply.headers["accept-encoding"] == "gzip, deflate"
