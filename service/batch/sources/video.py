"""Videos: frames in with their time stamps, upright; masks out as JSON Lines of run lengths, PNGs, and a video with overlays.

Everything that is being written has another name until it is finished. An interrupted run leaves its journal, the JSON Lines so
far: the next run takes the masks of those frames from it, and goes on where it ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.batch.config import RunConfig
from service.batch.inputs import Input
from service.batch.journal import Journal
from service.batch.records import Finished, Recipe, size_of, state_of
from service.batch.run import Plan
from service.batch.sources import Done, Ending, Frame
from service.batch.sources.breaks import breaks_off
from service.batch.targets import FILM, LINES, MASKS, Write, unfinished
from service.encodings import FORMATS, MaskView, overlay, png, rle, to_json
from service.encodings.color import palette_of
from service.errors import CorruptImage, InferenceFailed, UnsupportedImage
from service.optional import load

ENCODERS = ("libx264", "libvpx-vp9", "mpeg4")
"""What overlays are encoded with: the first one that the installed FFmpeg has."""
HIDDEN = 8
"""Frames of an MP4 that may be missing without being lost: an edit list can hide those before its first cut."""
MOST_DAMAGED = 1000
"""Damaged packets after which reading ends."""
_UNBOUNDED = frozenset(("mpegts", "mpeg", "h264", "hevc", "m4v", "mpegvideo"))
"""FFmpeg's names of formats that do not tell where their last frame ends."""
_TAIL_PACKETS = 1000


@dataclass(frozen=True)
class Moment:
    """Which frame of a video this is, and when it is shown."""

    number: int
    pts: int
    """In units of the stream's time base, from the first frame on."""
    time_s: float

    def about(self) -> dict[str, Any]:
        """Return what its line says beside the mask."""
        return {"frame": self.number, "pts": self.pts, "time_s": round(self.time_s, 6)}


@dataclass(frozen=True, eq=False)
class VideoFrame(Frame):
    """One frame of a video."""

    moment: Moment
    picture: NDArray[np.uint8]
    """H x W x 3 uint8 RGB, upright."""
    known: NDArray[np.uint8] | None
    """The mask that an interrupted run has made of it."""


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

    @classmethod
    def of(cls, entry: Input, write: Sequence[Write]) -> Results:
        """Name the results of a video."""
        beside = entry.folder / entry.stem
        lines, masks, film = (beside.with_name(f"{beside.name}{end}") for end in (LINES, MASKS, FILM))
        return cls(
            lines if Write.RLE in write else None,
            masks if Write.MASKS in write else None,
            film if Write.OVERLAYS in write else None,
            lines,
        )

    def formats(self) -> dict[Path, str]:
        """Return the format of each that is wanted."""
        wanted = ((self.lines, "rle"), (self.masks, "png"), (self.overlay, "overlay"))
        return {path: name for path, name in wanted if path is not None}


def plan_videos(plan: Plan, inputs: Sequence[Input], write: Sequence[Write]) -> Iterator[VideoSource]:
    """Give those videos that have to be worked on."""
    for entry in inputs:
        results = Results.of(entry, write)
        recipes = {path: plan.recipe(name) for path, name in results.formats().items()}
        if plan.wanted(entry.path, recipes):
            yield VideoSource(entry.path, results, recipes)


