"""``fcn-serve serve | segment | models | check``.

Exit codes: 0 all went well; 1 a file or an artifact did not; 2 the command line or a setting cannot be used (a port that is
taken, a folder that is not there); 130 Ctrl-C in ``segment``; 130 or 143 a second Ctrl-C or SIGTERM in ``serve``. What goes
wrong is one line on the standard error, never a trace.

May import: typer, rich, and everything of ``service`` but ``client``; what needs the web's libraries only when it is served.
"""

from __future__ import annotations

import contextlib
import enum
import glob
import json
import logging
import os
import signal
import socket
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import IO, Annotated, Self, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from service import bags
from service.encodings import DEFAULT_FORMAT, FORMATS, MaskView, Options, encode, to_json, understood
from service.encodings.options import NO_OPTIONS
from service.encodings.tables import TABLES
from service.errors import BadArtifact, BadSetting, BodyTooLarge, ServiceError
from service.opening import open_repository
from service.pipeline import decode
from service.pipeline.decode import Limits
from service.pipeline.engine import Engine, EngineOptions
from service.pipeline.inspection import inspect
from service.pipeline.manifest import Manifest
from service.pipeline.repository import Repository
from service.pipeline.segmenter import Segmentation, Segmenter
from service.settings import Settings
from service.video import VIDEO_SUFFIXES, Results, segment_video

FAILED, MISUSED, INTERRUPTED = 1, 2, 130

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
MASK_SUFFIX, OVERLAY_SUFFIX, FILM_SUFFIX = ".mask", ".overlay.png", ".overlay.mp4"
LINES_NAME = "masks.jsonl"

FRAMES_AHEAD = 4
"""Images decoded before, and masks written behind, the one that the network works on."""

TIMED_RUNS = 5

T = TypeVar("T")

_PIPE_WIDTH = 1000
"""A pipe has no width: nothing is folded for it."""

log = logging.getLogger(__name__)
# Where ``serve`` has not set up the log, the commands themselves say what matters.
logging.getLogger("service").addHandler(logging.NullHandler())

app = typer.Typer(
    name="fcn-serve",
    help="Semantic segmentation with fully convolutional networks, as a service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    # A shell has SIGINT ignored in what it starts in the background; `kill -INT` must end that in order too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except ServiceError as error:
        typer.echo(f"fcn-serve: {error.message}", err=True)
        sys.exit(MISUSED if isinstance(error, BadSetting) else FAILED)
    except OSError as error:  # the standard output's disk is full, say
        typer.echo(f"fcn-serve: {error.strerror or error}", err=True)
        os._exit(FAILED)  # a buffer that cannot be written would be tried once more, with a trace


# serve -----------------------------------------------------------------------------------------------------------------------


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [FCN_HOST; 127.0.0.1]", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.  [FCN_PORT; 8000]", show_default=False)] = None,
) -> None:
    """Serve the models over HTTP until Ctrl-C or SIGTERM."""
    settings = Settings.load(host=host, port=port)
    _require_models(settings)
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(_listening(settings.host, settings.port, "FCN_PORT"))
        listeners = [listener]
        if settings.admin_port is not None:
            address = _listening(settings.admin_host, settings.admin_port, "FCN_ADMIN_PORT")
            listeners.append(open_sockets.enter_context(address))
        # Lines of before the log is set up wait for it.
        early = MemoryHandler(1000, flushLevel=logging.CRITICAL + 1)
        logging.getLogger("service").addHandler(early)
        # The web's libraries take as long to import as the models to open: the one beside the other.
        with ThreadPoolExecutor(1, thread_name_prefix="fcn-opening") as opener:
            opening = opener.submit(_opened_for_serving, settings)
            from service.server import run  # noqa: PLC0415

            opening.result()  # what cannot be opened is one line, before a server says that it starts
            run(settings, listeners, opening.result, early)


def _opened_for_serving(settings: Settings) -> Repository:
    """A start needs one model that can be served; who runs already may lose the last one, and waits for the next."""
    repository = open_repository(settings)
    repository.get()
    return repository


