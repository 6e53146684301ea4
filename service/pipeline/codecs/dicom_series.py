"""A scan of one DICOM slice, or of a zip of a series: slices in the order of their positions, as one volume.

A zip's own table is checked before anything is unpacked: number of files, their sizes, their sum. Files of other kinds in it
are passed over. The slices have to be one series: one size, one orientation, equal steps. Anything else is refused with its
reason, because a volume of the wrong slices seems right.

The affine follows PS3.3, C.7.6.2.1.1, with the x and y axes turned from left and posterior to right and anterior. The step
between slices is that of their positions, never the thickness that a header states.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import BodyTooLarge, CorruptImage, EmptyBody, ImageTooLarge, ServiceError, UnsupportedImage
from service.extras import needs
from service.pipeline.codecs import dicom
from service.pipeline.codecs.limits import Limits
from service.pipeline.volume import Grid, Scan, Shape

MAGIC_ZIP = b"PK\x03\x04"
MAX_FILES = 4096
"""Files of a zip: the slices of a scan, and a few others."""
MAX_OTHERS = 256
"""Files of a zip that are opened to find the first two slices."""
MAX_TABLE_BYTES = MAX_FILES * 512
"""Bytes of a zip's table of contents: names of some hundred characters."""
FIRST_BYTES = 2**16
"""Bytes of the first slice that are unpacked to know the scan's size."""
HEADER_BYTES = 2**22
"""Bytes of it that are unpacked where its header is longer than usual."""
_START_BYTES = dicom.PREAMBLE + 4 + 512
"""Bytes of a file that tell whether it may be a slice."""
STEP_TOLERANCE = 0.02
"""Share of a step by which a slice may be off its place: positions are rounded to so many decimals."""
_SAME = 1e-3
"""Difference of directions that is rounding."""


@dataclass(frozen=True, eq=False)
class Header:
    """The size of a scan, before all of its slices are read."""

    shape: Shape
    """Columns x rows x slices; of a zip the number of its files that are long enough, which may hold others."""
    grid: Grid
    """As the first slices and the number of files tell; the scan that is read has its own."""

    @property
    def voxels(self) -> int:
        """X times Y times Z."""
        x, y, z = self.shape
        return x * y * z


def may_be_series(data: bytes) -> bool:
    """Return whether a body begins as one that may be DICOM. Microseconds; :func:`is_series` and :func:`probe` take longer."""
    return data.startswith(MAGIC_ZIP) or dicom.is_dicom(data)


def is_series(data: bytes) -> bool:
    """Return whether a body may be DICOM: a file of it, or a zip with one in it."""
    if dicom.is_dicom(data):
        return True
    if not data.startswith(MAGIC_ZIP):
        return False
    try:
        with _opened(data) as archive:
            return any(dicom.is_dicom(_head(archive, entry, dicom.PREAMBLE + 4)) for entry in _candidates(archive)[:MAX_OTHERS])
    except (*_DAMAGE, ServiceError):
        return False


def probe(data: bytes, limits: Limits) -> Header:
    """Read the size of a scan, from the header of a slice and the table of the zip.

    Raises:
        EmptyBody: if there are no bytes
        BodyTooLarge: if there are too many, as they come or unpacked
        UnsupportedImage: if no slice can be read, or the extra 'medical' is missing
        CorruptImage: if the zip or the slice is damaged
        ImageTooLarge: if the scan has too many voxels
    """
    if not data:
        raise EmptyBody("the scan is empty: 0 bytes")
    if len(data) > limits.max_scan_bytes:
        text = f"the scan has {len(data)} bytes; at most {limits.max_scan_bytes} are taken"
        raise BodyTooLarge(text, limit=limits.max_scan_bytes, actual=len(data), unit="bytes")
    if dicom.is_dicom(data):
        first, count = dicom.read_header(data, limits), 1
        step_mm = first.thickness_mm
    else:
        first, count, step_mm = _first(data, limits)
    shape = (first.columns, first.rows, count)
    _check_voxels(shape, limits)
    return Header(shape, _grid(first, first.position + (count - 1) * step_mm * first.normal, count, compressed=True))


def read(data: bytes, limits: Limits) -> Scan:
    """Read a scan.

    Gives:
        columns x rows x slices; slices in the direction across them; padding is NaN
    Raises:
        as :func:`probe`; UnsupportedImage and CorruptImage, too, if the slices are not one regular volume
    """
    files = [data] if dicom.is_dicom(data) else list(_slices(data, limits))
    if not files:
        raise UnsupportedImage("a zip without a DICOM slice")
    headers = [dicom.read_header(one, limits) for one in files]
    _check_alike(headers)
    first = headers[0]
    _check_voxels((first.columns, first.rows, len(headers)), limits)
    order = _in_order(headers)
    ordered = [headers[at] for at in order]
    _check_steps(ordered)
    volume = np.empty((first.columns, first.rows, len(order)), np.float32, order="F")
    for k, at in enumerate(order):
        volume[:, :, k] = dicom.values(files[at], headers[at])
    return Scan(volume, _grid(ordered[0], ordered[-1].position, len(ordered), compressed=True))