class VideoSource:
    """One video, and what is written of it."""

    unit = "frames"

    def __init__(self, path: Path, results: Results, recipes: Mapping[Path, Recipe]) -> None:
        self.path = path
        self.notes: list[str] = []
        self._results, self._recipes = results, recipes
        self._until = contextlib.ExitStack()
        self._count = 0

    def open(self, config: RunConfig) -> int | None:
        """Open the video, its journal and its results."""
        self._config, path, results = config, self.path, self._results
        options = config.options["rle"]
        self._video = self._until.enter_context(contextlib.closing(Video(path)))
        self._state = state_of(path)
        run = {**config.journal(), "statistics": options.statistics, **options.selection()}
        journal = Journal(results.journal, path, run, afresh=config.overwrite)
        self._journal = self._until.enter_context(contextlib.closing(journal))
        of_overlay = config.options["overlay"]
        self._rows = of_overlay.rows(config.engine.manifest.classes)
        self._palette, self._legend = palette_of(self._rows), of_overlay.legend
        self._film: _Film | None = None
        if results.masks is not None:  # every frame is written again, and there may be fewer
            shutil.rmtree(unfinished(results.masks), ignore_errors=True)
        if results.overlay is not None:
            part = unfinished(results.overlay)
            self._until.callback(part.unlink, missing_ok=True)
            self._film = self._until.enter_context(contextlib.closing(_Film(part, self._video)))
        return self._video.expected

    def frames(self) -> Iterator[VideoFrame]:
        """Give every frame that can be decoded; the network has nothing to do with those of the journal."""
        for moment, picture in self._video.frames():
            document = self._journal.known(moment.about())
            if document is None:
                yield VideoFrame(picture, None, moment, picture, None)
            else:
                yield VideoFrame(None, None, moment, picture, rle.decode(document))

    def write(self, done: Done[VideoFrame]) -> Done[VideoFrame]:
        """Write one frame."""
        frame, labels = done.frame, done.frame.known
        if done.failure is not None:
            raise InferenceFailed(f"frame {frame.moment.number}: {done.failure}")
        if done.made is not None:
            made = done.made
            options = self._config.options["rle"]
            view = MaskView.of(made, options).selected()
            labels = view.labels
            # The format's own object, with what is known of the frame before the rest.
            self._journal.add(to_json(frame.moment.about())[:-1] + b"," + FORMATS["rle"].encode(view)[1:])
        if labels is None:
            return done
        if self._results.masks is not None:
            folder = unfinished(self._results.masks)
            folder.mkdir(exist_ok=True)
            (folder / f"{frame.moment.number:06d}.png").write_bytes(png.encode_indexed(labels, self._palette))
        if self._film is not None:
            self._film.write(overlay.draw(frame.picture, labels, self._rows, legend=self._legend), frame.moment.pts)
        self._count += 1
        return done

    def finish(self) -> Ending:
        """Give everything its name."""
        results, video = self._results, self._video
        if not self._count:
            raise CorruptImage("no frame of it can be decoded")
        if self._film is not None and results.overlay is not None:
            self._film.finish()
            unfinished(results.overlay).replace(results.overlay)
        if results.masks is not None:
            replace_folder(unfinished(results.masks), results.masks)
        self._journal.finish(results.lines)
        damage = None
        missing = self._count < video.announced - HIDDEN
        if video.damaged or missing or video.breaks_off():
            of_all = f", of {video.announced}" if missing else ""
            damage = f"damaged: {self._count} frames could be read{of_all}, and are done"
        finished = (
            Finished(path, self.path, recipe, self._state, size_of(path), damage=damage)
            for path, recipe in self._recipes.items()
        )
        return Ending(tuple(finished), damage)

    def close(self) -> None:
        """Close the files; an overlay that is not whole is deleted."""
        self._until.close()


def replace_folder(made: Path, target: Path) -> None:
    """Give a folder its name; one that has it is deleted, and is complete until then."""
    old = target.with_name(f".{target.name}.old.part")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    made.replace(target)
    shutil.rmtree(old, ignore_errors=True)