@contextlib.contextmanager
def _listening(host: str, port: int, setting: str) -> Iterator[socket.socket]:
    """A socket that listens at the address. Who calls while the models are being opened waits for them, and is not refused.

    Bound and listening before anything else starts: of two services that start at once on one port, the second would
    otherwise find out only in uvloop, which keeps it to itself and serves nobody.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise BadSetting(f"{setting.replace('PORT', 'HOST')}: {host!r} is no address of this machine") from error
    with socket.socket(family, kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen()
        except OSError as error:
            raise BadSetting(f"{setting}: cannot listen on port {port} of {host}: {error.strerror}") from error
        yield listener


# segment ---------------------------------------------------------------------------------------------------------------------


class Write(enum.StrEnum):
    """What may be written of an image or a frame."""

    MASKS = "masks"
    OVERLAYS = "overlays"
    RLE = "rle"


@dataclass(frozen=True)
class Job:
    """One image file and what becomes of it; None is not wanted."""

    source: Path
    mask: Path | None
    overlay: Path | None
    line: bool = False
    """Whether its mask is wanted as a line of JSON."""

    def results(self) -> list[Path]:
        """The files that are written."""
        return [path for path in (self.mask, self.overlay) if path is not None]

    def is_done(self) -> bool:
        """Whether an earlier run has written them all, from the image as it is now."""
        try:
            oldest = min((path.stat().st_mtime_ns for path in self.results()), default=None)
            return oldest is not None and oldest >= self.source.stat().st_mtime_ns
        except OSError:
            return False


@dataclass(frozen=True)
class Writing:
    """How masks are written."""

    format: str = DEFAULT_FORMAT
    options: Options = NO_OPTIONS


@app.command()
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
        str, typer.Option("--format", metavar="FORMAT", help=f"Of the masks: {', '.join(FORMATS)}.")
    ] = DEFAULT_FORMAT,
    ids: Annotated[
        str | None, typer.Option(help=f"Whose class ids the masks have: {', '.join(TABLES)}; the model's own if left out.")
    ] = None,
    write: Annotated[
        list[Write] | None,
        typer.Option(help="What to write; may be repeated. Left out: masks and overlays, of videos rle and overlays."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do again what is finished.")] = False,
    topic: Annotated[list[str] | None, typer.Option(help="Image topic of a bag; may be repeated. All by default.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy a bag's other topics beside its masks.")] = False,
) -> None:
    """Segment image files, videos and bags without a server. Run again, it goes on where it stopped."""
    settings = Settings.load()
    images, videos, recordings = sorted_out(paths)
    with _opened(settings) as segmenter:
        engine = segmenter.repository.get(model)
        writing = Writing(name, understood(name, engine.manifest.classes, ids=ids))
        if (videos or recordings) and writing != Writing():
            raise BadSetting("--format and --ids are for images: the masks of videos and bags have the model's own ids")
        run = _Run(segmenter, engine, out, overwrite)
        try:
            if images:
                _segment_images(run, images, write or [Write.MASKS, Write.OVERLAYS], writing)
            for path in videos:
                _segment_video(run, path, write or [Write.RLE, Write.OVERLAYS])
            for path in recordings:
                _segment_bag(run, path, topic or [], copy=copy)
        except KeyboardInterrupt:
            typer.echo(f"interrupted after {run.progress()}; what was written is whole, {run.next_time}", err=True)
            raise typer.Exit(INTERRUPTED) from None
    run.summarise()


class _Run:
    """One run of ``segment``: what it works with, and what became of it so far."""

    def __init__(self, segmenter: Segmenter, engine: Engine, out: Path | None, overwrite: bool) -> None:
        self.segmenter, self.engine, self.out, self.overwrite = segmenter, engine, out, overwrite
        self.done = self.total = self.skipped = 0
        self.what = "images"
        self.next_time = "and the same command goes on from here"
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
        for path, reason in self.failures:
            typer.echo(f"  {path}: {reason}", err=True)
        if self.failures:
            raise typer.Exit(FAILED)


def sorted_out(paths: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Tell images and folders of them, videos and bags apart; patterns that the shell has left are resolved.

    Gives:
        images (whatever is neither of the others), videos, bags
    """
    named = [match for path in paths for match in _matching(path)]
    films = [path for path in named if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()]
    for folder in (path for path in named if path.is_dir() and not bags.is_bag(path)):
        films += sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.endswith(FILM_SUFFIX) and path.is_file()
        )
    recordings = [path for path in named if bags.is_bag(path)]
    images = [path for path in named if path not in films and path not in recordings]
    # A folder of videos alone is no folder without images.
    images = [
        path for path in images if not path.is_dir() or _images_in(path) or not any(path in film.parents for film in films)
    ]
    return images, list(dict.fromkeys(films)), recordings


