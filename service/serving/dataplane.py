"""One request, whatever its transport: key, capacity and deadline decided once, then each image through the predictor's steps.

========= ======================================== ==========================================
step      what                                     thread
========= ======================================== ==========================================
admit     size from the header, the queue's load   the caller's event loop; microseconds
prepare   bytes -> upright RGB -> network's size   a worker, or the pixel pool
run       images -> outputs                        a worker
finish    outputs -> labels at the image's size    as prepare
encode    labels -> whatever the caller wants      as prepare
========= ======================================== ==========================================

With a lane for each processor, the worker does all steps: the outputs are still in its cache (1.1 times the frames a second).
On a GPU, or with fewer lanes, the pixel pool prepares one image and finishes another while the worker runs a third.

Nothing computes on the event loop, and nothing large outlives the admission: an image's capacity is given back when its last
thread is done, even if its caller left long before.
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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, ParamSpec, Self, TypeVar

from service import process
from service.errors import DeadlineExceeded, NotReady, Overloaded, ServiceError, UnsupportedImage
from service.pipeline import plan
from service.pipeline.codecs import decoding, scans
from service.pipeline.codecs.grey import Conversion
from service.pipeline.cpus import available_cpus
from service.pipeline.engine import Engine
from service.pipeline.manifest import Manifest
from service.pipeline.predictor import Inferred, Predictor, Prepared, PreparedScan, Source
from service.pipeline.repository import Repository
from service.pipeline.segmentation import Segmentation, Timing
from service.pipeline.tasks import semantic
from service.pipeline.tiling import Halo, Resolution
from service.pipeline.workload import Workload
from service.serving.deadline import Deadline
from service.serving.keys import Keys
from service.serving.scheduler import Admission, Priority, Scheduler
from service.serving.timings import ModelStatistics
from service.serving.trimming import Trimmer

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The caller's value for one image, and what is told of it."""

    value: T
    size: tuple[int, ...]
    """(height, width) of the labels; three sides of a scan's."""
    timing: Timing
    batch: int
    """Images that the network worked on together."""
    converted: tuple[Conversion, ...] = ()
    """What was changed of an image that is another than the network takes."""


@dataclass(frozen=True)
class _Place:
    """Which one of several images of a request."""

    number: int
    """From 1."""
    count: int
    name: str | None
    """Of its file."""

    @classmethod
    def of(cls, at: int, count: int, names: Sequence[str | None]) -> Self | None:
        """Return the place of an image; None if it is the only one."""
        return cls(at + 1, count, names[at] if names else None) if count > 1 else None

    def named(self, error: ServiceError) -> ServiceError:
        """Return an error that names this image; the same one if it is not of an image, but of the service."""
        if isinstance(error, Overloaded | DeadlineExceeded | NotReady):
            return error
        return error.of_image(self.number, self.count, self.name)


@dataclass(frozen=True, eq=False)
class _Frame(Generic[T]):
    """One image on its way to a worker."""

    source: Source
    header: decoding.Header
    engine: Engine
    encode: Callable[[Segmentation], T]
    instances: bool
    resolution: Resolution
    halo: Halo
    started_s: float
    abandoned: threading.Event
    """Set when the caller is gone: the rest of its tiles need not be computed."""
    place: _Place | None = None
    """None where it is the only image of its request."""
    prepared: Prepared | PreparedScan | None = None
    """None where the worker does every step."""


