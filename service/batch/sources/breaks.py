"""Whether a video file breaks off, told by its container: FFmpeg reads such a file to its end and mentions nothing.

Each container names the size of its parts; a part that reaches beyond the end of the file was cut off.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_TS_PACKETS = (188, 192, 204)
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ISO_PARTS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"sidx", b"moof")
_MOST_PARTS = 1_000_000
"""Parts of a file that are walked."""


def breaks_off(path: Path) -> bool:
    """Say whether a container's last part is incomplete. Reads the heads of its parts only.

    Gives:
        False, too, for a container that is not known here
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        walk = _walk_for(head)
        try:
            return walk is not None and walk(file, size)
        except (struct.error, IndexError):  # a head that is itself incomplete
            return True


def _walk_for(head: bytes) -> Callable[[IO[bytes], int], bool] | None:
    if head[4:8] in _ISO_PARTS:
        return _iso
    if head[:4] == b"RIFF":
        return _riff
    if head[:4] == _EBML.to_bytes(4, "big"):
        return _matroska
    if head == _ASF_HEADER:
        return _asf
    if head[:3] == b"\xff\xd8\xff":
        return _jpegs
    if head[:1] == b"\x47" or head[4:5] == b"\x47":
        return _transport
    return None


def _iso(file: IO[bytes], size: int) -> bool:
    """MP4, MOV and their fragments (ISO 14496-12): parts one behind the other."""
    at, fragment = 0, False
    for _ in range(_MOST_PARTS):
        if at >= size:
            return fragment  # the index of a fragment without its data
        file.seek(at)
        head = file.read(16)
        length, kind = struct.unpack_from(">I4s", head)
        if length == 1:
            (length,) = struct.unpack_from(">Q", head, 8)
        elif length == 0:  # to the end of the file
            length = size - at
        if length < 8 or at + length > size:
            return not _is_padding(file, at, size)
        fragment = kind == b"moof" or (fragment and kind != b"mdat")
        at += length
    return False


def _is_padding(file: IO[bytes], at: int, size: int) -> bool:
    """Say whether nothing but zeros follows: some cameras fill their last block."""
    file.seek(at)
    rest = file.read(min(size - at, 1 << 16))
    return not rest.strip(b"\0")


def _riff(file: IO[bytes], size: int) -> bool:
    """AVI: one RIFF list, or several behind each other."""
    at = 0
    for _ in range(_MOST_PARTS):
        file.seek(at)
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF":
            return False
        (length,) = struct.unpack_from("<I", head, 4)
        if length == 0 or at + 8 + length > size:  # 0: the size was never filled in
            return True
        at += 8 + length + length % 2
    return False


def _matroska(file: IO[bytes], size: int) -> bool:
    """Matroska and WebM (RFC 8794): elements with their size; a live recording's are open, and their children are walked."""
    at = 0
    for _ in range(_MOST_PARTS):
        if at >= size:
            return False
        file.seek(at)
        head = file.read(12)
        identity, id_length = _variable(head, 0, keep_marker=True)
        length, length_length = _variable(head, id_length, keep_marker=False)
        begin = at + id_length + length_length
        if length == (1 << 7 * length_length) - 1:  # of unknown size
            if identity not in (_SEGMENT, _CLUSTER):
                return False
            at = begin
        elif begin + length > size:
            return True
        else:
            at = begin + length
    return False


def _variable(data: bytes, at: int, *, keep_marker: bool) -> tuple[int, int]:
    """Read an integer of variable length: its value and its bytes."""
    first = data[at]
    length = 9 - first.bit_length()
    if length > 8 or at + length > len(data):
        raise IndexError
    value = int.from_bytes(data[at : at + length], "big")
    return (value if keep_marker else value & ((1 << 7 * length) - 1)), length


def _asf(file: IO[bytes], size: int) -> bool:
    """ASF and WMV: objects one behind the other."""
    at = 0
    for _ in range(_MOST_PARTS):
        if at >= size:
            return False
        file.seek(at + 16)
        (length,) = struct.unpack("<Q", file.read(8))
        if length < 24 or at + length > size:
            return True
        at += length
    return False


def _jpegs(file: IO[bytes], size: int) -> bool:
    """A dump of JPEG pictures: the last one has its end marker."""
    file.seek(max(0, size - 4096))
    return not file.read().rstrip(b"\0\r\n").endswith(b"\xff\xd9")


def _transport(file: IO[bytes], size: int) -> bool:
    """MPEG transport streams: packets of one size, to the last."""
    file.seek(0)
    head = file.read(204 * 4 + 8)
    for packet in _TS_PACKETS:
        first = 4 if packet == 192 else 0
        marks = range(first, min(len(head), packet * 4), packet)
        if len(marks) > 1 and all(head[at] == 0x47 for at in marks):
            return size % packet != 0
    return False
