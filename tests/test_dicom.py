"""DICOM slices and series: the right volume in the right place, or a refusal that says why; limits come before unpacking."""

from __future__ import annotations

import dataclasses
import io
import itertools
import random
import struct
import traceback
import tracemalloc
import warnings
import zipfile
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
)

from service.errors import BodyTooLarge, CorruptImage, ImageTooLarge, ServiceError, UnsupportedImage
from service.pipeline.codecs import decoding, dicom_series, scans
from service.pipeline.codecs.limits import Limits
from service.pipeline.volume import Scan
from tests.phantoms import dicom_bytes, series, zipped

LIMITS = Limits(max_scan_bytes=2**22, max_voxels=40_000)
SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
OBLIQUE = [0.8, 0.6, 0.0, -0.48, 0.64, 0.6]
ACROSS = np.cross(OBLIQUE[:3], OBLIQUE[3:])


def ramp(shape: tuple[int, ...] = (7, 5, 4), dtype: str = "i2") -> np.ndarray:
    """Values that differ in every voxel."""
    values = np.arange(np.prod(shape)).reshape(shape)
    return (values - 50 if np.dtype(dtype).kind == "i" else values).astype(dtype)


def read(data: bytes) -> Scan:
    """A scan as the service reads one: kind, header, voxels."""
    header = decoding.probe(data, LIMITS)
    assert header.format == "DICOM"
    assert header.scan is not None
    return scans.read(data, LIMITS, header.scan)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_every_type_and_syntax_is_read(syntax: str, dtype: str) -> None:
    """One slice: the values of the file, columns first."""
    pixels = ramp((5, 7), dtype)
    found = read(dicom_bytes(pixels, syntax=syntax))
    np.testing.assert_array_equal(found.values[:, :, 0], pixels.T.astype(np.float32))
    assert found.grid.shape == (7, 5, 1)


def test_slope_and_intercept_differ_from_slice_to_slice() -> None:
    """As in positron emission tomography, where each slice has its own."""
    first = dicom_bytes(ramp((5, 7)), (0, 0, 0), RescaleSlope=2, RescaleIntercept=-3)
    second = dicom_bytes(ramp((5, 7)), (0, 0, 1), RescaleSlope=0.5, RescaleIntercept=10)
    found = read(zipped([first, second]))
    np.testing.assert_allclose(found.values[:, :, 0], ramp((5, 7)).T * 2.0 - 3)
    np.testing.assert_allclose(found.values[:, :, 1], ramp((5, 7)).T * 0.5 + 10)


@pytest.mark.parametrize(("dtype", "stored"), [("u2", 12), ("i2", 12), ("u1", 8), ("u2", 16), ("i2", 16)])
def test_a_scan_whose_lowest_value_is_bright_is_inverted(dtype: str, stored: int) -> None:
    """MONOCHROME1 and MONOCHROME2 of one picture give the same order of values."""
    pixels = ramp((5, 7), dtype)
    high = (1 << (stored - 1)) - 1 if dtype[0] == "i" else (1 << stored) - 1
    low = -(1 << (stored - 1)) if dtype[0] == "i" else 0
    inverse = (low + high - pixels.astype(np.int64)).astype(dtype)
    bits: dict[str, Any] = {"BitsStored": stored, "HighBit": stored - 1}
    mask = (1 << stored) - 1
    kept = (inverse.astype(np.int64) & mask).astype(f"u{np.dtype(dtype).itemsize}").view(dtype)
    found = read(dicom_bytes(kept, PhotometricInterpretation="MONOCHROME1", **bits))
    np.testing.assert_array_equal(found.values[:, :, 0], pixels.T.astype(np.float32))