class DataPlane:
    """Serves images with a predictor: to HTTP, WebSocket, the Open Inference Protocol, and whatever comes next.

    Takes:
        predictor: closed together with the plane
        keys: those that open the service; None accepts every caller
        queue_megapixels: admitted images, waiting and in work, beyond which requests are shed. An image counts for its own
            size or for the network's, whichever is larger. It bounds the memory: fifteen bytes a pixel at the worst, besides
            what a network takes whose size grows with the image
        concurrency: inferences at the same time; as many as the engines have lanes
        max_batch: waiting images of one model and one network size that may run as one batch
        lane_each: whether there is a lane for each processor; None to compare ``concurrency`` with the processors
        finished: called on a worker with each image, its header and its result, after the encoding; quick, and raises nothing
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        keys: Keys | None = None,
        queue_megapixels: float = 64.0,
        concurrency: int = 1,
        max_batch: int = 1,
        lane_each: bool | None = None,
        finished: Callable[[Source, decoding.Header, Segmentation], None] | None = None,
    ) -> None:
        self.predictor = predictor
        self._finished = finished
        self.keys = Keys(()) if keys is None else keys
        self._lane_each = concurrency >= available_cpus() if lane_each is None else lane_each
        self._inferring = 0
        self._counting = threading.Lock()
        self._pixels = ThreadPoolExecutor(available_cpus(), thread_name_prefix="fcn-pixels")
        self._trimmer = Trimmer(self._trim)
        self._statistics: defaultdict[tuple[str, str], ModelStatistics] = defaultdict(ModelStatistics)
        self._least: tuple[Manifest | None, Workload] = None, Workload(0.0, (0, 0), 0.0)
        """The lowest cost of any image, and the manifest that it was computed for."""
        self.scheduler: Scheduler[_Frame[Any], Any] = Scheduler(
            self._work,
            capacity=queue_megapixels,
            concurrency=concurrency,
            max_batch=max_batch,
            measured=_first_measure(predictor.repository),
            on_idle=self._trimmer.idle,
        )
        if not semantic.is_compiled():
            log.info(
                "labels.c is not compiled: masks and objects take three to six times as long; see docs/adr/0008-labels-in-c.md"
            )
        process.give_back()  # what opening the models took

    @property
    def repository(self) -> Repository:
        """The models."""
        return self.predictor.repository

    @property
    def limits(self) -> decoding.Limits:
        """On bytes, pixels and sides of an image."""
        return self.predictor.limits

    async def segment(
        self,
        sources: Sequence[Source],
        encode: Callable[[Segmentation], T],
        model: str | Engine | None = None,
        *,
        deadline: Deadline | None = None,
        priority: Priority = Priority.NORMAL,
        instances: bool = False,
        resolution: Resolution = "working",
        halo: Halo = "exact",
        headers: Sequence[decoding.Header] | None = None,
        scans: bool = False,
        names: Sequence[str | None] = (),
    ) -> list[Answer[T]]:
        """Segment the images of one request, and encode each result.

        Takes:
            sources: files' bytes, or H x W x 3 uint8 RGB where they are decoded already. They are admitted together; those
                that do not fit together into the capacity that is left take turns
            encode: called with each result, on another thread; again, if another image of its batch failed
            model: its name, or the engine itself; None is the default
            deadline: admission sheds a request that would miss it. The caller enforces it: ``async with deadline:``
            priority: the order of waiting images
            instances: whether to compute what instances need
            resolution: at which the network sees the images: the one of its training, or their own
            halo: how much each tile sees of its surroundings, at the native resolution
            headers: what :meth:`probe` returned for these sources, if it was called before
            scans: whether ``encode`` takes the results of scans
            names: of the images' files, for errors; empty if there are none
        Gives:
            one answer each, in the order of the images
        Raises:
            EmptyBody, BodyTooLarge, ImageTooLarge, UnsupportedImage, CorruptImage: as ``decoding``'s. Of several images, the
                error names the bad one (``ServiceError.of_image``)
            UnsupportedImage: also for a scan where ``scans`` is false
            UnknownModel: if there is no such model
            Overloaded: if the queue is full, or too full for the deadline; raised before anything is decoded
            DeadlineExceeded: if the deadline passes
            BadParameter: if the model has no native resolution, or an image is too large for it
            NotReady: if the service drains, or has no model, or its worker died
            InferenceFailed: if the network fails, or its outputs are not finite numbers
            whatever ``encode`` raises
        """
        engine = self.predictor.engine(model)
        with self.statistics(engine.manifest).request():
            headers = await self.probe_all(sources, names) if headers is None else headers
            if not scans:
                _of_each(_check_picture, headers, names)
            workloads = _of_each(
                partial(self.predictor.workload, manifest=engine.manifest, resolution=resolution, halo=halo), headers, names
            )
            costs = [workload.cost for workload in workloads]
            # A request takes the free capacity, but at least the cost of its largest image. Where that does not fit, none of
            # its images alone would; and a queue that is never empty does not keep the request out for ever.
            capacity = max(*costs, min(sum(costs), self.scheduler.capacity - self.scheduler.load), 0.0)
            work = sum(workload.work for workload in workloads)
            with self.scheduler.admit(capacity, work=work, deadline=deadline, priority=priority) as admission:
                self._trimmer.count(sum(costs))
                answers: list[Answer[T]] = []
                for turn in _turns(costs, capacity):
                    answers += await _all(
                        [
                            self._segment_one(
                                _Frame(
                                    sources[at],
                                    headers[at],
                                    engine,
                                    encode,
                                    instances,
                                    resolution,
                                    halo,
                                    time.monotonic(),
                                    threading.Event(),
                                    place=_Place.of(at, len(sources), names),
                                ),
                                workloads[at],
                                deadline,
                                priority,
                                admission,
                            )
                            for at in turn
                        ]
                    )
                return answers

    def probe(self, source: Source) -> decoding.Header:
        """Read an image's header and enforce the limits; microseconds, unless :func:`scans.takes_time` says otherwise.

        Raises:
            EmptyBody, BodyTooLarge, ImageTooLarge, UnsupportedImage, CorruptImage: as ``decoding.probe``
        """
        return decoding.probe(source, self.limits)

    async def probe_all(self, sources: Sequence[Source], names: Sequence[str | None] = ()) -> list[decoding.Header]:
        """Read the headers of the images of one request; errors as :meth:`probe`, naming the image if there are several."""
        if any(isinstance(source, bytes) and scans.takes_time(source) for source in sources):
            return await asyncio.to_thread(_of_each, self.probe, sources, names)
        return _of_each(self.probe, sources, names)

    def check_capacity(self, head: bytes, deadline: Deadline) -> decoding.Header | None:
        """Shed an image by its first bytes, if they tell enough: so would :meth:`segment`, once all of it has come.

        Takes:
            head: the beginning of the file; if empty, an image is shed only if no image could meet the deadline
            deadline: after which the answer is of no use
        Gives:
            the image's header, if its first bytes tell it
        Raises:
            Overloaded: if the queue is full, or too full for the deadline
        """
        header = None
        try:
            manifest = self.predictor.repository.get().manifest
            if head:
                if scans.takes_time(head):
                    return None
                header = decoding.probe(head, self.predictor.limits)
                if header.scan is not None:
                    return None
                workload = Workload.of(header.height, header.width, manifest)
            else:
                workload = self._least_workload(manifest)
        except ServiceError:  # of the image, or of what has come of it so far
            return None
        self.scheduler.check_capacity(workload.cost if head else 0.0, work=workload.work, deadline=deadline)
        return header

    def statistics(self, manifest: Manifest) -> ModelStatistics:
        """Return what a version of a model has served through :meth:`segment` so far."""
        return self._statistics[manifest.name, manifest.version]

    def check_ready(self) -> None:
        """Return None if images are served: every model was warmed up on its provider when it was opened.

        Raises:
            NotReady: with the reason
        """
        self.scheduler.check_open()
        self.repository.check_alive()
        self.repository.get()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new images, finish the admitted ones, then close.

        Takes:
            timeout_s: seconds for the admitted; those still waiting then get ``NotReady``
        """
        await self.scheduler.aclose(timeout_s)
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Close at once; what is being computed is finished."""
        self.scheduler.close()
        self._pixels.shutdown(cancel_futures=True)
        self.predictor.close()

    def _least_workload(self, manifest: Manifest) -> Workload:
        if self._least[0] is not manifest:
            self._least = manifest, Workload.least(manifest)
        return self._least[1]

    async def _segment_one(
        self,
        frame: _Frame[T],
        workload: Workload,
        deadline: Deadline | None,
        priority: Priority,
        admission: Admission,
    ) -> Answer[T]:
        submit = partial(
            self.scheduler.submit,
            key=(frame.engine, workload.network_size, frame.instances, frame.resolution, frame.halo),
            deadline=deadline,
            priority=priority,
            admission=admission,
        )
        answer: Answer[T]
        try:
            if self._lane_each and frame.engine.provider == "cpu":
                answer = await submit(frame)
            else:
                prepared = await self._offload(admission, self._prepare, frame)
                inferred = await submit(replace(frame, prepared=prepared))
                answer = await self._offload(admission, self._finish, frame, prepared, inferred)
        except asyncio.CancelledError:
            frame.abandoned.set()
            raise
        except ServiceError as error:
            if frame.place is None or (named := frame.place.named(error)) is error:
                raise
            raise named from error
        self.statistics(frame.engine.manifest).add_image(answer.batch, answer.timing)
        return answer

    # --- on the workers' threads -------------------------------------------------------------------------------------

    def _work(self, frames: Sequence[_Frame[Any]]) -> Sequence[Answer[Any] | Inferred]:
        """Run the network on frames of one key; and the steps around it, where the frames come unprepared."""
        prepared = [frame.prepared or self._prepare(frame) for frame in frames]
        inferred = self._run(frames[0], prepared)
        return [
            found if frame.prepared else self._finish(frame, one, found)
            for frame, one, found in zip(frames, prepared, inferred, strict=True)
        ]

    def _run(self, frame: _Frame[Any], prepared: Sequence[Prepared | PreparedScan]) -> Sequence[Inferred]:
        """Use all processors for a lone request, a lane where others are admitted."""
        with self._counting:
            self._inferring += 1
            alone = self._inferring == 1 and self.scheduler.admitted <= 1
        try:
            return self.predictor.run(
                frame.engine, prepared, alone=alone, instances=frame.instances, check=partial(_check_wanted, frame)
            )
        finally:
            with self._counting:
                self._inferring -= 1

    def _prepare(self, frame: _Frame[Any]) -> Prepared | PreparedScan:
        return self.predictor.prepare(
            frame.source, frame.engine.manifest, frame.header, resolution=frame.resolution, halo=frame.halo
        )

    def _finish(self, frame: _Frame[T], prepared: Prepared | PreparedScan, inferred: Inferred) -> Answer[T]:
        result = self.predictor.finish(frame.engine, prepared, inferred, frame.started_s)
        begun = time.monotonic()
        value = frame.encode(result)
        timing = replace(result.timing, encode_s=time.monotonic() - begun)
        if self._finished is not None:
            self._finished(frame.source, frame.header, result)
        return Answer(value, result.labels.shape, timing, inferred.batch, result.converted)

    # --- on the pixel pool -------------------------------------------------------------------------------------------

    async def _offload(self, admission: Admission, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Compute on the pixel pool. When the caller is cancelled, work that has not begun is dropped; begun work keeps its
        capacity until it ends.

        Raises:
            NotReady: if the plane is closed
            whatever ``function`` raises
        """
        try:
            future = self._pixels.submit(partial(function, *args, **kwargs))
        except RuntimeError as error:  # the pool is shut down
            raise NotReady("the service shuts down") from error
        admission.hold_for(future)
        try:
            return await asyncio.wrap_future(future)
        finally:
            del future  # break the reference cycle future -> error -> traceback -> this frame

    def _trim(self) -> None:
        with suppress(RuntimeError):  # the pool is shut down
            self._pixels.submit(process.give_back)