def _matching(path: Path) -> list[Path]:
    if path.exists() or not any(character in str(path) for character in "*?["):
        return [path]
    return [Path(match) for match in sorted(glob.glob(str(path), recursive=True))] or [path]  # noqa: PTH207 - absolute ones too


def _segment_images(run: _Run, paths: Sequence[Path], write: Sequence[Write], writing: Writing) -> None:
    jobs, failures = plan(paths, run.out, write, FORMATS[writing.format].suffix)
    run.failures += failures
    run.total += len(jobs) + len(failures)
    with _Lines((run.out or Path()) / LINES_NAME if Write.RLE in write else None, run) as lines:
        todo = [job for job in jobs if run.overwrite or not (job.is_done() or lines.has(job))]
        run.skipped += len(jobs) - len(todo)
        with (
            _progress(len(todo)) as bar,
            contextlib.closing(work(todo, run.segmenter, run.engine.manifest.name, writing)) as finished,
        ):
            for job, failure, line in finished:
                if failure is None:
                    lines.add(line)
                    run.done += 1
                else:
                    run.failures.append((job.source, failure))
                bar.advance()
    run.total -= run.skipped


class _Lines:
    """The one file with a line of JSON for each image; lines are only ever added, each as a whole."""

    def __init__(self, path: Path | None, run: _Run) -> None:
        self._file: IO[bytes] | None = None
        self._known: set[str] = set()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True):
            if run.overwrite or not line.endswith(b"\n"):
                break
            whole += len(line)
            with contextlib.suppress(ValueError, LookupError, TypeError):
                document = json.loads(line)
                if document["model"]["sha256"] == run.engine.sha256:
                    self._known.add(document["file"])
        self._file = path.open("r+b")
        self._file.truncate(whole)
        self._file.seek(whole)

    def has(self, job: Job) -> bool:
        """Whether a job's line is here, and it wants nothing else."""
        return str(job.source) in self._known and not job.results()

    def add(self, line: bytes | None) -> None:
        """Write a line."""
        if self._file is not None and line is not None:
            self._file.write(line + b"\n")
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _segment_video(run: _Run, path: Path, write: Sequence[Write]) -> None:
    run.what, folder = "frames", path.parent if run.out is None else run.out
    results = Results(
        lines=folder / f"{path.stem}.masks.jsonl" if Write.RLE in write else None,
        masks=folder / f"{path.stem}.masks" if Write.MASKS in write else None,
        overlay=folder / f"{path.stem}{FILM_SUFFIX}" if Write.OVERLAYS in write else None,
        journal=folder / f".{path.stem}.masks.jsonl.part",
    )
    if run.overwrite:
        results.journal.unlink(missing_ok=True)
    elif results.finished():
        run.skipped += 1
        return
    try:
        with _progress(None) as bar:
            damage = yield_from(
                segment_video(path, results, run.segmenter, run.engine, bar.expect), lambda frame: _count(run, bar, frame.line)
            )
    except (ServiceError, OSError) as error:
        if isinstance(error, BadSetting):
            raise
        damage = _reason(path, error)
        run.total += 1
    if damage is not None:
        run.failures.append((path, damage))


