"""NIfTI-1 and NIfTI-2 scans, plain or compressed: header first, then the voxels, in bounded memory.

The header is checked before anything is unpacked: sides, voxels, data type, scaling and affine. A compressed file is inflated
in pieces straight into the voxels that its header promises, so a file that inflates to more than that cannot fill the memory.

The standard: https://nifti.nimh.nih.gov/nifti-1 and nifti-2. nibabel reads the header's fields and computes the affine (the
sform where its code is above 0, otherwise the qform, otherwise the voxel sizes alone).
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from service.errors import BodyTooLarge, CorruptImage, EmptyBody, ImageTooLarge, UnsupportedImage
from service.extras import needs
from service.pipeline.codecs.limits import Limits
from service.pipeline.volume import Grid, Scan, Shape

MAGIC_GZIP = b"\x1f\x8b"
_HEADER_BYTES: dict[int, int] = {1: 348, 2: 540}
_MAGIC: dict[int, tuple[int, bytes]] = {1: (344, b"n+1\0"), 2: (4, b"n+2\0\r\n\x1a\n")}
_VERSIONS = {struct.pack(order + "i", length): version for version, length in _HEADER_BYTES.items() for order in "<>"}
"""By the header's first number, which is its length, in both byte orders."""

MAX_OFFSET = 2**24
"""Bytes before the first voxel: extensions of a header are text, at most."""
MAX_TRAILING = 2**16
"""Bytes after the last voxel that are ignored."""
MAX_DEFLATE_RATIO = 1032
"""Deflate never expands further: a promise of more is known to be empty before anything is allocated."""
CHUNK_BYTES = 2**22
"""Bytes of a piece of voxels at the most."""
INPUT_BYTES = 2**18
"""Bytes of a compressed file that are inflated at a time: the rest of them is copied at each piece and each stream."""
INFLATE_ERROR = cast("type[Exception]", isal_zlib.IsalError)
SPACINGS_MM = (1e-3, 1e3)
"""Voxel sizes that are believed."""

DTYPES: dict[int, str] = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
"""Numpy's name of each data type that is read, by NIfTI's code."""
_OTHERS = {0: "unknown", 1: "binary", 32: "complex64", 128: "RGB", 1536: "float128", 1792: "complex128", 2304: "RGBA"}
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Millimetres by NIfTI's unit of length: unknown, metre, millimetre, micrometre."""


@dataclass(frozen=True, eq=False)
class Header:
    """A header that was checked: its promises are within the limits, and its affine makes sense."""

    version: Literal[1, 2]
    raw: bytes
    """The first 348 or 540 bytes of the (inflated) file."""
    compressed: bool
    shape: Shape
    dtype: np.dtype[Any]
    """With its byte order."""
    offset: int
    """Bytes before the first voxel."""
    slope: float
    intercept: float
    affine: NDArray[np.float64]
    """4 x 4, to mm."""

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.shape, self.affine, self.raw, self.compressed)

    @property
    def voxels(self) -> int:
        """X times Y times Z."""
        x, y, z = self.shape
        return x * y * z

    @property
    def megavoxels(self) -> float:
        """Voxels in millions."""
        return self.voxels / 1e6


def is_nifti(data: bytes) -> bool:
    """Return whether a file is NIfTI, by its first bytes; a compressed one is inflated as far as its header."""
    start = _head(data)
    return _version(start) is not None or _is_pair(start)


def probe(data: bytes, limits: Limits) -> Header:
    """Read and check the header. Inflates no more than the header itself.

    Raises:
        EmptyBody: if there are no bytes
        BodyTooLarge: if there are too many
        UnsupportedImage: if this is not NIfTI in one file, or its data type is not read, or the extra 'medical' is missing
        CorruptImage: if the header contradicts itself or the file
        ImageTooLarge: if it has too many voxels
    """
    if not data:
        raise EmptyBody("the scan is empty: 0 bytes")
    if len(data) > limits.max_scan_bytes:
        text = f"the scan has {len(data)} bytes; at most {limits.max_scan_bytes} are taken"
        raise BodyTooLarge(text, limit=limits.max_scan_bytes, actual=len(data), unit="bytes")
    start = _head(data)
    version = _version(start)
    if version is None:
        if _is_pair(start):
            raise UnsupportedImage("a NIfTI header without its voxels (.hdr and .img); send one file, .nii or .nii.gz")
        raise UnsupportedImage("not a NIfTI file: neither NIfTI-1 nor NIfTI-2 by its first bytes")
    if len(start) < _HEADER_BYTES[version]:
        raise CorruptImage(f"the scan ends within its NIfTI-{version} header")
    raw = start[: _HEADER_BYTES[version]]
    order: Literal["<", ">"] = "<" if struct.unpack("<i", raw[:4])[0] == _HEADER_BYTES[version] else ">"
    fields = _fields(version, raw, order)
    shape = _shape(fields, limits)
    header = Header(
        version=version,
        raw=raw,
        compressed=data.startswith(MAGIC_GZIP),
        shape=shape,
        dtype=_dtype(fields, order),
        offset=_offset(fields, version),
        slope=_scale(fields)[0],
        intercept=_scale(fields)[1],
        affine=_affine(fields),
    )
    _check_length(header, len(data))
    return header


