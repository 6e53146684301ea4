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
from service.pipeline.codecs import decoding, png_parts, spool, tiff_parts
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
    monkeypatch.setattr(tiff_parts, "READ_BYTES", 100)
    monkeypatch.setattr(spool, "BAND_BYTES", 2_000)
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


@_SETTINGS
@given(
    orientation=st.integers(1, 8),
    kind=st.sampled_from(["PNG", "TIFF"]),
    mode=st.sampled_from(["rgb", "grey", "rgba", "bits", "16 bits"]),
    height=_SIDES,
    width=_SIDES,
)
def test_a_turned_picture_by_rows_is_the_picture(
    tmp_path: Path, orientation: int, kind: str, mode: str, height: int, width: int
) -> None:
    """Upright, its size too, and the same when it is read again."""
    path, stored = tmp_path / "x", _MODES[mode](picture(height, width, 4, orientation))
    path.write_bytes(turned(stored, kind, orientation))
    expected = decoding.decode(path.read_bytes(), Limits())
    opened = PictureFile(path, Limits())
    assert (opened.height, opened.width) == expected.shape[:2]
    for _ in range(2):
        assert np.array_equal(np.concatenate(list(opened.bands())), expected)


def turned(stored: Image.Image, kind: str, orientation: int) -> bytes:
    """A file of a picture that is stored turned."""
    if kind == "TIFF":
        return encode_image(stored, "TIFF", tiffinfo={274: orientation})
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode_image(stored, "PNG", exif=exif)


def test_a_damaged_orientation_turns_nothing(tmp_path: Path) -> None:
    """A chunk whose checksum is wrong is left out, as of a whole file."""
    data = bytearray(turned(Image.fromarray(picture(50, 80, 3, 2)), "PNG", 6))
    data[data.index(b"eXIf") + 6] ^= 255
    found, _ = by_rows(tmp_path / "x.png", bytes(data))
    assert found.shape == (50, 80, 3)
    assert np.array_equal(found, decoding.decode(bytes(data), Limits()))


def test_a_full_disk_under_the_turned_rows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the folder, and how another one is named."""
    (tmp_path / "x.tif").write_bytes(turned(Image.fromarray(picture(50, 80, 3, 2)), "TIFF", 6))
    monkeypatch.setattr(spool, "_temporary", lambda: os.open("/dev/full", os.O_RDWR))
    with pytest.raises(OSError, match=r"No space left on device in .*TMPDIR names another folder"):
        list(PictureFile(tmp_path / "x.tif", Limits()).bands())


def _grey_files() -> dict[str, Callable[[Pixels], bytes]]:
    """Files of 16 bits, floats and 8 bits, whose rows differ in depth and transparency."""

    def see_through(x: Pixels) -> Pixels:
        wide = x.astype(np.uint16) * 257
        wide[: len(x) // 2, :, 3] = 65535
        return wide

    def keyed(x: Pixels) -> bytes:
        data, grey = cv2.imencode(".png", x[..., 0].astype(np.uint16) * 9)[1].tobytes(), int(x[0, 0, 0]) * 9
        return data[:33] + chunk(b"tRNS", struct.pack(">H", grey)) + data[33:]

    def tiff(x: Pixels, **options: Any) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, x, **options)
        return buffer.getvalue()

    def nodata(x: Pixels) -> bytes:
        return tiff((x[..., 0] / 3 - 9).astype(np.float32), extratags=[(42113, 2, 3, b"-9\0", True)])

    return {
        "grey": lambda x: cv2.imencode(".png", x[..., 0].astype(np.uint16) * 17)[1].tobytes(),
        "colours": lambda x: cv2.imencode(".png", x[..., :3].astype(np.uint16) * 257)[1].tobytes(),
        "see-through": lambda x: cv2.imencode(".png", see_through(x))[1].tobytes(),
        "keyed": keyed,
        "8 bits": lambda x: encode_image(_MODES["rgba"](x)),
        "8 bits of grey": lambda x: encode_image(_MODES["grey"](x), "TIFF"),
        "tiff": lambda x: tiff(x[..., 0].astype(np.uint16) * 257, tile=(16, 32), compression="zlib"),
        "tiff, 0 is white": lambda x: tiff(x[..., 0].astype(np.uint16), photometric="miniswhite"),
        "tiff in colours": lambda x: tiff(see_through(x), photometric="rgb", extrasamples=["unassalpha"]),
        "floats": nodata,
        "below 0": lambda x: tiff(x[..., 0].astype(np.int16) - 90),
    }


@_SETTINGS
@given(
    kind=st.sampled_from(sorted(_grey_files())),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    height=_SIDES,
    width=_SIDES,
)
@example(kind="see-through", dtype="uint16", height=90, width=61)
@example(kind="keyed", dtype="float32", height=90, width=61)
@example(kind="tiff in colours", dtype="float32", height=90, width=61)
def test_one_channel_by_rows_is_that_of_the_whole(tmp_path: Path, kind: str, dtype: Any, height: int, width: int) -> None:
    """Every bit of every number, what is said of a conversion, and what is refused."""
    path = tmp_path / "x"
    path.write_bytes(_grey_files()[kind](picture(height, width, 4, height)))
    opened = PictureFile(path, Limits())
    try:
        expected = decoding.decode_grey(path.read_bytes(), Limits(), dtype)
    except UnsupportedImage as error:
        with pytest.raises(UnsupportedImage, match=error.message.rpartition(";")[2]):
            list(opened.grey_bands(dtype))
        return
    found = np.concatenate(list(opened.grey_bands(dtype)))
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, expected.values, equal_nan=found.dtype.kind == "f")
    assert set(opened.converted) == set(expected.converted)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_one_strip_of_deflate_is_decompressed_by_rows(tmp_path: Path, planar: Any, kind: str) -> None:
    """Its pixels are those of the whole; a strip that is too short, or whose checksum is wrong, is an error."""
    stored = picture(90, 61, 3, 4).astype(kind)
    buffer = io.BytesIO()
    shaped = np.moveaxis(stored, 2, 0) if planar == "separate" else stored
    options: dict[str, Any] = {"compression": "zlib", "predictor": True, "rowsperstrip": 90}
    tifffile.imwrite(buffer, shaped, photometric="rgb", planarconfig=planar, **options)
    data = buffer.getvalue()
    found, bands = by_rows(tmp_path / "x.tif", data)
    assert bands > 3
    assert np.array_equal(found, decoding.decode(data, Limits()))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        end = page.dataoffsets[-1] + page.databytecounts[-1]
    wrong = data[: end - 1] + bytes([data[end - 1] ^ 255]) + data[end:]
    short = data[: page.dataoffsets[-1]] + zlib.compress(bytes(61 * 40)).ljust(end - page.dataoffsets[-1], b"\0") + data[end:]
    for damaged in (wrong, short):
        with pytest.raises(CorruptImage):
            by_rows(tmp_path / "x.tif", damaged)


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


def test_what_is_not_read_by_rows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interlaced PNG, a strip too large, a picture too large: each with its remedy."""

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
    assert "FCN_MAX_FILE_PIXELS" in refusal(encode_image(pixels), Limits(max_file_pixels=7_000)).message
    monkeypatch.setattr(TiffImagePlugin, "STRIP_SIZE", 30_000_000)
    strip = refusal(encode_image(np.zeros((5000, 5000), np.uint8), "TIFF", compression="tiff_lzw"))
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
