"""One DICOM file: the header that geometry and values need, and the pixels of one slice, without compression.

Only the elements in :data:`_TAGS` are ever read; of a modality table, only whether there is one. Names, dates and numbers of a
patient are skipped by their length, so no error and no log can repeat them; messages here repeat no text of a file either,
numbers and identifiers of the standard alone.

The standard is DICOM PS3: part 3, C.7.6.2 (image plane), C.7.6.3 (pixels) and C.11.1 (rescale slope); part 5, section 7.1 (data
elements) and A (transfer syntaxes); part 10, section 7.1 (meta information). pydicom reads the elements.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import CorruptImage, ImageTooLarge, ServiceError, UnsupportedImage
from service.extras import needs
from service.pipeline.codecs.limits import Limits

PREAMBLE = 128
MAGIC = b"DICM"

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DIRECTORY = "1.2.840.10008.1.3.10"
"""The class of a DICOMDIR: a table of contents, no image."""
_REMEDY = "write it without compression (`gdcmconv --raw`, or `dcmdjpeg`)"

LEAST_SPACING_MM = 1e-3
_SPACINGS_MM = (LEAST_SPACING_MM, 1e3)
_FAR_MM = 1e6
"""Positions beyond this are damage."""

_SYNTAX, _CLASS = 0x00020010, 0x00020002
_TABLE = 0x00283000
"""A table from stored values to those of the scanner (C.11.1), in the place of slope and intercept."""
_PIXELS = {0x7FE00010, 0x7FE00008, 0x7FE00009}
"""Pixels as integers, as floats and as doubles."""
_CHARACTER_SET = 0x00080005
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
"""The length of a sequence or item that ends with a mark of its own."""
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
"""Types whose length has four bytes."""
MAX_ELEMENTS = 100_000
"""Elements before the pixels, those of sequences among them; a scanner writes some hundred, with private ones some thousand."""
MAX_PARTS = 1_000
"""Sequences without a length before the pixels."""
_COMPRESSED = re.compile(r"1\.2\.840\.10008\.1\.2\.\d{1,3}(\.\d{1,3})?")
"""Identifiers of the standard's own transfer syntaxes."""
_TAGS = {
    "series": 0x0020000E,
    "thickness": 0x00180050,
    "between": 0x00180088,
    "position": 0x00200032,
    "directions": 0x00200037,
    "samples": 0x00280002,
    "photometric": 0x00280004,
    "frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "spacing": 0x00280030,
    "allocated": 0x00280100,
    "stored": 0x00280101,
    "high": 0x00280102,
    "signed": 0x00280103,
    "padding": 0x00280120,
    "padding_limit": 0x00280121,
    "intercept": 0x00281052,
    "slope": 0x00281053,
}
"""Every element that is read, by a name of ours."""
_SHORT = {"samples", "rows", "columns", "allocated", "stored", "high", "signed", "padding", "padding_limit"}
"""Those that are whole numbers of 16 bits; the others are text."""


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says of its one slice; checked, within the limits."""

    series: str
    """Identifier of the series; empty where there is none."""
    rows: int
    columns: int
    directions: NDArray[np.float64]
    """2 x 3: in which direction columns grow, and rows; unit vectors at right angles; left, posterior and superior."""
    position: NDArray[np.float64]
    """3: centre of the first pixel in mm; left, posterior and superior."""
    spacing_mm: tuple[float, float]
    """Between columns, and between rows."""
    thickness_mm: float
    """To the next slice, where a slice is alone: the distance between slices, else their thickness, else 1."""
    dtype: np.dtype[Any]
    """Of a stored value, with its byte order."""
    stored_bits: int
    shift: int
    """Bits below the stored ones."""
    slope: float
    intercept: float
    inverted: bool
    """Whether the lowest value is the brightest (MONOCHROME1)."""
    padding: tuple[int, int] | None
    """The least and the greatest stored value that mean: nothing was measured here."""
    offset: int
    """Bytes before the first pixel."""

    @property
    def normal(self) -> NDArray[np.float64]:
        """The direction across the slice, a unit vector."""
        return np.cross(self.directions[0], self.directions[1])


def is_dicom(data: bytes) -> bool:
    """Return whether a file is DICOM with its preamble (PS3.10, section 7.1)."""
    return data[PREAMBLE : PREAMBLE + 4] == MAGIC


def is_directory(data: bytes) -> bool:
    """Return whether a file is a DICOMDIR, which lists other files."""
    return _DIRECTORY.encode() in data[PREAMBLE : PREAMBLE + 512]


def read_header(data: bytes, limits: Limits, *, whole: bool = True) -> Header:
    """Read and check the header of a file.

    Takes:
        whole: whether the bytes are the whole file, so that its pixels must be there
    Raises:
        UnsupportedImage: if such a slice is not read: several frames, colour, compression; the reason says so
        CorruptImage: if it is damaged, or does not say where the slice lies
        ImageTooLarge: if it has too many pixels
    """
    if not is_dicom(data):
        raise UnsupportedImage("not a DICOM file: no 'DICM' after its first 128 bytes")
    try:
        return _read_header(data, limits, whole=whole)
    except ServiceError:
        raise
    except ModuleNotFoundError as error:
        raise UnsupportedImage(needs("DICOM needs", "medical")) from error
    except Exception:  # noqa: BLE001 - pydicom raises nearly anything for a damaged file, and its text may repeat what the file says
        raise CorruptImage("the DICOM file is truncated or damaged: its elements cannot be read") from None


def values(data: bytes, header: Header) -> NDArray[np.float32]:
    """Read the pixels of a slice.

    Takes:
        data: the whole file
    Gives:
        columns x rows float32, slope and intercept applied; MONOCHROME1 inverted; padding is NaN
    """
    stored = np.frombuffer(data, header.dtype, header.rows * header.columns, header.offset).reshape(header.rows, header.columns)
    bits, lost = 8 * header.dtype.itemsize, 8 * header.dtype.itemsize - header.stored_bits - header.shift
    native = stored.astype(header.dtype.newbyteorder("="))
    if header.stored_bits < bits:  # the others may hold an overlay: up until the sign is the highest bit, and down again
        native = (native << lost) >> (lost + header.shift)
    # In double precision, as of NIfTI: 32 bits and a large intercept keep the small differences.
    found = native.astype(np.float64)
    if header.inverted:
        lowest, highest = _range(header)
        found = lowest + highest - found
    found = found * header.slope + header.intercept
    if header.padding is not None:
        low, high = header.padding
        empty = (native >= low) & (native <= high)
        lowest, highest = _range(header)
        if low < lowest or high > highest:  # it needs bits above those of the values
            empty |= (stored >= low) & (stored <= high)
        found[empty] = np.nan
    with np.errstate(over="ignore"):
        return found.astype(np.float32).T


def _range(header: Header) -> tuple[int, int]:
    if header.dtype.kind == "i":
        return -(1 << (header.stored_bits - 1)), (1 << (header.stored_bits - 1)) - 1
    return 0, (1 << header.stored_bits) - 1


def _read_header(data: bytes, limits: Limits, *, whole: bool) -> Header:
    syntax, start = _syntax(data)
    fields = _fields(data, start, implicit=syntax == IMPLICIT, little=syntax != BIG_ENDIAN)
    if (_count(fields, "frames") or 1) > 1:
        raise UnsupportedImage("a DICOM file of several frames; send single slices, or convert it to NIfTI (dcm2niix)")
    if fields["pixels"] is None and not whole:
        raise UnsupportedImage(f"a DICOM file whose pixels do not begin in its first {len(data)} bytes; convert it to NIfTI")
    if fields["pixels"] is None:
        raise UnsupportedImage("a DICOM file without pixels: a report, a plan or a directory; send the slices of a scan")
    if fields["table"]:
        raise UnsupportedImage("a DICOM file with a modality table (0028,3000); convert it to NIfTI")
    photometric = str(fields["photometric"] or "").strip()
    if (_count(fields, "samples") or 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnsupportedImage("a DICOM file in colour; scans are grey (MONOCHROME1 or MONOCHROME2)")
    rows, columns = _count(fields, "rows"), _count(fields, "columns")
    if not rows or not columns:
        raise CorruptImage("the DICOM file has no pixels: it says no number of rows and columns")
    _check_sides(rows, columns, limits)
    dtype, stored, shift = _stored(fields, little=syntax != BIG_ENDIAN)
    offset, length = _pixels(data, fields["pixels"], implicit=syntax == IMPLICIT, little=syntax != BIG_ENDIAN)
    needed = rows * columns * dtype.itemsize
    if not needed <= length <= needed + 1:  # a length is even
        raise CorruptImage(f"the DICOM file promises {needed} bytes of pixels, and holds {length}")
    if whole and offset + needed > len(data):
        raise CorruptImage(f"the DICOM file is truncated: its pixels end at byte {offset + needed}, {len(data)} came")
    return Header(
        series=str(fields["series"] or ""),
        rows=rows,
        columns=columns,
        directions=_directions(fields),
        position=_numbers(fields, "position", 3),
        spacing_mm=_spacing(fields),
        thickness_mm=_thickness(fields),
        dtype=dtype,
        stored_bits=stored,
        shift=shift,
        slope=_factor(fields, "slope", 1.0),
        intercept=_factor(fields, "intercept", 0.0),
        inverted=photometric == "MONOCHROME1",
        padding=_padding(fields, dtype),
        offset=offset,
    )


def _syntax(data: bytes) -> tuple[str, int]:
    """The transfer syntax, and where the data set begins; the meta information is explicit, little endian (PS3.10, 7.1)."""
    from pydicom.filereader import read_dataset  # noqa: PLC0415 - of the extra 'medical'

    file = io.BytesIO(data)
    file.seek(PREAMBLE + 4)
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2, specific_tags=[_SYNTAX, _CLASS])
    syntax, kind = (_text(meta, tag) for tag in (_SYNTAX, _CLASS))
    if kind == _DIRECTORY:
        raise UnsupportedImage("a DICOMDIR, which lists files; send the slices themselves")
    if syntax == _DEFLATED:
        raise UnsupportedImage(f"a DICOM file whose whole data set is deflated; {_REMEDY}")
    if syntax not in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
        known = syntax if _COMPRESSED.fullmatch(syntax) else "unknown"
        raise UnsupportedImage(f"a DICOM file with compressed pixels (transfer syntax {known}); {_REMEDY}")
    return syntax, file.tell()


def _fields(data: bytes, start: int, *, implicit: bool, little: bool) -> dict[str, Any]:
    """The values of :data:`_TAGS`, None where absent; ``pixels`` is where their element begins, ``table`` whether there is one.

    The bytes are taken as they are and read here: pydicom's own conversion repeats a strange value in its log. For the same
    reason the name of the character set is skipped; no text is read that needs one.
    """
    from pydicom.filereader import read_dataset  # noqa: PLC0415 - of the extra 'medical'

    file, order = io.BytesIO(data), "<" if little else ">"
    file.seek(start)
    found: dict[int, Any] = {}
    elements = iter(range(MAX_ELEMENTS))  # of the file and of its sequences together

    def stops(tag: Any, _vr: str | None, length: int) -> bool:
        if next(elements, None) is None:
            raise _too_many("elements", MAX_ELEMENTS)
        return int(tag) in _PIXELS or int(tag) == _CHARACTER_SET or length == _UNDEFINED

    for _ in range(MAX_PARTS):
        part = read_dataset(file, implicit, little, stop_when=stops, specific_tags=[*_TAGS.values(), _TABLE])
        found |= {tag: part.get_item(tag).value for tag in (*_TAGS.values(), _TABLE) if tag in part}
        at = file.tell()
        tag = 0
        if at + 8 <= len(data):
            group, element = struct.unpack_from(f"{order}HH", data, at)
            tag = group << 16 | element
        if tag in _PIXELS or at + 12 > len(data):
            break
        head, length, unknown = _extent(data, at, implicit=implicit, order=order)
        if length == _UNDEFINED:
            if tag == _TABLE:
                found[tag] = data[at + head : at + head + 4] in (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
            file.seek(_after_sequence(data, at + head, elements, implicit=implicit or unknown, order="<" if unknown else order))
        else:
            file.seek(at + head + length)
    else:
        raise _too_many("sequences", MAX_PARTS)
    read = {name: _value(found.get(tag), order, short=name in _SHORT) for name, tag in _TAGS.items()}
    return read | {"pixels": at if tag in _PIXELS else None, "table": bool(found.get(_TABLE))}


def _too_many(what: str, most: int) -> UnsupportedImage:
    return UnsupportedImage(f"a DICOM file of more than {most} {what} before its pixels; convert it to NIfTI")


def _extent(data: bytes, at: int, *, implicit: bool, order: str) -> tuple[int, int, bool]:
    """Return the bytes of an element's head, the length of its value, and whether its type is ``UN``.

    Source: DICOM PS3.5, sections 7.1.2 and 7.1.3.
    """
    if implicit:
        return 8, struct.unpack_from(f"{order}I", data, at + 4)[0], False
    kind = data[at + 4 : at + 6]
    if kind in _LONG:
        return 12, struct.unpack_from(f"{order}I", data, at + 8)[0], kind == b"UN"
    return 8, struct.unpack_from(f"{order}H", data, at + 6)[0], False


def _after_sequence(data: bytes, at: int, elements: Iterator[int], *, implicit: bool, order: str) -> int:
    """Return where a sequence of undefined length ends; the end of the bytes where it does not end in them.

    pydicom would build every item, at 70 microseconds and a kilobyte each, of a sequence that nothing here needs.

    Source: DICOM PS3.5, section 7.5; a value of ``UN`` without a length is implicit and little-endian (section 6.2.2).

    Takes:
        at: where its first item begins
        elements: one is taken for each element that is passed over
    """
    inside = [(implicit, order)]
    for _ in elements:
        if at + 12 > len(data):
            return len(data)
        implicit, order = inside[-1]
        group, element = struct.unpack_from(f"{order}HH", data, at)
        tag = group << 16 | element
        if tag in (_ITEM_END, _SEQUENCE_END):
            inside.pop()
            at += 8
            if not inside:
                return at
            continue
        if tag == _ITEM:
            head, length, unknown = 8, struct.unpack_from(f"{order}I", data, at + 4)[0], False
        else:
            head, length, unknown = _extent(data, at, implicit=implicit, order=order)
        if length == _UNDEFINED:
            inside.append((True, "<") if unknown else (implicit, order))
            at += head
        else:
            at += head + length
    raise _too_many("elements", MAX_ELEMENTS)


def _text(dataset: Any, tag: int) -> str:
    """The text of an element, in ASCII; empty where absent."""
    value = dataset.get_item(tag).value if tag in dataset else None
    return bytes(value or b"").strip(b" \0").decode("ascii", "replace")


def _value(raw: bytes | None, order: str, *, short: bool) -> Any:
    """An element's value: a whole number of 16 bits, or text; a list where there are several."""
    if not raw:
        return None
    if short:
        return struct.unpack_from(f"{order}H", raw)[0]
    parts = raw.strip(b" \0").decode("ascii", "replace").split("\\")
    return parts if len(parts) > 1 else parts[0]


