"""Image files: each its mask, its overlay, its line of JSON."""

from __future__ import annotations

import contextlib
import io
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from PIL import Image

from service.batch.inputs import Input, is_scan
from service.batch.records import Recipe, state_of
from service.batch.run import Plan, reason
from service.batch.sources import Done, Frame
from service.batch.targets import ALL_LINES, MASK, OVERLAY, Write, spoken, unfinished
from service.encodings import FORMATS, VOLUME_FORMAT, MaskView, encode, to_json
from service.errors import BodyTooLarge
from service.pipeline.codecs import decoding
from service.pipeline.codecs.georeference import Georeference
from service.pipeline.segmentation import Segmentation

DECODERS = 2
"""Threads that decode ahead of the network."""
FRAMES_AHEAD = 4
_SEVERAL_PAGES = ("GIF", "TIFF", "WEBP", "PNG")
"""Formats whose files may hold more than one picture."""


class Lines:
    """The one file with a line of JSON for each image.

    Lines are only ever added, each as a whole, so that an interrupted run loses none, of its own or of earlier ones. Of an
    image that has several the last one counts; those before it are removed when the file is closed.

    Takes:
        path: of the file
    """

    def __init__(self, path: Path) -> None:
        self._path, self._end = path, 0
        self._begins: dict[str, int] = {}
        """By the image: where its line begins."""
        self._superseded: set[int] = set()
        self._file: IO[bytes] = path.open("a+b")
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self._note(line)
        self._file.truncate(self._end)

    def has(self, source: Path) -> bool:
        """Say whether an image's line is here."""
        return spoken(source) in self._begins

    def add(self, line: bytes) -> None:
        """Write a line."""
        self._file.write(line + b"\n")
        self._file.flush()
        self._note(line + b"\n")

    def _note(self, line: bytes) -> None:
        """Remember which image the next line belongs to."""
        with contextlib.suppress(ValueError, LookupError, TypeError):  # other lines are left alone
            document: dict[str, Any] = json.loads(line)
            file = str(document["file"])
            if file in self._begins:
                self._superseded.add(self._begins[file])
            self._begins[file] = self._end
        self._end += len(line)

    def close(self) -> None:
        """Leave one line an image."""
        if self._file.closed:
            return
        self._file.close()
        if not self._end:
            self._path.unlink(missing_ok=True)
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


@dataclass(frozen=True, eq=False)
class Job:
    """One image file and where its results go; None is not wanted."""

    source: Path
    mask: Path | None
    overlay: Path | None


@dataclass(frozen=True, eq=False)
class ImageFrame(Frame):
    """One image file, decoded."""

    job: Job
    state: str = ""
    """The state of the file when it was read."""
    modified_s: float = 0.0
    pages: int = 1
    geo: Georeference | None = None
    """Where the image lies on the earth, if its file is a GeoTIFF."""

    @property
    def file(self) -> Path:
        """The image's own file."""
        return self.job.source


