"""Pictures that are read by rows: their pixels are those of the same file decoded whole."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from service.errors import CorruptImage, ImageTooLarge, ServiceError, UnsupportedImage
from service.pipeline.codecs import decoding, png_parts, tiff_parts
from service.pipeline.codecs.decoding import Limits
from service.pipeline.codecs.rows import PictureFile, read_by_rows
from tests.conftest import encode_image

Pixels = NDArray[Any]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few rows, as large pictures have them."""
    monkeypatch.setattr(png_parts, "PART_BYTES", 4_000)
    monkeypatch.setattr(png_parts, "READ_BYTES", 1_000)
    monkeypatch.setattr(tiff_parts, "PART_BYTES", 3_000)
    monkeypatch.setattr(TiffImagePlugin, "STRIP_SIZE", 1_500)


def picture(height: int, width: int, bands: int, seed: int) -> NDArray[np.uint8]:
    """A smooth picture with noise: filters and predictors have something to do."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 4, bands), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height)).reshape(height, width, bands).astype(int)
    return np.clip(smooth + random.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def by_rows(path: Path, data: bytes) -> tuple[NDArray[np.uint8], int]:
    """Read a file by rows.

    Gives:
        its pixels, and the number of bands that they came in
    """
    path.write_bytes(data)
    bands = list(PictureFile(path, Limits()).bands())
    return np.concatenate(bands), len(bands)


_MODES: dict[str, Callable[[NDArray[np.uint8]], Image.Image]] = {
    "rgb": lambda x: Image.fromarray(x[..., :3]),
    "grey": lambda x: Image.fromarray(x[..., 0]),
    "rgba": Image.fromarray,
    "see-through": lambda x: Image.fromarray(np.dstack([x[..., :3], np.zeros_like(x[..., 0])])),
    "la": lambda x: Image.fromarray(x).convert("LA"),
    "palette": lambda x: Image.fromarray(x[..., :3]).quantize(17),
    "bits": lambda x: Image.fromarray(x[..., 0]).convert("1"),
    "cmyk": lambda x: Image.fromarray(x[..., :3]).convert("CMYK"),
    "ycbcr": lambda x: Image.fromarray(x[..., :3]).convert("YCbCr"),
    "12 bits": lambda x: Image.fromarray(x[..., 0].astype(np.uint16) * 9),
    "16 bits": lambda x: Image.fromarray(x[..., 0].astype(np.uint16) * 257),
}
_SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_SIDES = st.integers(1, 90)


@_SETTINGS
@given(mode=st.sampled_from(sorted(set(_MODES) - {"cmyk", "ycbcr"})), height=_SIDES, width=_SIDES, seed=st.integers(0, 99))
def test_a_png_by_rows_is_the_png(tmp_path: Path, mode: str, height: int, width: int, seed: int) -> None:
    """In every mode that Pillow writes, with the filters that it chooses."""
    data = encode_image(_MODES[mode](picture(height, width, 4, seed)))
    found, _ = by_rows(tmp_path / "x.png", data)
    assert np.array_equal(found, decoding.decode(data, Limits()))


@pytest.mark.parametrize("bits", [10, 14, 16])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_png_of_16_bits_in_colours_by_rows_is_the_png(tmp_path: Path, bits: int, alpha: bool) -> None:
    """The depth is that of the brightest row of all, which the last rows hold here."""
    pixels = picture(90, 61, 4 if alpha else 3, 3).astype(np.uint16) << (bits - 8)
    pixels[:80] //= 8
    encoded = cv2.imencode(".png", pixels)[1].tobytes()
    found, bands = by_rows(tmp_path / "x.png", encoded)
    assert bands > 3
    assert np.array_equal(found, decoding.decode(encoded, Limits()))


@pytest.mark.parametrize("color", [0, 2, 4, 6])
@pytest.mark.parametrize("depth", [8, 16])
def test_every_filter_of_png_is_undone_across_parts(tmp_path: Path, color: int, depth: int) -> None:
    """Each row carries another filter; libpng is the judge."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    height, width, step = 83, 37, channels * depth // 8
    rows = picture(height, width * step, 1, depth + color).reshape(height, -1)
    lines = []
    for number, row in enumerate(rows.astype(int)):
        above = rows[number - 1].astype(int) if number else np.zeros_like(row)
        left, corner = np.r_[np.zeros(step, int), row[:-step]], np.r_[np.zeros(step, int), above[:-step]]
        base = left + above - corner
        near = np.stack([abs(base - left), abs(base - above), abs(base - corner)]).argmin(0)
        guess = [0 * row, left, above, (left + above) // 2, np.choose(near, [left, above, corner])][number % 5]
        lines.append(bytes([number % 5]) + ((row - guess) % 256).astype(np.uint8).tobytes())
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")
    found, bands = by_rows(tmp_path / "x.png", data)
    assert bands > 3
    assert np.array_equal(found, decoding.decode(data, Limits()))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@_SETTINGS
@given(
    mode=st.sampled_from(sorted(_MODES)),
    compression=st.sampled_from([None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"]),
    height=_SIDES,
    width=_SIDES,
    seed=st.integers(0, 99),
)
@example(mode="rgb", compression="tiff_lzw", height=90, width=61, seed=0)
@example(mode="ycbcr", compression=None, height=90, width=61, seed=0)
def test_a_tiff_in_strips_by_rows_is_the_tiff(
    tmp_path: Path, mode: str, compression: str | None, height: int, width: int, seed: int
) -> None:
    """In every mode and compression that Pillow writes, and that is read whole."""
    assume((compression == "group4") <= (mode == "bits"))
    assume(compression != "jpeg" or mode in ("rgb", "grey", "rgba", "cmyk"))
    data = encode_image(_MODES[mode](picture(height, width, 4, seed)), "TIFF", compression=compression)
    found, _ = by_rows(tmp_path / "x.tif", data)
    assert np.array_equal(found, decoding.decode(data, Limits()))


@_SETTINGS
@given(
    tile=st.sampled_from([None, (16, 16), (16, 48), (64, 32)]),
    compression=st.sampled_from([None, "zlib"]),
    predictor=st.booleans(),
    planar=st.sampled_from(["contig", "separate"]),
    kind=st.sampled_from(["u1", "u2", "u2 of 12 bits", "f4", "with alpha", "with alpha of 0"]),
    rows=st.sampled_from([None, 1, 5, 16]),
    order=st.sampled_from("<>"),
    big=st.booleans(),
    height=_SIDES,
    width=_SIDES,
)
def test_a_tiff_of_any_layout_by_rows_is_the_tiff(
    tmp_path: Path,
    tile: tuple[int, int] | None,
    compression: str | None,
    predictor: bool,
    planar: Any,
    kind: str,
    rows: int | None,
    order: Any,
    big: bool,
    height: int,
    width: int,
) -> None:
    """Strips and tiles, both planar configurations and byte orders, BigTIFF, depths and transparency."""
    stored: Pixels = picture(height, width, 4 if "alpha" in kind else 3, height)
    if kind == "with alpha of 0":
        stored[..., 3] = 0
    elif kind.startswith("u2"):
        stored = stored.astype(np.uint16) * (16 if "12" in kind else 257)
    elif kind == "f4":
        stored = (stored / 255).astype(np.float32)
    more: dict[str, Any] = {"extrasamples": ["unassalpha"]} if "alpha" in kind else {}
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        np.moveaxis(stored, 2, 0) if planar == "separate" else stored,
        photometric="rgb",
        planarconfig=planar,
        compression=compression,
        predictor=predictor and compression is not None and kind != "f4",
        tile=tile,
        rowsperstrip=None if tile else rows,
        byteorder=order,
        bigtiff=big,
        **more,
    )
    data = buffer.getvalue()
    found, _ = by_rows(tmp_path / "x.tif", data)
    assert np.array_equal(found, decoding.decode(data, Limits()))


def test_tiles_of_jpeg_are_read_by_rows(tmp_path: Path) -> None:
    """libtiff's own tiles, written by OpenCV's bundled writer where it can; here by hand, each tile a JPEG of its own."""
    pixels = picture(90, 100, 3, 1)
    tiles = []
    for top in range(0, 90, 32):
        for left in range(0, 100, 32):
            tile = np.zeros((32, 32, 3), np.uint8)
            part = pixels[top : top + 32, left : left + 32]
            tile[: part.shape[0], : part.shape[1]] = part
            tiles.append(encode_image(tile, "JPEG", quality=95))
    data = tiled_jpeg(tiles, 100, 90, 32)
    found, bands = by_rows(tmp_path / "x.tif", data)
    assert bands == 3
    assert np.array_equal(found, decoding.decode(data, Limits()))
    assert np.abs(found.astype(int) - pixels).mean() < 8


def tiled_jpeg(tiles: list[bytes], width: int, height: int, side: int) -> bytes:
    """A TIFF file whose tiles are JPEG files in YCbCr."""
    body, offsets = b"II*\0\0\0\0\0", []
    for tile in tiles:
        offsets.append(len(body))
        body += tile + bytes(len(tile) % 2)
    place, lengths = len(body), len(body) + 4 * len(tiles)
    body += struct.pack(f"<{len(tiles)}I", *offsets) + struct.pack(f"<{len(tiles)}I", *map(len, tiles))
    bits = len(body)
    body += struct.pack("<HHH", 8, 8, 8) + bytes(2)
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, bits),
        (259, 3, 1, 7),
        (262, 3, 1, 6),
        (277, 3, 1, 3),
        (322, 4, 1, side),
        (323, 4, 1, side),
        (324, 4, len(tiles), place),
        (325, 4, len(tiles), lengths),
        (530, 3, 2, 2 | 2 << 16),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return body[:4] + struct.pack("<I", len(body)) + body[8:] + directory


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_damage_anywhere_is_an_error(tmp_path: Path, suffix: str) -> None:
    """A byte that is changed in the pixels, and a file that is cut short, are told from a whole one."""
    data = bytearray(encode_image(picture(90, 80, 3, 5), "PNG" if suffix == ".png" else "TIFF", compression=_DEFLATE[suffix]))
    for damaged in (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :],
        data[: len(data) // 2],
    ):
        with pytest.raises(CorruptImage):
            by_rows(tmp_path / f"x{suffix}", bytes(damaged))


_DEFLATE = {".png": None, ".tif": "tiff_adobe_deflate"}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_file_that_changes_is_refused(tmp_path: Path, suffix: str) -> None:
    """Between opening and reading, while it is read, and when it is cut short under the reader."""
    path = tmp_path / f"x{suffix}"
    data = encode_image(picture(90, 80, 3, 5), "PNG" if suffix == ".png" else "TIFF")
    by_rows(path, data)
    opened = PictureFile(path, Limits())
    os.utime(path, ns=(1, 1))
    with pytest.raises(CorruptImage, match="changed"):
        list(opened.bands())
    bands = PictureFile(path, Limits()).bands()
    next(bands)
    os.utime(path, ns=(2, 2))
    with pytest.raises(CorruptImage, match="changed"):
        list(bands)
    bands = PictureFile(path, Limits()).bands()
    next(bands)
    os.truncate(path, 100)
    with pytest.raises(CorruptImage, match="changed"):
        list(bands)


def test_what_is_not_read_by_rows_is_named(tmp_path: Path) -> None:
    """An interlaced PNG, a turned picture, a strip too large, a picture too large: each with its remedy."""

    def refusal(data: bytes, limits: Limits | None = None) -> ServiceError:
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(ServiceError) as found:
            list(PictureFile(tmp_path / "x", limits or Limits()).bands())
        return found.value

    pixels = picture(90, 80, 3, 5)
    png = bytearray(encode_image(pixels))
    png[28] = 1
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    interlaced = refusal(bytes(png))
    assert isinstance(interlaced, UnsupportedImage)
    assert "interlac" in interlaced.message
    exif = Image.Exif()
    exif[0x0112] = 6
    assert "turned (orientation 6)" in refusal(encode_image(pixels, exif=exif)).message
    assert "turned (orientation 6)" in refusal(encode_image(pixels, "TIFF", tiffinfo={274: 6})).message
    assert "FCN_MAX_FILE_PIXELS" in refusal(encode_image(pixels), Limits(max_file_pixels=7_000)).message
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((5000, 5000), np.uint8), compression="zlib", rowsperstrip=5000)
    strip = refusal(buffer.getvalue())
    assert isinstance(strip, ImageTooLarge)
    assert "smaller strips" in strip.message
    assert "only TIFF and PNG" in refusal(encode_image(pixels, "JPEG")).message


def test_only_what_is_too_large_is_read_by_rows(tmp_path: Path) -> None:
    """By bytes, pixels or a side; other formats keep the limits of whole pictures."""
    for name, kind in (("x.png", "PNG"), ("x.tif", "TIFF"), ("x.jpg", "JPEG")):
        path = tmp_path / name
        path.write_bytes(encode_image(picture(90, 80, 3, 5), kind))
        assert read_by_rows(path, Limits()) is None
        for limits in (Limits(max_pixels=7_000), Limits(max_bytes=1_000), Limits(max_side=85)):
            assert (read_by_rows(path, limits) is not None) == (kind != "JPEG")
