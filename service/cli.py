"""``fcn-serve serve | segment | models | check``.

Exit codes: 0 all went well; 1 a file or an artifact did not; 2 the command line or a setting cannot be used (a port that is
taken, a folder that is not there); 130 Ctrl-C in ``segment``; 130 or 143 a second Ctrl-C or SIGTERM in ``serve``. What goes
wrong is one line on the standard error, never a trace.

May import: typer, rich, and everything of ``service`` but ``client``; what needs the web's libraries only when it is served.
"""

from __future__ import annotations

import contextlib
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
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from service.encodings import DEFAULT_FORMAT, FORMATS, MaskView, Options, encode, understood
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

FAILED, MISUSED, INTERRUPTED = 1, 2, 130

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
MASK_SUFFIX, OVERLAY_SUFFIX = ".mask", ".overlay.png"

FRAMES_AHEAD = 4
"""Images decoded before, and masks written behind, the one that the network works on."""

TIMED_RUNS = 5

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


@dataclass(frozen=True)
class Job:
    """One image file and what becomes of it."""

    source: Path
    mask: Path
    overlay: Path


@dataclass(frozen=True)
class Writing:
    """How masks are written."""

    format: str = DEFAULT_FORMAT
    options: Options = NO_OPTIONS


@app.command()
def segment(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Image files, and folders of them.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the results; beside each image by default.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name; the default one if left out.")] = None,
    name: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help=f"Of the masks: {', '.join(FORMATS)}.")
    ] = DEFAULT_FORMAT,
    ids: Annotated[
        str | None, typer.Option(help=f"Whose class ids the masks have: {', '.join(TABLES)}; the model's own if left out.")
    ] = None,
) -> None:
    """Segment image files without a server: writes NAME.mask.png (or .json, ...) and NAME.overlay.png of each."""
    settings = Settings.load()
    with _opened(settings) as segmenter:
        identity = segmenter.repository.get(model).manifest
        writing = Writing(name, understood(name, identity.classes, ids=ids))
        jobs, failures = plan(paths, out, FORMATS[name].suffix)
        begun = time.monotonic()
        done = 0
        try:
            with _progress(len(jobs)) as advance, contextlib.closing(work(jobs, segmenter, model, writing)) as finished:
                for job, failure in finished:
                    if failure is None:
                        done += 1
                    else:
                        failures.append((job.source, failure))
                    advance()
        except KeyboardInterrupt:
            typer.echo(f"interrupted after {done} of {len(jobs)} images; what was written is whole", err=True)
            raise typer.Exit(INTERRUPTED) from None
        seconds = time.monotonic() - begun
    rate = f" in {seconds:.1f} s, {done / seconds:.1f} frames/s" if done else ""
    typer.echo(f"{done} of {done + len(failures)} segmented with {identity.name}@{identity.version}{rate}")
    for path, reason in failures:
        typer.echo(f"  {path}: {reason}", err=True)
    if failures:
        raise typer.Exit(FAILED)


def plan(paths: Sequence[Path], out: Path | None, suffix: str = ".png") -> tuple[list[Job], list[tuple[Path, str]]]:
    """Find the images, and decide where the results go.

    Takes:
        paths: image files, and folders, which are searched to the bottom
        out: the results' folder, in which a folder's own shape is kept; beside each image if None
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
        job = Job(image, folder / f"{stem}{MASK_SUFFIX}{suffix}", folder / f"{stem}{OVERLAY_SUFFIX}")
        targets = {job.mask.resolve(), job.overlay.resolve()}
        if targets & taken:
            failures.append((image, f"{min(targets & taken)} is an input, or the result of another one: use another --out"))
        else:
            taken |= targets
            jobs.append(job)
    return jobs, failures


def work(
    jobs: Sequence[Job], segmenter: Segmenter, model: str | None = None, writing: Writing = Writing()
) -> Generator[tuple[Job, str | None], None, None]:
    """Do the jobs: the network runs on the caller's thread, while a small pool decodes ahead of it and writes behind it.

    Gives:
        each job when it is done, and why it failed, or None
    """
    todo = iter(jobs)
    with ThreadPoolExecutor(2, thread_name_prefix="fcn-files") as pool:
        loading = deque((job, pool.submit(_load, job, segmenter.limits)) for job in islice(todo, FRAMES_AHEAD))
        saving: deque[tuple[Job, Future[None]]] = deque()
        try:
            while loading:
                job, image = loading.popleft()
                loading.extend((following, pool.submit(_load, following, segmenter.limits)) for following in islice(todo, 1))
                try:
                    result = segmenter.segment_array(image.result(), model)
                except (ServiceError, OSError) as error:
                    yield job, _reason(job, error)
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


def _save(job: Job, result: Segmentation, writing: Writing) -> None:
    job.mask.parent.mkdir(parents=True, exist_ok=True)
    view = MaskView(result.labels, result.image, result.manifest, result.sha256, result.confidence, writing.options)
    for path, name in ((job.mask, writing.format), (job.overlay, "overlay")):
        unfinished = path.with_name(f".{path.name}.part")
        try:
            unfinished.write_bytes(encode(name, view).body)
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise


def _saved(job: Job, future: Future[None]) -> tuple[Job, str | None]:
    try:
        future.result()
    except OSError as error:
        return job, _reason(job, error)
    return job, None


def _images_in(folder: Path) -> list[Path]:
    """The images of a folder and the folders in it, sorted; results of an earlier run are none."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.endswith((f"{MASK_SUFFIX}.png", OVERLAY_SUFFIX))
        and path.is_file()
    )


def _reason(job: Job, error: ServiceError | OSError) -> str:
    if isinstance(error, ServiceError):
        return error.message
    where = "" if error.filename in (None, str(job.source)) else f": {error.filename}"
    return f"{error.strerror or error}{where}"


class _Speed(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        """Nothing until there is something to say."""
        return Text(f"{task.speed:.1f} frames/s" if task.speed else "")


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on the standard error, where that is a terminal; gives what advances it by one."""
    console = Console(stderr=True)
    columns = (TextColumn("segment"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("segment", total=total)
        yield lambda: progress.advance(task)


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
