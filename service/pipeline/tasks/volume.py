"""A scan to a label volume in the scan's own grid: by slices of one or more planes, or by blocks.

The steps: turn to the network's orientation, normalise by the percentiles of the whole, sample at the network's spacing, run,
sample the probabilities on the scan's grid, take the best class, turn back. Probabilities are sampled, never labels, so no
class appears between two others that it does not belong to.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ImageTooLarge, InferenceFailed
from service.pipeline import intensity
from service.pipeline.blocks import Block, blocks
from service.pipeline.manifest import InputPolicy, Manifest
from service.pipeline.tasks import compiled
from service.pipeline.tasks.compiled import Library
from service.pipeline.volume import (
    CERTAIN,
    Best,
    Frame,
    Grid,
    Labels,
    Probabilities,
    Scan,
    Shape,
    Values,
    contiguous,
    frame,
    resized,
)

Run = Callable[[NDArray[Any]], Values]
"""Runs the network: N x h x w x channels, or N x d x h x w x channels, to N x K x the same sides, float32 scores."""

BATCH_PIXELS = 2**16
"""The voxels of the slices that run together: one of 256 x 256, whose maps stay in the cache. A voxel of two or four takes 1.05
and 1.2 times as long (head-tissue, one thread)."""
BLOCK_VOXELS = 2**20
"""The voxels of a block, unless its halo alone needs more."""
TOGETHER = 16
"""Slices that lie side by side in memory and are visited together: as many probabilities as half a cache line has. With a whole
one, the slices that wait take 17 MB more, and no less time. ``planes.c`` takes no more at a time."""
PIECE = 8
"""Slices that run, of those that are copied at a time: so few that the memory of the last ones is used again."""
AHEAD = 2
"""Batches that wait for each lane, so that no lane pauses while their probabilities are added, or the planes change."""
WHOLE_VOXELS = 2**22
"""The voxels of a volume whose network has no known halo: it cannot be cut into blocks."""

_compiled = compiled.loaded()

_AXIS = {"R": "sagittal", "L": "sagittal", "A": "coronal", "P": "coronal", "S": "axial", "I": "axial"}
"""The plane that is across an axis, by the axis's direction."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A scan, ready for the network."""

    values: Values
    """The working shape, float32, normalised."""
    frame: Frame
    """The way back."""
    preview: Labels
    """X x Y x Z uint8 in the scan's order: the normalised scan for people; what is 0 in both is black."""


def frame_of(grid: Grid, manifest: Manifest, *, max_voxels: int) -> Frame:
    """Measure how a scan is brought to a network.

    Raises:
        CorruptImage: if the scan has no orientation
        ImageTooLarge: if it has too many voxels at the network's spacing, or for a network that sees whole volumes only
    """
    policy = manifest.input
    whole: Shape | None = None
    if policy.fit == "stretch" and policy.working_depth is not None:
        whole = (policy.working_depth, *policy.working_size)
    placed = frame(grid, orientation=policy.orientation, spacing_mm=policy.spacing_mm, max_voxels=max_voxels, sides=whole)
    voxels = math.prod(placed.working)
    if policy.dimensions == 3 and manifest.halo is None and voxels > WHOLE_VOXELS:
        text = f"{manifest.name} sees whole volumes only, and takes {WHOLE_VOXELS} voxels; this one has {voxels}"
        raise ImageTooLarge(text, limit=WHOLE_VOXELS, actual=voxels, unit="voxels")
    return placed