def _grid(first: dicom.Header, last: NDArray[np.float64], count: int, *, compressed: bool) -> Grid:
    """The grid of slices between two positions, with a NIfTI header made for it: of the file it has the geometry alone."""
    step = first.normal * first.thickness_mm if count == 1 else (last - first.position) / (count - 1)
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing_mm[0]
    affine[:3, 1] = first.directions[1] * first.spacing_mm[1]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    affine[:2] *= -1  # left and posterior to right and anterior
    shape = (first.columns, first.rows, count)
    return Grid(shape, affine, _nifti_header(shape, affine), compressed)


def _nifti_header(shape: Shape, affine: NDArray[np.float64]) -> bytes:
    try:
        import nibabel  # noqa: PLC0415 - of the extra 'medical'
    except ImportError as error:
        raise UnsupportedImage(needs("DICOM needs", "medical")) from error
    header = nibabel.Nifti1Header() if max(shape) < 2**15 else nibabel.Nifti2Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    header.set_sform(affine, "scanner")
    header.set_qform(affine, "scanner", strip_shears=True)
    header.set_xyzt_units("mm")
    return bytes(header.binaryblock)


# --- zips ----------------------------------------------------------------------------------------------------------------

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
)
"""What reading a damaged or unusual zip raises."""


def _opened(data: bytes) -> zipfile.ZipFile:
    """Open a zip whose table of contents is not too long to be read (PKWARE's APPNOTE, sections 4.3.15 and 4.3.16)."""
    end = data.rfind(b"PK\5\6", max(0, len(data) - 2**16 - 22))
    if end < 0 or end + 22 > len(data):
        raise CorruptImage("the zip is truncated: its table of contents is missing")
    (table_bytes,) = struct.unpack_from("<I", data, end + 12)
    if table_bytes > MAX_TABLE_BYTES or data[max(0, end - 20) : end].startswith(b"PK\6\7"):
        text = f"the zip's table of contents has more than {MAX_TABLE_BYTES} bytes; at most {MAX_FILES} files are taken"
        raise BodyTooLarge(text, limit=MAX_TABLE_BYTES, actual=table_bytes, unit="bytes")
    return zipfile.ZipFile(io.BytesIO(data))


