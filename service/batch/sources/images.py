"""Image files: each its mask, its overlay, its line of JSON."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.batch.config import RunConfig
from service.batch.inputs import Input, is_scan
from service.batch.records import Finished, Recipe, state_of
from service.batch.run import Plan, reason
from service.batch.sources import Done, Ending, Frame
from service.batch.targets import ALL_LINES, MASK, OVERLAY, Write, spoken, unfinished
from service.encodings import FORMATS, VOLUME_FORMAT, MaskView, RowWriter, Sheet, by_rows, encode, to_json
from service.encodings.palettes import palette_of
from service.errors import BodyTooLarge
from service.pipeline.codecs import decoding
from service.pipeline.codecs.georeference import Georeference
from service.pipeline.codecs.rows import read_by_rows
from service.pipeline.large import ROWS, LargeSegmentation
from service.pipeline.segmentation import Segmentation

DECODERS = 2
"""Threads that decode ahead of the network."""
FRAMES_AHEAD = 4
_SEVERAL_PAGES = ("GIF", "TIFF", "WEBP", "PNG")
"""Formats whose files may hold more than one picture."""


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


def plan_images(plan: Plan, inputs: Sequence[Input], out: Path | None, write: Sequence[Write], name: str) -> Images:
    """Give those images that have to be worked on.

    Takes:
        inputs: of the run
        out: folder of the file of lines; the working directory if None
        write: what is wanted of each
        name: of the masks' format
    """
    asked = ((name, Write.MASKS), ("overlay", Write.OVERLAYS), ("rle", Write.RLE))
    recipes: dict[str, Recipe] = {kind: plan.recipe(kind) for kind, wish in asked if wish in write}
    target = (out or Path()) / ALL_LINES if Write.RLE in write else None
    path = inputs[0].path if len(inputs) == 1 else Path("images")
    jobs: list[Job] = []
    if target is not None:
        try:
            lines = plan.lines(target)
        except OSError as error:
            for entry in inputs:
                plan.report.fail(entry.path, reason(entry.path, error))
            return Images(path, (), name, recipes, target)
    plan.targets.spare(entry.path for entry in inputs)
    for entry in inputs:
        plain = name == VOLUME_FORMAT and entry.path.suffix.lower() == ".nii"
        suffix = ".nii" if plain else FORMATS[name].suffix
        mask = entry.folder / f"{entry.stem}{MASK}{suffix}" if Write.MASKS in write else None
        overlay = entry.folder / f"{entry.stem}{OVERLAY}" if Write.OVERLAYS in write else None
        results = {}
        if mask is not None:
            results[mask] = recipes[name]
        if overlay is not None:
            results[overlay] = recipes["overlay"]
        many = {} if target is None else {target: recipes["rle"]}
        if plan.wanted(entry.path, results, many, complete=target is None or lines.has(entry.path)):
            jobs.append(Job(entry.path, mask, overlay))
    plan.report.expected += len(jobs)
    return Images(path, jobs, name, recipes, target)


class Images:
    """Image files.

    Takes:
        path: what a failure of all of them belongs to
        jobs: one a file
        name: of the masks' format
        recipes: by format
        lines: the file with a line for each image; None is not wanted
    """

    unit = "images"

    def __init__(self, path: Path, jobs: Sequence[Job], name: str, recipes: Mapping[str, Recipe], lines: Path | None) -> None:
        self.path, self.jobs, self._format, self._recipes, self._lines = path, jobs, name, recipes, lines
        self.notes: list[str] = []

    def split(self, size: int) -> list[Images]:
        """Return the same work in parts of so many files, in order."""
        parts = (self.jobs[begin : begin + size] for begin in range(0, len(self.jobs), size))
        return [Images(self.path, part, self._format, self._recipes, self._lines) for part in parts]

    def open(self, config: RunConfig) -> int:
        """Say how many images there are."""
        self._config = config
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
            scan, limits = is_scan(job.source), self._config.limits
            large = None if scan else read_by_rows(job.source, limits)
            if large is not None:
                for _, name in self._wanted(job):
                    by_rows(name, self._config.options[name])
                return ImageFrame(large, None, job, state, found.st_mtime, geo=large.geo)
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
            if self._config.engine.manifest.input.takes_grey:  # an array of 8 bits would not hold its numbers
                return ImageFrame(data, None, job, state, found.st_mtime, _pages(data), decoding.georeference(data))
            image = decoding.decode(data, self._config.limits)
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises belongs to its file
            return ImageFrame(None, reason(job.source, error), job)
        return ImageFrame(image, None, job, state, found.st_mtime, _pages(data), decoding.georeference(data))

    def write(self, done: Done[ImageFrame]) -> Done[ImageFrame]:
        """Write the results of an image."""
        if done.made is None and done.large is None:
            return done
        finished: list[Finished] = []
        try:
            if done.made is not None:
                finished.extend(self._save(done.frame, done.made))
            elif done.large is not None:
                finished.extend(self._save_by_rows(done.frame, done.large))
        except Exception as error:  # noqa: BLE001 - whatever an encoder raises belongs to its file
            return Done(done.frame, None, reason(done.frame.file, error), tuple(finished))
        if done.frame.pages > 1:
            self.notes.append(f"{done.frame.file.name} holds {done.frame.pages} pictures; the first is segmented")
        return Done(done.frame, done.made, None, tuple(finished), done.large)

    def _wanted(self, job: Job) -> list[tuple[Path, str]]:
        """Return the results of an image, each with its format."""
        files = [(path, name) for path, name in ((job.mask, self._format), (job.overlay, "overlay")) if path is not None]
        return files if self._lines is None else [*files, (self._lines, "rle")]

    def _save_by_rows(self, frame: ImageFrame, made: LargeSegmentation) -> Iterator[Finished]:
        """Write all results of a picture that is read by rows, band by band."""
        options, picture = self._config.options, made.picture
        wanted = [(path, unfinished(path), name, by_rows(name, options[name])) for path, name in self._wanted(frame.job)]
        try:
            with ExitStack() as files:
                writers: list[tuple[str, RowWriter]] = []
                for _, part, name, how in wanted:
                    palette = palette_of(options[name].rows(made.manifest.classes))
                    sheet = Sheet(picture.height, picture.width, ROWS, palette, frame.geo)
                    writers.append((name, how.begin(files.enter_context(part.open("wb")), sheet)))
                for labels, certainty, image in made.bands(pictured=any(how.pictured for *_, how in wanted)):
                    for name, writer in writers:
                        shown = MaskView(labels, image, made.manifest, made.sha256, partial(_known, certainty), options[name])
                        writer.add(shown.selected())
                for _, writer in writers:
                    writer.finish()
            for path, part, name, _ in wanted:
                size = part.stat().st_size
                part.replace(path)
                yield Finished(path, frame.job.source, self._recipes[name], frame.state, size)
        finally:
            for _, part, *_ in wanted:
                part.unlink(missing_ok=True)

    def _save(self, frame: ImageFrame, made: Segmentation) -> Iterator[Finished]:
        job, options = frame.job, self._config.options

        def written(name: str, path: Path | None = None) -> bytes:
            view = MaskView.of(made, options[name], job.source.name)
            if view.volume is not None and path is not None:  # the name says whether it is compressed
                view = replace(view, volume=replace(view.volume, compressed=path.name.endswith(".gz")))
            return encode(name, replace(view, geo=frame.geo)).body  # the network was given pixels, which say no place

        for path, name in self._wanted(job):
            if path == self._lines:
                continue
            part = unfinished(path)
            body = written(name, path)
            try:
                part.write_bytes(body)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            yield Finished(path, job.source, self._recipes[name], frame.state, len(body))
        if self._lines is not None:
            # The format's own object, with what is known of the file before the rest.
            about = to_json({"file": spoken(job.source), "modified_s": frame.modified_s})
            line = about[:-1] + b"," + written("rle")[1:]
            yield Finished(self._lines, job.source, self._recipes["rle"], frame.state, line=line)

    def finish(self) -> Ending:
        """Return nothing more: the results of every image have their names."""
        return Ending()

    def close(self) -> None:
        """Do nothing: no file is open."""


def _known(certainty: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Return the confidence of a band, which was computed if a format or an option needs it."""
    if certainty is None:
        raise ValueError("the confidence was not computed")
    return certainty


def _pages(data: bytes) -> int:
    """Count the pictures of a file; 1 if that cannot be told."""
    try:
        with Image.open(io.BytesIO(data), formats=_SEVERAL_PAGES) as picture:
            return int(getattr(picture, "n_frames", 1))
    except Exception:  # noqa: BLE001 - what was decoded is right, whatever Pillow thinks of the rest
        return 1
