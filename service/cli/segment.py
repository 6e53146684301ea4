"""``fcn-serve segment``: what a run is, and what becomes of each thing that it is given.

May import: typer, ``service.errors``, ``settings``, ``encodings``, ``offline`` and the pipeline; of ``service.cli``:
``opened``, ``progress``.
"""

from __future__ import annotations

import contextlib
import glob
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from service.batch.sources import bags
from service.batch.sources.images import Lines, Write, Writing, images_in, plan, reason, work
from service.batch.sources.video import VIDEO_SUFFIXES, Results, segment_video
from service.batch.targets import ALL_LINES, FILM, LINES, MASKS, Source, Targets, is_result, sources, up_to_date
from service.cli import FAILED, INTERRUPTED
from service.cli.opened import opened
from service.cli.progress import Bar, progress
from service.encodings import DEFAULT_FORMAT, FORMATS, Options, understood_together
from service.encodings.tables import TABLES
from service.errors import BadSetting, ServiceError
from service.pipeline.engine import Engine
from service.pipeline.predictor import Predictor
from service.settings import Settings

BAG_FORMAT = "gray"
"""What a mask in a bag is: one byte a pixel, and nothing that is said beside it."""
OFFLINE_FORMATS = ("png", "overlay", "rle", BAG_FORMAT)
"""What videos and bags may be written in."""

T = TypeVar("T")


def _able(option: str) -> str:
    return ", ".join(name for name, form in FORMATS.items() if option in form.takes)


