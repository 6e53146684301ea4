"""JPEG files that decoders complain about: every pixel is there, or the file is rejected."""

from __future__ import annotations

import contextlib
import io
import re
import struct

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service.errors import CorruptImage, ServiceError
from service.pipeline.codecs.decoding import Header, Limits, decode, probe
from tests.conftest import encode_image, make_image

LIMITS = Limits()
ROWS, COLUMNS = np.mgrid[0:64, 0:96]
PICTURE = np.dstack([COLUMNS * 2.6, ROWS * 4, 255 - COLUMNS * 1.3 - ROWS * 1.9]).clip(0, 255).astype(np.uint8)
PICTURE[40:, 20:60], PICTURE[10:30, 60:80] = (70, 60, 75), (200, 40, 30)
PLAIN = encode_image(PICTURE, "JPEG", quality=92)
RESTARTS = encode_image(PICTURE, "JPEG", quality=92, restart_marker_rows=1)
PROGRESSIVE = encode_image(PICTURE, "JPEG", quality=92, progressive=True)
GREY = encode_image(PICTURE[..., 0], "JPEG", quality=92)
CMYK = encode_image(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=92)
END = b"\xff\xd9"
HEAD = 20
"""Bytes of SOI and of the JFIF segment."""


def segment(marker: int, payload: bytes) -> bytes:
    """One segment of a JPEG file."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def exif(kind: int, value: bytes, count: int = 1) -> bytes:
    """An EXIF segment that holds the orientation alone."""
    entry = struct.pack(">HHI", 0x112, kind, count) + value.ljust(4, b"\0")
    return segment(0xE1, b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4))


def behind_head(extra: bytes, data: bytes = PLAIN) -> bytes:
    """The file with more behind its first segment."""
    return data[:HEAD] + extra + data[HEAD:]


def before_restarts(junk: bytes) -> bytes:
    """The file with bytes before each restart marker."""
    scan = RESTARTS.index(b"\xff\xda")
    return RESTARTS[:scan] + re.sub(rb"\xff[\xd0-\xd7]", lambda marker: junk + marker[0], RESTARTS[scan:])


def scan_header(data: bytes, ending: bytes) -> bytes:
    """The file with other numbers of coefficients in its only scan header."""
    at = data.index(b"\xff\xda")
    at += 5 + 2 * data[at + 4]
    return data[:at] + ending + data[at + 3 :]


RANDOM = np.random.default_rng(3)
TEXT = b"made by a camera that appends its settings here; "
HARMLESS = {
    **{f"jfif {a}.{b}": (PLAIN[:11] + bytes([a, b]) + PLAIN[13:], PLAIN) for a, b in ((0, 0), (2, 1), (9, 9))},
    **{
        f"adobe transform {number}": (PLAIN[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([number])) + PLAIN[HEAD:], PLAIN)
        for number in (2, 3, 255)
    },
    "icc of one chunk of three": (behind_head(segment(0xE2, b"ICC_PROFILE\0\2\3" + bytes(100))), PLAIN),
    "icc without a chunk": (behind_head(segment(0xE2, b"ICC_PROFILE\0\0\0")), PLAIN),
    "icc twice the same chunk": (behind_head(segment(0xE2, b"ICC_PROFILE\0\1\2" + bytes(9)) * 2), PLAIN),
    "spectral end of 0": (scan_header(PLAIN, b"\0\0\0"), PLAIN),
    "spectral start of 1": (scan_header(PLAIN, b"\1\x3f\0"), PLAIN),
    "successive bits in a baseline scan": (scan_header(PLAIN, b"\0\x3f\x11"), PLAIN),
    "grey with a spectral end of 0": (scan_header(GREY, b"\0\0\0"), GREY),
    "no end": (PLAIN[:-2], PLAIN),
    "half an end": (PLAIN[:-1], PLAIN),
    "no end, progressive": (PROGRESSIVE[:-2], PROGRESSIVE),
    "no end, restarts": (RESTARTS[:-2], RESTARTS),
    "no end, grey": (GREY[:-2], GREY),
    "no end, inks": (CMYK[:-2], CMYK),
    **{f"{count} zeros before the end": (PLAIN[:-2] + bytes(count) + END, PLAIN) for count in (1, 2, 16, 17, 65, 2226)},
    "zeros before the end, progressive": (PROGRESSIVE[:-2] + bytes(65) + END, PROGRESSIVE),
    "zeros before the end, inks": (CMYK[:-2] + bytes(65) + END, CMYK),
    "zeros and no end": (PLAIN[:-2] + bytes(300), PLAIN),
    "spaces before the end": (PLAIN[:-2] + b" " * 99 + END, PLAIN),
    "text before the end": (PLAIN[:-2] + TEXT * 3 + END, PLAIN),
    "zeros before a comment": (PLAIN[:-2] + bytes(608) + segment(0xFE, b"ABCDEF") + END, PLAIN),
    **{f"{count} zeros before each restart": (before_restarts(bytes(count)), RESTARTS) for count in (1, 2, 4, 9)},
    "other bytes before each restart": (before_restarts(b"\x12\x34"), RESTARTS),
    "a segment of 2 bytes more than it says": (behind_head(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0x") + b"?>"), PLAIN),
    "a segment without its marker": (behind_head(b"\0\x0eAdobe\0\x64\0\0\0\0\1"), PLAIN),
    "stuffing between segments": (behind_head(b"\xff\0\xff\0\0\0"), PLAIN),
    "a restart marker between segments": (behind_head(b"\xff\xd3"), PLAIN),
    "fill bytes and junk": (behind_head(b"\xff" * 9 + b"\0ab" + b"\xff" * 9), PLAIN),
    "a kilobyte between segments": (behind_head(RANDOM.integers(0, 255, 1024, np.uint8).tobytes()), PLAIN),
    "junk behind the start": (PLAIN[:2] + b"\0\0\xff\0" + PLAIN[2:], PLAIN),
    "junk behind the end": (PLAIN + bytes(100), PLAIN),
    "another picture behind the end": (PLAIN + GREY, PLAIN),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_bytes_that_decide_no_pixel_are_not_damage(name: str) -> None:
    """The picture of a file with a harmless fault is the picture without it, to the bit."""
    faulty, sound = HARMLESS[name]
    assert np.array_equal(decode(faulty, LIMITS), decode(sound, LIMITS))
    assert probe(faulty, LIMITS) == Header("JPEG", 96, 64)


def without(data: bytes, number: int) -> bytes:
    """The file without one of its restart intervals."""
    pieces = re.split(rb"(\xff[\xd0-\xd7])", data)
    del pieces[2 * number + 1 : 2 * number + 3]
    return b"".join(pieces)


def scans(data: bytes) -> list[bytes]:
    """A file in front of each scan."""
    return re.split(rb"(?=\xff\xda|\xff\xc4|\xff\xd9)", data)


MIDDLE = len(PLAIN) // 2
INTERLEAVED = Image.fromarray(PICTURE)
MISSING = {
    "half": PLAIN[:MIDDLE],
    "half, with an end": PLAIN[:MIDDLE] + END,
    "half, then zeros": PLAIN[:MIDDLE] + bytes(len(PLAIN) - MIDDLE),
    "half, then zeros and an end": PLAIN[:MIDDLE] + bytes(len(PLAIN) - MIDDLE) + END,
    "half, then spaces": PLAIN[:MIDDLE] + b" " * (len(PLAIN) - MIDDLE),
    "half, then many zeros": PLAIN[:MIDDLE] + bytes(40_000) + END,
    "half with harmless faults": behind_head(segment(0xE2, b"ICC_PROFILE\0\0\0"), PLAIN[:MIDDLE] + END),
    "half with a wrong version": PLAIN[:11] + rb"\9\9" + PLAIN[13:MIDDLE] + END,
    "zeros inside": PLAIN[:MIDDLE] + bytes(60) + PLAIN[MIDDLE + 60 :],
    "a hole": PLAIN[:MIDDLE] + PLAIN[MIDDLE + 200 :],
    "half of the restarts": RESTARTS[: 3 * len(RESTARTS) // 4] + END,
    **{f"without restart interval {number}": without(RESTARTS, number) for number in range(3)},
    "half of inks": CMYK[: 3 * len(CMYK) // 4] + END,
    "half of grey": GREY[: 3 * len(GREY) // 4] + END,
    "half of progressive": PROGRESSIVE[: len(PROGRESSIVE) // 2] + END,
    "progressive up to a scan": b"".join(scans(PROGRESSIVE)[:-2]),
    "no scan": PLAIN[: PLAIN.index(b"\xff\xda")] + END,
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_pixels_are_damage_whatever_else_is_wrong(name: str) -> None:
    """Grey, or the shifted rest, is never served for a picture."""
    with pytest.raises(CorruptImage):
        decode(MISSING[name], LIMITS)


def test_a_file_that_ends_before_its_first_scan_is_told_so() -> None:
    """Wherever it is cut before its pixels, also behind its size."""
    whole = encode_image(make_image(48, 64), "JPEG")
    for end in range(4, whole.index(b"\xff\xda") + 4, 7):
        with pytest.raises(CorruptImage, match="ends within its header"):
            decode(whole[:end], Limits())


def test_a_colour_component_without_a_scan_is_damage() -> None:
    """A file of one scan a component that ends behind the first would be shown as grey."""
    at = PROGRESSIVE.index(b"\xff\xda")
    assert PROGRESSIVE[at + 4] == 3
    grey_only = PROGRESSIVE[:at] + b"\xff\xda\0\x08\1\1\0\0\0\1" + PROGRESSIVE[at + 14 :]
    with pytest.raises(CorruptImage):
        decode(grey_only, LIMITS)


@pytest.mark.parametrize("cut", range(60))
def test_a_file_cut_anywhere_is_the_whole_picture_or_damage(cut: int) -> None:
    """Of every length, with and without an end marker."""
    whole = decode(PLAIN, LIMITS)
    scan = PLAIN.index(b"\xff\xda")
    at = scan + (len(PLAIN) - scan) * cut // 60
    for end in (b"", END):
        try:
            assert np.array_equal(decode(PLAIN[:at] + end, LIMITS), whole)
        except ServiceError:
            continue


ENDS_IN_ONES = encode_image(PICTURE, "JPEG", quality=95)
"""Its last byte is filled up with 1 bits; that of one file in eight is full."""


@given(st.binary(min_size=1, max_size=60).filter(lambda junk: b"\xff" not in junk))
@settings(max_examples=60)
def test_junk_before_the_end_never_changes_the_picture(junk: bytes) -> None:
    """The picture comes back to the bit, whatever the junk is made of."""
    assert np.array_equal(decode(ENDS_IN_ONES[:-2] + junk + END, LIMITS), decode(ENDS_IN_ONES, LIMITS))


def test_most_damage_that_leaves_coded_data_over_is_found() -> None:
    """Where a decoder that has lost its place ends early, the 1 bits that the standard asks for are mostly absent.

    Other damage has no trace: neither libjpeg nor a browser sees a changed coefficient.
    """
    scan = PLAIN.index(b"\xff\xda") + 14
    complaints, served = 0, 0
    while complaints < 60:
        damaged = bytearray(PLAIN)
        at = int(RANDOM.integers(scan, len(PLAIN) - 80))
        damaged[at : at + 40] = RANDOM.integers(1, 255, 40, np.uint8).tobytes()
        try:
            simplejpeg.decode_jpeg(bytes(damaged), strict=True)
        except ValueError as error:
            if "extraneous" in str(error):
                complaints += 1
                with contextlib.suppress(CorruptImage):
                    decode(bytes(damaged), LIMITS)
                    served += 1
    assert served < 20


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", [1, 3, 4, 6, 8, 9])
def test_orientation_of_any_integer_type_is_obeyed(kind: int, orientation: int) -> None:
    """SHORT is the standard's type; BYTE and LONG are written too."""
    value = {1: ">B", 3: ">H", 4: ">I", 6: ">b", 8: ">h", 9: ">i"}[kind]
    turned = decode(PLAIN[:2] + exif(kind, struct.pack(value, orientation)) + PLAIN[2:], LIMITS)
    assert np.array_equal(turned, np.rot90(decode(PLAIN, LIMITS), {1: 0, 3: 2, 6: -1, 8: 1}[orientation]))


