"""The artifacts of a folder: found, opened, reloaded, retired.

:meth:`Repository.refresh` scans the folder and loads files that were added or replaced; :meth:`Repository.load` and
:meth:`Repository.unload` do so for one model. A new engine is opened and warmed up beside the old one, then takes its name in
one step, so that it is always served. A request holds the ``Engine`` that it found. A replaced engine is found no longer,
and its memory goes back to the system when the last request has released it.

A file that cannot be served is refused with its reason, and changes nothing else: the model that was served from it goes on.
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
from service.errors import BadArtifact, InferenceFailed, NotReady, ProviderUnavailable, UnknownModel
from service.pipeline import onnx_file
from service.pipeline.cpus import int8_instructions
from service.pipeline.engine import ON_CPU, Engine, EngineOptions
from service.pipeline.manifest import METADATA_KEY, read_manifest
from service.pipeline.variants import Choice, Precision, choose

UNLOADED = "unloaded by an administrator, until it is loaded again"

Mark = tuple[int, int, int] | None
"""A file's inode, size and time of change: another content has another mark. None where there is no file."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelState:
    """One artifact of the folder, and whether it is served."""

    name: str
    """The model's name; where the file does not tell, that of the model before, or the file's name without the ending."""
    file: str
    version: str | None
    """The version of the model that is served from it."""
    reason: str | None
    """Why the file's present content is not served."""

    @property
    def state(self) -> Literal["READY", "UNAVAILABLE"]:
        """In the words of the Open Inference Protocol."""
        return "UNAVAILABLE" if self.version is None else "READY"


@dataclass
class _File:
    """One file of the folder."""

    name: str
    parts: tuple[Path, ...]
    """The file, and the files beside it that hold its weights, whether they are there or not."""
    marks: tuple[Mark, ...]
    """The marks of the parts when they were last tried."""
    engine: Engine | None = None
    """The engine that is served: of this content, or of the one before if this one was refused."""
    reason: str | None = None
    """Why this content is not served."""


@dataclass(frozen=True)
class _Served:
    """All engines by name, and the one that answers where a request names none. Exchanged as a whole: readers need no lock."""

    engines: Mapping[str, Engine]
    choice: Choice | None


