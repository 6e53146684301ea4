"""NIfTI scans: every form is read exactly, damage is refused with a reason, and the header is checked before the voxels."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc
import zlib

import nibabel
import numpy as np
import pytest

from service.errors import BodyTooLarge, CorruptImage, EmptyBody, ImageTooLarge, ServiceError, UnsupportedImage
from service.pipeline.codecs import nifti
from service.pipeline.codecs.limits import Limits
from tests.phantoms import nifti_bytes

LIMITS = Limits(max_scan_bytes=2**22, max_voxels=40_000)
OBLIQUE = np.array([[-0.9, 0.2, 0.1, 40], [0.15, 0.1, 1.4, -30], [-0.1, -1.1, 0.2, 12], [0, 0, 0, 1.0]])


def ramp(dtype: str = "i2", shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    """Values that differ in every voxel, negative ones among them where the type has some."""
    values = np.arange(np.prod(shape)).reshape(shape)
    return (values - 90 if np.dtype(dtype).kind in "if" else values).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize(("version", "big_endian", "compressed"), list(itertools.product((1, 2), (False, True), (False, True))))
def test_every_dtype_and_byte_order_is_read(dtype: str, version: int, big_endian: bool, compressed: bool) -> None:
    """NIfTI-1 and NIfTI-2, plain and compressed: the voxels and the affine that nibabel reads."""
    values = (ramp(dtype).astype("f8") % 120).astype(dtype)
    data = nifti_bytes(values, OBLIQUE, version=version, big_endian=big_endian, compressed=compressed)
    assert nifti.is_nifti(data)
    scan = nifti.read(data, LIMITS)
    np.testing.assert_array_equal(scan.values, values.astype(np.float32))
    np.testing.assert_allclose(scan.grid.affine, OBLIQUE, atol=1e-6)
    assert scan.grid.compressed == compressed
    assert len(scan.grid.header) == {1: 348, 2: 540}[version]


def test_slope_and_intercept_are_applied() -> None:
    """As nibabel does; a slope of 0 or NaN means none."""
    data = nifti_bytes(ramp(), compressed=False)
    for slope, inter, factor, shift in ((0.5, -3.0, 0.5, -3.0), (0.0, 7.0, 1.0, 0.0), (np.nan, 7.0, 1.0, 0.0)):
        changed = bytearray(data)
        changed[112:120] = np.array([slope, inter], "<f4").tobytes()
        scan = nifti.read(bytes(changed), LIMITS)
        np.testing.assert_array_equal(scan.values, ramp().astype(np.float32) * np.float32(factor) + np.float32(shift))
        reference = nibabel.Nifti1Image.from_bytes(bytes(changed)).get_fdata(dtype=np.float32)
        np.testing.assert_allclose(scan.values, reference)


def test_the_sform_wins_over_the_qform() -> None:
    """The sform where its code is above 0, otherwise the qform, otherwise the voxel sizes: nibabel's order."""
    sform, qform = np.diag([2.0, 3, 4, 1]), np.diag([5.0, 6, 7, 1])
    image = nibabel.Nifti1Image(ramp(), None)
    image.header.set_zooms((1.5, 1.5, 1.5))
    for sform_code, qform_code, expected in ((1, 1, (2, 3, 4)), (0, 1, (5, 6, 7)), (0, 0, (5, 6, 7)), (4, 0, (2, 3, 4))):
        image.header.set_qform(qform, qform_code)
        image.header.set_sform(sform, sform_code)
        assert nifti.read(image.to_bytes(), LIMITS).grid.spacing_mm == pytest.approx(expected)


@pytest.mark.parametrize(("unit", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
def test_lengths_are_in_millimetres(unit: int, factor: float) -> None:
    """Metres and micrometres are converted; an unknown unit counts as millimetres."""
    affine = np.diag([2 / factor, 2 / factor, 2 / factor, 1])
    data = nifti_bytes(ramp(), affine, xyzt_units=unit)
    assert nifti.read(data, LIMITS).grid.spacing_mm == pytest.approx((2, 2, 2))


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7), (5, 6, 7, 1), (5, 6, 7, 1, 1)])
def test_one_volume_of_any_number_of_dimensions_is_read(shape: tuple[int, ...]) -> None:
    """A slice is a volume of one slice; a fourth dimension of 1 is left out."""
    scan = nifti.read(nifti_bytes(ramp(shape=shape)), LIMITS)
    np.testing.assert_array_equal(scan.values, ramp(shape=shape).reshape((*shape, 1, 1)[:3]))