def test_bits_above_and_below_the_stored_ones_are_left_out() -> None:
    """Old scanners kept an overlay in the upper bits; the sign is that of the highest stored bit."""
    values = ramp((5, 7)).astype(np.int64)
    overlaid = ((values & 0xFFF) | 0xA000).astype(np.uint16).view(np.int16)
    found = read(dicom_bytes(overlaid, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(found.values[:, :, 0], values.T)
    shifted = (((values & 0xFFF) << 4) | 0x5).astype(np.uint16).view(np.int16)
    found = read(dicom_bytes(shifted, BitsStored=12, HighBit=15))
    np.testing.assert_array_equal(found.values[:, :, 0], values.T)


def test_padding_has_no_value() -> None:
    """Voxels that were never measured are not finite, and so count in no percentile."""
    pixels = ramp((5, 7))
    pixels[0, :3] = -2000
    found = read(dicom_bytes(pixels, PixelPaddingValue=-2000)).values[:, :, 0]
    assert np.isnan(found[:3, 0]).all()
    np.testing.assert_array_equal(found[3:], pixels.T[3:])


def test_padding_is_a_range_where_a_limit_says_so() -> None:
    """From the value to the limit, whichever is the greater."""
    pixels = ramp((5, 7))
    pixels[0, :4] = -2000, -1500, -1000, -999
    for one, other in ((-2000, -1000), (-1000, -2000)):
        found = read(dicom_bytes(pixels, PixelPaddingValue=one, PixelPaddingRangeLimit=other)).values[:, :, 0]
        assert np.isnan(found[:3, 0]).all()
        assert found[3, 0] == -999
        np.testing.assert_array_equal(found[4:], pixels.T[4:])


def test_padding_may_use_bits_above_the_stored_ones() -> None:
    """Some scanners fill with a value that no voxel of so few bits can have; an overlay in those bits pads nothing."""
    pixels = ramp((5, 7), "u2")
    pixels[0, :2] = 0xF830, 0x830
    found = read(dicom_bytes(pixels, BitsStored=12, HighBit=11, PixelPaddingValue=0xF830)).values[:, :, 0]
    assert np.isnan(found[0, 0])
    assert found[1, 0] == 0x830
    pixels[0, 0] = 0xA007
    assert read(dicom_bytes(pixels, BitsStored=12, HighBit=11, PixelPaddingValue=0)).values[0, 0, 0] == 7


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_a_modality_table_is_refused(syntax: str, undefined: bool) -> None:
    """Its values take the place of slope and intercept, which the file lacks."""
    table = Dataset()
    table.add_new(0x00283002, "US", [2, 0, 16])
    table.add_new(0x00283004, "LO", "HU")
    table.add_new(0x00283006, "OW", b"\1\0\2\0")
    data = pydicom.dcmread(io.BytesIO(dicom_bytes(ramp((5, 7)), syntax=syntax)))
    data.add_new(0x00283000, "SQ", [table])
    data[0x00283000].is_undefined_length = undefined
    file = io.BytesIO()
    pydicom.dcmwrite(file, data)
    with pytest.raises(UnsupportedImage, match=r"modality table \(0028,3000\)"):
        read(file.getvalue())


@pytest.mark.parametrize("directions", [[1.0, 0, 0, 0, 1, 0], [0.0, 1, 0, 0, 0, -1], [0.0, 0, -1, 1, 0, 0], OBLIQUE])
def test_each_voxel_lies_where_another_reader_puts_it(directions: list[float]) -> None:
    """nibabel's reader of DICOM is the oracle: row and column to mm; its axes grow to the left and posterior, ours do not."""
    data = dicom_bytes(
        ramp((5, 7)), (12.5, -30, 7), ImageOrientationPatient=directions, PixelSpacing=[0.7, 1.3], SliceThickness=2.5
    )
    grid = read(data).grid
    with warnings.catch_warnings(action="ignore"):  # it says of itself that it is experimental
        from nibabel.nicom.dicomwrappers import wrapper_from_data  # noqa: PLC0415
    oracle = wrapper_from_data(pydicom.dcmread(io.BytesIO(data))).affine
    for column, row in itertools.product((0, 6), (0, 4)):
        expected = oracle @ [row, column, 0, 1]
        np.testing.assert_allclose(grid.affine @ [column, row, 0, 1], expected * [-1, -1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(grid.spacing_mm, (1.3, 0.7, 2.5))
    header = nibabel.Nifti1Header(grid.header, check=False)
    np.testing.assert_allclose(header.get_best_affine(), grid.affine, atol=1e-4)
    assert (header["sform_code"], header["qform_code"]) == (1, 1)


def test_slices_are_in_the_order_of_their_places() -> None:
    """Whatever their names and numbers say, and in whichever direction the series was scanned."""
    volume = ramp((7, 5, 9))
    expected = None
    for step, given in ((ACROSS * 1.5, volume), (-ACROSS * 1.5, volume[:, :, ::-1])):
        origin = np.array([3.0, -4, 5]) + (0 if expected is None else 8) * ACROSS * 1.5
        files = series(given, step, origin, ImageOrientationPatient=OBLIQUE, SliceThickness=9.0)
        random.Random(3).shuffle(files)
        found = read(zipped({f"{number}.dcm": data for number, data in enumerate(files)}))
        np.testing.assert_array_equal(found.values, volume)
        expected = found.grid.affine if expected is None else expected
        np.testing.assert_allclose(found.grid.affine, expected, atol=1e-6)
        np.testing.assert_allclose(found.grid.spacing_mm, (1, 1, 1.5))


def test_a_tilted_gantry_shears_the_volume() -> None:
    """Positions that move across the slice's own plane are kept: the third axis is not at right angles."""
    found = read(zipped(series(ramp(), (0, 0.5, 2.0))))
    np.testing.assert_allclose(found.grid.affine[:3, 2], [0, -0.5, 2.0])
    assert found.grid.voxel_ml == pytest.approx(0.002)


def test_other_files_of_a_zip_are_passed_over() -> None:
    """A text, a DICOMDIR, what a Mac adds."""
    files = {f"series/{number}": data for number, data in enumerate(series(ramp()))}
    others = {
        "DICOMDIR": _directory(),
        "readme.txt": b"x" * 400,
        "__MACOSX/series/._0": files["series/0"],
        ".DS_Store": b"1" * 400,
    }
    found = read(zipped(others | files))
    np.testing.assert_array_equal(found.values, ramp())


def test_a_slice_without_a_name_belongs_to_the_series() -> None:
    """A name ends at its first zero byte."""
    made = zipped({f"IM{number:04d}": data for number, data in enumerate(series(ramp()))})
    np.testing.assert_array_equal(read(made.replace(b"IM0000", b"\0M0000")).values, ramp())


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"NumberOfFrames": 3}, UnsupportedImage, "several frames"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, UnsupportedImage, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, UnsupportedImage, "colour"),
        ({"ImagePositionPatient": None}, UnsupportedImage, "image position (0020,0032)"),
        ({"ImageOrientationPatient": None}, UnsupportedImage, "image orientation (0020,0037)"),
        ({"PixelSpacing": None}, UnsupportedImage, "pixel spacing (0028,0030)"),
        ({"PixelSpacing": [0.0, 1.0]}, CorruptImage, "are believed"),
        ({"ImageOrientationPatient": [1.0, 0, 0, 1, 0, 0]}, CorruptImage, "right angles"),
        ({"Rows": 0}, CorruptImage, "no number of rows"),
        ({"Rows": 4}, CorruptImage, "promises"),
        ({"Rows": 6}, CorruptImage, "promises"),
        ({"BitsStored": 17}, CorruptImage, "contradicts itself"),
        ({"RescaleSlope": 0}, CorruptImage, "rescale slope"),
        ({"Rows": 300, "Columns": 300}, ImageTooLarge, "FCN_MAX_VOXELS"),
        ({"Rows": 60000}, ImageTooLarge, "FCN_MAX_IMAGE_SIDE"),
    ],
)
def test_a_slice_that_cannot_be_read_says_why(changes: dict[str, Any], error: type[ServiceError], reason: str) -> None:
    """By the reason of its own, before any pixel is read."""
    with pytest.raises(error) as raised:
        read(dicom_bytes(ramp((5, 7)), **changes))
    assert reason in str(raised.value)


