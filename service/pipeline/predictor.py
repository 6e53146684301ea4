"""One image or scan from bytes to labels, on the caller's own thread::

    prepare   bytes -> upright RGB or grey -> the network's size; of a scan: voxels -> the network's orientation and spacing
    run       images of one size -> outputs; a scan slice by slice or block by block
    finish    outputs -> labels at the image's size; of a scan: in its own grid

No queue, no threads, no settings: the command line, an evaluation, a ROS node or a Ray actor call :meth:`Predictor.segment`;
the server calls the three steps on threads of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BadParameter, ImageTooLarge, InferenceFailed
from service.pipeline import plan
from service.pipeline.codecs import decoding, scans
from service.pipeline.codecs.georeference import Georeference
from service.pipeline.codecs.grey import Conversion
from service.pipeline.codecs.rows import PictureFile
from service.pipeline.device_labels import OnDevice
from service.pipeline.engine import Engine
from service.pipeline.large import GreyRows, LargeSegmentation, PackedRows, Window
from service.pipeline.manifest import OUTPUT, Manifest
from service.pipeline.picture import read_picture
from service.pipeline.repository import Repository
from service.pipeline.segmentation import Outputs, ScanResult, Segmentation, Timing
from service.pipeline.tasks import semantic
from service.pipeline.tasks.registry import task_of
from service.pipeline.tasks.volume import Placed, count_steps, frame_of, place, probabilities
from service.pipeline.tiling import Halo, Resolution, Tiling, check_native
from service.pipeline.volume import Grid, Probabilities
from service.pipeline.workload import Workload

Image = NDArray[np.uint8]
Source = bytes | Image
"""A file's bytes, or a decoded image: H x W x 3 uint8 RGB."""

Tell = Callable[[int, int], None]
"""Called with how many parts of a scan are done, and how many there are."""

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image, ready for the network."""

    image: Image
    """H x W x 3 uint8: upright, as people see it."""
    fitted: NDArray[Any]
    """h x w x channels, of the manifest's dtype: at the network's size."""
    decode_s: float
    """Seconds that both took."""
    tiled: bool = False
    """Whether the network sees it in tiles."""
    halo: Halo = "exact"
    """How much a tile sees of its surroundings."""
    geo: Georeference | None = None
    """Where the image lies on the earth, if its file is a GeoTIFF."""
    converted: tuple[Conversion, ...] = ()
    """What was changed of an image that is another than the network takes."""


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan, ready for the network."""

    grid: Grid
    placed: Placed
    decode_s: float
    """Seconds that reading and placing took."""


@dataclass(frozen=True, eq=False)
class Inferred:
    """The network's answer to one image of a batch."""

    outputs: Outputs
    """Empty for a scan."""
    infer_s: float
    """Seconds of the whole batch."""
    batch: int
    """Images in it."""
    probabilities: Probabilities | None = None
    """Of a scan, in the place of the outputs: K x its working shape."""