def read(data: bytes, limits: Limits, header: Header | None = None) -> Scan:
    """Read a scan.

    Takes:
        header: what :func:`probe` returned for these bytes and limits, where it was called before
    Gives:
        the scan in its file's order, slope and intercept applied
    Raises:
        as :func:`probe`; CorruptImage, too, if the file is truncated or damaged
    """
    header = header or probe(data, limits)
    values = np.empty(header.voxels, np.float32)
    at = 0
    with ThreadPoolExecutor(1) as pool:  # the next piece is inflated while one is written
        writing: Future[None] | None = None
        for raw in _voxel_bytes(data, header):
            if writing is not None:
                writing.result()
            writing = pool.submit(_write, raw, header, values[at:])
            at += len(raw) // header.dtype.itemsize
        if writing is not None:
            writing.result()
    if at != header.voxels:
        raise CorruptImage(f"the scan is truncated: {at} of {header.voxels} voxels are there")
    return Scan(values.reshape(header.shape, order="F"), header.grid)


def _head(data: bytes) -> bytes:
    """The first bytes of the file, inflated, as many as the longest header has."""
    longest = _HEADER_BYTES[2]
    if not data.startswith(MAGIC_GZIP):
        return data[:longest]
    try:
        return bytes(isal_zlib.decompressobj(wbits=31).decompress(data[:65536], longest))[:longest]
    except INFLATE_ERROR:
        return b""


def _is_pair(start: bytes) -> bool:
    """Return whether these are the first bytes of a header whose voxels are in another file."""
    return start[344:348] == b"ni1\0" or start[4:8] == b"ni2\0"


def _version(start: bytes) -> Literal[1, 2] | None:
    """The version, where both the length of the header and the magic say so."""
    if len(start) < 12:
        return None
    version = _VERSIONS.get(start[:4])
    if version == 2 and start[4:12] == _MAGIC[2][1]:
        return 2
    if version == 1 and (len(start) < 348 or start[344:348] == _MAGIC[1][1]):
        return 1
    return None


def _fields(version: Literal[1, 2], raw: bytes, order: Literal["<", ">"]) -> Any:
    """nibabel's view of the header; not checked, because its own checks repair in silence."""
    try:
        import nibabel  # noqa: PLC0415 - of the extra 'medical'
    except ImportError as error:
        raise UnsupportedImage(needs("scans need", "medical")) from error
    kind = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    return kind(raw, endianness=order, check=False)


def _shape(fields: Any, limits: Limits) -> Shape:
    count = int(fields["dim"][0])
    if not 1 <= count <= 7:
        raise CorruptImage(f"the scan's header gives it {count} dimensions; NIfTI has 1 to 7")
    sides = [int(side) for side in fields["dim"][1 : count + 1]]
    if min(sides) < 1:
        raise CorruptImage(f"the scan's header has a side of {min(sides)} voxels: {' x '.join(map(str, sides))}")
    more = [side for side in sides[3:] if side > 1]
    if more:
        raise CorruptImage(f"the scan holds {' x '.join(map(str, more))} volumes; send one volume")
    x, y, z = (*sides, 1, 1)[:3]
    if x * y * z > limits.max_voxels:
        text = f"the scan is {x} x {y} x {z} = {x * y * z} voxels; at most {limits.max_voxels} are taken"
        text += ": crop it, or raise FCN_MAX_VOXELS on the server"
        raise ImageTooLarge(text, limit=limits.max_voxels, actual=x * y * z, unit="voxels")
    if max(x, y, z) > limits.max_side:
        text = f"the scan is {x} x {y} x {z}; a side has at most {limits.max_side} voxels"
        text += ": crop it, or raise FCN_MAX_IMAGE_SIDE on the server"
        raise ImageTooLarge(text, limit=limits.max_side, actual=max(x, y, z), unit="voxels a side")
    return x, y, z


def _dtype(fields: Any, order: str) -> np.dtype[Any]:
    code = int(fields["datatype"])
    if code not in DTYPES:
        name = _OTHERS.get(code)
        if name is None:
            raise CorruptImage(f"the scan's header has the data type {code}, which NIfTI does not know")
        raise UnsupportedImage(f"the scan holds {name} values; integers and floats of 8 to 64 bits are read")
    dtype = np.dtype(DTYPES[code]).newbyteorder(order)  # type: ignore[arg-type]
    bits = int(fields["bitpix"])
    if bits != 8 * dtype.itemsize:
        raise CorruptImage(f"the scan's header has {bits} bits a voxel for a data type of {8 * dtype.itemsize}")
    return dtype


def _offset(fields: Any, version: int) -> int:
    offset = float(fields["vox_offset"])
    least = _HEADER_BYTES[version]
    if offset == 0:
        return least + 4
    if not (np.isfinite(offset) and least <= offset <= MAX_OFFSET and offset == int(offset)):
        raise CorruptImage(f"the scan's header puts the first voxel at byte {offset:g}; it is within {least} and {MAX_OFFSET}")
    return int(offset)


