"""What was made of what: a record of finished results in each folder of results, and the lock of the run that writes there.

A run holds the folder that it was given for its results. Another run is refused there, below it, and above it.

A result is finished if it has the size that its record says, and the record names this source as it is now, this model's file
and these options. The record is ``.fcn-serve.jsonl``, a line of JSON a result, of which the last one counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.batch.appending import append
from service.errors import BadSetting

NAME = ".fcn-serve.jsonl"


class State(enum.IntEnum):
    """How a result stands, from nothing to do to the gravest reason."""

    FINISHED = 0
    MISSING = 1
    CHANGED = 2
    """The source has changed since."""
    RESIZED = 3
    """The result itself is of another size than the one that was written."""
    UNKNOWN = 4
    """It is there, and no record says of what it was made."""
    OPTIONS = 5
    MODEL = 6
    OTHERS = 7
    """It was made of another source."""


@dataclass(frozen=True)
class Recipe:
    """What a result depends on beside its source."""

    model: str
    """``name@version``."""
    sha256: str
    """The hash of the artifact's file."""
    format: str
    options: Mapping[str, Any]
    """For JSON."""

    @property
    def digest(self) -> str:
        """Format and options, as a short text."""
        return _digest([self.format, self.options])


@dataclass(frozen=True)
class Finding:
    """How a result stands, and why."""

    state: State
    reason: str = ""
    """For a person; empty if nothing has to be said."""
    damage: str = ""
    """The fault of the source of a finished result."""


FINISHED = Finding(State.FINISHED)


@dataclass(frozen=True)
class Finished:
    """A result that has its name and its content, and is not recorded yet."""

    result: Path
    source: Path
    recipe: Recipe
    state: str
    """Of the source when it was read: see :func:`state_of`."""
    size: int | str | None = None
    """Of the result: see :func:`size_of`. Where it was written it is known at once; another machine may see it later."""
    line: bytes | None = None
    """What is to be added to a file that holds results of many sources; None if the result is a file or a folder of its own."""
    damage: str | None = None
    """What was wrong with the source, told again by every run that finds the result finished."""


