"""One run over files: sources in, results out, one after the other.

The line is straight: a source's frames are read, the network segments them, the source writes what came of them, and the run
records what is finished. A failure belongs to the source or to the frame that caused it, and never ends the run.

:func:`work_on` does all but the recording, so that a worker of a cluster calls it too (``service.cluster``).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

from service.batch.config import RunConfig
from service.batch.lines import Lines
from service.batch.overlap import overlapped
from service.batch.records import FINISHED, Finding, Finished, Recipe, Records, State, options_of
from service.batch.sources import Done, F, Frame, Source
from service.batch.targets import REMEDY, Targets, spoken
from service.encodings import uses_confidence
from service.errors import BadSetting, ServiceError
from service.pipeline.codecs.rows import PictureFile
from service.pipeline.predictor import Predictor


class Progress(Protocol):
    """What shows how far a run is."""

    def begin(self, source: str, total: int | None) -> None:
        """Start with a source of so many frames."""
        ...

    def part(self, done: int, total: int) -> None:
        """Show how many slices or blocks of the scan under way are done."""
        ...

    def advance(self) -> None:
        """Count one more frame."""
        ...


@dataclass
class Report:
    """What came of a run so far."""

    done: int = 0
    total: int = 0
    """Those that are done, and those that failed."""
    expected: int = 0
    """Images that were to be done."""
    skipped: int = 0
    """Results of earlier runs that are finished."""
    unit: str = "images"
    failures: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: str | None = None
    """Which extra some of the files need."""

    def fail(self, path: Path, why: str, *, count: int = 1) -> None:
        """Note a failure."""
        self.failures.append((path, why))
        self.total += count

    def add(self, other: Report) -> None:
        """Add what came of another part of the run: counts, failures and notes."""
        self.done += other.done
        self.total += other.total
        self.failures += other.failures
        self.notes += other.notes
        self.missing = other.missing or self.missing

    def progress(self) -> str:
        """Say how far the run got."""
        return f"{self.done} of {self.expected} images" if self.unit == "images" else f"{self.done} {self.unit}"


class Ledger(Protocol):
    """Where the results of sources are recorded and counted."""

    report: Report

    def record(self, finished: Finished) -> None:
        """Record that a result is finished."""
        ...


class Plan:
    """What there is to do, what was done before, and where the results go. One process writes: the one that has the plan.

    Takes:
        config: shared by all sources
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.targets = Targets()
        self.report = Report()
        self._records: dict[Path, Records] = {}
        self._lines: dict[Path, Lines] = {}
        self._again: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for lines in self._lines.values():
            lines.close()
        for records in self._records.values():
            records.close()

    def recipe(self, name: str, **more: Any) -> Recipe:
        """Return what a result of a format depends on beside its source.

        Takes:
            more: what else it depends on, for JSON
        """
        config, manifest = self.config, self.config.engine.manifest
        options = {**options_of(config.options[name]), **config.native(), **more}
        return Recipe(f"{manifest.name}@{manifest.version}", config.engine.sha256, name, options)

    def hold(self, folders: Iterable[Path]) -> None:
        """Keep other runs out of these folders, and of those below them, to the end of the run.

        Raises:
            BadSetting: if another run writes there
        """
        whole = {folder.resolve() for folder in folders}
        for folder in whole:
            if not whole.intersection(folder.parents):
                with contextlib.suppress(OSError):  # told for each file that cannot be written
                    self._records[folder] = Records(folder, hold=True)

    def records(self, folder: Path) -> Records:
        """Return the record of a folder.

        Raises:
            BadSetting: if another run writes there
            OSError: if nothing can be written there
        """
        key = folder.resolve()
        if key not in self._records:
            self._records[key] = Records(folder)
        return self._records[key]

    def lines(self, target: Path) -> Lines:
        """Return the file with a line for each image; it stays open to the end of the run.

        Raises:
            BadSetting, OSError: as :meth:`records`
        """
        if target not in self._lines:
            self.records(target.parent)
            self._lines[target] = Lines(target)
        return self._lines[target]

    def wanted(
        self, source: Path, results: Mapping[Path, Recipe], many: Mapping[Path, Recipe] | None = None, *, complete: bool = True
    ) -> bool:
        """Decide whether a source has to be worked on; what cannot be is noted as its failure.

        Takes:
            source: what the results are made of
            results: files and folders of this source alone, with what each depends on
            many: files that hold lines of many sources
            complete: whether those hold a line of this source
        """
        why = self.targets.take(results)
        if why is not None:
            self.report.fail(source, why)
            return False
        try:
            finding = self._finding(source, results, many or {})
        except OSError as error:
            self.report.fail(source, reason(source, error))
            return False
        if finding.state is State.FINISHED and not complete:
            finding = Finding(State.MISSING)
        if finding.state is State.FINISHED:
            self.report.skipped += 1
            if finding.damage:
                self.report.failures.append((source, finding.damage))
        elif finding.state is State.OTHERS:
            first = spoken(min(results))
            self.report.fail(source, f"{first} was made of {spoken(finding.reason)}: {REMEDY}, or --overwrite it")
        else:
            self._again[finding.reason] += bool(finding.reason)
        return finding.state not in (State.FINISHED, State.OTHERS)

    def again(self) -> list[str]:
        """Say which finished results are done again, and why."""
        return [f"{count} done again: {why}" for why, count in self._again.items() if count]

    def record(self, finished: Finished, rank: int = 0) -> None:
        """Record that a result is finished; a line is added to its file first.

        Takes:
            rank: its place among the results of this run; equal ranks keep their order
        """
        if finished.line is not None:
            self.lines(finished.result).add(finished.line, rank)
        self.records(finished.result.parent).add(finished, rank)

    def _finding(self, source: Path, results: Mapping[Path, Recipe], many: Mapping[Path, Recipe]) -> Finding:
        source.stat()
        found = [self.records(path.parent).standing(path, source, recipe) for path, recipe in results.items()]
        found += [self.records(path.parent).standing(path, source, recipe, of_many=True) for path, recipe in many.items()]
        if self.config.overwrite:
            return Finding(State.MISSING)
        return max(found, key=lambda each: (each.state, each.damage), default=FINISHED)