def _segment_bag(run: _Run, path: Path, topics: Sequence[str], *, copy: bool) -> None:
    run.what, run.next_time = "messages", "and the bag in work is begun anew by the same command"
    target = bags.target_of(path, run.out)
    if target.exists() and not run.overwrite:
        run.skipped += 1
        return
    try:
        with _progress(None) as bar:
            damage = yield_from(
                bags.segment_bag(path, target, topics, run.segmenter, run.engine, bar.expect, copy=copy),
                lambda failure: _count(run, bar, None if failure else b""),
            )
    except (ServiceError, OSError) as error:
        if isinstance(error, BadSetting):
            raise
        damage = _reason(path, error)
        run.total += 1
    if damage is not None:
        run.failures.append((path, damage))


def _count(run: _Run, bar: _Bar, line: bytes | None) -> None:
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


def plan(
    paths: Sequence[Path], out: Path | None, write: Sequence[Write], suffix: str = ".png"
) -> tuple[list[Job], list[tuple[Path, str]]]:
    """Find the images, and decide where the results go.

    Takes:
        paths: image files, and folders, which are searched to the bottom
        out: the results' folder, in which a folder's own shape is kept; beside each image if None
        write: what is wanted
        suffix: of the masks' format
    Gives:
        a job for each image, each image once, no two writing the same file and none writing over an input
        the paths that cannot be worked on, each with its reason
    """
    found: dict[Path, tuple[Path, Path]] = {}
    failures: list[tuple[Path, str]] = []
    for path in paths:
        images = _images_in(path) if path.is_dir() else [path]
        if not images:
            failures.append((path, "there is no image in this folder"))
        for image in images:
            within = image.relative_to(path).parent if path.is_dir() else Path()
            found.setdefault(image.resolve(), (image, image.parent if out is None else out / within))
    stems = Counter(folder / image.stem for image, folder in found.values())
    taken = set(found)
    jobs = []
    for image, folder in found.values():
        # a.jpg and a.png beside one another become a.jpg.mask.png and a.png.mask.png
        stem = image.name if stems[folder / image.stem] > 1 else image.stem
        mask = folder / f"{stem}{MASK_SUFFIX}{suffix}" if Write.MASKS in write else None
        overlay = folder / f"{stem}{OVERLAY_SUFFIX}" if Write.OVERLAYS in write else None
        job = Job(image, mask, overlay, Write.RLE in write)
        targets = {path.resolve() for path in job.results()}
        if targets & taken:
            failures.append((image, f"{min(targets & taken)} is an input, or the result of another one: use another --out"))
        else:
            taken |= targets
            jobs.append(job)
    return jobs, failures


def work(
    jobs: Sequence[Job], segmenter: Segmenter, model: str | None = None, writing: Writing = Writing()
) -> Generator[tuple[Job, str | None, bytes | None], None, None]:
    """Do the jobs: the network runs on the caller's thread, while a small pool decodes ahead of it and writes behind it.

    Gives:
        each job when it is done; why it failed, or None; its line of JSON, where that is wanted
    """
    todo = iter(jobs)
    with ThreadPoolExecutor(2, thread_name_prefix="fcn-files") as pool:
        loading = deque((job, pool.submit(_load, job, segmenter.limits)) for job in islice(todo, FRAMES_AHEAD))
        saving: deque[tuple[Job, Future[bytes | None]]] = deque()
        try:
            while loading:
                job, image = loading.popleft()
                loading.extend((following, pool.submit(_load, following, segmenter.limits)) for following in islice(todo, 1))
                try:
                    result = segmenter.segment_array(image.result(), model)
                except (ServiceError, OSError) as error:
                    yield job, _reason(job.source, error), None
                else:
                    saving.append((job, pool.submit(_save, job, result, writing)))
                while saving and (len(saving) > FRAMES_AHEAD or saving[0][1].done()):
                    yield _saved(*saving.popleft())
            while saving:
                yield _saved(*saving.popleft())
        finally:
            pool.shutdown(cancel_futures=True)  # a file that is being written is finished


def _load(job: Job, limits: Limits) -> NDArray[np.uint8]:
    size = job.source.stat().st_size
    if size > limits.max_bytes:  # told before a film called .jpg fills the memory
        raise BodyTooLarge(
            f"{size} bytes; FCN_MAX_IMAGE_BYTES allows {limits.max_bytes}", limit=limits.max_bytes, actual=size, unit="bytes"
        )
    return decode.decode(job.source.read_bytes(), limits)