def _pixels(data: bytes, at: int, *, implicit: bool, little: bool) -> tuple[int, int]:
    """Where the pixels begin, and how many bytes they have."""
    order = "<" if little else ">"
    group, element = struct.unpack_from(f"{order}HH", data, at)
    if (group << 16 | element) != 0x7FE00010:
        raise UnsupportedImage("a DICOM file whose pixels are floats; 8, 16 and 32 bits of integers are read")
    first = at + 8 if implicit else at + 12
    (length,) = struct.unpack_from(f"{order}I", data, first - 4)
    if length == 0xFFFFFFFF:
        raise CorruptImage("the DICOM file has compressed pixels, which its transfer syntax contradicts")
    return first, length


def _check_sides(rows: int, columns: int, limits: Limits) -> None:
    if max(rows, columns) > limits.max_side:
        text = f"the slice is {columns} x {rows}; a side has at most {limits.max_side} voxels"
        text += ": crop it, or raise FCN_MAX_IMAGE_SIDE on the server"
        raise ImageTooLarge(text, limit=limits.max_side, actual=max(rows, columns), unit="voxels a side")
    if rows * columns > limits.max_voxels:
        text = f"the slice has {rows * columns} voxels; at most {limits.max_voxels} are taken"
        text += ": crop it, or raise FCN_MAX_VOXELS on the server"
        raise ImageTooLarge(text, limit=limits.max_voxels, actual=rows * columns, unit="voxels")