def _of_each(function: Callable[[S], T], items: Sequence[S], names: Sequence[str | None]) -> list[T]:
    """Call a function with each image of a request. An error names the image, if there are several."""
    if len(items) == 1:
        return [function(items[0])]
    made = []
    for at, item in enumerate(items):
        try:
            made.append(function(item))
        except ServiceError as error:
            raise error.of_image(at + 1, len(items), names[at] if names else None) from error
    return made


def _check_picture(header: decoding.Header) -> None:
    if header.scan is not None:
        raise UnsupportedImage("scans (NIfTI, DICOM) go to POST /segment, and come back in their own grid")


def _check_wanted(frame: _Frame[Any]) -> None:
    if frame.abandoned.is_set():
        raise NotReady("the caller is gone")


def _first_measure(repository: Repository) -> tuple[float, float]:
    """Time the default network on one black image: (seconds, work). It is the pace before the first request."""
    if not repository.names():
        return 0.0, 0.0
    engine = repository.get()
    height, width = engine.manifest.input.working_size
    h, w = plan.fit_size(height, width, engine.manifest.input)
    start = time.monotonic()
    engine.warm_up()
    return time.monotonic() - start, h * w / 1e6


def _turns(costs: Sequence[float], capacity: float) -> Iterator[range]:
    """Split images into runs that fit together; a single larger one is a run of its own."""
    first, load = 0, 0.0
    for at, cost in enumerate(costs):
        if at > first and load + cost > capacity:
            yield range(first, at)
            first, load = at, 0.0
        load += cost
    yield range(first, len(costs))


async def _all(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all at once. The first failure is the answer to all: the others are cancelled."""
    if len(works) == 1:
        return [await works[0]]
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        while tasks:  # this frame keeps no task: the error's traceback refers to it
            tasks.pop().cancel()