def _candidates(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files that may be slices: of deflate or none, not encrypted, not hidden."""
    return [
        entry
        for entry in archive.infolist()
        if not entry.filename.endswith("/")  # is_dir() needs a name
        and entry.file_size > dicom.PREAMBLE + 4
        and not any(part.startswith((".", "__MACOSX")) for part in entry.filename.split("/"))
    ]


def _head(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, count: int) -> bytes:
    _check_entry(entry)
    with archive.open(entry) as file:
        return file.read(count)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    if entry.flag_bits & 1:
        raise UnsupportedImage("the zip is encrypted; send it without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsupportedImage("the zip is packed in an unusual way; deflate is read")


def _checked(archive: zipfile.ZipFile, limits: Limits) -> list[zipfile.ZipInfo]:
    """The candidates of an archive whose table is within the limits."""
    entries = _candidates(archive)
    if len(entries) > MAX_FILES:
        text = f"the zip has {len(entries)} files; at most {MAX_FILES} are taken"
        raise BodyTooLarge(text, limit=MAX_FILES, actual=len(entries), unit="files")
    total = sum(entry.file_size for entry in entries)
    if total > limits.max_scan_bytes:
        text = f"the zip unpacks to {total} bytes; at most {limits.max_scan_bytes} are taken"
        raise BodyTooLarge(text, limit=limits.max_scan_bytes, actual=total, unit="bytes")
    return entries


def _first(data: bytes, limits: Limits) -> tuple[dicom.Header, int, float]:
    """The header of the first slice, how many slices there are at the most, and the step between them in mm at the most.

    Slices may overlap, so that the step is less than a thickness; the distance of the next slice in the zip tells it, then.
    """
    try:
        with _opened(data) as archive:
            entries = _checked(archive, limits)
            slices = _slice_entries(archive, entries)
            entry = next(slices, None)
            if entry is None:
                text = f"a zip without a DICOM slice among its first {MAX_OTHERS} files; send the slices of one series in it"
                raise UnsupportedImage(text)
            first = _header_of(archive, entry, limits)
            needed = first.rows * first.columns * first.dtype.itemsize
            count = sum(other.file_size >= needed for other in entries[entries.index(entry) :])
            second = next(slices, None)
            return first, count, first.thickness_mm if second is None else _step_mm(first, archive, second, limits)
    except _DAMAGE as error:
        raise CorruptImage("the zip is truncated or damaged") from error


def _slice_entries(archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo]) -> Iterator[zipfile.ZipInfo]:
    """Those of the first files that may be slices, by their first bytes."""
    for entry in entries[:MAX_OTHERS]:
        start = _head(archive, entry, _START_BYTES)
        if dicom.is_dicom(start) and not dicom.is_directory(start):
            yield entry


def _step_mm(first: dicom.Header, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: Limits) -> float:
    """The thickness of a slice, or the distance to another slice where that is less."""
    try:
        position = _header_of(archive, entry, limits).position
    except ServiceError:  # :func:`read` tells what is wrong with it
        return first.thickness_mm
    distance_mm = abs(float((position - first.position) @ first.normal))
    return min(first.thickness_mm, distance_mm) if distance_mm > dicom.LEAST_SPACING_MM else first.thickness_mm


def _header_of(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: Limits) -> dicom.Header:
    """A slice's header from its first bytes, or from more of them where it is longer than usual."""
    try:
        return dicom.read_header(_head(archive, entry, FIRST_BYTES), limits, whole=entry.file_size <= FIRST_BYTES)
    except (CorruptImage, UnsupportedImage):
        if entry.file_size <= FIRST_BYTES:
            raise
    return dicom.read_header(_head(archive, entry, HEADER_BYTES), limits, whole=entry.file_size <= HEADER_BYTES)


def _slices(data: bytes, limits: Limits) -> Iterator[bytes]:
    """The DICOM files of a zip; each is unpacked to the size that the table says, and no further."""
    try:
        with _opened(data) as archive:
            for entry in _checked(archive, limits):
                _check_entry(entry)
                with archive.open(entry) as file:
                    start = file.read(_START_BYTES)
                    if dicom.is_dicom(start) and not dicom.is_directory(start):
                        yield start + file.read()
    except _DAMAGE as error:
        raise CorruptImage("the zip is truncated or damaged") from error


# --- one regular volume --------------------------------------------------------------------------------------------------


def _check_voxels(shape: Shape, limits: Limits) -> None:
    x, y, z = shape
    if x * y * z > limits.max_voxels:
        text = f"the scan is {x} x {y} x {z} = {x * y * z} voxels; at most {limits.max_voxels} are taken"
        text += ": crop it, or raise FCN_MAX_VOXELS on the server"
        raise ImageTooLarge(text, limit=limits.max_voxels, actual=x * y * z, unit="voxels")


def _check_alike(headers: Sequence[dicom.Header]) -> None:
    """Check that all slices are of one series, size, orientation and spacing."""
    first = headers[0]
    series = len({one.series for one in headers})
    if series > 1:
        raise UnsupportedImage(f"the zip holds {series} series; send one at a time")
    sizes = sorted({(one.columns, one.rows) for one in headers})
    if len(sizes) > 1:
        told = ", ".join(f"{columns} x {rows}" for columns, rows in sizes[:4])
        raise UnsupportedImage(f"the slices have unlike sizes: {told}; send one series at a time")
    if any(np.abs(one.directions - first.directions).max() > _SAME for one in headers):
        raise UnsupportedImage("the slices have unlike orientations (a localiser among them?); send those of one orientation")
    if any(np.abs(np.subtract(one.spacing_mm, first.spacing_mm)).max() > _SAME * max(first.spacing_mm) for one in headers):
        raise UnsupportedImage("the slices have unlike pixel spacings; send one series at a time")


def _in_order(headers: Sequence[dicom.Header]) -> list[int]:
    """Numbers of the slices, in the direction across them."""
    heights = [float(one.position @ headers[0].normal) for one in headers]
    return sorted(range(len(headers)), key=heights.__getitem__)


def _check_steps(ordered: Sequence[dicom.Header]) -> None:
    """Check that slices are at equal steps along one line, none missing and none twice."""
    if len(ordered) < 2:
        return
    positions = np.stack([one.position for one in ordered])
    along = positions @ ordered[0].normal
    steps = np.diff(along)
    usual = float(np.median(steps))
    tolerance = max(STEP_TOLERANCE * usual, 1e-3)
    if steps.min() <= tolerance:
        at = int(steps.argmin())
        reason = "several contrasts or times in one series?" if (steps <= tolerance).sum() > 1 else "a file sent twice?"
        raise UnsupportedImage(f"two slices are at one place, {along[at]:.2f} mm along the series: {reason}")
    if (np.abs(steps - usual) > tolerance).any():
        at = int(np.abs(steps - usual).argmax())
        text = f"the slices are {usual:.3g} mm apart, but {steps[at]:.3g} mm after slice {at + 1} of {len(ordered)}"
        raise UnsupportedImage(f"{text}: slices are missing, or the spacing varies; send a regular series")
    line = positions[0] + np.linspace(0, 1, len(ordered))[:, None] * (positions[-1] - positions[0])
    if np.abs(positions - line).max() > max(tolerance, 0.05):
        raise UnsupportedImage("the slices do not lie on one line; send a regular series")