@pytest.mark.parametrize(("syntax", "reason"), [(JPEGLosslessSV1, "1.2.840.10008.1.2.4.70"), ("1.2.3.99", "unknown")])
def test_compressed_pixels_are_refused_with_the_remedy(syntax: str, reason: str) -> None:
    """The transfer syntax is named where the standard knows it; another one is not repeated."""
    data = dicom_bytes(ramp((5, 7))).replace(b"1.2.840.10008.1.2.1\0", syntax.encode().ljust(20, b"\0"))
    # The element keeps its length where the name is no longer; otherwise another file is written.
    if len(syntax) > 20:
        meta = pydicom.dcmread(io.BytesIO(dicom_bytes(ramp((5, 7)))))
        meta.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        meta[0x7FE00010].value = b"\xfe\xff\x00\xe0\0\0\0\0"
        meta[0x7FE00010].is_undefined_length = True
        file = io.BytesIO()
        pydicom.dcmwrite(file, meta, implicit_vr=False, little_endian=True)
        data = file.getvalue()
    with pytest.raises(UnsupportedImage, match="gdcmconv --raw") as raised:
        read(data)
    assert reason in str(raised.value)


def test_a_deflated_data_set_is_refused_before_it_is_inflated() -> None:
    """It could be of any size."""
    plain = pydicom.dcmread(io.BytesIO(dicom_bytes(ramp((5, 7)))))
    plain.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file = io.BytesIO()
    pydicom.dcmwrite(file, plain, implicit_vr=False, little_endian=True)
    with pytest.raises(UnsupportedImage, match="deflated"):
        read(file.getvalue())


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([data for k, data in enumerate(series(ramp((7, 5, 9)))) if k != 4], "slices are missing"),
        ([*series(ramp()), series(ramp())[1]], "a file sent twice"),
        ([*series(ramp()), *series(ramp())], "several contrasts or times"),
        ([*series(ramp()), *series(ramp(), origin=(0, 0, 4), SeriesInstanceUID="1.2.4")], "2 series"),
        ([*series(ramp()), dicom_bytes(ramp((5, 7)), (0, 0, 4), ImageOrientationPatient=OBLIQUE)], "unlike orientations"),
        ([*series(ramp()), dicom_bytes(ramp((7, 5)), (0, 0, 4))], "unlike sizes"),
        ([*series(ramp()), dicom_bytes(ramp((5, 7)), (0, 0, 4), PixelSpacing=[1.0, 1.2])], "unlike pixel spacings"),
        ([*series(ramp()), dicom_bytes(ramp((5, 7)), (3, 0, 4))], "do not lie on one line"),
    ],
)
def test_slices_that_make_no_volume_are_refused(files: list[bytes], reason: str) -> None:
    """A volume of the wrong slices would seem right."""
    with pytest.raises(UnsupportedImage) as raised:
        read(zipped(files))
    assert reason in str(raised.value)