def test_more_than_one_volume_is_refused() -> None:
    """A time series or a vector field says how many volumes it has."""
    with pytest.raises(CorruptImage, match="holds 3 volumes"):
        nifti.probe(nifti_bytes(ramp(shape=(5, 6, 7, 3))), LIMITS)
    with pytest.raises(CorruptImage, match="holds 2 x 3 volumes"):
        nifti.probe(nifti_bytes(ramp(shape=(5, 6, 1, 2, 3))), LIMITS)


def test_values_that_are_not_numbers_are_kept_for_the_normalisation() -> None:
    """NaN and infinity pass the codec; the intensity policy decides."""
    values = ramp("f4")
    values[0, 0, 0], values[1, 0, 0] = np.nan, np.inf
    scan = nifti.read(nifti_bytes(values), LIMITS)
    np.testing.assert_array_equal(scan.values, values)


@pytest.mark.parametrize("version", [1, 2])
def test_a_header_that_makes_no_sense_is_refused(version: int) -> None:
    """Each field by itself, with a reason that names it, from the header alone."""
    at = {1: {"dim": (40, "<i2"), "type": (70, "<i2"), "bits": (72, "<i2"), "offset": (108, "<f4"), "slope": (112, "<f4")}}
    at[2] = {"dim": (16, "<i8"), "type": (12, "<i2"), "bits": (14, "<i2"), "offset": (168, "<i8"), "slope": (176, "<f8")}
    data = nifti_bytes(ramp(), version=version, compressed=False)
    cases: list[tuple[str, list[float], type[ServiceError], str]] = [
        ("dim", [0], CorruptImage, "0 dimensions"),
        ("dim", [9], CorruptImage, "9 dimensions"),
        ("dim", [3, -5, 6, 7], CorruptImage, "a side of -5"),
        ("dim", [3, 0, 6, 7], CorruptImage, "a side of 0"),
        ("dim", [3, 30000, 30000, 30000], ImageTooLarge, "40000 are taken"),
        ("dim", [3, 30000, 1, 1], ImageTooLarge, "a side has at most 16384"),
        ("dim", [3, 5, 6, 8], CorruptImage, "truncated"),
        ("type", [1792], UnsupportedImage, "complex128"),
        ("type", [128], UnsupportedImage, "RGB"),
        ("type", [77], CorruptImage, "data type 77"),
        ("bits", [8], CorruptImage, "8 bits a voxel"),
        ("offset", [100], CorruptImage, "first voxel at byte 100"),
        ("offset", [2**30], CorruptImage, "first voxel at byte"),
        ("slope", [np.inf], CorruptImage, "scales its values by inf"),
    ]
    for field, values, error, reason in cases:
        place, dtype = at[version][field]
        changed = bytearray(data)
        raw = np.array(values).astype(dtype).tobytes()
        changed[place : place + len(raw)] = raw
        with pytest.raises(error, match=reason):
            nifti.probe(bytes(changed), LIMITS)


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.diag([1.0, 0, 1, 1]), "0 x 1 mm"),
        (np.diag([1.0, 1, 1e7, 1]), "believed"),
        (np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
        (np.full((4, 4), np.nan), "finite"),
    ],
)
def test_an_affine_that_makes_no_sense_is_refused(affine: np.ndarray, reason: str) -> None:
    """A scan without orientation or with impossible voxels gets a reason, and no labels in some other place."""
    changed = bytearray(nifti_bytes(ramp(), compressed=False))
    changed[254:256] = np.array([1], "<i2").tobytes()
    changed[280:328] = affine[:3].astype("<f4").tobytes()
    with pytest.raises(CorruptImage, match=reason):
        nifti.probe(bytes(changed), LIMITS)


def test_the_limits_come_before_the_voxels() -> None:
    """Too many bytes or voxels are refused from the header, and an empty body is empty."""
    with pytest.raises(EmptyBody):
        nifti.probe(b"", LIMITS)
    with pytest.raises(BodyTooLarge):
        nifti.probe(bytes(2**22 + 1), LIMITS)
    with pytest.raises(ImageTooLarge) as caught:
        nifti.probe(nifti_bytes(np.zeros((40, 40, 40), "u1")), LIMITS)
    assert (caught.value.limit, caught.value.actual, caught.value.unit) == (40_000, 64_000, "voxels")


@pytest.mark.parametrize(
    "data", [b"\x1f\x8b", b"\x1f\x8b" + bytes(100), gzip.compress(b"text", mtime=0), b"plain text", bytes(600)]
)
def test_what_is_not_nifti_is_told_apart(data: bytes) -> None:
    """Another compressed file is not NIfTI, and a pair's header says what to send."""
    assert not nifti.is_nifti(data)
    with pytest.raises(UnsupportedImage, match="not a NIfTI file"):
        nifti.probe(data, LIMITS)