def test_orientation_behind_junk_is_obeyed() -> None:
    """The walk through the segments finds its way back."""
    data = behind_head(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"x" * 40) + b"?>" + exif(3, b"\0\6"))
    assert decode(data, LIMITS).shape == (96, 64, 3)


def sampled(factors: list[tuple[int, int]]) -> tuple[bytes, NDArray[np.uint8]]:
    """A flat JPEG whose components have any sampling factors, and its picture.

    Every block holds its mean alone: one DC coefficient, then the end of the block.
    """
    head = encode_image(np.full((8, 8, 3), 128, np.uint8), "JPEG", subsampling=0)
    at = head.index(b"\xff\xc0")
    frame = bytearray(head)
    frame[at + 5 : at + 9] = struct.pack(">HH", 32, 32)
    for number, (across, down) in enumerate(factors):
        frame[at + 11 + 3 * number] = across << 4 | down
    scan = head.index(b"\xff\xda") + 14
    blocks = [across * down for across, down in factors]
    across, down = (8 * max(sides) for sides in zip(*factors, strict=True))
    mcus = -(-32 // across) * -(-32 // down)
    bits = ("001010" * blocks[0] + "0000" * (blocks[1] + blocks[2])) * mcus
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return bytes(frame[:scan]) + coded + END, np.full((32, 32, 3), 128, np.uint8)


SAMPLINGS = [
    "4x2,1x1,1x1",
    "2x4,1x1,1x1",
    "3x1,1x1,1x1",
    "1x1,2x1,2x1",
    "2x2,1x1,2x1",
    "1x1,1x2,1x2",
    "3x2,1x1,1x1",
    "2x2,2x1,1x1",
]


@pytest.mark.parametrize("names", SAMPLINGS)
def test_every_chroma_sampling_is_read(names: str) -> None:
    """simplejpeg knows five of them; the others are decoded as Pillow decodes them, and cut short they are damage."""
    factors = [(int(name[0]), int(name[2])) for name in names.split(",")]
    data, picture = sampled(factors)
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(data)
    assert np.abs(decode(data, LIMITS).astype(int) - picture).max() <= 1
    assert np.array_equal(decode(data, LIMITS), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    noise = bytearray(data)
    at = data.index(b"\xff\xda") + 14
    noise[at:-2] = noise[at : at + (len(data) - at) // 2]
    with pytest.raises(CorruptImage):
        decode(bytes(noise), LIMITS)