def test_positions_with_few_decimals_are_equal_steps() -> None:
    """Rounded to a hundredth of a millimetre, as scanners write them."""
    places = [np.round(k * 1.2345678, 2) for k in range(9)]
    files = [dicom_bytes(ramp((5, 7)), (0, 0, place)) for place in places]
    assert read(zipped(files)).grid.shape == (7, 5, 9)


def test_the_limits_of_a_zip_come_before_its_files() -> None:
    """Bytes, files and voxels by the zip's own table; a zip without a slice stays a zip."""
    bomb = zipped({"a": dicom_bytes(ramp((5, 7))), "b": bytes(2**23)})
    with pytest.raises(BodyTooLarge, match="unpacks to"):
        decoding.probe(bomb, LIMITS)
    many = zipped([dicom_bytes(np.zeros((64, 64), np.uint8), (0, 0, k)) for k in range(12)])
    with pytest.raises(ImageTooLarge, match="FCN_MAX_VOXELS"):
        decoding.probe(many, LIMITS)
    with pytest.raises(UnsupportedImage, match="zip archive"):
        decoding.probe(zipped({"a.txt": b"x" * 500}), LIMITS)
    long = bytearray(zipped(series(ramp())))
    end = long.rfind(b"PK\5\6")
    long[end + 12 : end + 16] = struct.pack("<I", 2**31)
    assert not dicom_series.is_series(bytes(long))
    with pytest.raises(UnsupportedImage, match="zip archive"):
        decoding.probe(bytes(long), LIMITS)


