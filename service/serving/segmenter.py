"""The whole pipeline, as one straight line: bytes in, label map out.

====== ======================================= ==========================================
step   what                                    thread
====== ======================================= ==========================================
admit  size from the header, room in the queue the caller's event loop; microseconds
queue  wait for the engine                     none
decode bytes -> upright RGB -> the net's size  the queue's worker, or the pixel pool
infer  images -> scores                        the queue's worker
labels scores -> label map at the image's size the same as decode
finish whatever the caller makes of it         the same as decode
====== ======================================= ==========================================

Where there is a lane for each processor, its worker does all of it: nothing is handed over, and the scores are still in its
cache, 1.1 times the frames a second. On a GPU, or with fewer lanes, the pixel pool decodes one image, before the queue, and
finishes another while the worker infers a third.

Nothing computes on the event loop, and nothing large outlives the admission: an image's room is given back when its last
thread is done, even if its caller left long before.

May import: numpy, cv2, ``service.errors``, and the pipeline's steps; it is the only one that knows them all.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from service import process
from service.errors import DeadlineExceeded, InferenceFailed, NotReady, ServiceError
from service.pipeline import plan
from service.pipeline.codecs import decoding
from service.pipeline.cpus import available_cpus
from service.pipeline.engine import Engine
from service.pipeline.manifest import OUTPUT, Manifest
from service.pipeline.repository import Repository
from service.pipeline.tasks import semantic
from service.serving.scheduler import Place, Priority, WorkQueue
from service.serving.timings import ModelStatistics

P = ParamSpec("P")
T = TypeVar("T")
Image = NDArray[np.uint8]
Labels = NDArray[np.uint8]
Scores = NDArray[np.float32]


PIXEL_WORK = 1 / 8
"""What a pixel costs in decoding, labelling and encoding, over what one costs the network. Measured with the shipped network on
2 cores: 1/7 for a PNG of 50 megapixels that comes back as an overlay, 1/50 for a camera's JPEG."""

TIDY_MEGAPIXELS = 8.0
"""Images served since memory was last given back to the system, beyond which it is done again even if somebody comes soon."""
TIDY_AFTER_S = 1.0
"""How long after the last one left: in the very moment, the thread that answered him still holds his image. Whenever nobody
comes for as long, it is done too."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What became of one image."""

    image: Image
    """H x W x 3 uint8 RGB: the image as it was decoded, upright."""
    labels: Labels
    """H x W uint8: the class id of every pixel."""
    scores: Scores
    """K x h x w float32: the network's scores, still at its stride."""
    manifest: Manifest
    sha256: str
    """Of the artifact's file."""
    provider: str
    """Where the network ran: ``cpu`` or ``cuda``."""
    timing: dict[str, float]
    """Milliseconds of ``decode``, ``queue`` (every wait, for the engine or for a thread), ``infer`` (of the whole batch) and
    ``labels``; together all that passed."""

    def confidence(self) -> Labels:
        """The winner's probability, computed once, when first asked for: H x W uint8, 255 is certainty."""
        return self._confidence

    @cached_property
    def _confidence(self) -> Labels:
        return semantic.confidence_map(self.scores, self.labels)


class _Fit(NamedTuple):
    """What an image's header says of its cost."""

    megapixels: float
    net: tuple[int, int]
    """(h, w) that the network will see; not small for a single pixel either."""

    @property
    def cost(self) -> float:
        """Megapixels of room that the image takes up."""
        return max(self.megapixels, self._net_megapixels)

    @property
    def work(self) -> float:
        """Megapixels of the network that would take as long as all that is to be done."""
        return self._net_megapixels + PIXEL_WORK * self.megapixels

    @property
    def _net_megapixels(self) -> float:
        h, w = self.net
        return h * w / 1e6


class _Prepared(NamedTuple):
    """An image, ready for the network."""

    image: Image
    """H x W x 3 uint8: upright."""
    fitted: Image
    """h x w x 3 uint8: at the network's size."""
    decode_s: float
    """What both took."""


class _Job(NamedTuple):
    """What the queue's worker needs."""

    engine: Engine
    prepared: Callable[[], _Prepared]
    rest: Callable[[_Prepared, Scores, float], Any] | None = None
    """What is to be done with the scores at once, on the same thread; given the seconds that they took."""