def run(
    sources: Iterable[Source[Any]],
    predictor: Predictor,
    plan: Plan,
    progress: Progress,
) -> Report:
    """Work on one source after the other.

    Gives:
        what came of it; it is the plan's own, and can be read when the run was interrupted
    """
    for source in sources:
        work_on(source, predictor, plan.config, plan, progress)
    return plan.report


def work_on(source: Source[F], predictor: Predictor, config: RunConfig, ledger: Ledger, progress: Progress) -> None:
    """Work on one source, and record its results as they are finished."""
    report = ledger.report
    report.unit = source.unit
    converted: Counter[str] = Counter()

    def write(done: Done[F]) -> Done[F]:
        written = source.write(done)
        try:
            for each in written.finished:
                ledger.record(each)
        except OSError as error:
            if written.frame.file is None:
                raise
            return replace(written, made=None, large=None, failure=reason(written.frame.file, error))
        return written

    try:
        with contextlib.closing(source):
            progress.begin(spoken(source.path.name), source.open(config))
            with _closed(source.frames()) as frames:
                segment = _segmenting(predictor, config, progress)
                for done in overlapped(frames, segment, write):
                    result = done.made or done.large
                    if result is not None:
                        converted.update(result.converted)
                    if done.frame.counts:
                        _count(done, report)
                        progress.advance()
            ending = source.finish()
        for each in ending.finished:
            ledger.record(each)
        if ending.damage is not None:
            report.failures.append((source.path, ending.damage))
    except BadSetting as error:
        report.missing = error.message
        report.fail(source.path, error.message)
    except Exception as error:  # noqa: BLE001 - whatever a reader or a writer raises belongs to its file
        report.fail(source.path, reason(source.path, error))
    name = config.engine.manifest.name
    told = [f"{count} {source.unit} converted for {name}: {what}" for what, count in converted.items()]
    report.notes += [f"{spoken(source.path)}: {note}" for note in (*source.notes, *told)]


def _segmenting(predictor: Predictor, config: RunConfig, progress: Progress) -> Callable[[F], Done[F]]:
    instances = any(options.instances for options in config.options.values())
    certainty = any(uses_confidence(name, options) for name, options in config.options.items())
    engine, resolution, halo = config.engine, config.resolution, config.halo
    whole = partial(predictor.segment, model=engine, resolution=resolution, halo=halo, instances=instances, tell=progress.part)
    by_rows = partial(predictor.segment_rows, model=engine, resolution=resolution, halo=halo, certainty=certainty)

    def segment(frame: F) -> Done[F]:
        if frame.image is None:
            return Done(frame, None, frame.failure)
        try:
            if isinstance(frame.image, PictureFile):
                return Done(frame, None, None, large=by_rows(frame.image))
            return Done(frame, whole(frame.image), None)
        except ServiceError as error:
            return Done(frame, None, error.message)
        except OSError as error:  # a file that is gone, a full disk under a temporary one
            if frame.file is None:
                raise
            return Done(frame, None, reason(frame.file, error))

    return segment


def _count(done: Done[Any], report: Report) -> None:
    """Count what is new: neither masks of an earlier run nor copies."""
    frame: Frame = done.frame
    if done.made is not None or done.large is not None:
        report.done += 1
        report.total += 1
    elif done.failure is not None and frame.file is not None:
        report.fail(frame.file, done.failure)


@contextlib.contextmanager
def _closed(frames: Iterator[F]) -> Iterator[Iterator[F]]:
    """Close a generator, and with it the files and threads that it holds."""
    try:
        yield frames
    finally:
        close = getattr(frames, "close", None)
        if close is not None:
            close()


def reason(path: Path, error: Exception) -> str:
    """Say in words why nothing came of a file."""
    if isinstance(error, ServiceError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        name = error.filename
        where = "" if name is None or spoken(name) == spoken(path) else f": {spoken(name)}"
        return f"{error.strerror}{where}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