def _count(fields: dict[str, Any], name: str) -> int | None:
    value = fields[name]
    return None if value in (None, "") else int(value)


def _stored(fields: dict[str, Any], *, little: bool) -> tuple[np.dtype[Any], int, int]:
    """Type of a stored value, how many of its bits count, and how many are below them."""
    allocated, signed = _count(fields, "allocated"), _count(fields, "signed") or 0
    if allocated not in (8, 16, 32) or signed not in (0, 1):
        raise UnsupportedImage("a DICOM file of unusual pixels; 8, 16 and 32 bits a pixel are read")
    stored = _count(fields, "stored") or allocated
    high = _count(fields, "high")
    high = stored - 1 if high is None else high
    if not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise CorruptImage("the DICOM file contradicts itself: the bits that it stores are more than it allocates")
    order = "<" if little else ">"
    return np.dtype(f"{order}{'i' if signed else 'u'}{allocated // 8}"), stored, high + 1 - stored


def _padding(fields: dict[str, Any], dtype: np.dtype[Any]) -> tuple[int, int] | None:
    """The least and greatest stored value that mean nothing (C.7.5.1.1.2); their two bytes are read as the stored ones are."""
    given = [fields[name] for name in ("padding", "padding_limit")]
    if given[0] is None:
        return None
    ends = [value - 2**16 if dtype.kind == "i" and value >= 2**15 else value for value in given if value is not None]
    return min(ends), max(ends)