def place(scan: Scan, manifest: Manifest, *, max_voxels: int, overwrite: bool = False) -> Placed:
    """Turn a scan, normalise it, and sample it at the network's spacing.

    Takes:
        max_voxels: of the scan at the network's spacing
        overwrite: whether the scan's own values may be changed, which takes half of the memory
    Raises:
        CorruptImage, ImageTooLarge: as :func:`frame_of`
    """
    policy, placed = manifest.input, frame_of(scan.grid, manifest, max_voxels=max_voxels)
    # In place: the system zeroes every new page, which takes as long as the arithmetic.
    values = scan.values if overwrite else scan.values.copy(order="K")
    if policy.intensity is not None:
        intensity.normalised(values, intensity.window(values, policy.intensity), policy.intensity, out=values)
    else:
        np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(values.max())
    preview = np.empty_like(values, np.uint8)
    np.multiply(values, np.float32(255 / top if top > 0 else 0), out=preview, casting="unsafe")
    turned = placed.in_orientation(values)
    if placed.working != placed.turned or policy.dimensions == 3:
        turned = resized(contiguous(turned), placed.working)
    return Placed(turned, placed, preview)


def probabilities(values: Values, manifest: Manifest, run: Run, *, lanes: int = 1) -> Probabilities:
    """Run a network over a volume.

    Takes:
        values: the working shape, normalised
        run: the network; called once a batch of slices or a block, so it is where a deadline can end the work
        lanes: batches of slices that run at the same time, each on a thread of its own
    Gives:
        K x working shape uint16, 0..65535: of a network of slices the mean of its planes, each rounded first
    Raises:
        InferenceFailed: if a score is not a finite number
        whatever ``run`` raises
    """
    if manifest.input.dimensions == 3:
        return _by_blocks(values, manifest, run)
    return _by_slices(values, manifest.input, len(manifest.classes), run, lanes)


def count_steps(shape: Shape, manifest: Manifest) -> int:
    """Count the slices of all planes that run, or the blocks, of a volume of the working shape."""
    policy = manifest.input
    if policy.dimensions == 3:
        return len(_blocks(shape, manifest)[1])
    axes = [_AXIS[letter] for letter in policy.orientation or "RAS"]
    return sum(len(_chosen(shape[axes.index(plane)], policy)) for plane in policy.planes)


def segment(scan: Scan, manifest: Manifest, run: Run, *, max_voxels: int) -> Best:
    """Segment a scan: :func:`place`, :func:`probabilities`, and the best class in the scan's order."""
    placed = place(scan, manifest, max_voxels=max_voxels)
    return placed.frame.best(probabilities(placed.values, manifest, run), manifest.temperature)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Slices of one plane that run together."""

    axis: int
    """Across the slices."""
    numbers: Sequence[int]
    """Of the slices, in the whole volume."""
    across: Values
    """Adjacent slices x h x w, enough of them for these."""
    first: int
    """Number of the first one of them."""


def _by_slices(values: Values, policy: InputPolicy, classes: int, run: Run, lanes: int) -> Probabilities:
    """The mean of the planes' probabilities, K x X x Y x Z uint16."""
    total = _aligned((classes, *values.shape))
    scale = CERTAIN // len(policy.planes)
    found = _probabilities_of(_batches(values, policy), policy, run, lanes)
    add = _add_by_numpy if _compiled is None else partial(_add_by_compiled, _compiled)
    for number, (axis, some) in enumerate(itertools.groupby(found, lambda each: each[0].axis)):
        for part in _adjacent(some, TOGETHER if axis == 2 else 1):
            add(total, axis, part, scale, number == 0)
    return total


def _aligned(shape: tuple[int, ...]) -> Probabilities:
    """An array that begins with a cache line."""
    count = math.prod(shape)
    made = np.empty(count + TOGETHER, np.uint16)
    first = -made.ctypes.data // made.itemsize % TOGETHER
    return made[first : first + count].reshape(shape)