class Repository:
    """The models of a folder, by name. Safe to ask from every thread; a change waits for the one before it.

    Takes:
        folder: where the artifacts (``*.onnx``) lie, or one artifact; they are known by the names in their manifests
        options: how each is opened
        default: the name of the model that answers when none is named; the first by name if None
        precision: which variant of that model answers
        alias: another name of that model; a model of the folder that has it goes before
    Raises:
        UnknownModel: if there is no ``default``
        ProviderUnavailable: if ``cuda`` was asked for and does not run here: no artifact would do better
    """

    def __init__(
        self,
        folder: Path,
        options: EngineOptions = ON_CPU,
        default: str | None = None,
        precision: Precision = "auto",
        alias: str | None = None,
    ) -> None:
        self.folder = folder
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """How many artifacts were ``served``, ``refused`` or ``removed`` so far, and of those refused the cause."""
        self._options = options
        self._default = default
        self._precision = precision
        self._alias = alias
        self._instructions = int8_instructions()
        self._served = _Served({}, None)
        self._told: Choice | None = None
        """The choice that was logged last."""
        self._files: dict[Path, _File] = {}
        self._seen: dict[Path, tuple[Mark, ...]] = {}
        self._lost = False
        self._scanned = False
        """Whether every file was tried once."""
        self._changing = threading.Lock()
        self._disposals: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._disposer: threading.Thread | None = None
        if folder.exists():
            self._seen = self._scan()
        for path in self._seen:
            with suppress(BadArtifact):
                self._take_up(path)
        self._scanned = True
        if default is not None and default not in self._engines:
            reasons = "".join(f"; refused: {reason}" for reason in self.broken.values())
            raise UnknownModel(f"no model '{default}'; there are: {_listed(self.names())}{reasons}", allowed=self.names())
        self._fill_lanes(self._served)
        self._tell()

    # --- what there is -----------------------------------------------------------------------------------------------

    @property
    def default(self) -> str:
        """The name of the model that answers when none is named.

        Raises:
            NotReady: if there is no model at all
        """
        return self.get().manifest.name

    @property
    def default_reason(self) -> str:
        """Why this variant of the default model answers; empty if there is no model."""
        choice = self._served.choice
        return choice.reason if choice else ""

    @property
    def broken(self) -> dict[str, str]:
        """Why a file's content is not served, by the file's name."""
        return {path.name: known.reason for path, known in sorted(self._files.items()) if known.reason not in (None, UNLOADED)}

    def engines(self) -> list[Engine]:
        """Every model that is served at this moment, by name."""
        return [engine for _, engine in sorted(self._engines.items())]

    @property
    def _engines(self) -> Mapping[str, Engine]:
        return self._served.engines

    def names(self) -> list[str]:
        """The models that can be served, sorted."""
        return sorted(self._engines)

    def get(self, name: str | None = None) -> Engine:
        """Find a model. The engine works as long as it is held, also after it was replaced or removed.

        Takes:
            name: as in its manifest; None is the default
        Raises:
            UnknownModel: if there is none of that name
            NotReady: if none was named, and the default one is not served
        """
        served = self._served
        engines = served.engines
        if name is not None and name == self._alias and name not in engines:
            name = None
        wanted = name or (served.choice.name if served.choice else self._default)
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
        """Return None if every model can run, or could if it were loaded again.

        Raises:
            NotReady: with the reason, if only a new process helps
        """
        for engine in self._engines.values():
            if engine.fault is not None:
                raise NotReady(engine.fault)

    # --- how it changes ----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Scan the folder, and load the files that changed; for a thread that may wait.

        A file counts when two scans in a row see the same size and time of change. So a file that is still being copied is not
        read, and one that vanishes for a moment while it is replaced is not missed. A refused file is tried again when it
        changes.
        """
        with self._changing:
            try:
                scanned = self._scan()
            except OSError as error:
                if not self._lost:
                    log.warning("the models folder cannot be read: %s; the models in service go on", error.strerror)
                self._lost = True
                return
            before, self._seen, self._lost = self._seen, scanned, False
            for path, marks in scanned.items():
                known = self._files.get(path)
                if before.get(path) == marks and (known is None or (known.marks != marks and known.reason != UNLOADED)):
                    with suppress(BadArtifact, ProviderUnavailable):
                        self._take_up(path)
            for path in set(self._files) - set(scanned) - set(before):
                self._remove(path)
            self._tell()

    def load(self, name: str) -> Engine:
        """Serve the present content of a model's file; for a thread that may wait.

        Takes:
            name: as in its manifest
        Gives:
            the model; the one that is served already if its file has not changed
        Raises:
            UnknownModel: if there is no artifact of that name in the folder
            BadArtifact, ProviderUnavailable: if it is refused; the model that was served goes on
        """
        with self._changing:
            try:
                self._seen = self._scan()
            except OSError as error:
                raise BadArtifact(f"the models folder cannot be read: {error.strerror}", cause="unreadable") from error
            found = [path for path in self._seen if self._outline(path)[0] == name]
            if not found:
                raise UnknownModel(f"no artifact of a model '{name}' in the models folder", allowed=self.names())
            held = self._engines.get(name)
            path = held.path if held is not None and held.path in found else found[0]
            known = self._files.get(path)
            if known is None or known.engine is None or known.reason is not None or known.marks != self._seen[path]:
                engine = self._take_up(path)
                self._tell()
                return engine
            return known.engine

    def unload(self, name: str) -> None:
        """Stop to serve a model, whatever happens to its file, until it is loaded again.

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
            self._tell()

    def close(self) -> None:
        """Close every engine."""
        with self._changing:
            engines, self._served = self._engines, _Served({}, None)
            self._files = {}
            for engine in engines.values():
                engine.close()
            self._disposals.put(None)

    def _scan(self) -> dict[Path, tuple[Mark, ...]]:
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
        """Serve the present content of a file.

        Raises:
            BadArtifact, ProviderUnavailable: if it is refused; the model that was served from the file goes on
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
        if _marks(known.parts) != known.marks:  # the engine may be of the old content, the new one, or both
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
        choice = choose(engines, self._default, self._precision, self._instructions)
        served = _Served(engines, choice)
        if self._scanned:
            self._fill_lanes(served)
        self._served = served
        for engine in retired:
            self._retire(engine)
        if freed:  # another file may have been refused because the name was taken
            for known in self._files.values():
                if known.reason not in (None, UNLOADED):
                    known.marks = ()

    def _fill_lanes(self, served: _Served) -> None:
        """Prepare the model that most requests will be for."""
        if served.choice is not None:
            with suppress(InferenceFailed):  # it ran when it was opened; the probes and the next request say what happened
                served.engines[served.choice.name].fill_lanes()

    def _tell(self) -> None:
        """Log which variant of the default model answers, where that has changed."""
        choice = self._served.choice
        if choice is not None and choice != self._told:
            log.info("requests that name no model are answered by %s (%s)", choice.name, choice.reason)
        self._told = choice

    def _retire(self, engine: Engine) -> None:
        """Give its memory back when the last request has released it; on a thread, because it takes time."""
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
    """The folder's ``*.onnx``, sorted; hidden ones are unfinished copies."""
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