class Segmenter:
    """Serves images with the models of a repository.

    Takes:
        repository: the models; closed together with the segmenter
        limits: on bytes, pixels and sides of an image
        queue_megapixels: admitted images, waiting and in work, beyond which callers are shed; an image counts for its own
            size or for the network's, whichever is larger. It bounds the memory: fifteen bytes a pixel at the
            worst, besides what a network takes whose size grows with the image's
        concurrency: inferences at the same time; as many as the engines have lanes
        max_batch: waiting images of one model and one network size that may run as one batch
        pixel_threads: threads that decode, upsample and encode; one a CPU by default
    """

    def __init__(
        self,
        repository: Repository,
        limits: decoding.Limits,
        *,
        queue_megapixels: float = 64.0,
        concurrency: int = 1,
        max_batch: int = 1,
        pixel_threads: int | None = None,
    ) -> None:
        self.repository = repository
        self.limits = limits
        self._lane_each = concurrency >= available_cpus()
        self._inferring = 0
        self._counting = threading.Lock()
        self.queue: WorkQueue[_Job, Any] = WorkQueue(
            self._infer,
            capacity=queue_megapixels,
            concurrency=concurrency,
            max_batch=max_batch,
            measured=_first_measure(repository),
            on_idle=self._tidy,
        )
        self._statistics: defaultdict[tuple[str, str], ModelStatistics] = defaultdict(ModelStatistics)
        self._least: tuple[Manifest | None, _Fit] = None, _Fit(0.0, (0, 0))
        """What an image costs of which nothing is known, and whose network it is."""
        self._used_megapixels = 0.0
        self._resting: asyncio.TimerHandle | None = None
        """Gives memory back if nobody comes until then."""
        self._pixels = ThreadPoolExecutor(pixel_threads or available_cpus(), thread_name_prefix="fcn-pixels")
        if not semantic.is_compiled():
            log.info(
                "labels.c is not compiled: label maps will take three to five times as long; see docs/adr/0008-labels-in-c.md"
            )
        process.give_back()  # what the opening of the models took

    async def segment(self, data: bytes, model: str | Engine | None = None, *, deadline_s: float | None = None) -> Segmentation:
        """Segment one image file: :meth:`serve` for whoever wants the arrays themselves.

        Takes:
            data: the file's bytes
            model: its name, or the engine itself; None is the default
            deadline_s: seconds from now after which the answer is of no use
        Raises:
            as :meth:`serve`
        """
        (result,) = await self.serve([data], lambda result: result, model, deadline_s=deadline_s)
        return result

    async def serve(
        self,
        images: Sequence[bytes | Image],
        finish: Callable[[Segmentation], T],
        model: str | Engine | None = None,
        *,
        deadline_s: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> list[T]:
        """Segment images, and make of each what the caller wants to keep of it.

        Takes:
            images: files' bytes, or H x W x 3 uint8 RGB where they are decoded already; admitted together, and those
                that do not fit together into the room that the queue has left take turns
            finish: called with each result, on another thread; again, where another image of its batch failed
            model: its name, or the engine itself; None is the default
            deadline_s: seconds from now after which the answer is of no use
            priority: before whom they go where several wait for the engine
        Gives:
            what ``finish`` gave, in the order of the images
        Raises:
            EmptyBody, BodyTooLarge, ImageTooLarge, UnsupportedImage, CorruptImage: as ``decoding``'s; of the first bad image
            UnknownModel: if there is no such model
            Overloaded: if the queue is full, or too full for the deadline; said before anything is decoded
            DeadlineExceeded: after ``deadline_s``
            NotReady: if the service drains, or has no model, or its worker died
            InferenceFailed: if the network fails, or its scores are not finite numbers
            whatever ``finish`` raises
        """
        engine = self._engine(model)
        with self.statistics(engine.manifest).request():
            return await self._serve(images, finish, engine, deadline_s, priority)

    def check_room(self, head: bytes, *, deadline_s: float) -> None:
        """Refuse an image by its first bytes, if they say enough of it: so would :meth:`serve`, once all of it has come.

        Takes:
            head: the beginning of the file; without any, an image of which nothing is known is refused where any would be late
            deadline_s: seconds from now after which the answer is of no use
        Raises:
            Overloaded: if the queue is full, or too full for the deadline
        """
        try:
            engine = self.repository.get()
            fit = self._fit_of(head, engine) if head else self._least_fit(engine.manifest)
        except ServiceError:  # of the image, or of what has come of it so far
            return
        self.queue.check_room(fit.cost if head else 0.0, work=fit.work, deadline=time.monotonic() + deadline_s)

    def statistics(self, manifest: Manifest) -> ModelStatistics:
        """What a version of a model has served through :meth:`serve` so far."""
        return self._statistics[manifest.name, manifest.version]

    async def _serve(
        self,
        images: Sequence[bytes | Image],
        finish: Callable[[Segmentation], T],
        engine: Engine,
        deadline_s: float | None,
        priority: Priority,
    ) -> list[T]:
        fits = [self._fit_of(data, engine) for data in images]
        costs = [fit.cost for fit in fits]
        work = sum(fit.work for fit in fits)
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        # A form takes the room that there is, but that of its largest image at least: where it finds no room, no image of its
        # would have found any either, and a queue that is never empty does not keep it out for ever.
        room = max(*costs, min(sum(costs), self.queue.capacity - self.queue.load), 0.0)
        with self.queue.admit(room, work=work, deadline=deadline, priority=priority) as place:
            self._used_megapixels += sum(costs)
            with suppress(TimeoutError, DeadlineExceeded):
                async with asyncio.timeout(deadline_s):
                    made: list[T] = []
                    for turn in _turns(costs, room):
                        made += await _all(
                            [self._serve_one(images[at], fits[at], finish, engine, deadline, priority, place) for at in turn]
                        )
                    return made
            # Raised here, because the timeout's own error would come with it: that knows this task, which keeps its last error.
            raise DeadlineExceeded.after(round(1000 * (deadline_s or 0.0), 3))

    def _engine(self, model: str | Engine | None) -> Engine:
        return model if isinstance(model, Engine) else self.repository.get(model)

    def _fit_of(self, data: bytes | Image, engine: Engine) -> _Fit:
        header = decoding.probe(data, self.limits)
        return _Fit(header.megapixels, plan.fit_size(header.height, header.width, engine.manifest.input))

    def _least_fit(self, manifest: Manifest) -> _Fit:
        if self._least[0] is not manifest:
            self._least = manifest, _Fit(0.0, plan.least_size(manifest.input))
        return self._least[1]

    async def _serve_one(
        self,
        data: bytes | Image,
        fit: _Fit,
        finish: Callable[[Segmentation], T],
        engine: Engine,
        deadline: float | None,
        priority: Priority,
        place: Place,
    ) -> T:
        start = time.monotonic()
        prepare = partial(_prepare, data, self.limits, engine.manifest)
        rest = partial(_finish, finish, engine, start)
        at_once = self._lane_each and engine.provider == "cpu"
        if at_once:
            job = _Job(engine, prepare, rest)
        else:
            prepared = await self._offload(place, prepare)
            job = _Job(engine, lambda: prepared)
        answer, _, batch = await self.queue.submit(
            job, key=(engine, fit.net), deadline=deadline, priority=priority, place=place
        )
        made, spent = answer if at_once else await self._offload(place, rest, *answer)
        self.statistics(engine.manifest).add_image(batch, **spent)
        return made

    def _infer(self, jobs: Sequence[_Job]) -> Sequence[Any]:
        """On a worker's thread: all processors for a frame whose caller is alone, a lane where others are inside."""
        prepared = [job.prepared() for job in jobs]
        begun = time.monotonic()
        with self._counting:
            self._inferring += 1
            alone = self._inferring == 1 and self.queue.admitted <= 1
        try:
            scores = _infer(jobs[0].engine, [one.fitted for one in prepared], alone=alone)
        finally:
            with self._counting:
                self._inferring -= 1
        infer_s = time.monotonic() - begun
        return [
            job.rest(image, found, infer_s) if job.rest else (image, found, infer_s)
            for job, image, found in zip(jobs, prepared, scores, strict=True)
        ]

    def segment_now(self, data: bytes, model: str | Engine | None = None) -> Segmentation:
        """The same steps on the caller's own thread, without the queue: for the command line.

        Takes:
            data: the file's bytes
            model: its name, or the engine itself; None is the default
        Raises:
            as :meth:`segment`, but for ``Overloaded`` and ``DeadlineExceeded``
        """
        start = time.monotonic()
        engine = self._engine(model)
        return _straight(engine, _prepare(data, self.limits, engine.manifest), start)

    def segment_array(self, image: Image, model: str | Engine | None = None) -> Segmentation:
        """As :meth:`segment_now`, for an image that is decoded already.

        Takes:
            image: H x W x 3 uint8 RGB
            model: its name, or the engine itself; None is the default
        """
        start = time.monotonic()
        engine = self._engine(model)
        return _straight(engine, _Prepared(image, _fit(image, engine.manifest), 0.0), start)

    async def _offload(self, place: Place, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Compute on the pixel pool. What has not begun when the caller goes away is dropped; what has, keeps its place.

        Raises:
            NotReady: if the segmenter is closed
            whatever ``function`` raises
        """
        try:
            future = self._pixels.submit(partial(function, *args, **kwargs))
        except RuntimeError as error:  # the pool's way to say that it is shut down
            raise NotReady("the service shuts down") from error
        place.hold_for(future)
        try:
            return await asyncio.wrap_future(future)
        finally:
            del future  # it knows the error, whose traceback knows this frame: a circle stays until it is looked for

    def _tidy(self) -> None:
        """Nobody is inside: what images left behind goes back to the system, soon."""
        if self._resting is not None:
            self._resting.cancel()
        due = asyncio.get_running_loop().call_later(TIDY_AFTER_S, self._give_back)
        large = self._used_megapixels >= TIDY_MEGAPIXELS
        if large:
            self._used_megapixels = 0.0
        self._resting = None if large else due

    def _give_back(self) -> None:
        with suppress(RuntimeError):  # the pool is shut down
            self._pixels.submit(process.give_back)

    def check_ready(self) -> None:
        """Nothing, if images are served; every model was warmed up on the provider asked for when it was opened.

        Raises:
            NotReady: with the reason
        """
        self.queue.check_open()
        self.repository.check_alive()
        self.repository.get()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new images, finish those inside, then close.

        Takes:
            timeout_s: seconds for those inside; whoever still waits then gets ``NotReady``
        """
        await self.queue.aclose(timeout_s)
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Close at once; what is being computed is finished."""
        self.queue.close()
        self._pixels.shutdown(cancel_futures=True)
        self.repository.close()


def _first_measure(repository: Repository) -> tuple[float, float]:
    """Seconds and work of the default network's own part, which is what can be told before the first image."""
    if not repository.names():
        return 0.0, 0.0
    engine = repository.get()
    height, width = engine.manifest.input.working_size
    h, w = plan.fit_size(height, width, engine.manifest.input)
    start = time.monotonic()
    engine.warm_up()
    return time.monotonic() - start, h * w / 1e6


def _turns(costs: Sequence[float], capacity: float) -> Iterator[range]:
    """Neighbours that fit together; a single larger one has a turn of its own."""
    first, load = 0, 0.0
    for at, cost in enumerate(costs):
        if at > first and load + cost > capacity:
            yield range(first, at)
            first, load = at, 0.0
        load += cost
    yield range(first, len(costs))


async def _all(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once. The first that fails is the answer to all: the others need not be computed."""
    if len(works) == 1:
        return [await works[0]]
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        while tasks:  # none is left in this frame, which the traceback of their error knows
            tasks.pop().cancel()


# --- the steps -------------------------------------------------------------------------------------------------------


def _prepare(data: bytes | Image, limits: decoding.Limits, manifest: Manifest) -> _Prepared:
    start = time.monotonic()
    image = decoding.decode(data, limits)
    return _Prepared(image, _fit(image, manifest), time.monotonic() - start)


def _fit(image: Image, manifest: Manifest) -> Image:
    """H x W x 3 -> h x w x 3."""
    height, width, _ = image.shape
    return plan.resize_image(image, plan.fit_size(height, width, manifest.input))


def _infer(engine: Engine, images: Sequence[Image], *, alone: bool) -> Sequence[Scores]:
    """Images of one size -> K x h x w scores each."""
    return list(engine.run(np.stack(images) if len(images) > 1 else images[0][None], alone=alone)[OUTPUT])


def _label(engine: Engine, start: float, prepared: _Prepared, scores: Scores, infer_s: float) -> Segmentation:
    """K x h x w scores -> labels at the image's size, and all that is known of it."""
    begun = time.monotonic()
    if not np.isfinite(scores).all():
        raise InferenceFailed("the network's scores are not finite numbers; its weights or this image break it")
    image = prepared.image
    height, width, _ = image.shape
    mask = semantic.label_map(scores, (height, width))
    ended = time.monotonic()
    waited_s = max(0.0, begun - start - prepared.decode_s - infer_s)
    seconds = {"decode": prepared.decode_s, "queue": waited_s, "infer": infer_s, "labels": ended - begun}
    timing = {step: 1000 * value for step, value in seconds.items()}
    return Segmentation(image, mask, scores, engine.manifest, engine.sha256, engine.provider, timing)


def _finish(
    finish: Callable[[Segmentation], T], engine: Engine, start: float, prepared: _Prepared, scores: Scores, infer_s: float
) -> tuple[T, dict[str, float]]:
    """Label, and make of it what the caller wants; with the seconds of everything, for the statistics."""
    begun = time.monotonic()
    result = _label(engine, start, prepared, scores, infer_s)
    made = finish(result)
    return made, {
        "decode_s": prepared.decode_s,
        "queue_s": result.timing["queue"] / 1000,
        "infer_s": infer_s,
        "finish_s": time.monotonic() - begun,
    }


def _straight(engine: Engine, prepared: _Prepared, start: float) -> Segmentation:
    """Infer and label at once, on this thread."""
    inferring = time.monotonic()
    (scores,) = _infer(engine, [prepared.fitted], alone=True)
    return _label(engine, start, prepared, scores, time.monotonic() - inferring)