def _factor(fields: dict[str, Any], name: str, usual: float) -> float:
    value = fields[name]
    number = usual if value in (None, "") else float(value)
    if not np.isfinite(number) or (name == "slope" and number == 0):
        raise CorruptImage(f"the DICOM file has a rescale {name} that cannot be used")
    return number


def _numbers(fields: dict[str, Any], name: str, count: int) -> NDArray[np.float64]:
    value = fields[name]
    if value in (None, ""):
        raise UnsupportedImage(f"a DICOM file that does not say where its slice lies (no {_SAID[name]}); convert it to NIfTI")
    found = np.array([float(one) for one in value], np.float64)
    if found.shape != (count,) or not np.isfinite(found).all() or np.abs(found).max() > _FAR_MM:
        raise CorruptImage(f"the DICOM file has a damaged {_SAID[name]}")
    return found


_SAID = {
    "position": "image position (0020,0032)",
    "directions": "image orientation (0020,0037)",
    "spacing": "pixel spacing (0028,0030)",
}


def _directions(fields: dict[str, Any]) -> NDArray[np.float64]:
    found = _numbers(fields, "directions", 6).reshape(2, 3)
    lengths = np.linalg.norm(found, axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(float(found[0] @ found[1])) > 0.01:
        raise CorruptImage("the DICOM file's image orientation (0020,0037) is not two directions at right angles")
    return np.asarray(found / lengths[:, None], np.float64)


def _spacing(fields: dict[str, Any]) -> tuple[float, float]:
    rows, columns = (float(step) for step in _numbers(fields, "spacing", 2))
    low, high = _SPACINGS_MM
    if not (low <= rows <= high and low <= columns <= high):
        raise CorruptImage(f"the DICOM file's pixels are {columns:.3g} x {rows:.3g} mm; {low:g} to {high:g} mm are believed")
    return columns, rows


def _thickness(fields: dict[str, Any]) -> float:
    low, high = _SPACINGS_MM
    for name in ("between", "thickness"):
        value = fields[name]
        if value not in (None, "") and low <= abs(float(value)) <= high:
            return abs(float(value))
    return 1.0