class Video:
    """A video file, opened for reading.

    Takes:
        path: the file
    Raises:
        BadSetting: if PyAV is not installed
        UnsupportedImage: if it is not a video
        OSError: if it cannot be read
    """

    def __init__(self, path: Path) -> None:
        self._av = load("av")
        self._path = path
        path.open("rb").close()
        self._open()
        self.damaged = 0
        """Packets and frames that are damaged, so far."""
        self.turned = False
        """Whether frames are turned by a quarter, which swaps the sides of their pixels."""
        self._tail: list[Any] = []
        """Packets since the last key frame, where the container does not tell where they end."""

    def _open(self, *, threads: str = "AUTO") -> None:
        try:
            # An absolute path: FFmpeg takes a name with a colon for a protocol. Titles may be in any encoding.
            self._container = self._av.open(os.fspath(self._path.absolute()), metadata_errors="replace")
        except self._av.FFmpegError as error:
            raise UnsupportedImage(
                f"not a video that can be read: {error.strerror}; if it was cut short, try to remux it"
            ) from error
        try:
            self._stream = stream = _film_of(self._container)
            stream.thread_type = threads
            self.time_base: Fraction = stream.time_base
            self.rate: Fraction | None = stream.average_rate
            self.aspect: Fraction | None = stream.sample_aspect_ratio
            """Width of a pixel over its height, as it is stored; None if the file does not say it."""
            self.announced: int = stream.frames if "mp4" in self._container.format.name else 0
            """Frames that the file says it has; 0 if it says nothing, or nothing reliable (AVI counts empty places in)."""
        except BaseException:
            self._container.close()
            raise

    @property
    def expected(self) -> int | None:
        """How many frames there are, as far as can be told beforehand."""
        if self.announced:
            return self.announced
        duration, rate = self._container.duration, self.rate
        return round(duration / 1e6 * rate) if duration and rate else None

    def frames(self) -> Iterator[tuple[Moment, NDArray[np.uint8]]]:
        """Give every frame that can be decoded, in the order in which they are shown.

        Gives:
            when it is shown, and H x W x 3 uint8 RGB, upright
        """
        first = last = None
        step = max(1, round(1 / (self.rate * self.time_base))) if self.rate else 1
        for number, picture in enumerate(self._pictures()):
            pts = picture.pts if picture.pts is not None else (0 if last is None else last + step)
            first = pts if first is None else first
            if last is not None and pts <= last:  # players would drop it, and so would an encoder
                pts = last + 1
            last = pts
            turns = round(picture.rotation / 90) % 4
            self.turned = turns % 2 == 1
            image = np.ascontiguousarray(np.rot90(picture.to_ndarray(format="rgb24"), turns))
            yield Moment(number, pts - first, float((pts - first) * self.time_base)), image

    def _pictures(self) -> Iterator[Any]:
        """Decode on several threads; of a damaged file the rest on one: an error takes the frames in flight with it."""
        given = 0
        try:
            for picture in self._decoded(tolerant=False):
                yield picture
                given += 1
            whole = not self.damaged and not breaks_off(self._path)
        except self._av.FFmpegError:
            whole = False
        if whole:
            return
        self._container.close()
        self._open(threads="SLICE")
        self.damaged = 0
        for at, picture in enumerate(self._decoded(tolerant=True)):
            if at >= given:
                yield picture

    def _decoded(self, *, tolerant: bool) -> Iterator[Any]:
        """Decode packet after packet.

        Takes:
            tolerant: whether packets that cannot be decoded are passed over
        """
        self._tail = []
        keeps_tail = self._container.format.name in _UNBOUNDED
        packets = self._container.demux(self._stream)
        while self.damaged <= MOST_DAMAGED:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                self.damaged += bool(packet.is_corrupt)
                if keeps_tail and packet.size:
                    if packet.is_keyframe or len(self._tail) > _TAIL_PACKETS:
                        self._tail = []
                    self._tail.append(packet)
                decoded = packet.decode()
            except self._av.FFmpegError:
                if not tolerant:
                    raise
                self.damaged += 1
                continue
            for picture in decoded:
                self.damaged += bool(picture.is_corrupt)
                yield picture

    def breaks_off(self) -> bool:
        """Say whether the file ends within a part or a frame; to be asked when all frames are read."""
        return breaks_off(self._path) or not self._tail_is_whole()

    def _tail_is_whole(self) -> bool:
        """Decode the last frames once more, without FFmpeg's repair of what is missing."""
        if not self._tail or not self._tail[0].is_keyframe:
            return True
        context = self._stream.codec_context
        decoder = self._av.CodecContext.create(context.name, "r")
        decoder.extradata = context.extradata
        decoder.thread_count = 1
        decoder.options = {"err_detect": "explode"}
        try:
            for packet in (*self._tail, None):
                decoder.decode(packet)
        except self._av.FFmpegError:
            return False
        return True

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _film_of(container: Any) -> Any:
    """Return the video stream with the most pixels a frame; attached pictures and streams of a single frame come last.

    Raises:
        UnsupportedImage: if there is none
    """
    films = [stream for stream in container.streams.video if "attached_pic" not in str(stream.disposition)]
    if not films:
        raise UnsupportedImage("there is no picture in this file")
    return max(films, key=lambda stream: (stream.frames != 1, stream.width * stream.height, stream.frames))


class _Film:
    """A video that is being written, with the time stamps and the shape of pixels of the one that it is made of."""

    def __init__(self, path: Path, source: Video) -> None:
        self._av = av = load("av")
        name = next(name for name in ENCODERS if name in av.codecs_available)
        self._container = av.open(os.fspath(path.absolute()), "w", format="mp4")
        self._stream = self._container.add_stream(name, rate=source.rate or 30)
        self._stream.pix_fmt = "yuv420p"
        if name == "libx264":
            self._stream.options = {"preset": "veryfast"}  # a run is 1.2 times as fast, and the file smaller (2026-11)
        self._source = source
        self._time_base = source.time_base
        self._stream.time_base = self._stream.codec_context.time_base = source.time_base
        self._size: tuple[int, int] | None = None

    def write(self, image: NDArray[np.uint8], pts: int) -> None:
        """Add a frame; one of another size is scaled to that of the first."""
        if self._size is None:
            height, width = image.shape[:2]
            self._size = height + height % 2, width + width % 2  # the colour planes have half the size
            self._stream.height, self._stream.width = self._size
            if self._source.aspect:
                aspect = 1 / self._source.aspect if self._source.turned else self._source.aspect
                self._stream.codec_context.sample_aspect_ratio = aspect
        frame = self._av.VideoFrame.from_ndarray(_evened(image), format="rgb24")
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
        with contextlib.suppress(self._av.FFmpegError, ValueError):
            self._container.close()


def _evened(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge") if height % 2 or width % 2 else image