def test_a_header_without_its_voxels_is_refused() -> None:
    """The header of a pair of files says which single file to send."""
    data = bytearray(nifti_bytes(ramp(), compressed=False))
    data[344:348] = b"ni1\0"
    assert nifti.is_nifti(bytes(data))
    with pytest.raises(UnsupportedImage, match=r"\.hdr and \.img"):
        nifti.probe(bytes(data), LIMITS)


def test_a_bomb_is_refused_before_it_fills_the_memory() -> None:
    """A file that inflates to more than its header promises, or promises more than deflate can hold, costs a few MB at most."""
    good = nifti_bytes(np.zeros((30, 30, 30), "u1"), compressed=False)
    longer = gzip.compress(good + bytes(300 * 2**20), 1)
    promise = nifti_bytes(np.zeros((30, 30, 30), "f8"))[:400]
    assert len(longer) < LIMITS.max_scan_bytes
    tracemalloc.start()
    with pytest.raises(CorruptImage, match="beyond its last voxel"):
        nifti.read(longer, LIMITS)
    with pytest.raises(CorruptImage, match="truncated"):
        nifti.read(promise[:60] + promise[60:], LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


def test_damage_in_the_compressed_stream_is_found() -> None:
    """A wrong checksum, a cut stream and a flipped byte are damage; a second stream in a row is not."""
    plain = nifti_bytes(ramp(), compressed=False)
    whole = gzip.compress(plain)
    for damaged in (whole[:-8] + bytes(8), whole[:-20], whole[:-9], whole[: len(whole) // 2]):
        with pytest.raises(CorruptImage):
            nifti.read(damaged, LIMITS)
    np.testing.assert_array_equal(nifti.read(gzip.compress(plain[:500]) + gzip.compress(plain[500:]), LIMITS).values, ramp())
    with pytest.raises(CorruptImage, match="bytes after its last voxel"):
        nifti.read(plain + bytes(2**17), LIMITS)


def test_a_thousand_damaged_files_are_refused_or_read() -> None:
    """Cut, flipped and spliced files end in a value or in one of our errors with a reason: never in another exception."""
    rng = np.random.default_rng(19)
    sources = [
        nifti_bytes(ramp(kind), OBLIQUE, version=version, big_endian=big, compressed=packed)
        for kind, version, big, packed in (
            ("i2", 1, False, True),
            ("f4", 2, True, False),
            ("u1", 1, True, False),
            ("f8", 2, False, True),
        )
    ]
    reasons = []
    for index in range(1000):
        data = bytearray(sources[index % len(sources)])
        for _ in range(int(rng.integers(1, 6))):
            kind, at = rng.integers(4), int(rng.integers(len(data)))
            if kind == 0:
                data[at] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                del data[at : at + int(rng.integers(1, 300))]
            elif kind == 2:
                data[at:at] = rng.bytes(int(rng.integers(1, 40)))
            else:
                start = int(rng.integers(min(352, len(data))))  # the header, more often than its share
                data[start : start + 4] = rng.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\x7f\xff\xff"]
                )
            if len(data) < 8:
                break
        try:
            scan = nifti.read(bytes(data), LIMITS)
        except ServiceError as error:
            reasons.append(error.message)
        else:
            assert scan.values.size <= LIMITS.max_voxels
            assert np.isfinite(scan.grid.affine).all()
    assert len(reasons) > 500
    assert min(map(len, reasons)) > 10


def test_zlib_and_isal_agree_on_what_is_read() -> None:
    """A file that another compressor wrote is read to the same voxels."""
    plain = nifti_bytes(ramp("f8"), compressed=False)
    for level in (1, 9):
        packer = zlib.compressobj(level, zlib.DEFLATED, 31)
        data = packer.compress(plain) + packer.flush()
        np.testing.assert_array_equal(nifti.read(data, LIMITS).values, ramp("f4"))


@pytest.mark.parametrize("padding", [0, 5, 300_000])
def test_a_file_of_several_streams_is_one_scan(padding: int) -> None:
    """As ``cat`` and block compressors write them, cut at odd bytes, with zeros between them: every voxel is read."""
    values = np.random.default_rng(8).integers(0, 3000, (60, 70, 50)).astype(np.int16)
    plain = nifti_bytes(values, np.eye(4), compressed=False)
    cuts = [0, 353, 100_001, 100_003, len(plain)]
    streams = [gzip.compress(plain[start:end], 1) for start, end in itertools.pairwise(cuts)]
    scan = nifti.read(bytes(padding).join(streams) + bytes(padding), Limits())
    np.testing.assert_array_equal(scan.values, values)
    with pytest.raises(CorruptImage, match="truncated"):
        nifti.read(bytes(padding).join(streams)[:-9], Limits())
