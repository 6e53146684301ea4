"""Videos: frames in with their time stamps, upright; masks out as JSON Lines of run lengths, PNGs, and a video with overlays.

Everything that is being written has another name until it is finished. What an interrupted run leaves is its journal, the JSON
Lines so far: the next run takes the masks of those frames from it, and goes on where it ends.

May import: numpy, ``service.encodings``, ``service.errors``, ``service.pipeline``, the rest of ``service.batch`` but
``images`` and ``bags``; av (the extra ``video``) only where a video is opened.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.batch.journal import Journal
from service.batch.overlap import overlapped
from service.batch.targets import unfinished, up_to_date
from service.encodings import FORMATS, MaskView, Options, overlay, png, rle, to_json
from service.encodings.color import palette_of
from service.errors import BadSetting, CorruptImage, UnsupportedImage
from service.extras import needs
from service.pipeline.engine import Engine
from service.pipeline.predictor import Predictor

VIDEO_SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"))

ENCODERS = ("libx264", "libvpx-vp9", "mpeg4")
"""What overlays are encoded with: the first one that the installed FFmpeg has."""


HIDDEN = 8
"""Frames of an MP4 that may be missing without being lost: an edit list can hide those before its first cut."""


class Frame(NamedTuple):
    """One frame of a video."""

    number: int
    pts: int
    """In units of the stream's time base, from the first frame on."""
    time_s: float
    image: NDArray[np.uint8]
    """H x W x 3 uint8 RGB, upright."""

    def about(self) -> dict[str, Any]:
        """What its line says beside the mask."""
        return {"frame": self.number, "pts": self.pts, "time_s": round(self.time_s, 6)}


class Segmented(NamedTuple):
    """A frame and its mask."""

    frame: Frame
    labels: NDArray[np.uint8]
    """H x W uint8, as it is written."""
    line: bytes | None
    """For the journal; None if it is there already."""


@dataclass(frozen=True)
class Results:
    """Where the results of one video go; None is not wanted."""

    lines: Path | None
    """A JSON object a frame."""
    masks: Path | None
    """A folder with an indexed PNG a frame."""
    overlay: Path | None
    """The video with its masks laid over it."""
    journal: Path
    """What the journal of an unfinished run is named after."""

    def all(self) -> list[Path]:
        """Those that are wanted."""
        return [path for path in (self.lines, self.masks, self.overlay) if path is not None]

    def finished(self, source: Path) -> bool:
        """Whether an earlier run has written them all, from the video as it is now."""
        return up_to_date(self.all(), source)


class Video:
    """A video file, opened for reading.

    Takes:
        path: the file
    Raises:
        BadSetting: if PyAV is not installed
        UnsupportedImage: if it is no video
        OSError: if it cannot be read
    """

    def __init__(self, path: Path) -> None:
        av = _av()
        path.open("rb").close()
        try:
            self._container = av.open(str(path))
        except av.FFmpegError as error:
            raise UnsupportedImage(
                f"not a video that can be read: {error.strerror}; if it was cut short, try to remux it"
            ) from error
        if not self._container.streams.video:
            self._container.close()
            raise UnsupportedImage("there is no picture in this file")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.time_base: Fraction = self._stream.time_base
        self.rate: Fraction | None = self._stream.average_rate
        self.announced: int = self._stream.frames if "mp4" in self._container.format.name else 0
        """Frames that the file says it has; 0 if it says nothing, or nothing reliable (AVI counts empty places in)."""
        self.damaged = 0
        """Packets that could not be decoded, so far."""

    @property
    def expected(self) -> int | None:
        """How many frames there are, as far as can be told beforehand."""
        if self.announced:
            return self.announced
        duration, rate = self._container.duration, self.rate
        return round(duration / 1e6 * rate) if duration and rate else None

    def frames(self) -> Iterator[Frame]:
        """Every frame that can be decoded, in the order in which they are shown."""
        av = _av()
        first = last = None
        number = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                decoded = packet.decode()
            except av.FFmpegError:
                self.damaged += 1
                if self.damaged > 1000:  # nothing more will come of it
                    return
                continue
            for picture in decoded:
                pts = picture.pts if picture.pts is not None else (0 if last is None else last + 1)
                first = pts if first is None else first
                if last is not None and pts <= last:  # players would drop it, and so would an encoder
                    pts = last + 1
                last = pts
                image = np.ascontiguousarray(np.rot90(picture.to_ndarray(format="rgb24"), round(picture.rotation / 90) % 4))
                yield Frame(number, pts - first, float((pts - first) * self.time_base), image)
                number += 1

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def segment_video(
    path: Path,
    results: Results,
    options: Mapping[str, Options],
    predictor: Predictor,
    engine: Engine,
    expect: Callable[[int | None], None] = lambda _: None,
    *,
    anew: bool = False,
) -> Generator[Segmented, None, str | None]:
    """Segment a video, or go on with it. Left early, what is finished so far is kept for the next run.

    Takes:
        options: of ``rle``, ``png`` and ``overlay``
        expect: called with the number of frames, as far as known
        anew: whether what an earlier run has left is thrown away
    Gives:
        each frame when its mask is written; at the end what was wrong with the file, or None
    Raises:
        ServiceError, OSError: if nothing can be made of it
    """
    for folder in {results.journal.parent, *(target.parent for target in results.all())}:
        folder.mkdir(parents=True, exist_ok=True)
    of_lines = options["rle"]
    with contextlib.closing(Video(path)) as video:
        expect(video.expected)
        run = {"model": engine.sha256, "statistics": of_lines.statistics, **of_lines.selection()}
        with (
            contextlib.closing(Journal(results.journal, path, run, anew=anew)) as journal,
            contextlib.closing(_Writer(results, video, journal, options, engine)) as writer,
        ):

            def segment(frame: Frame) -> Segmented:
                known = journal.known(frame.about())
                if known is not None:
                    return Segmented(frame, rle.decode(known), None)
                made = predictor.segment(frame.image, engine.manifest.name)
                view = MaskView(made.labels, made.image, made.manifest, made.sha256, made.confidence, of_lines).selected()
                # The format's own object, with what is known of the frame before the rest.
                line = to_json(frame.about())[:-1] + b"," + FORMATS["rle"].encode(view)[1:]
                return Segmented(frame, view.labels, line)

            count = 0
            for done in overlapped(video.frames(), segment, writer.write):
                count += 1
                yield done
            if not count:
                raise CorruptImage("no frame of it can be decoded")
            writer.finish()
        cut_short = count < video.announced - HIDDEN
        if video.damaged or cut_short:
            missing = f", of {video.announced}" if cut_short else ""
            return f"damaged: {count} frames could be read{missing}, and are done"
    return None


