"""The artifacts of a folder: found, opened, kept up with, retired.

:meth:`Repository.refresh` looks at the folder and takes up what was added, replaced or removed; :meth:`Repository.load` and
:meth:`Repository.unload` do so for one model. A new engine is opened and warmed up beside the old one, then takes its name in
one step: there is no moment in which the name is not served. Whoever works with a model holds its ``Engine``; one that is
replaced is only no longer found, and its memory goes back to the system when the last holder has let go of it.

What cannot be served is refused with its reason, and changes nothing else: what was served from that file before goes on.

May import: the pipeline's ``engine``, ``manifest``, ``memory`` and ``onnx_file``, ``service.errors``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from service import process
from service.errors import BadArtifact, NotReady, ProviderUnavailable, UnknownModel
from service.pipeline import onnx_file
from service.pipeline.engine import ON_CPU, Engine, EngineOptions
from service.pipeline.manifest import METADATA_KEY, read_manifest

UNLOADED = "unloaded by an administrator, until it is loaded again"

Mark = tuple[int, int, int] | None
"""A file's inode, size and time of change: another content has another mark. None where there is no file."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelState:
    """One artifact of the folder, and whether it is served."""

    name: str
    """Of the model; where the file does not tell, of the one that it held before, or its own without the ending."""
    file: str
    version: str | None
    """Of the model that is served from it."""
    reason: str | None
    """Why what the file holds now is not served."""

    @property
    def state(self) -> Literal["READY", "UNAVAILABLE"]:
        """In the words of the Open Inference Protocol."""
        return "UNAVAILABLE" if self.version is None else "READY"


@dataclass
class _File:
    """What is known of one file of the folder."""

    name: str
    parts: tuple[Path, ...]
    """The file, and those beside it that hold its weights, whether they are there or not."""
    marks: tuple[Mark, ...]
    """Of the parts, when they were last tried."""
    engine: Engine | None = None
    """What is served: from this content, or from the one before if this one was refused."""
    reason: str | None = None
    """Why this content is not served."""