def _scale(fields: Any) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 or NaN means none."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise CorruptImage(f"the scan's header scales its values by {slope:g} and {intercept:g}, which are not both finite")
    return slope, intercept


def _affine(fields: Any) -> NDArray[np.float64]:
    from nibabel.spatialimages import HeaderDataError  # noqa: PLC0415 - of the extra 'medical'

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            affine = np.asarray(fields.get_best_affine(), np.float64).copy()
    except (HeaderDataError, ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise CorruptImage(f"the scan's orientation is damaged: {error}") from error
    affine[:3] *= _MILLIMETRES.get(int(fields["xyzt_units"]) & 7, 1.0)
    if not np.isfinite(affine).all():
        raise CorruptImage("the scan's affine holds values that are not finite numbers")
    low, high = SPACINGS_MM
    steps = np.linalg.norm(np.clip(affine[:3, :3], -2 * high, 2 * high), axis=0)
    if steps.min() < low or steps.max() > high:
        text = " x ".join(f"{step:.3g}" for step in steps)
        raise CorruptImage(f"the scan's voxels are {text} mm; sizes from {low:g} to {high:g} mm are believed")
    if abs(np.linalg.det(affine[:3, :3] / steps)) < 0.05:
        raise CorruptImage("the scan's affine is singular: its axes lie in one plane")
    return affine


def _check_length(header: Header, length: int) -> None:
    """Check that the file can hold the promised voxels, before anything is allocated."""
    needed = header.offset + header.voxels * header.dtype.itemsize
    most = length * MAX_DEFLATE_RATIO if header.compressed else length
    if most < needed:
        raise CorruptImage(f"the scan is truncated: its header promises {needed} bytes, {length} came")
    if not header.compressed and length > needed + MAX_TRAILING:
        raise CorruptImage(f"the scan has {length - needed} bytes after its last voxel")


def _scaled(part: NDArray[Any], header: Header) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        if (header.slope, header.intercept) == (1.0, 0.0):
            return part.astype(np.float32)
        # In double precision: the result of a large intercept must not lose the small differences.
        return (part.astype(np.float64) * header.slope + header.intercept).astype(np.float32)


def _write(raw: memoryview, header: Header, values: NDArray[np.float32]) -> None:
    """Scale some voxels into the first of these values."""
    part = np.frombuffer(raw, header.dtype)
    values[: len(part)] = _scaled(part, header)


def _voxel_bytes(data: bytes, header: Header) -> Iterator[memoryview]:
    """The voxels' bytes in pieces of whole voxels, from the first one to the last."""
    needed = header.voxels * header.dtype.itemsize
    step = CHUNK_BYTES  # a multiple of every item size
    if not header.compressed:
        voxels = memoryview(data)[header.offset : header.offset + needed]
        yield from (voxels[start : start + step] for start in range(0, needed, step))
        return
    left, skip = b"", header.offset
    for piece in _inflated(data, header.offset + needed):
        dropped = min(skip, len(piece))
        skip -= dropped
        voxels = memoryview(left + piece if left else piece)[dropped:]
        whole = len(voxels) - len(voxels) % header.dtype.itemsize
        left = bytes(voxels[whole:])
        yield voxels[:whole]


def _inflated(data: bytes, needed: int) -> Iterator[bytes]:
    """Inflate so many bytes in pieces, then the rest of the file to check its checksum.

    Raises:
        CorruptImage: if the stream is damaged, its checksum is wrong, or it inflates to more than :data:`MAX_TRAILING` beyond
    """
    left, rest = needed, MAX_TRAILING
    stream: Any = isal_zlib.decompressobj(wbits=31)
    source = memoryview(data)
    waiting = b""
    try:
        while True:
            if not waiting:
                waiting, source = bytes(source[:INPUT_BYTES]), source[INPUT_BYTES:]
            most = min(CHUNK_BYTES, left) if left else rest + 1
            piece = stream.decompress(waiting, most)
            waiting = stream.unconsumed_tail
            if left:
                left -= len(piece)
                yield piece
            else:
                rest -= len(piece)
                if rest < 0:
                    raise CorruptImage(f"the scan inflates to more than {MAX_TRAILING} bytes beyond its last voxel")
            if stream.eof:
                waiting = stream.unused_data.lstrip(b"\0")
                while len(waiting) < len(MAGIC_GZIP) and source:
                    waiting = (waiting + source[:INPUT_BYTES]).lstrip(b"\0")
                    source = source[INPUT_BYTES:]
                if not waiting.startswith(MAGIC_GZIP):
                    return
                stream = isal_zlib.decompressobj(wbits=31)  # a file may be several streams in a row
            elif not piece and not waiting and not source:
                raise CorruptImage("the scan is truncated: its compressed stream has no end")
    except INFLATE_ERROR as error:
        raise CorruptImage(f"the scan's compressed stream is damaged: {error}") from error