def test_a_file_of_a_zip_is_unpacked_to_the_size_in_the_table_alone() -> None:
    """A table that lies leads to a refusal, and never to more bytes than it says."""
    data = dicom_bytes(ramp((5, 7)))
    made = bytearray(zipped({"a": data, "b": data + bytes(2**20)}))
    at = made.rfind(b"PK\1\2")
    made[at + 24 : at + 28] = struct.pack("<I", len(data))
    error = _refusal(bytes(made))
    assert isinstance(error, CorruptImage)
    assert "damaged" in str(error)


def test_the_size_of_a_series_takes_little_memory() -> None:
    """A slice that unpacks to much before its pixels, and a directory before many files, cost a part of it at the most."""
    private = pydicom.dcmread(io.BytesIO(dicom_bytes(ramp((5, 7)))))
    private.add_new(0x00090010, "LO", "X")
    private.add_new(0x00091001, "OB", bytes(2**25))
    file = io.BytesIO()
    pydicom.dcmwrite(file, private)
    body = zipped([file.getvalue()])
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedImage, match=f"do not begin in its first {dicom_series.HEADER_BYTES} bytes"):
            decoding.probe(body, dataclasses.replace(LIMITS, max_scan_bytes=2**27))
        assert tracemalloc.get_traced_memory()[1] < 5 * dicom_series.HEADER_BYTES
    finally:
        tracemalloc.stop()
    others = {f"{number:03}": b"x" * 400 for number in range(dicom_series.MAX_OTHERS)}
    with pytest.raises(UnsupportedImage, match="among its first"):
        decoding.probe(zipped({"DICOMDIR": _directory()} | others | {"slice": dicom_bytes(ramp((5, 7)))}), LIMITS)


def nested(depth: int, items: int, *, implicit: bool) -> bytes:
    """A private sequence without a length, of items without a length, nested."""
    head = struct.pack("<HH", 9, 0x1010) + (b"" if implicit else b"SQ\0\0") + b"\xff" * 4
    item = b"\xfe\xff\x00\xe0" + b"\xff" * 4
    inside = nested(depth - 1, 1, implicit=implicit) if depth else b""
    return head + (item + inside + b"\xfe\xff\x0d\xe0" + bytes(4)) * items + b"\xfe\xff\xdd\xe0" + bytes(4)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize(("depth", "items"), [(0, 1), (0, 3000), (500, 1), (3, 40)])
def test_sequences_without_a_length_are_passed_over(depth: int, items: int, implicit: bool) -> None:
    """Whatever they hold, the slice behind them is read."""
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    data = dicom_bytes(ramp((5, 7)), syntax=syntax)
    at = data.index(struct.pack("<HH", 0x28, 0x10))  # the rows
    found = read(data[:at] + nested(depth, items, implicit=implicit) + data[at:])
    np.testing.assert_array_equal(found.values, read(data).values)


def test_countless_items_before_the_pixels_are_refused() -> None:
    """Each would be built, and thrown away."""
    data = dicom_bytes(ramp((5, 7)))
    at = data.index(struct.pack("<HH", 0x28, 0x10))
    for inside in (
        nested(0, 120_000, implicit=False),
        nested(0, 0, implicit=False) * 2000,
        nested(0, 1000, implicit=False) * 200,
    ):
        with pytest.raises(UnsupportedImage, match="convert it to NIfTI"):
            read(data[:at] + inside + data[at:])


def test_a_header_of_a_hundred_kilobytes_is_read() -> None:
    """Scanners write protocols of their own before the pixels."""
    private = pydicom.dcmread(io.BytesIO(dicom_bytes(ramp((5, 7)))))
    private.add_new(0x00090010, "LO", "X")
    private.add_new(0x00091001, "OB", bytes(100_000))
    file = io.BytesIO()
    pydicom.dcmwrite(file, private)
    np.testing.assert_array_equal(read(zipped([file.getvalue()])).values[:, :, 0], ramp((5, 7)).T)


def test_a_place_beyond_the_zip_is_damage() -> None:
    """The table's extra field can name any 64 bits."""
    name, data = b"IM0", dicom_bytes(ramp((5, 7)))
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, len(data), len(data), len(name), 0) + name + data
    table = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, *[len(data)] * 2, 3, len(extra), 0, 0, 0, 0, 2**32 - 1)
    table += name + extra
    made = local + table + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(table), len(local), 0)
    with pytest.raises((CorruptImage, UnsupportedImage)):
        decoding.probe(made, LIMITS)