class Repository:
    """The models of a folder, by name. Safe to ask from every thread; a change waits for the one before it.

    Takes:
        folder: where the artifacts (``*.onnx``) lie, or one artifact; they are known by the names in their manifests
        options: how each is opened
        default: the name of the model that answers when none is named; the first by name if None
    Raises:
        UnknownModel: if there is no ``default``
        ProviderUnavailable: if ``cuda`` was asked for and does not run here: no artifact would do better
    """

    def __init__(self, folder: Path, options: EngineOptions = ON_CPU, default: str | None = None) -> None:
        self.folder = folder
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """How many artifacts were ``served``, ``refused`` or ``removed`` so far, and of those refused the cause."""
        self._options = options
        self._default = default
        self._engines: Mapping[str, Engine] = {}  # never changed, only exchanged: readers need no lock
        self._files: dict[Path, _File] = {}
        self._seen: dict[Path, tuple[Mark, ...]] = {}
        self._lost = False
        self._changing = threading.Lock()
        self._disposals: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._disposer: threading.Thread | None = None
        if folder.exists():
            self._seen = self._look()
        for path in self._seen:
            with suppress(BadArtifact):
                self._take_up(path)
        if default is not None and default not in self._engines:
            reasons = "".join(f"; refused: {reason}" for reason in self.broken.values())
            raise UnknownModel(f"no model '{default}'; there are: {_listed(self.names())}{reasons}", allowed=self.names())

    # --- what there is -----------------------------------------------------------------------------------------------

    @property
    def default(self) -> str:
        """The name of the model that answers when none is named.

        Raises:
            NotReady: if there is no model at all
        """
        return self.get().manifest.name

    @property
    def broken(self) -> dict[str, str]:
        """Why a file's content is not served, by the file's name."""
        return {path.name: known.reason for path, known in sorted(self._files.items()) if known.reason not in (None, UNLOADED)}

    def engines(self) -> list[Engine]:
        """Every model that is served at this moment, by name."""
        return [engine for _, engine in sorted(self._engines.items())]

    def names(self) -> list[str]:
        """The models that can be served, sorted."""
        return sorted(self._engines)

    def get(self, name: str | None = None) -> Engine:
        """Find a model. It works for whoever holds it, also after it was replaced or removed.

        Takes:
            name: as in its manifest; None is the default
        Raises:
            UnknownModel: if there is none of that name
            NotReady: if none was named, and the default one is not served
        """
        engines = self._engines
        wanted = name or self._default or min(engines, default=None)
        if wanted is not None and wanted in engines:
            return engines[wanted]
        if name is None:
            reasons = (
                "; ".join(state.reason for state in self.index() if state.reason) or "there is no *.onnx in the models folder"
            )
            raise NotReady(
                f"{'no model can' if wanted is None else f'the default model {wanted!r} cannot'} be served: {reasons}"
            )
        raise UnknownModel(f"no model '{name}'; there are: {_listed(sorted(engines))}", allowed=sorted(engines))

    def index(self) -> list[ModelState]:
        """Every artifact of the folder, served or not, by the model's name."""
        states = [
            ModelState(known.name, path.name, known.engine.manifest.version if known.engine else None, known.reason)
            for path, known in self._files.copy().items()
        ]
        return sorted(states, key=lambda state: (state.name, state.file))

    def check_alive(self) -> None:
        """Nothing, if every model can run, or could if it were loaded again.

        Raises:
            NotReady: with the reason, if only a new process helps
        """
        for engine in self._engines.values():
            if engine.fault is not None:
                raise NotReady(engine.fault)

    # --- how it changes ----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look at the folder, and take up what changed; for a thread that may wait.

        Only what looks as it did the last time counts: a file that is still being copied is left alone, and one that vanishes
        for a moment while it is replaced is not missed. What was refused is tried again when it changes.
        """
        with self._changing:
            try:
                looks = self._look()
            except OSError as error:
                if not self._lost:
                    log.warning("the models folder cannot be read: %s; what is served goes on", error.strerror)
                self._lost = True
                return
            before, self._seen, self._lost = self._seen, looks, False
            for path, marks in looks.items():
                known = self._files.get(path)
                if before.get(path) == marks and (known is None or (known.marks != marks and known.reason != UNLOADED)):
                    with suppress(BadArtifact, ProviderUnavailable):
                        self._take_up(path)
            for path in set(self._files) - set(looks) - set(before):
                self._remove(path)

    def load(self, name: str) -> Engine:
        """Serve what a model's file holds now; for a thread that may wait.

        Takes:
            name: as in its manifest
        Gives:
            the model; the one that is served already if its file has not changed
        Raises:
            UnknownModel: if there is no artifact of that name in the folder
            BadArtifact, ProviderUnavailable: if it is refused; what was served goes on
        """
        with self._changing:
            try:
                self._seen = self._look()
            except OSError as error:
                raise BadArtifact(f"the models folder cannot be read: {error.strerror}", cause="unreadable") from error
            found = [path for path in self._seen if self._outline(path)[0] == name]
            if not found:
                raise UnknownModel(f"no artifact of a model '{name}' in the models folder", allowed=self.names())
            held = self._engines.get(name)
            path = held.path if held is not None and held.path in found else found[0]
            known = self._files.get(path)
            if known is None or known.engine is None or known.reason is not None or known.marks != self._seen[path]:
                return self._take_up(path)
            return known.engine

    def unload(self, name: str) -> None:
        """Serve a model no more, whatever becomes of its file, until it is loaded again.

        Raises:
            UnknownModel: if there is none of that name
        """
        with self._changing:
            engine = self._engines.get(name)
            if engine is None:
                raise UnknownModel(f"no model '{name}'; there are: {_listed(self.names())}", allowed=self.names())
            known = self._files[engine.path]
            known.engine, known.reason = None, UNLOADED
            self._publish(engine, None)

    def close(self) -> None:
        """Close every engine."""
        with self._changing:
            engines, self._engines = self._engines, {}
            self._files = {}
            for engine in engines.values():
                engine.close()
            self._disposals.put(None)

    def _look(self) -> dict[Path, tuple[Mark, ...]]:
        """The marks of every artifact's parts, as far as its parts are known."""
        paths = [self.folder] if self.folder.is_file() else _artifacts(self.folder)
        return {path: _marks(self._files[path].parts if path in self._files else (path,)) for path in paths}

    def _outline(self, path: Path) -> tuple[str, tuple[Path, ...]]:
        """The name of an artifact's model and the files that it consists of, as far as it tells."""
        name = self._files[path].name if path in self._files else path.stem
        try:
            outline = onnx_file.outline(path)
            parts = (path, *(path.parent / location for location in sorted(outline.extents)))
            return read_manifest(outline.metadata).name if METADATA_KEY in outline.metadata else name, parts
        except BadArtifact:  # opening it says why
            return name, (path,)

    def _take_up(self, path: Path) -> Engine:
        """Serve what a file holds now.

        Raises:
            BadArtifact, ProviderUnavailable: if it is refused; what was served from the file goes on
        """
        old = known.engine if (known := self._files.get(path)) else None
        name, parts = self._outline(path)
        self._files[path] = known = _File(name, parts, _marks(parts), old)
        try:
            engine = self._opened(path, known, old)
        except (BadArtifact, ProviderUnavailable) as error:
            known.reason = error.message
            self.outcomes["refused", str(error.facts.get("cause", error.code))] += 1
            goes_on = f"; {old.manifest.name}@{old.manifest.version} goes on" if old else ""
            log.warning("artifact refused: %s%s", error.message, goes_on)
            raise
        known.name, known.engine = engine.manifest.name, engine
        self._publish(old, engine)
        self.outcomes["served", ""] += 1
        log.info("%s@%s (%s) is served from %s", known.name, engine.manifest.version, engine.sha256[:12], path.name)
        return engine

    def _opened(self, path: Path, known: _File, old: Engine | None) -> Engine:
        """An engine that may be published."""
        engine = Engine.open(path, self._options)
        if _marks(known.parts) != known.marks:  # what runs may be neither the old nor the new content, nor what was hashed
            engine.close()
            raise BadArtifact(f"{path.name}: changed while it was being opened", cause="changed")
        holder = self._engines.get(engine.manifest.name)
        if holder is not None and holder is not old and holder.path in self._seen:
            engine.close()
            raise BadArtifact(f"{path.name}: the name {engine.manifest.name} is taken by {holder.path.name}", cause="name")
        return engine

    def _remove(self, path: Path) -> None:
        known = self._files.pop(path)
        if known.engine is not None and self._engines.get(known.engine.manifest.name) is known.engine:
            self._publish(known.engine, None)
            self.outcomes["removed", ""] += 1
            log.info("%s@%s is gone with %s", known.name, known.engine.manifest.version, path.name)

    def _publish(self, old: Engine | None, new: Engine | None) -> None:
        """Exchange one for the other, in one step."""
        engines = dict(self._engines)
        if old is not None and engines.get(old.manifest.name) is old:
            del engines[old.manifest.name]
        retired = [old] if old is not None else []
        if new is not None:
            if (holder := engines.get(new.manifest.name)) is not None:  # its file was renamed
                retired.append(holder)
            engines[new.manifest.name] = new
        freed = self._engines.keys() - engines.keys()
        self._engines = engines
        for engine in retired:
            self._retire(engine)
        if freed:  # somebody may have been refused because the name was taken
            for known in self._files.values():
                if known.reason not in (None, UNLOADED):
                    known.marks = ()

    def _retire(self, engine: Engine) -> None:
        """Give its memory back when nobody holds it any more; on a thread, because it takes time."""
        engine.when_released(self._disposals.put)
        if self._disposer is None:
            self._disposer = threading.Thread(target=_dispose, args=(self._disposals,), name="fcn-retired", daemon=True)
            self._disposer.start()


def _dispose(disposals: SimpleQueue[Callable[[], None] | None]) -> None:
    while (dispose := disposals.get()) is not None:
        dispose()
        del dispose
        process.give_back()


def _artifacts(folder: Path) -> list[Path]:
    """The folder's ``*.onnx``, sorted; hidden ones are somebody's unfinished copies."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.endswith(".onnx") and not entry.name.startswith(".")]
    return [folder / name for name in sorted(names)]


def _marks(parts: Iterable[Path]) -> tuple[Mark, ...]:
    return tuple(map(_mark, parts))


def _mark(path: Path) -> Mark:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