def _save(job: Job, result: Segmentation, writing: Writing) -> bytes | None:
    view = MaskView(result.labels, result.image, result.manifest, result.sha256, result.confidence, writing.options)
    for path, name in ((job.mask, writing.format), (job.overlay, "overlay")):
        if path is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.part")
        try:
            unfinished.write_bytes(encode(name, view).body)
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
    if not job.line:
        return None
    # The format's own object, with the file's name before the rest.
    return b'{"file":' + to_json(str(job.source)) + b"," + encode("rle", view).body[1:]


def _saved(job: Job, future: Future[bytes | None]) -> tuple[Job, str | None, bytes | None]:
    try:
        return job, None, future.result()
    except OSError as error:
        return job, _reason(job.source, error), None


def _images_in(folder: Path) -> list[Path]:
    """The images of a folder and the folders in it, sorted; results of an earlier run are none."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.endswith((f"{MASK_SUFFIX}.png", OVERLAY_SUFFIX))
        and path.is_file()
    )


def _reason(path: Path, error: ServiceError | OSError) -> str:
    if isinstance(error, ServiceError):
        return error.message
    where = "" if error.filename in (None, str(path)) else f": {error.filename}"
    return f"{error.strerror or error}{where}"


class _Speed(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        """Nothing until there is something to say."""
        return Text(f"{task.speed:.1f} frames/s" if task.speed else "")


class _Bar:
    """A progress bar that somebody may look at."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._progress, self._task = progress, progress.add_task("segment", total=total)

    def advance(self) -> None:
        """One more is done."""
        self._progress.advance(self._task)

    def expect(self, total: int | None) -> None:
        """How many there will be, as far as known."""
        self._progress.update(self._task, total=total)