class Records:
    """The record of one folder.

    Takes:
        folder: of the results; made if it is not there
        hold: whether the folder, and all below it, stays locked until :meth:`close`
    Raises:
        BadSetting: if another run writes into this folder
        OSError: if nothing can be written there
    """

    def __init__(self, folder: Path, *, hold: bool = False) -> None:
        self.folder = folder
        self._made = _make(folder)
        self._path = folder / NAME
        self._superseded = False
        self._ranks: dict[tuple[str, str], int] = {}
        """Of the results that only this run has recorded."""
        self._descriptor = -1
        try:
            if hold:
                _check_above(folder)
            self._descriptor = _locked(self._path)
            self._rows = self._read()
        except BaseException:
            self._let_go()
            raise
        if not hold:  # a run may have more folders than a process has descriptors
            self._unlock()

    def standing(self, result: Path, source: Path, recipe: Recipe, *, of_many: bool = False) -> Finding:
        """Say how a result of this folder stands.

        Takes:
            of_many: whether the file holds results of many sources
        """
        size = None if of_many else size_of(result)
        if size is None and not result.exists():
            return Finding(State.MISSING)
        row = self._rows.get(self._key(result, source, of_many=of_many))
        if row is None:
            return Finding(State.MISSING) if of_many else Finding(State.UNKNOWN, "made by a run that left no record")
        if row.get("source") != self._told(source):
            return Finding(State.OTHERS, str(row.get("source")))
        if row.get("sha256") != recipe.sha256:
            other = str(row.get("model"))
            same_name = other == recipe.model
            return Finding(State.MODEL, f"made by {'another artifact called ' if same_name else ''}{other}")
        if row.get("options") != recipe.digest:
            return Finding(State.OPTIONS, "made with other options")
        if row.get("size", size) != size:  # records of earlier versions say no size
            return Finding(State.RESIZED, "the result is of another size than the one that was written")
        if row.get("state") != state_of(source):
            return Finding(State.CHANGED, "made before the file was changed")
        return Finding(State.FINISHED, damage=str(row.get("damage", "")))

    def add(self, finished: Finished, rank: int = 0) -> None:
        """Record that a result is finished.

        Takes:
            rank: its place among the records of this run; equal ranks keep their order
        Raises:
            OSError: if the record cannot be written; nothing of it is left then
        """
        of_many, recipe = finished.line is not None, finished.recipe
        row = {
            "result": os.fsdecode(finished.result.name),
            "source": self._told(finished.source),
            "state": finished.state,
            "model": recipe.model,
            "sha256": recipe.sha256,
            "options": recipe.digest,
            **({} if of_many else {"size": finished.size}),
            **({"damage": finished.damage} if finished.damage else {}),
        }
        with self._path.open("ab", buffering=0) as file:
            append(file, _line(row))
        key = self._key(finished.result, finished.source, of_many=of_many)
        if key in self._rows:
            self._superseded = True
        else:
            self._ranks[key] = rank
        self._rows[key] = row

    def close(self) -> None:
        """Leave one line a result, those of this run in the order of their ranks, and unlock the folder."""
        added = [*self._ranks]
        ordered = sorted(added, key=self._ranks.__getitem__)
        if self._superseded or ordered != added:
            keys = [*(key for key in self._rows if key not in self._ranks), *ordered]
            part = self._path.with_name(f"{NAME}.part")
            with contextlib.suppress(OSError):  # the file as it is says the same
                part.write_bytes(b"".join(_line(self._rows[key]) for key in keys))
                part.replace(self._path)
            self._superseded = False
            self._ranks.clear()
        self._let_go()

    def _let_go(self) -> None:
        self._unlock()
        for folder in self._made:  # those that this run has made and left without a file
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _unlock(self) -> None:
        """Remove the record if it is empty, and unlock it."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if not self._path.stat().st_size:
                self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1

    def _key(self, result: Path, source: Path, *, of_many: bool) -> tuple[str, str]:
        return result.name, self._told(source) if of_many else ""

    def _told(self, source: Path) -> str:
        """The source's path from this folder: both may move together."""
        return os.path.relpath(source.resolve(), self.folder.resolve())

    def _read(self) -> dict[tuple[str, str], dict[str, Any]]:
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        whole = 0
        for line in self._path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                os.ftruncate(self._descriptor, whole)  # torn by a power cut
                break
            whole += len(line)
            try:
                row = json.loads(line)
                of_many = row["result"] == "masks.jsonl"
                rows[row["result"], row["source"] if of_many else ""] = row
            except (ValueError, LookupError, TypeError):
                continue
        return rows


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"  # ASCII: names that are not UTF-8 survive as escapes


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it.

    Gives:
        those that were made, the deepest first
    """
    missing = [folder, *folder.parents]
    missing = missing[: next((at for at, path in enumerate(missing) if path.exists()), len(missing))]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _check_above(folder: Path) -> None:
    """Raise BadSetting if a run holds a folder above this one."""
    for above in folder.resolve().parents:
        with contextlib.suppress(FileNotFoundError, PermissionError, NotADirectoryError):
            descriptor = os.open(above / NAME, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _taken(above) from error
            except OSError:  # a file system without locks
                pass
            finally:
                os.close(descriptor)


def _taken(folder: Path) -> BadSetting:
    return BadSetting(f"another run writes into {folder}: wait until it has ended, or name another --out")


def _locked(path: Path) -> int:
    """Open and lock the record of a folder."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(descriptor)
                raise _taken(path.parent) from error
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                os.close(descriptor)
                raise
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # the run before has just replaced or removed it


def state_of(source: Path) -> str:
    """Return a text that changes with a file, or with any file of a folder: names, sizes and times of change.

    Raises:
        OSError: if it is not there
    """
    return _digest(sorted(_files(source)))


def size_of(result: Path) -> int | str | None:
    """Return how large a result is, as its record says it.

    Gives:
        bytes of a file; of a folder, a text that changes with the names and sizes of its files; None if it is missing
    """
    try:
        if not result.is_dir():
            return result.stat().st_size
        files = (path for path in result.rglob("*") if path.is_file())
        return _digest(sorted((os.fsencode(path.relative_to(result)).hex(), path.stat().st_size) for path in files))
    except FileNotFoundError:
        return None


def _files(source: Path) -> Iterator[tuple[str, int, int]]:
    if not source.is_dir():
        found = source.stat()
        yield os.fsencode(source.name).hex(), found.st_size, found.st_mtime_ns
    for path in source.rglob("*") if source.is_dir() else _beside(source):
        if path.is_file():
            found = path.stat()
            yield os.fsencode(path.name).hex(), found.st_size, found.st_mtime_ns


def _beside(source: Path) -> list[Path]:
    """What belongs to a database that was not closed."""
    return [Path(f"{source}{end}") for end in ("-wal", "-journal")] if source.suffix.lower() == ".db3" else []


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def options_of(options: Any) -> dict[str, Any]:
    """Return what is asked of a format, for JSON: what selects pixels, and every plain field beside it."""
    plain = {
        field.name: value
        for field in dataclasses.fields(options)
        if isinstance(value := getattr(options, field.name), bool | int | float | str | None) and field.name != "driving"
    }
    driving = {} if options.driving is None else {"driving": options.driving.facts()}
    return {**plain, **options.selection(), **driving}