class _Writer:
    """Writes what becomes of a video, under other names until it is finished."""

    def __init__(
        self, results: Results, video: Video, journal: Journal, options: Mapping[str, Options], engine: Engine
    ) -> None:
        self._results, self._journal = results, journal
        self._rows = options["overlay"].rows(engine.manifest.classes)
        self._palette, self._legend = palette_of(self._rows), options["overlay"].legend
        if results.masks is not None:  # every frame is written again, and there may be fewer
            shutil.rmtree(unfinished(results.masks), ignore_errors=True)
        self._film = None if results.overlay is None else _Film(unfinished(results.overlay), video)

    def write(self, done: Segmented) -> None:
        """Write one frame."""
        if done.line is not None:
            self._journal.add(done.line)
        if self._results.masks is not None:
            folder = unfinished(self._results.masks)
            folder.mkdir(exist_ok=True)
            target = folder / f"{done.frame.number:06d}.png"
            part = unfinished(target)
            part.write_bytes(png.encode_indexed(done.labels, self._palette))
            part.replace(target)
        if self._film is not None:
            picture = overlay.draw(done.frame.image, done.labels, self._rows, legend=self._legend)
            self._film.write(picture, done.frame.pts)

    def finish(self) -> None:
        """All is written: give everything its name."""
        results = self._results
        if self._film is not None and results.overlay is not None:
            self._film.finish()
            unfinished(results.overlay).replace(results.overlay)
        if results.masks is not None:
            if results.masks.exists():
                shutil.rmtree(results.masks)
            unfinished(results.masks).replace(results.masks)
        self._journal.finish(results.lines)

    def close(self) -> None:
        """Leave what cannot be gone on with."""
        if self._film is not None:
            self._film.close()
            if self._results.overlay is not None:
                unfinished(self._results.overlay).unlink(missing_ok=True)


class _Film:
    """A video that is being written, with the time stamps of the one that it is made of."""

    def __init__(self, path: Path, source: Video) -> None:
        av = _av()
        name = next(name for name in ENCODERS if name in av.codecs_available)
        self._container = av.open(str(path), "w", format="mp4")
        self._stream = self._container.add_stream(name, rate=source.rate or 30)
        self._stream.pix_fmt = "yuv420p"
        if name == "libx264":
            self._stream.options = {"preset": "veryfast"}  # a run is 1.2 times as fast, and the file smaller (2026-11)
        self._time_base = source.time_base
        self._stream.time_base = self._stream.codec_context.time_base = source.time_base
        self._size: tuple[int, int] | None = None

    def write(self, image: NDArray[np.uint8], pts: int) -> None:
        """Add a frame; one of another size is scaled to that of the first."""
        if self._size is None:
            height, width = image.shape[:2]
            self._size = height + height % 2, width + width % 2  # the colour planes have half the size
            self._stream.height, self._stream.width = self._size
        frame = _av().VideoFrame.from_ndarray(_evened(image), format="rgb24")
        if (frame.height, frame.width) != self._size:
            frame = frame.reformat(height=self._size[0], width=self._size[1])
        frame.pts, frame.time_base = pts, self._time_base
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def close(self) -> None:
        """Close the file, whatever state it is in."""
        with contextlib.suppress(_av().FFmpegError, ValueError):
            self._container.close()


def _evened(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge") if height % 2 or width % 2 else image


def _av() -> Any:
    try:
        return importlib.import_module("av")
    except ModuleNotFoundError as error:
        raise BadSetting(needs("videos need", "video")) from error