class Predictor:
    """Segments images with the models of a repository. Thread-safe.

    Takes:
        repository: the models; closed together with the predictor
        limits: on bytes, pixels and sides of an image
        tiling: how images are cut that are too large for one run at their own resolution
    """

    def __init__(self, repository: Repository, limits: decoding.Limits, tiling: Tiling | None = None) -> None:
        self.repository = repository
        self.limits = limits
        self.tiling = tiling or Tiling()

    def engine(self, model: str | Engine | None = None) -> Engine:
        """Return the engine of a model.

        Takes:
            model: its name, or the engine itself; None is the default
        Raises:
            UnknownModel: if there is no such model
            NotReady: if there is none at all
        """
        return model if isinstance(model, Engine) else self.repository.get(model)

    def scan_engine(self) -> Engine | None:
        """Return the engine for scans of requests that name no model: the first by name that takes scans; None without one."""
        engines = sorted(self.repository.engines(), key=lambda engine: engine.manifest.name)
        return next((engine for engine in engines if engine.manifest.input.takes_scans), None)

    def segment(
        self,
        source: Source,
        model: str | Engine | None = None,
        *,
        instances: bool = False,
        resolution: Resolution = "working",
        halo: Halo = "exact",
        tell: Tell = lambda _done, _total: None,
    ) -> Segmentation:
        """Segment one image or scan.

        Takes:
            source: a file's bytes, or H x W x 3 uint8 RGB
            model: its name, or the engine itself; None is the default
            instances: whether the caller asks for instances
            resolution: at which the network sees the image: the one of its training, or the image's own
            halo: how much each tile sees of its surroundings, where the image's own resolution needs tiles
            tell: of a scan, called with how many of its slices or blocks are done, and how many there are
        Raises:
            BadParameter: if the model has no native resolution or no such halo, or the image is too large for it
            EmptyBody, BodyTooLarge, ImageTooLarge, UnsupportedImage, CorruptImage: as ``decoding``'s
            UnknownModel, NotReady: as :meth:`engine`
            InferenceFailed: if the network fails, or its scores are not finite numbers
        """
        started_s = time.monotonic()
        engine = self.engine(model)
        prepared = self.prepare(source, engine.manifest, resolution=resolution, halo=halo)
        (inferred,) = self.run(engine, [prepared], instances=instances, tell=tell)
        return self.finish(engine, prepared, inferred, started_s)

    def workload(
        self, header: decoding.Header, manifest: Manifest, resolution: Resolution = "working", halo: Halo = "exact"
    ) -> Workload:
        """Return the cost of an image.

        Raises:
            BadParameter: as :meth:`prepare`
        """
        _check_kind(header, manifest)
        if header.scan is not None:
            placed = frame_of(header.scan.grid, manifest, max_voxels=self.limits.max_voxels)
            return Workload.scan(header.scan.shape, placed.working, manifest)
        check_native(manifest, resolution, halo)
        if resolution == "working":
            return Workload.of(header.height, header.width, manifest)
        return Workload.native(header.height, header.width, manifest, self.tiling, halo)

    def prepare(
        self,
        source: Source,
        manifest: Manifest,
        header: decoding.Header | None = None,
        *,
        resolution: Resolution = "working",
        halo: Halo = "exact",
    ) -> Prepared | PreparedScan:
        """Decode an image and bring it to the network's size.

        Takes:
            header: what ``decoding.probe`` returned for this source, if it was called before
            resolution: ``native`` keeps the image's own size, up to rounding to the network's multiples
            halo: as of :meth:`segment`

        Raises:
            BadParameter: if ``native`` is asked of a model that takes one size only, or a halo that it does not have
            EmptyBody, BodyTooLarge, ImageTooLarge, UnsupportedImage, CorruptImage: as ``decoding``'s
        """
        start = time.monotonic()
        header = decoding.probe(source, self.limits) if header is None else header
        _check_kind(header, manifest)
        if header.scan is not None and isinstance(source, bytes):
            scan = scans.read(source, self.limits, header.scan)
            placed = place(scan, manifest, max_voxels=self.limits.max_voxels, overwrite=True)
            return PreparedScan(scan.grid, placed, time.monotonic() - start)
        check_native(manifest, resolution, halo)
        native = resolution == "native"
        found = read_picture(source, manifest.input, self.limits, header)
        size = (plan.native_size if native else plan.fit_size)(*found.size, manifest.input)
        tiled = native and self.tiling.is_needed(size)
        geo = decoding.georeference(source, header)
        fitted = found.fitted(size, native=native)
        return Prepared(found.image, fitted, time.monotonic() - start, tiled, halo, geo, found.converted)

    def run(
        self,
        engine: Engine,
        prepared: Sequence[Prepared | PreparedScan],
        *,
        alone: bool = True,
        instances: bool = False,
        check: Callable[[], None] = lambda: None,
        tell: Tell = lambda _done, _total: None,
    ) -> list[Inferred]:
        """Run the network on images of one size.

        Takes:
            prepared: by the engine's own manifest
            alone: whether the run may use all processors, and not just a lane
            instances: whether to compute what instances need
            check: called before each tile, batch of slices or block; what it raises ends the run
            tell: as of :meth:`segment`, called from one thread at a time
        Raises:
            BadParameter: if an image needs tiles and the model does not know its receptive field
            InferenceFailed: if the network fails
        """
        start = time.monotonic()
        names = task_of(engine.manifest).outputs(instances=instances)
        scans = [one for one in prepared if isinstance(one, PreparedScan)]
        if scans:
            found = [_run_scan(engine, one, alone=alone, check=check, tell=tell) for one in scans]
            return [Inferred({}, time.monotonic() - start, len(scans), each) for each in found]
        pictures = [one for one in prepared if isinstance(one, Prepared)]
        if any(one.tiled for one in pictures):
            tiles = [self.tiling.run(engine, one.fitted, names, halo=one.halo, alone=alone, check=check) for one in pictures]
            return [Inferred(outputs, time.monotonic() - start, len(prepared)) for outputs in tiles]
        fitted = [one.fitted for one in pictures]
        batch = np.stack(fitted) if len(fitted) > 1 else fitted[0][None]
        if engine.labels_on_device:
            left = engine.run_on_device(batch, names, alone=alone)
            return [Inferred(one, time.monotonic() - start, len(prepared)) for one in left]
        outputs = engine.run(batch, names, alone=alone)
        infer_s = time.monotonic() - start
        return [
            Inferred({name: array[index] for name, array in outputs.items()}, infer_s, len(prepared))
            for index in range(len(prepared))
        ]

    def finish(self, engine: Engine, prepared: Prepared | PreparedScan, inferred: Inferred, started_s: float) -> Segmentation:
        """Turn a network's outputs into labels at the image's size.

        Takes:
            started_s: ``time.monotonic()`` when the image's way began; what is not accounted for counts as ``queue``
        Raises:
            InferenceFailed: if an output is not finite
        """
        begun = time.monotonic()
        outputs, scan = inferred.outputs, None
        on_device = isinstance(outputs, OnDevice)
        for name in outputs:  # scores on the device are checked where they are made
            if not (on_device and name == OUTPUT) and not np.isfinite(outputs[name]).all():
                raise _not_finite(name)
        if isinstance(prepared, PreparedScan):
            assert inferred.probabilities is not None  # noqa: S101 - see run
            best = prepared.placed.frame.best(inferred.probabilities, engine.manifest.temperature)
            image, labels = _NO_PIXELS, best.labels
            scan = ScanResult(prepared.grid, prepared.placed.preview, best.certainty)
        else:
            image = prepared.image
            size = image.shape[0], image.shape[1]
            labels = outputs.labels(size) if isinstance(outputs, OnDevice) else task_of(engine.manifest).labels(outputs, size)
        ended = time.monotonic()
        queue_s = max(0.0, begun - started_s - prepared.decode_s - inferred.infer_s)
        timing = Timing(prepared.decode_s, queue_s, inferred.infer_s, ended - begun)
        picture = prepared if isinstance(prepared, Prepared) else None
        return Segmentation(
            image,
            labels,
            outputs,
            engine.manifest,
            engine.sha256,
            engine.provider,
            timing,
            geo=picture.geo if picture else None,
            scan=scan,
            converted=picture.converted if picture else (),
        )

    def segment_rows(
        self,
        picture: PictureFile,
        model: str | Engine | None = None,
        *,
        resolution: Resolution = "working",
        halo: Halo = "exact",
        certainty: bool = False,
    ) -> LargeSegmentation:
        """Segment a picture that is read by rows: the labels are those of :meth:`segment`, in less memory.

        Takes:
            model, resolution, halo: as of :meth:`segment`
            certainty: whether the probability of each pixel's label is wanted, too
        Raises:
            ImageTooLarge: if it cannot be reduced to the working size by rows; the reason names ``native``
            BadParameter, UnknownModel, NotReady, InferenceFailed: as :meth:`segment`
            UnsupportedImage, CorruptImage, OSError: as ``PictureFile.bands``
        """
        begun = time.monotonic()
        engine = self.engine(model)
        manifest, whole = engine.manifest, (picture.height, picture.width)
        if manifest.input.takes_scans:
            _check_kind(decoding.Header(picture.format, picture.width, picture.height), manifest)
        check_native(manifest, resolution, halo)
        bands: Callable[[], Iterator[NDArray[Any]]]
        if manifest.input.takes_grey:
            grey = GreyRows(picture, manifest.input)
            bands, shown = grey.bands, grey.shown
        else:
            bands = shown = picture.bands
        if resolution == "native":
            size = plan.native_size(*whole, manifest.input)
            window = Window(plan.stretched(bands(), whole, size))
            scores: Iterator[NDArray[np.float32]] = (
                band[OUTPUT] for band in self.tiling.for_rows().bands(engine, window, size, (OUTPUT,), halo=halo)
            )
        else:
            size = plan.fit_size(*whole, manifest.input)
            window = Window(iter(()))
            scores = iter([engine.run(self._reduced(bands, whole, size)[None], (OUTPUT,))[OUTPUT][0]])
        labels = PackedRows(picture.width)
        certainties = PackedRows(picture.width) if certainty else None
        stride = manifest.stride
        for part, rows in semantic.in_rows(_finite(scores), size[0] // stride, picture.height):
            labels.add(semantic.label_rows(part, rows, picture.width))
            if certainties is not None:
                certainties.add(semantic.confidence_rows(part, rows, picture.width, manifest.temperature))
        labels.finish()
        if certainties is not None:
            certainties.finish()
        window.finish()
        timing = Timing(infer_s=time.monotonic() - begun)
        return LargeSegmentation(picture, labels, certainties, manifest, engine.sha256, timing, shown)

    def _reduced(
        self, bands: Callable[[], Iterator[NDArray[Any]]], whole: tuple[int, int], size: tuple[int, int]
    ) -> NDArray[Any]:
        """Bring a picture that is read by rows to the working size, as ``plan.resize_image`` does.

        Gives:
            h x w x channels
        Raises:
            ImageTooLarge: if too much is left after the halvings
        """
        height, width = whole
        times = plan.halvings(whole, size)
        left = (height >> times) * (width >> times)
        if left > self.limits.max_pixels:
            raise ImageTooLarge(
                f"the image is {width} x {height} = {width * height} pixels, and read by rows it comes down to {left}; at most "
                f"{self.limits.max_pixels} are resized at once: say --resolution native, or raise FCN_MAX_IMAGE_PIXELS",
                limit=self.limits.max_pixels,
                actual=left,
                unit="pixels",
            )
        reduced = plan.resize_image(np.concatenate(list(plan.halved(bands(), times))), size)
        return reduced[..., None] if reduced.ndim == 2 else reduced

    def close(self) -> None:
        """Close the models; runs under way end first."""
        self.repository.close()


def _run_scan(engine: Engine, prepared: PreparedScan, *, alone: bool, check: Callable[[], None], tell: Tell) -> Probabilities:
    lanes = engine.lanes if alone else 1
    total, done, counting = count_steps(prepared.placed.frame.working, engine.manifest), 0, threading.Lock()

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        nonlocal done
        check()
        scores = engine.run(batch, (OUTPUT,), alone=lanes == 1 and alone)[OUTPUT]
        with counting:
            done += len(batch)
            tell(done, total)
        return scores

    return probabilities(prepared.placed.values, engine.manifest, run, lanes=lanes)


def _check_kind(header: decoding.Header, manifest: Manifest) -> None:
    """Check that a network for scans gets a scan, and one for pictures a picture.

    Raises:
        BadParameter: naming both
    """
    if manifest.input.takes_scans != (header.scan is not None):
        takes = "scans (NIfTI, DICOM)" if manifest.input.takes_scans else "pictures"
        reason = f"{manifest.name} takes {takes}, and this is {header.format}; name another model"
        raise BadParameter(reason, parameter="model")


def _finite(scores: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    for band in scores:
        if not np.isfinite(band).all():
            raise _not_finite(OUTPUT)
        yield band


def _not_finite(name: str) -> InferenceFailed:
    return InferenceFailed(f"the network's {name} are not finite numbers; its weights or this image break it")