class Images:
    """All image files of a run.

    Takes:
        inputs: of the run
        out: folder of the file of lines; the working directory if None
        write: what is wanted of each
        name: of the masks' format
    """

    unit = "images"

    def __init__(self, plan: Plan, inputs: Sequence[Input], out: Path | None, write: Sequence[Write], name: str) -> None:
        self._plan, self._format = plan, name
        self.path = inputs[0].path if len(inputs) == 1 else Path("images")
        self.notes: list[str] = []
        self.jobs: list[Job] = []
        asked = ((name, Write.MASKS), ("overlay", Write.OVERLAYS), ("rle", Write.RLE))
        self._recipes: dict[str, Recipe] = {kind: plan.recipe(kind) for kind, wish in asked if wish in write}
        self._target = (out or Path()) / ALL_LINES
        self._lines: Lines | None = None
        if Write.RLE in write:
            try:
                plan.records(self._target.parent)
                self._lines = Lines(self._target)
            except OSError as error:
                for entry in inputs:
                    plan.report.fail(entry.path, reason(entry.path, error))
                return
        plan.targets.spare(entry.path for entry in inputs)
        for entry in inputs:
            self._add(entry, write)
        plan.report.expected += len(self.jobs)

    def _add(self, entry: Input, write: Sequence[Write]) -> None:
        """Plan one image."""
        plain = self._format == VOLUME_FORMAT and entry.path.suffix.lower() == ".nii"
        suffix = ".nii" if plain else FORMATS[self._format].suffix
        mask = entry.folder / f"{entry.stem}{MASK}{suffix}" if Write.MASKS in write else None
        overlay = entry.folder / f"{entry.stem}{OVERLAY}" if Write.OVERLAYS in write else None
        results = {}
        if mask is not None:
            results[mask] = self._recipes[self._format]
        if overlay is not None:
            results[overlay] = self._recipes["overlay"]
        many = {} if self._lines is None else {self._target: self._recipes["rle"]}
        if self._plan.wanted(entry.path, results, many, complete=self._lines is None or self._lines.has(entry.path)):
            self.jobs.append(Job(entry.path, mask, overlay))

    def open(self) -> int:
        """Say how many images there are."""
        return len(self.jobs)

    def frames(self) -> Iterator[ImageFrame]:
        """Decode the files, a few ahead of the network."""
        todo = iter(self.jobs)
        with ThreadPoolExecutor(DECODERS, thread_name_prefix="fcn-files") as pool:
            try:
                loading = deque(pool.submit(self._load, job) for job in islice(todo, FRAMES_AHEAD))
                while loading:
                    frame = loading.popleft().result()
                    loading.extend(pool.submit(self._load, job) for job in islice(todo, 1))
                    yield frame
            finally:
                pool.shutdown(cancel_futures=True)

    def _load(self, job: Job) -> ImageFrame:
        try:
            found, state = job.source.stat(), state_of(job.source)
            scan, limits = is_scan(job.source), self._plan.limits
            limit = limits.max_scan_bytes if scan else limits.max_bytes
            if found.st_size > limit:  # told before a film called .jpg fills the memory
                raise BodyTooLarge(  # noqa: TRY301 - one place says what is wrong with a file
                    f"{found.st_size} bytes; FCN_MAX_{'SCAN' if scan else 'IMAGE'}_BYTES allows {limit}",
                    limit=limit,
                    actual=found.st_size,
                    unit="bytes",
                )
            data = job.source.read_bytes()
            if scan:
                return ImageFrame(data, None, job, state, found.st_mtime)
            image = decoding.decode(data, self._plan.limits)
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises belongs to its file
            return ImageFrame(None, reason(job.source, error), job)
        return ImageFrame(image, None, job, state, found.st_mtime, _pages(data), decoding.georeference(data))

    def write(self, done: Done[ImageFrame]) -> Done[ImageFrame]:
        """Write the results of an image."""
        if done.made is None:
            return done
        try:
            self._save(done.frame, done.made)
        except Exception as error:  # noqa: BLE001 - whatever an encoder raises belongs to its file
            return Done(done.frame, None, reason(done.frame.file, error))
        if done.frame.pages > 1:
            self.notes.append(f"{done.frame.file.name} holds {done.frame.pages} pictures; the first is segmented")
        return done

    def _save(self, frame: ImageFrame, made: Segmentation) -> None:
        job, plan = frame.job, self._plan

        def written(name: str, path: Path | None = None) -> bytes:
            view = MaskView.of(made, plan.options[name], job.source.name)
            if view.volume is not None and path is not None:  # the name says whether it is compressed
                view = replace(view, volume=replace(view.volume, compressed=path.name.endswith(".gz")))
            return encode(name, replace(view, geo=frame.geo)).body  # the network was given pixels, which say no place

        for path, name in ((job.mask, self._format), (job.overlay, "overlay")):
            if path is None:
                continue
            part = unfinished(path)
            try:
                part.write_bytes(written(name, path))
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            plan.finished(path, job.source, self._recipes[name], frame.state)
        if self._lines is not None:
            # The format's own object, with what is known of the file before the rest.
            about = to_json({"file": spoken(job.source), "modified_s": frame.modified_s})
            self._lines.add(about[:-1] + b"," + written("rle")[1:])
            plan.finished(self._target, job.source, self._recipes["rle"], frame.state, of_many=True)

    def finish(self) -> None:
        """Do nothing: the results of every image have their names."""

    def close(self) -> None:
        """Close the file of lines."""
        if self._lines is not None:
            self._lines.close()


def _pages(data: bytes) -> int:
    """Count the pictures of a file; 1 if that cannot be told."""
    try:
        with Image.open(io.BytesIO(data), formats=_SEVERAL_PAGES) as picture:
            return int(getattr(picture, "n_frames", 1))
    except Exception:  # noqa: BLE001 - what was decoded is right, whatever Pillow thinks of the rest
        return 1
