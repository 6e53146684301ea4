r"""JPEG files that a strict decoder complains about, though every pixel may be there.

libjpeg's warnings are of two kinds. Where a file has junk before a marker, a wrong JFIF version, an unknown Adobe transform, a
broken ICC profile or no end marker, no pixel is missing. Where coded data ends early, libjpeg fills the rest with grey.

1. The file is written once more without everything that decides no pixel, and with an end marker. It is decoded strictly: most
   files pass.
2. Where the decoder still complains about bytes between the coded data and a marker, the file is decoded twice, with different
   padding before the markers. A decoder that has all its data does not read the padding: the two pictures are equal.
3. Such bytes are junk, or the rest of data that was damaged before: there the decoder lost its place, and ended early. Bytes of
   one value are junk. Before others the coded data must end as the standard says, with 1 bits up to a whole byte.

Source: ITU-T T.81 (1992), annexes B and F; libjpeg-turbo's jdmarker.c and jdhuff.c for the warnings.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from service.errors import CorruptImage
from service.pipeline.codecs import pillow

MAX_PARTS = 8192
"""Segments and scans of a file."""
FILLER = 8
"""Bytes of one value in a row that a decoder may have read as coded data, before they count as filler."""
MAX_PADDING = 16
"""Bytes before a marker of which webcams pad their restart intervals with a few."""
MAX_PIXELS = 16_000_000
"""The limit for a picture that may be decoded a dozen times to find the end of its data."""
PADDINGS = (b"\x55" * 64, b"\xaa" * 64)
"""Their bits differ from the first on."""

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SCAN, _RESTART_INTERVAL = 0xDA, 0xDD
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)
_KEPT = frozenset((0xC4, 0xCC, 0xDB, 0xDC, _RESTART_INTERVAL)) | _FRAMES
"""Tables, frame headers and restart intervals: what decides the pixels."""
_SEGMENTS = frozenset((*range(0xC0, 0xD0), *range(0xDA, 0xF0), 0xFE))
"""Markers that begin a segment. The others stand alone, or are junk that resembles a marker."""
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_END_OF_SCAN = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
_RESTART = re.compile(rb"\xff+([\xd0-\xd7])")
_FLAT = re.compile(rb"(.)\1{15}", re.DOTALL)
"""Coded data is never that flat, unless the picture is: a lost block of the file was replaced."""
_EXTRANEOUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x[0-9a-f]{2}")


@dataclass
class _Scan:
    """One scan: its header, and the coded data up to the next marker."""

    header: bytes
    coded: bytes

    @property
    def components(self) -> tuple[int, ...]:
        """Ids of the components in it."""
        return tuple(self.header[5 : 5 + 2 * self.header[4] : 2])

    @property
    def band(self) -> tuple[int, int, int]:
        """(first coefficient, last coefficient, bits that are still missing)."""
        first, last, bits = self.header[5 + 2 * self.header[4] :][:3]
        return first, last, bits & 15


@dataclass
class _File:
    """A JPEG file without what decides no pixel."""

    parts: list[bytes | _Scan] = field(default_factory=list)
    frame: bytes = b""
    interval: int = 0
    """MCUs between two restart markers, of the first scan; 0 for none."""
    has_end: bool = False

    @property
    def scans(self) -> list[_Scan]:
        """Every scan."""
        return [part for part in self.parts if isinstance(part, _Scan)]

    def joined(self, padding: bytes = b"") -> bytes:
        """The file, with padding behind all coded data."""
        pieces = [_SOI]
        for part in self.parts:
            if isinstance(part, _Scan):
                coded = _RESTART.sub(lambda marker: padding + b"\xff" + marker[1], part.coded) if padding else part.coded
                pieces += [part.header, coded, padding]
            else:
                pieces.append(part)
        return b"".join([*pieces, _EOI])


def decode(data: bytes, components: int) -> NDArray[np.uint8]:
    """Decode a JPEG file of which every pixel is there, whatever else is wrong with it.

    Takes:
        components: of the frame header
    Gives:
        H x W x 3 uint8 RGB, as stored
    Raises:
        CorruptImage: if pixels are missing
        ValueError, OSError: of the decoders, if it is damaged
    """
    file = _read(data, components)
    _check_scans(file)
    complaint = ""
    if components != 4:
        try:
            return np.asarray(simplejpeg.decode_jpeg(file.joined(), strict=True), np.uint8)
        except ValueError as error:
            complaint = str(error).strip()
            if "bad Huffman code" in complaint or "premature end" in complaint or "instead of RST" in complaint:
                raise
    _check_restarts(file)
    _check_junk(file, complaint)
    first, second = (_lenient(file.joined(padding)) for padding in PADDINGS)
    if not np.array_equal(first, second):
        raise CorruptImage("the JPEG image is truncated: pixels are missing")
    return first


def check_scans(data: bytes, components: int) -> None:
    """Check that a file of several scans has them all.

    Raises:
        CorruptImage: if a component has no scan; of a file without its end marker, also if any coefficient has none
    """
    _check_scans(_read(data, components))


def _lenient(data: bytes) -> NDArray[np.uint8]:
    """Decode whatever libjpeg can: simplejpeg knows five samplings, and no CMYK."""
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, strict=False), np.uint8)
    except ValueError:
        with pillow.open_file(data, "JPEG") as picture:
            return np.asarray(picture.convert("RGB"), np.uint8)


def _read(data: bytes, components: int) -> _File:
    """Take a file apart. Junk between segments, and segments that decide no pixel, are left out."""
    file, at = _File(), 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, at)
        if found is None:
            break
        at, marker = found.start(), data[found.start() + 1]
        if marker in (_EOI[1], _SOI[1]):
            file.has_end = marker == _EOI[1]
            break
        if marker not in _SEGMENTS:
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at:end]
        at = end
        if marker == _SCAN:
            following = _END_OF_SCAN.search(data, end)
            at = following.start() if following else len(data)
            file.parts.append(_Scan(_scan_header(segment, file.frame), data[end:at]))
        elif marker in _KEPT:
            if marker in _FRAMES:
                file.frame = segment
            elif marker == _RESTART_INTERVAL and not file.scans:
                file.interval = int.from_bytes(segment[4:6], "big")
            file.parts.append(segment)
        elif marker == 0xE0 and segment[4:9] == b"JFIF\0" and len(segment) >= 16:
            file.parts.append(segment[:9] + b"\1\1" + segment[11:])
        elif marker == 0xEE and segment[4:9] == b"Adobe" and len(segment) >= 16:
            usual = 1 if components == 3 else 2
            file.parts.append(segment[:15] + bytes([segment[15] and usual]) + segment[16:])
    if len(file.frame) < 10 or not file.scans:
        raise CorruptImage("the JPEG image is truncated: it has no scan")
    return file


def _scan_header(segment: bytes, frame: bytes) -> bytes:
    """Write what a sequential scan must say of its coefficients: all of them, at once."""
    if frame[1:2] in (b"\xc0", b"\xc1", b"\xc9") and len(segment) > 4:
        tail = 5 + 2 * segment[4]
        return segment[:tail] + b"\0\x3f\0" + segment[tail + 3 :]
    return segment


def _check_scans(file: _File) -> None:
    """Check that every component is there, and without an end marker every bit of every coefficient."""
    missing = {component: [14] * 64 for component in file.frame[10 : 10 + 3 * file.frame[9] : 3]}
    for scan in file.scans:
        if len(scan.header) < 8 + 2 * scan.header[4]:
            raise CorruptImage("the JPEG image is truncated: a scan has no header")
        first, last, bits = scan.band
        for component in scan.components:
            if component in missing:
                missing[component][first : last + 1] = [bits] * len(range(first, min(last, 63) + 1))
    absent = [component for component, bits in missing.items() if bits[0] == 14]
    if absent:
        raise CorruptImage(f"the JPEG image is truncated: {len(absent)} of {len(missing)} colour components are missing")
    if not file.has_end and any(map(any, missing.values())):
        raise CorruptImage("the JPEG image is truncated: scans are missing")


def _check_restarts(file: _File) -> None:
    """Check that the restart markers of a sequential scan of all components are all there, in order."""
    scan, frame = file.scans[0], file.frame
    height, width, count = struct.unpack_from(">HHB", frame, 5)
    if not file.interval or frame[1] not in _SEQUENTIAL or len(scan.components) != count or not height:
        return
    factors = [(sampling >> 4, sampling & 15) for sampling in frame[11 : 11 + 3 * count : 3]]
    across, down = (8 * max(sides) for sides in zip(*factors, strict=True)) if count > 1 else (8, 8)
    expected = -(-(-(-width // max(8, across)) * -(-height // max(8, down))) // file.interval) - 1
    found = [marker[1][0] & 7 for marker in _RESTART.finditer(scan.coded)][:expected]
    if found != [number % 8 for number in range(expected)]:
        raise CorruptImage("the JPEG image is damaged: restart intervals are missing")


def _check_junk(file: _File, complaint: str) -> None:
    """Check that bytes before a marker are junk, and not the rest of coded data in which the decoder lost its place.

    Takes:
        complaint: of the strict decoder
    Raises:
        CorruptImage: if they may be such a rest, or if the decoder read filler: zeros, say, of a download that broke off
    """
    said = _EXTRANEOUS.search(complaint)
    if said is None:
        return
    count = int(said[1])  # one or two bytes off: the decoder may hold them in its buffer of bits
    tails = []
    for interval in (interval for scan in file.scans for interval in _RESTART.split(scan.coded)[::2]):
        kept = interval.rstrip(interval[-1:])
        tails.append(len(interval) - len(kept))
        if tails[-1] > count + FILLER or _FLAT.search(kept):
            raise CorruptImage("the JPEG image is damaged: equal bytes stand in the place of pixels")
    if max(tails) >= count - 2 or _is_not_coded_data(interval[FILLER - count :]):
        return
    if len(tails) > 1 and count <= MAX_PADDING:
        return
    height, width = struct.unpack_from(">HH", file.frame, 5)
    if len(tails) > 1 or height * width > MAX_PIXELS or not _ends_in_ones(file, file.scans[0], count):
        raise CorruptImage(f"the JPEG image is damaged: {count} bytes of its data belong to no pixel")


def _is_not_coded_data(junk: bytes) -> bool:
    """Return whether bytes are text or of few values. Coded data is as good as random."""
    few = len(set(junk)) <= len(junk) // 4
    return len(junk) >= MAX_PADDING and (few or all(32 <= byte < 127 or byte in b"\t\n\r\0" for byte in junk))


def _ends_in_ones(file: _File, scan: _Scan, count: int) -> bool:
    """Return whether the only coded data of a file is filled up with 1 bits, as T.81 asks for (F.1.2.3), before the junk.

    Takes:
        count: bytes of junk, two more or less
    """
    coded = scan.coded

    def picture(data: bytes) -> NDArray[np.uint8]:
        scan.coded = data
        try:
            return _lenient(file.joined())
        finally:
            scan.coded = coded

    whole = picture(coded)

    def is_whole(data: bytes) -> bool:
        stuffed = data + b"\0" if data.endswith(b"\xff") else data
        return all(np.array_equal(picture(stuffed + padding), whole) for padding in PADDINGS)

    least, most = max(1, len(coded) - count - FILLER), max(1, len(coded) - count + FILLER)
    while least < most:  # bytes that the decoder needs
        middle = (least + most) // 2
        if is_whole(coded[:middle]):
            most = middle
        else:
            least = middle + 1
    last, before = coded[least - 1], coded[: least - 1]
    if last == 0 and before.endswith(b"\xff"):  # a stuffed byte of ones
        return True
    unused = 0
    while unused < 7:
        if not is_whole(before + bytes([last ^ ((1 << unused + 1) - 1)])):
            break
        unused += 1
    mask = (1 << unused) - 1
    return unused > 0 and last & mask == mask