def test_the_estimate_of_a_series_refuses_no_overlap_and_no_notes() -> None:
    """The step is that of two slices where they overlap, and only files that can hold a slice count."""
    overlapping = zipped(series(ramp(), (0, 0, 0.5), SliceThickness=900.0))
    header = decoding.probe(overlapping, LIMITS)
    assert header.scan is not None
    np.testing.assert_allclose(header.scan.grid.spacing_mm, (1, 1, 0.5))
    volume = ramp((64, 64, 4))
    notes = {f"note{number}": b"x" * 400 for number in range(20)}
    header = decoding.probe(zipped({f"{k}.dcm": one for k, one in enumerate(series(volume))} | notes), LIMITS)
    assert header.scan is not None
    assert header.scan.shape == (64, 64, 4)


def test_encrypted_and_strange_zips_are_refused() -> None:
    """With what is wrong."""
    made = bytearray(zipped(series(ramp())))
    central = [at for at in range(len(made)) if made[at : at + 4] == b"PK\1\2"]
    made[central[-1] + 8] |= 1
    header = decoding.probe(bytes(made), LIMITS)
    assert header.scan is not None
    with pytest.raises(UnsupportedImage, match="encrypted"):
        scans.read(bytes(made), LIMITS, header.scan)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a", dicom_bytes(ramp((5, 7))))
    with pytest.raises(UnsupportedImage, match="zip archive"):
        decoding.probe(packed.getvalue(), LIMITS)


def test_a_thousand_damaged_files_are_refused_or_read() -> None:
    """A volume or an error of ours, whatever bytes change; and no error repeats a text of the file."""
    rng = np.random.default_rng(11)
    secret = "DOE^JANE"
    plain = [dicom_bytes(ramp((5, 7)), syntax=syntax, PatientName=secret, PatientID=secret) for syntax in SYNTAXES]
    sources = [*plain, zipped(series(ramp(), PatientName=secret, StudyDescription=secret))]
    outcomes = {"read": 0, "refused": 0}
    for index in range(1000):
        data = bytearray(sources[index % len(sources)])
        for _ in range(int(rng.integers(1, 5))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        if index % 7 == 0:
            del data[int(rng.integers(len(data))) :]
        error = _refusal(bytes(data))
        outcomes["read" if error is None else "refused"] += 1
        told = "" if error is None else "".join(traceback.format_exception(error))
        assert "DOE" not in told
    assert min(outcomes.values()) > 100


@pytest.mark.parametrize("preamble", [b"II", b"MMxx", b"\x89P", b"\x1f\x8b", b"PK\3\4", b"BM"])
def test_any_bytes_may_come_before_the_mark(preamble: bytes) -> None:
    """PS3.10, section 7.1: an application may use the 128 bytes for anything, not for TIFF only."""
    pixels = ramp((5, 7))
    data = preamble.ljust(128, b"\0") + dicom_bytes(pixels)[128:]
    assert np.array_equal(read(data).values, read(dicom_bytes(pixels)).values)


@pytest.mark.parametrize("magic", [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\xff\xd8\xff", b"\x89PNG"])
def test_a_file_that_is_a_picture_too_is_the_picture(magic: bytes) -> None:
    """As the file of a slide scanner, which is TIFF and DICOM in one."""
    assert scans.kind(magic.ljust(128, b"\0") + dicom_bytes(ramp((5, 7)))[128:]) is None


def _directory() -> bytes:
    """A DICOMDIR, as far as its first bytes tell."""
    data, kind = dicom_bytes(ramp((5, 7))), b"1.2.840.10008.5.1.4.1.1.4\0"
    assert kind in data
    return data.replace(kind, b"1.2.840.10008.1.3.10".ljust(len(kind), b"\0"))


def _refusal(data: bytes) -> ServiceError | None:
    try:
        header = decoding.probe(data, LIMITS)
        assert header.scan is not None
        scans.read(data, LIMITS, header.scan)
    except ServiceError as error:
        return error
    return None
