"""Image files: what is written of each, where, and the doing of it.

May import: numpy, ``service.encodings``, ``service.errors``, ``service.pipeline``.
"""

from __future__ import annotations

import contextlib
import enum
import json
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from service.encodings import MaskView, Options, encode, to_json
from service.errors import BodyTooLarge, ServiceError
from service.pipeline import decode
from service.pipeline.decode import Limits
from service.pipeline.segmenter import Segmentation, Segmenter

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
MASK_SUFFIX, OVERLAY_SUFFIX = ".mask", ".overlay.png"

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
        """Whether an earlier run has written them all, from the image as it is now."""
        try:
            oldest = min((path.stat().st_mtime_ns for path in self.results()), default=None)
            return oldest is not None and oldest >= self.source.stat().st_mtime_ns
        except OSError:
            return False


@dataclass(frozen=True)
class Writing:
    """How the results are written."""

    format: str
    """Of the masks."""
    options: Mapping[str, Options]
    """By the name of each format that is written: of the masks, ``overlay`` and ``rle``."""


class Lines:
    """The one file with a line of JSON for each image; lines are only ever added, each as a whole.

    Takes:
        path: of the file; None if no lines are wanted
        sha256: of the network; lines of another one do not count
        anew: whether lines of earlier runs are thrown away
    """

    def __init__(self, path: Path | None, sha256: str, *, anew: bool) -> None:
        self._file: IO[bytes] | None = None
        self._known: set[str] = set()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True):
            if anew or not line.endswith(b"\n"):
                break
            whole += len(line)
            with contextlib.suppress(ValueError, LookupError, TypeError):
                document = json.loads(line)
                if document["model"]["sha256"] == sha256:
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
        images = images_in(path) if path.is_dir() else [path]
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
    jobs: Sequence[Job], segmenter: Segmenter, model: str | None, writing: Writing
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
                    yield job, reason(job.source, error), None
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
    def written(name: str) -> bytes:
        options = writing.options[name]
        view = MaskView(result.labels, result.image, result.manifest, result.sha256, result.confidence, options)
        return encode(name, view).body

    for path, name in ((job.mask, writing.format), (job.overlay, "overlay")):
        if path is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.part")
        try:
            unfinished.write_bytes(written(name))
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
    if not job.line:
        return None
    # The format's own object, with the file's name before the rest.
    return b'{"file":' + to_json(str(job.source)) + b"," + written("rle")[1:]


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
        and not path.name.endswith((f"{MASK_SUFFIX}.png", OVERLAY_SUFFIX))
        and path.is_file()
    )


def reason(path: Path, error: ServiceError | OSError) -> str:
    """Why nothing came of a file, in words."""
    if isinstance(error, ServiceError):
        return error.message
    where = "" if error.filename in (None, str(path)) else f": {error.filename}"
    return f"{error.strerror or error}{where}"
