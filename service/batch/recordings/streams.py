"""A recording's bytes from the first to the last, decompressed where the file is compressed as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from service.batch.recordings import MAGIC_ZSTD
from service.errors import CorruptImage
from service.optional import load

PIECE_BYTES = 1 << 24


class CutOff(CorruptImage):
    """The file ends within a record."""

    def __init__(self, rest: bytes = b"") -> None:
        super().__init__("the file is cut off")
        self.rest = rest
        """What there is of the record."""


class ByteStream:
    """Reads exactly as many bytes as are asked for.

    Takes:
        path: of the file; one that begins as Zstandard's do is decompressed
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("rb")
        try:
            compressed = self._file.read(4) == MAGIC_ZSTD
            self._file.seek(0)
            if compressed:
                reader = load("zstandard").ZstdDecompressor()
                self._bytes: IO[bytes] = reader.stream_reader(self._file, read_across_frames=True)
            else:
                self._bytes = self._file
        except BaseException:
            self._file.close()
            raise

    def read(self, count: int) -> bytes:
        """Read ``count`` bytes.

        Raises:
            EOFError: if there are none at all
            CutOff: if there are fewer; it has them
        """
        pieces: list[bytes] = []
        missing = count
        while missing > 0:  # in pieces: a damaged length would ask for all the memory at once
            piece = self._bytes.read(min(missing, PIECE_BYTES))
            if not piece:
                if missing == count:
                    raise EOFError
                raise CutOff(b"".join(pieces))
            pieces.append(piece)
            missing -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def unpacked(path: Path, target: Path) -> None:
    """Write the decompressed bytes of a file to another one."""
    with path.open("rb") as packed, target.open("wb") as plain:
        load("zstandard").ZstdDecompressor().copy_stream(packed, plain)