def segment(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Images, folders of them, videos, bags of ROS 2; or patterns of such."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results, or the .mcap of a bag; beside each file by default.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model's name; the default one if left out.")] = None,
    name: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help=f"Of images' masks: {', '.join(FORMATS)}.")
    ] = DEFAULT_FORMAT,
    classes: Annotated[
        list[str] | None,
        typer.Option(help="Classes to keep, by the model's names or ids, repeated or separated by commas; others become 255."),
    ] = None,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Pixels of which the network is less sure become 255.", show_default=False)
    ] = 0.0,
    ids: Annotated[
        str | None, typer.Option(help=f"Whose class ids the masks have: {', '.join(TABLES)}; the model's own if left out.")
    ] = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="JSON: the bounding box and the mean confidence of each mask.")
    ] = False,
    legend: Annotated[bool, typer.Option("--legend", help="Overlays: names and colours of the classes present.")] = False,
    instances: Annotated[
        bool,
        typer.Option("--instances", help=f"{_able('instances')}: a mask for each component of classes that can be counted."),
    ] = False,
    min_area: Annotated[
        int, typer.Option(min=0, help="With --instances: smaller components, in pixels, are dropped.", show_default=False)
    ] = 0,
    tolerance: Annotated[
        float,
        typer.Option(min=0, max=100, help="polygons: how far outlines may stray, in pixels; 0 is exact.", show_default=False),
    ] = 0.0,
    write: Annotated[
        list[Write] | None,
        typer.Option(help="What to write; may be repeated. Left out: masks and overlays, of videos rle and overlays."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do again what is finished.")] = False,
    topic: Annotated[list[str] | None, typer.Option(help="Image topic of a bag; may be repeated. All by default.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy a bag's other topics beside its masks.")] = False,
) -> None:
    """Segment image files, videos and bags without a server. Run again, it goes on where it stopped.

    What becomes of the masks is said as the query of POST /segment says it.
    """
    settings = Settings.load()
    images, films, recorded = sorted_out(paths)
    videos, recordings = sources(films, out, films_in), sources(recorded, out, lambda path: [path])
    if name != DEFAULT_FORMAT and (videos or recordings):
        raise BadSetting("--format is for images: the masks of videos are PNGs or run lengths, those of bags messages")
    if write and not (images or videos):
        raise BadSetting("--write is for images and videos: what becomes of a bag is a bag")
    if (topic or copy) and not recordings:
        raise BadSetting("--topic and --copy are for bags, and none is named")
    if out is not None and bags.is_mcap(out) and (images or videos or len(recordings) > 1):
        raise BadSetting(f"--out {out} is a file, for the masks of one bag alone: name a folder")
    with opened(settings) as predictor:
        engine = predictor.repository.get(model)
        of_images, of_videos = write or [Write.MASKS, Write.OVERLAYS], write or [Write.RLE, Write.OVERLAYS]
        table, selection = engine.manifest.classes, {"classes": classes or (), "min_confidence": min_confidence, "ids": ids}
        more = {
            "statistics": statistics,
            "legend": legend,
            "instances": instances,
            "min_area": min_area,
            "tolerance": tolerance,
        }
        written = {
            *(_formats(of_images, name) if images else ()),
            *(_formats(of_videos, DEFAULT_FORMAT) if videos else ()),
            *((BAG_FORMAT,) if recordings else ()),
        }
        options = understood_together(OFFLINE_FORMATS, table, **selection)
        options |= understood_together(sorted(written), table, **selection, **more)
        run = _Run(predictor, engine, options, out, overwrite)
        targets = Targets()
        targets.spare((*videos, *recordings))
        try:
            if images:
                _segment_images(run, images, of_images, name, targets)
            for video in videos:
                _segment_video(run, video, of_videos, targets)
            for recording in recordings:
                _segment_bag(run, recording, topic or [], targets, copy=copy)
        except KeyboardInterrupt:
            typer.echo(
                f"interrupted after {run.progress()}; what was written is whole, and the same command goes on from here",
                err=True,
            )
            raise typer.Exit(INTERRUPTED) from None
    run.summarise()


def _formats(write: Sequence[Write], masks: str) -> list[str]:
    """In which formats results are written."""
    names = {Write.MASKS: masks, Write.OVERLAYS: "overlay", Write.RLE: "rle"}
    return [names[each] for each in write]


class _Run:
    """One run of ``segment``: what it works with, and what became of it so far."""

    def __init__(
        self, predictor: Predictor, engine: Engine, options: Mapping[str, Options], out: Path | None, overwrite: bool
    ) -> None:
        self.predictor, self.engine, self.options, self.out, self.overwrite = predictor, engine, options, out, overwrite
        self.done = self.total = self.skipped = 0
        self.what = "images"
        self.failures: list[tuple[Path, str]] = []
        self._begun = time.monotonic()

    def progress(self) -> str:
        """How far it got."""
        return f"{self.done} of {self.total} images" if self.what == "images" else f"{self.done} {self.what}"

    def summarise(self) -> None:
        """Say what became of it, and end with its exit code."""
        seconds = time.monotonic() - self._begun
        manifest = self.engine.manifest
        rate = f" in {seconds:.1f} s, {self.done / seconds:.1f} frames/s" if self.done else ""
        skipped = f"; {self.skipped} were finished before" if self.skipped else ""
        typer.echo(f"{self.done} of {self.total} segmented with {manifest.name}@{manifest.version}{rate}{skipped}")
        for path, why in self.failures:
            typer.echo(f"  {path}: {why}", err=True)
        if self.failures:
            raise typer.Exit(FAILED)


def sorted_out(paths: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Tell images, videos and bags apart; patterns that the shell has left are resolved, and results of earlier runs left out.

    A shell does not say that it has resolved a pattern: of several files those that are called as results are no inputs. One
    that is named alone is meant.

    Gives:
        images (whatever is neither of the others) and folders of them, videos and folders of them, bags
    Raises:
        BadSetting: if there is nothing but results
    """
    named = [match for path in paths for match in _matching(path)]
    if len(named) > 1:
        given, named = named, [path for path in named if not is_result(path)]
        if not named:
            raise BadSetting(
                f"{given[0]} and the others are called as results of earlier runs are; name one alone to segment it"
            )
    recordings = [path for path in named if bags.is_bag(path)]
    films = [path for path in named if path not in recordings and films_in(path)]
    images = [path for path in named if path not in recordings and (path not in films or (path.is_dir() and images_in(path)))]
    return images, films, recordings


def films_in(path: Path) -> list[Path]:
    """The videos of a folder and the folders in it, sorted, results of an earlier run apart; or a file, if it is a video."""
    if not path.is_dir():
        return [path] if path.suffix.lower() in VIDEO_SUFFIXES else []
    return sorted(
        found
        for found in path.rglob("*")
        if found.suffix.lower() in VIDEO_SUFFIXES and not is_result(found) and found.is_file()
    )


def _matching(path: Path) -> list[Path]:
    if path.exists() or not any(character in str(path) for character in "*?["):
        return [path]
    return [Path(match) for match in sorted(glob.glob(str(path), recursive=True))] or [path]  # noqa: PTH207 - absolute ones too


def _segment_images(run: _Run, paths: Sequence[Path], write: Sequence[Write], name: str, targets: Targets) -> None:
    writing = Writing(name, run.options)
    jobs, failures = plan(paths, run.out, write, targets, FORMATS[name].suffix)
    run.failures += failures
    run.total += len(jobs) + len(failures)
    target = (run.out or Path()) / ALL_LINES if Write.RLE in write else None
    with Lines(target) as lines:
        todo = [job for job in jobs if run.overwrite or not (job.is_done() and (lines.has(job) or not job.line))]
        run.skipped += len(jobs) - len(todo)
        with (
            progress(len(todo)) as bar,
            contextlib.closing(work(todo, run.predictor, run.engine.manifest.name, writing)) as finished,
        ):
            for job, failure, line in finished:
                if failure is None:
                    lines.add(line)
                    run.done += 1
                else:
                    run.failures.append((job.source, failure))
                bar.advance()
    run.total -= run.skipped


def _segment_video(run: _Run, source: Source, write: Sequence[Write], targets: Targets) -> None:
    run.what, path = "frames", source.path
    beside = source.folder / source.stem
    journal = beside.with_name(f"{beside.name}{LINES}")
    results = Results(
        lines=journal if Write.RLE in write else None,
        masks=beside.with_name(f"{beside.name}{MASKS}") if Write.MASKS in write else None,
        overlay=beside.with_name(f"{beside.name}{FILM}") if Write.OVERLAYS in write else None,
        journal=journal,
    )
    if not _allotted(run, path, targets, results.all()):
        return
    if results.finished(path) and not run.overwrite:
        run.skipped += 1
        return
    _count_all(
        run,
        path,
        lambda bar: segment_video(path, results, run.options, run.predictor, run.engine, bar.expect, anew=run.overwrite),
        lambda frame: frame.line,
    )


def _segment_bag(run: _Run, source: Source, topics: Sequence[str], targets: Targets, *, copy: bool) -> None:
    run.what, path = "messages", source.path
    target = bags.target_of(source, run.out)
    if not _allotted(run, path, targets, [target]):
        return
    if up_to_date([target], path) and not run.overwrite:
        run.skipped += 1
        return
    _count_all(
        run,
        path,
        lambda bar: bags.segment_bag(
            path,
            target,
            topics,
            run.options[BAG_FORMAT],
            run.predictor,
            run.engine,
            bar.expect,
            copy=copy,
            anew=run.overwrite,
        ),
        lambda image: None if image.failure else image.line,
    )


def _allotted(run: _Run, path: Path, targets: Targets, results: Sequence[Path]) -> bool:
    """Whether a file's results are its own; that they are not is its failure."""
    why = targets.take(results)
    if why is not None:
        run.failures.append((path, why))
        run.total += 1
    return why is None


def _count_all(
    run: _Run,
    path: Path,
    begin: Callable[[Bar], Generator[T, None, str | None]],
    line_of: Callable[[T], bytes | None],
) -> None:
    """Write all that a file gives, under a bar, and keep what is wrong with it."""
    try:
        with progress(None) as bar:
            damage = yield_from(begin(bar), lambda item: _count(run, bar, line_of(item)))
    except (ServiceError, OSError) as error:
        if isinstance(error, BadSetting):
            raise
        damage = reason(path, error)
        run.total += 1
    if damage is not None:
        run.failures.append((path, damage))


def _count(run: _Run, bar: Bar, line: bytes | None) -> None:
    """One more is written; those of an earlier run are not counted as done."""
    bar.advance()
    if line is not None:
        run.total += 1
        run.done += 1


def yield_from(frames: Generator[T, None, str | None], each: Callable[[T], None]) -> str | None:
    """Take all of a generator, and what it returns; closed in order if that is interrupted."""
    with contextlib.closing(frames):
        while True:
            try:
                each(next(frames))
            except StopIteration as end:
                said: str | None = end.value
                return said
