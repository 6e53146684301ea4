"""Image files: what is written of each, where, and the doing of it.

May import: numpy, ``service.encodings``, ``service.errors``, ``service.pipeline``, ``service.batch.targets``.
"""

from __future__ import annotations

import contextlib
import enum
import json
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from service.batch.targets import MASK, OVERLAY, Targets, is_result, sources, unfinished, up_to_date
from service.encodings import MaskView, Options, encode, to_json
from service.errors import BodyTooLarge, ServiceError
from service.pipeline.codecs import decoding
from service.pipeline.codecs.decoding import Limits
from service.pipeline.predictor import Predictor
from service.pipeline.segmentation import Segmentation

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))

FRAMES_AHEAD = 4
"""Images decoded before, and masks written behind, the one that the network works on."""


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
        """Whether an earlier run has written all its files, from the image as it is now."""
        return up_to_date(self.results(), self.source)


@dataclass(frozen=True)
class Writing:
    """How the results are written."""

    format: str
    """Of the masks."""
    options: Mapping[str, Options]
    """By the name of each format that is written: of the masks, ``overlay`` and ``rle``."""


class Lines:
    """The one file with a line of JSON for each image.

    Lines are only ever added, each as a whole, so that an interrupted run loses none, of its own or of earlier ones. Of an
    image that has several the last one counts; those before it go when the file is closed.

    Takes:
        path: of the file; None if no lines are wanted
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._end = path, 0
        self._begins: dict[str, tuple[int, float]] = {}
        """By the image: where its line begins, and when the image was changed, in seconds."""
        self._superseded: set[int] = set()
        self._file: IO[bytes] | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self._note(line)
        self._file.truncate(self._end)

    def has(self, job: Job) -> bool:
        """Whether a job's line is here, of the image as it is now."""
        known = self._begins.get(str(job.source))
        try:
            return known is not None and known[1] >= job.source.stat().st_mtime
        except OSError:
            return False

    def add(self, line: bytes | None) -> None:
        """Write a line."""
        if self._file is not None and line is not None:
            self._file.write(line + b"\n")
            self._file.flush()
            self._note(line + b"\n")

    def _note(self, line: bytes) -> None:
        """Keep in mind whose line is the next one."""
        with contextlib.suppress(ValueError, LookupError, TypeError):  # whatever else stands there is left alone
            document: dict[str, Any] = json.loads(line)
            file = str(document["file"])
            if file in self._begins:
                self._superseded.add(self._begins[file][0])
            self._begins[file] = self._end, float(document.get("modified_s", 0))
        self._end += len(line)

    def close(self) -> None:
        """Leave one line an image."""
        if self._file is None or self._path is None:
            return
        self._file.close()
        if not self._superseded:
            return
        part = unfinished(self._path)
        with self._path.open("rb") as lines, part.open("wb") as kept:
            begin = 0
            for line in lines:
                if begin not in self._superseded:
                    kept.write(line)
                begin += len(line)
        part.replace(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def plan(
    paths: Sequence[Path], out: Path | None, write: Sequence[Write], targets: Targets, suffix: str = ".png"
) -> tuple[list[Job], list[tuple[Path, str]]]:
    """Find the images, and decide where the results go.

    Takes:
        paths: image files, and folders, which are searched to the bottom
        out: the results' folder, in which a folder's own shape is kept; beside each image if None
        write: what is wanted
        targets: of the run
        suffix: of the masks' format
    Gives:
        a job for each image, each image once, no two writing the same file and none writing over an input
        the paths that cannot be worked on, each with its reason
    """
    failures = [(path, "there is no image in this folder") for path in paths if path.is_dir() and not images_in(path)]
    found = sources(paths, out, lambda path: images_in(path) if path.is_dir() else [path])
    targets.spare(found)
    jobs = []
    for source in found:
        mask = source.folder / f"{source.stem}{MASK}{suffix}" if Write.MASKS in write else None
        overlay = source.folder / f"{source.stem}{OVERLAY}" if Write.OVERLAYS in write else None
        job = Job(source.path, mask, overlay, Write.RLE in write)
        why = targets.take(job.results())
        if why is None:
            jobs.append(job)
        else:
            failures.append((source.path, why))
    return jobs, failures


def work(
    jobs: Sequence[Job], predictor: Predictor, model: str | None, writing: Writing
) -> Generator[tuple[Job, str | None, bytes | None], None, None]:
    """Do the jobs: the network runs on the caller's thread, while a small pool decodes ahead of it and writes behind it.

    Gives:
        each job when it is done; why it failed, or None; its line of JSON, where that is wanted
    """
    todo = iter(jobs)
    with ThreadPoolExecutor(2, thread_name_prefix="fcn-files") as pool:
        loading = deque((job, pool.submit(_load, job, predictor.limits)) for job in islice(todo, FRAMES_AHEAD))
        saving: deque[tuple[Job, Future[bytes | None]]] = deque()
        try:
            while loading:
                job, loaded = loading.popleft()
                loading.extend((following, pool.submit(_load, following, predictor.limits)) for following in islice(todo, 1))
                try:
                    image, modified_s = loaded.result()
                    result = predictor.segment(image, model)
                except (ServiceError, OSError) as error:
                    yield job, reason(job.source, error), None
                else:
                    saving.append((job, pool.submit(_save, job, modified_s, result, writing)))
                while saving and (len(saving) > FRAMES_AHEAD or saving[0][1].done()):
                    yield _saved(*saving.popleft())
            while saving:
                yield _saved(*saving.popleft())
        finally:
            pool.shutdown(cancel_futures=True)  # a file that is being written is finished


def _load(job: Job, limits: Limits) -> tuple[NDArray[np.uint8], float]:
    found = job.source.stat()
    size = found.st_size
    if size > limits.max_bytes:  # told before a film called .jpg fills the memory
        raise BodyTooLarge(
            f"{size} bytes; FCN_MAX_IMAGE_BYTES allows {limits.max_bytes}", limit=limits.max_bytes, actual=size, unit="bytes"
        )
    return decoding.decode(job.source.read_bytes(), limits), found.st_mtime


def _save(job: Job, modified_s: float, result: Segmentation, writing: Writing) -> bytes | None:
    def written(name: str) -> bytes:
        options = writing.options[name]
        view = MaskView(result.labels, result.image, result.manifest, result.sha256, result.confidence, options)
        return encode(name, view).body

    for path, name in ((job.mask, writing.format), (job.overlay, "overlay")):
        if path is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        part = unfinished(path)
        try:
            part.write_bytes(written(name))
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
    if not job.line:
        return None
    # The format's own object, with what is known of the file before the rest.
    return to_json({"file": str(job.source), "modified_s": modified_s})[:-1] + b"," + written("rle")[1:]


def _saved(job: Job, future: Future[bytes | None]) -> tuple[Job, str | None, bytes | None]:
    try:
        return job, None, future.result()
    except OSError as error:
        return job, reason(job.source, error), None


def images_in(folder: Path) -> list[Path]:
    """The images of a folder and the folders in it, sorted; results of an earlier run are none."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not is_result(path)
        and not any(is_result(above) for above in path.relative_to(folder).parents)
        and path.is_file()
    )


def reason(path: Path, error: ServiceError | OSError) -> str:
    """Why nothing came of a file, in words."""
    if isinstance(error, ServiceError):
        return error.message
    where = "" if error.filename in (None, str(path)) else f": {error.filename}"
    return f"{error.strerror or error}{where}"