@contextlib.contextmanager
def _progress(total: int | None) -> Iterator[_Bar]:
    """A progress bar on the standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("segment"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Bar(progress, total)


# models, check ---------------------------------------------------------------------------------------------------------------


@app.command()
def models() -> None:
    """List the models that would be served."""
    with _opened(Settings.load()) as segmenter:
        repository = segmenter.repository
        table = _table("", "model", "version", "architecture", "classes", "runs at", "stride", "mean IoU")
        for engine in repository.engines():
            manifest = engine.manifest
            height, width = manifest.input.working_size
            table.add_row(
                "*" if manifest.name == repository.default else "",
                manifest.name,
                manifest.version,
                manifest.architecture,
                str(len(manifest.classes)),
                f"{width} x {height}",
                str(manifest.stride),
                ", ".join(f"{split} {scores.mean_iou:.3f}" for split, scores in manifest.scores.items()),
            )
        _print(table)
        typer.echo("* answers when a request names none")
        _list_broken(repository.broken.values())


@app.command()
def check(
    artifact: Annotated[
        Path | None, typer.Argument(help="Any ONNX file; every artifact of the models folder if left out.")
    ] = None,
) -> None:
    """Open every artifact, prove that it runs where it should, time a frame. Exit code 1 if any is broken.

    With ARTIFACT, explain that file, ours or foreign: what it takes and gives, and what it lacks to be served.
    """
    settings = Settings.load()
    if artifact is not None:
        _explain(artifact, settings)
        return
    with _opened(settings) as segmenter:
        repository = segmenter.repository
        table = _table("model", "file", "sha256", "provider", "frame", "network", "whole")
        broken = list(repository.broken.values())
        for engine in repository.engines():
            height, width = engine.manifest.input.working_size
            try:
                timings = _timed(segmenter, engine)
            except ServiceError as error:
                broken.append(f"{engine.path.name}: {error.message}")
                continue
            table.add_row(
                engine.manifest.name,
                engine.path.name,
                engine.sha256[:12],
                engine.provider,
                f"{width} x {height}",
                f"{timings['infer']:.1f} ms",
                f"{sum(timings.values()):.1f} ms",
            )
        _print(table)
        _list_broken(broken)
    if broken:
        raise typer.Exit(FAILED)


def _explain(path: Path, settings: Settings) -> None:
    """Everything is tried before anything is said: what cannot be opened is one line."""
    found = inspect(path)
    file, manifest = found.file, found.manifest
    data_files = "".join(f" + {part.name}" for part in file.data_files)
    rows = [
        ("file", f"{path}{data_files}, {file.size_bytes / 1e6:.3g} MB"),
        ("sha256", file.sha256()),
        ("format", f"ONNX IR {file.ir_version}, opset {file.opset}{f', by {file.producer}' if file.producer else ''}"),
        *(("input", str(port)) for port in found.inputs),
        *(("output", str(port)) for port in found.outputs),
    ]
    if manifest is not None:
        rows += _manifest_rows(manifest)
        with contextlib.closing(_segmenter(path, settings)) as segmenter:
            if reason := next(iter(segmenter.repository.broken.values()), None):
                raise BadArtifact(reason)
            engine = segmenter.repository.get()
            timings = _timed(segmenter, engine)
            rows.append(
                ("runs on", f"{engine.provider}: network {timings['infer']:.1f} ms, whole {sum(timings.values()):.1f} ms")
            )
    rows.append(("providers", ", ".join(found.providers)))
    rows += [("missing", reason) for reason in found.missing]
    if found.command is not None:
        rows.append(("to add it", found.command))
    for name, value in rows:
        typer.echo(f"{name:<10} {value}")
    if manifest is None:
        raise typer.Exit(FAILED)


def _manifest_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """What an artifact says of itself, by name."""
    policy, parity = manifest.input, manifest.parity
    height, width = policy.working_size
    field, halo = ("unknown" if side is None else f"{side} pixels" for side in (manifest.receptive_field, manifest.halo))
    rows = [
        ("model", f"{manifest.name}@{manifest.version}, {manifest.architecture}, {manifest.precision}"),
        ("classes", f"{len(manifest.classes)}: {', '.join(entry.name for entry in manifest.classes)}"),
        ("runs at", f"{policy.fit} of {width} x {height}, sides multiples of {policy.multiple}"),
        ("reach", f"stride {manifest.stride}, receptive field {field}, halo {halo}"),
    ]
    if parity is not None:
        rows.append(("parity", f"scores within {parity.max_score_difference:.1e}, winners {parity.argmax_agreement:.4%}"))
    return rows


def _timed(segmenter: Segmenter, engine: Engine) -> dict[str, float]:
    """The run with the median time: milliseconds by step, for an image of the working size that is decoded already."""
    height, width = engine.manifest.input.working_size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    runs = [segmenter.segment_array(image, engine.manifest.name).timing for _ in range(TIMED_RUNS)]
    middle = statistics.median_low(sum(timing.values()) for timing in runs)
    return next(timing for timing in runs if sum(timing.values()) == middle)


def _list_broken(reasons: Iterable[str]) -> None:
    for reason in reasons:
        typer.echo(f"broken: {reason}", err=True)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


# Shared ----------------------------------------------------------------------------------------------------------------------


def _require_models(settings: Settings) -> None:
    folder = settings.models_dir
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise BadSetting(f"FCN_MODELS_DIR: cannot read the folder {folder}: {error.strerror}") from error
    if not any(name.endswith(".onnx") for name in names):
        raise BadSetting(f"FCN_MODELS_DIR: there is no artifact (*.onnx) in {folder}")


@contextlib.contextmanager
def _opened(settings: Settings) -> Iterator[Segmenter]:
    """The models, opened as the service would open them."""
    _require_models(settings)
    with contextlib.closing(_segmenter(settings.models_dir, settings, settings.default_model)) as segmenter:
        yield segmenter


def _segmenter(models: Path, settings: Settings, default: str | None = None) -> Segmenter:
    """The artifacts of a folder, or one, behind the pipeline."""
    repository = Repository(models, EngineOptions(settings.provider, settings.threads), default=default)
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels, settings.max_image_side)
    return Segmenter(repository, limits)