def _batches(values: Values, policy: InputPolicy) -> Iterator[_Batch]:
    """The slices that run, plane by plane: those across the first axis first, because they fill the memory in its order."""
    axes = [_AXIS[letter] for letter in policy.orientation or "RAS"]
    for axis in sorted(axes.index(plane) for plane in policy.planes):
        chosen = _chosen(values.shape[axis], policy)
        sides = math.prod(values.shape) // values.shape[axis]
        step = max(1, BATCH_PIXELS // sides)
        for first, some, across in _pieces(values, axis, chosen, policy.channels // 2):
            for start in range(0, len(some), step):
                yield _Batch(axis, some[start : start + step], across, first)


def _pieces(values: Values, axis: int, chosen: list[int], reach: int) -> Iterator[tuple[int, list[int], Values]]:
    """The slices across an axis, first: a view where their columns are adjacent in memory, elsewhere copies of some slices.

    Gives:
        the number of the first slice, the chosen ones, and these slices with those in their reach
    """
    across = np.moveaxis(values, axis, 0)
    if np.argmin(np.abs(across.strides)) == 2:
        yield 0, chosen, across
        return
    for start in range(0, len(chosen), PIECE):
        some = chosen[start : start + PIECE]
        first = max(0, some[0] - reach)
        yield first, some, contiguous(across[first : some[-1] + reach + 1])


@dataclass(frozen=True, eq=False)
class _Adjacent:
    """Some slices of one plane, one after the other: those that ran, and those between them."""

    start: int
    """Number of the first one."""
    ran: list[Values]
    """K x h x w each."""
    before: NDArray[np.int64]
    """Of each slice the place in ``ran`` of the one that it is, or that is before it."""
    after: NDArray[np.int64]
    """Likewise of the one after it."""
    share: Values
    """Of each slice how far it is on the way from the one to the other, 0..1."""


def _adjacent(some: Iterator[tuple[_Batch, Values]], together: int) -> Iterator[_Adjacent]:
    """Cut a plane into parts that begin at multiples of ``together``, of :data:`TOGETHER` slices at the most."""
    start, numbers, ran = 0, list[int](), list[Values]()
    for batch, found in some:
        for k, here in zip(batch.numbers, found, strict=True):
            numbers.append(k)
            ran.append(here)
            stop = (k + 1) // together * together
            if stop > start:
                yield _part(range(start, stop), numbers, ran)
                kept = bisect.bisect_right(numbers, stop) - 1
                start, numbers, ran = stop, numbers[kept:], ran[kept:]
    if numbers[-1] >= start:
        yield _part(range(start, numbers[-1] + 1), numbers, ran)


def _part(wanted: range, numbers: list[int], ran: list[Values]) -> _Adjacent:
    known, every = np.array(numbers), np.array(wanted)
    before = np.searchsorted(known, every, "right") - 1
    after = np.minimum(before + 1, len(known) - 1)
    share = (every - known[before]) / np.maximum(known[after] - known[before], 1)
    return _Adjacent(wanted.start, ran, before.astype(np.int64), after.astype(np.int64), share.astype(np.float32))


def _add_by_compiled(library: Library, total: Probabilities, axis: int, part: _Adjacent, scale: int, first: bool) -> None:
    classes, h, w = part.ran[0].shape
    place = np.moveaxis(total, 1 + axis, -1)[..., part.start :]
    strides = [stride // total.itemsize for stride in place.strides]
    ran = [np.ascontiguousarray(one) for one in part.ran]
    addresses = np.array([one.ctypes.data for one in ran], np.uint64)
    library.add_slices(
        *(addresses, part.before, part.after, part.share, len(part.share), classes, h, w, scale),
        *(total.reshape(-1)[part.start * strides[3] :], *strides, int(first)),
    )


def _add_by_numpy(total: Probabilities, axis: int, part: _Adjacent, scale: int, first: bool) -> None:
    slices_ = [
        _rounded((part.ran[after] - part.ran[before]) * share + part.ran[before], scale)
        for before, after, share in zip(part.before, part.after, part.share, strict=True)
    ]
    place = np.moveaxis(total, 1 + axis, -1)[..., part.start : part.start + len(slices_)]
    if first:
        np.stack(slices_, -1, out=place)
    else:
        place += np.stack(slices_, -1)


def _rounded(probabilities: Values, scale: int) -> Probabilities:
    """0..1 to 0..scale."""
    return (probabilities * np.float32(scale) + np.float32(0.5)).astype(np.uint16)


def _probabilities_of(batches: Iterator[_Batch], policy: InputPolicy, run: Run, lanes: int) -> Iterator[tuple[_Batch, Values]]:
    """Run batches, in their order, and give the probabilities of each: n x K x h x w."""

    def work(batch: _Batch) -> Values:
        _, h, w = batch.across.shape
        return softmax(run(slices(batch.across, [k - batch.first for k in batch.numbers], policy))[:, :, :h, :w])

    if lanes < 2:
        for batch in batches:
            yield batch, work(batch)
        return
    # A slice on a thread each is through sooner than one after the other on all threads; a few batches are ahead, not all.
    with ThreadPoolExecutor(lanes, thread_name_prefix="fcn-slices") as pool:
        waiting = deque((batch, pool.submit(work, batch)) for batch in itertools.islice(batches, AHEAD * lanes))
        try:
            while waiting:
                batch, future = waiting.popleft()
                found = future.result()
                waiting.extend((following, pool.submit(work, following)) for following in itertools.islice(batches, 1))
                yield batch, found
        finally:
            for _, future in waiting:
                future.cancel()


def _chosen(count: int, policy: InputPolicy) -> list[int]:
    """The numbers of the slices that run, of so many."""
    return sorted({*range(0, count, policy.slice_step), count - 1})


def slices(across: Values, middle: Sequence[int], policy: InputPolicy) -> Values:
    """Slices as the network takes them: each in the middle of the adjacent slices, its sides padded with 0 to multiples.

    Takes:
        across: slices x h x w, normalised
        middle: numbers of the wanted slices
    Gives:
        n x H x W x channels float32; beyond the volume's ends the outermost slice is repeated
    """
    last, h, w = len(across) - 1, *across.shape[1:]
    reach = policy.channels // 2
    batch = np.zeros((len(middle), _up(h, policy.multiple), _up(w, policy.multiple), policy.channels), np.float32)
    for index, k in enumerate(middle):
        for channel in range(policy.channels):
            batch[index, :h, :w, channel] = across[min(max(k - reach + channel, 0), last)]
    return batch


def _by_blocks(values: Values, manifest: Manifest, run: Run) -> Probabilities:
    """Probabilities of a network of volumes, K x X x Y x Z uint16."""
    x, y, z = values.shape
    sides, every = _blocks((x, y, z), manifest)
    padded = np.zeros(sides, np.float32)
    padded[:x, :y, :z] = values
    found = np.empty((len(manifest.classes), *sides), np.uint16)
    for block in every:
        seen = np.ascontiguousarray(padded[block.read])
        scores = run(seen[None, ..., None])
        if manifest.stride > 1:
            scores = np.stack([resized(plane, _shape(seen)) for plane in scores[0]])[None]
        found[(slice(None), *block.place)] = _rounded(softmax(scores)[0][(slice(None), *block.keep)], CERTAIN)
    return found[:, :x, :y, :z]


def _blocks(shape: Shape, manifest: Manifest) -> tuple[Shape, list[Block]]:
    """The sides of a volume as multiples, and its blocks."""
    halo, multiple = manifest.halo, manifest.input.multiple
    x, y, z = shape
    sides: Shape = (_up(x, multiple), _up(y, multiple), _up(z, multiple))
    largest = max(sides)
    if halo is not None and math.prod(sides) > BLOCK_VOXELS:
        largest = max(round(BLOCK_VOXELS ** (1 / 3)), 2 * halo + multiple)
    return sides, list(blocks(sides, halo=halo or 0, multiple=multiple, largest=largest))


def _shape(values: Values) -> Shape:
    x, y, z = values.shape
    return x, y, z


def softmax(scores: Values) -> Values:
    """Probabilities from scores, along axis 1.

    Raises:
        InferenceFailed: if a score is not a finite number
    """
    shifted: Values = scores - functools.reduce(np.maximum, np.moveaxis(scores, 1, 0))[:, None]
    np.exp(shifted, out=shifted)
    total = shifted.sum(1, keepdims=True)
    shifted /= total
    if not np.isfinite(total).all():  # at least 1, or not a number
        raise InferenceFailed("the network's scores are not finite numbers")
    return shifted


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
