"""The SQLite databases of rosbag2 (``.db3``), of every version of its schema.

A recorder that was killed leaves its last messages in a file beside the database (``-wal`` or ``-journal``); it is read too.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from service.batch.recordings import COMPRESSED_SUFFIXES, MAGIC_ZSTD, Channel, Contents, Message
from service.batch.recordings.streams import unpacked
from service.errors import CorruptImage, UnsupportedImage
from service.optional import load

_BESIDE = ("-wal", "-journal")


class SqliteRecording:
    """One database of rosbag2."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: list[str] = []
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        try:
            self._database = self._opened(path)
            self._channels = self._read_topics()
        except sqlite3.Error as error:
            self.close()
            raise UnsupportedImage(f"not a bag that can be read: {error}") from error
        except BaseException:
            self.close()
            raise

    def contents(self) -> Contents:
        """Find the topics, and count their messages as far as the database can be read."""
        counts: dict[int, int] = {}
        with suppress(sqlite3.Error):
            counts = dict(self._database.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
        return Contents(tuple(self._channels.values()), counts)

    def messages(self) -> Generator[Message, None, None]:
        """Give every message in the order in which it was recorded."""
        self.damage, strays = [], 0
        try:
            for number, time_ns, data in self._database.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id"):
                if number in self._channels:
                    yield Message(self._channels[number], time_ns, time_ns, _decompressed(bytes(data)))
                else:
                    strays += 1
        except sqlite3.Error as error:
            raise CorruptImage(str(error)) from error
        if strays:
            self.damage.append(f"{strays} messages belong to a topic that the file does not describe")

    def close(self) -> None:
        """Close the database, and remove its copy."""
        with suppress(AttributeError):
            self._database.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _opened(self, path: Path) -> sqlite3.Connection:
        """Open the database and change nothing beside it: one that was not closed in order is completed in a copy."""
        beside = [other for end in _BESIDE if (other := Path(f"{path}{end}")).is_file() and other.stat().st_size]
        packed = path.suffix.lower() in COMPRESSED_SUFFIXES
        if beside or packed:
            self._scratch = tempfile.TemporaryDirectory(prefix="fcn-bag-")
            copy = Path(self._scratch.name) / "copy.db3"
            if packed:
                unpacked(path, copy)
            else:
                shutil.copyfile(path, copy)
            for other in beside:
                shutil.copyfile(other, Path(f"{copy}{other.name.removeprefix(path.name)}"))
            return sqlite3.connect(copy, check_same_thread=False)
        path.open("rb").close()  # SQLite's own message names no reason
        name = quote(os.fsencode(path.absolute()))
        return sqlite3.connect(f"file:{name}?mode=ro&immutable=1", uri=True, check_same_thread=False)

    def _read_topics(self) -> dict[int, Channel]:
        columns = {row[1] for row in self._database.execute("PRAGMA table_info(topics)")}
        if not {"id", "name", "type"} <= columns:
            raise UnsupportedImage("not a bag that can be read: this database has no topics of rosbag2")
        profile = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        hashed = "type_description_hash" if "type_description_hash" in columns else "''"
        definitions: dict[str, tuple[str, bytes]] = {}
        with suppress(sqlite3.Error):  # older databases have no such table
            for name, encoding, text in self._database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            ):
                definitions[name] = (encoding, text if isinstance(text, bytes) else str(text).encode())
        query = f"SELECT id, name, type, serialization_format, {profile}, {hashed} FROM topics"  # noqa: S608 - columns of ours
        channels = {}
        for number, topic, schema, encoding, qos, digest in self._database.execute(query):
            how, text = definitions.get(schema, ("", b""))
            told = {"offered_qos_profiles": qos, "topic_type_hash": digest}
            metadata = {name: str(value) for name, value in told.items() if value}
            channels[number] = Channel(number, topic, schema, encoding or "cdr", how if text else "", text, metadata)
        return channels


def _decompressed(data: bytes) -> bytes:
    """Undo rosbag2's compression of messages. One that cannot be decompressed stays as it is; it fails as a picture."""
    if not data.startswith(MAGIC_ZSTD):  # CDR begins with 0
        return data
    with suppress(Exception):
        return bytes(load("zstandard").ZstdDecompressor().decompressobj().decompress(data))
    return data
