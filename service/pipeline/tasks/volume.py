"""A scan to a label volume in the scan's own grid: by slices of one or more planes, or by blocks.

The steps: turn to the network's orientation, normalise by the percentiles of the whole, sample at the network's spacing, run,
sample the probabilities on the scan's grid, take the best class, turn back. Probabilities are sampled, never labels, so no
class appears between two others that it does not belong to.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import ImageTooLarge, InferenceFailed
from service.pipeline import intensity
from service.pipeline.blocks import Block, blocks
from service.pipeline.manifest import InputPolicy, Manifest
from service.pipeline.volume import Best, Frame, Grid, Labels, Scan, Shape, Values, frame, resized

Run = Callable[[NDArray[Any]], Values]
"""Runs the network: N x h x w x channels, or N x d x h x w x channels, to N x K x the same sides, float32 scores."""

BATCH_PIXELS = 2**16
"""The voxels of the slices that run together: one of 256 x 256, whose maps stay in the cache. A voxel of two or four takes 1.05
and 1.2 times as long (head-tissue, one thread)."""
BLOCK_VOXELS = 2**20
"""The voxels of a block, unless its halo alone needs more."""
TOGETHER = 16
"""Slices whose probabilities are added to those of the other planes at a time: as many floats as a cache line has."""
CACHE_LINE = 16
"""Floats."""
WHOLE_VOXELS = 2**22
"""The voxels of a volume whose network has no known halo: it cannot be cut into blocks."""

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


def place(scan: Scan, manifest: Manifest, *, max_voxels: int) -> Placed:
    """Turn a scan, normalise it, and sample it at the network's spacing.

    Takes:
        max_voxels: of the scan at the network's spacing
    Raises:
        CorruptImage, ImageTooLarge: as :func:`frame_of`
    """
    policy, placed = manifest.input, frame_of(scan.grid, manifest, max_voxels=max_voxels)
    values = placed.in_orientation(scan.values)
    if policy.intensity is not None:
        # In place: the system zeroes every new page, which takes as long as the arithmetic.
        intensity.normalised(values, intensity.window(values, policy.intensity), policy.intensity, out=values)
    else:
        np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(values.max())
    preview = np.empty(values.shape, np.uint8)
    np.multiply(values, np.float32(255 / top if top > 0 else 0), out=preview, casting="unsafe")
    return Placed(resized(values, placed.working), placed, placed.in_order(preview))


def probabilities(values: Values, manifest: Manifest, run: Run, *, lanes: int = 1) -> Values:
    """Run a network over a volume.

    Takes:
        values: the working shape, normalised
        run: the network; called once a batch of slices or a block, so it is where a deadline can end the work
        lanes: batches of slices that run at the same time, each on a thread of its own
    Gives:
        K x working shape float32, 0..1: of a network of slices the mean of its planes
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


def _by_slices(values: Values, policy: InputPolicy, classes: int, run: Run, lanes: int) -> Values:
    """The mean of the planes' probabilities, K x X x Y x Z float32."""
    axes = [_AXIS[letter] for letter in policy.orientation or "RAS"]
    total = np.empty((classes, *values.shape), np.float32)
    planes = len(policy.planes)
    for number, plane in enumerate(policy.planes, start=1):
        axis = axes.index(plane)
        summed = np.moveaxis(total, 1 + axis, -1)
        every = _every_slice(_across(values, axis), policy, run, lanes)
        for start, some in _together(every) if axis == 2 else _one_by_one(every):
            part = summed[..., start : start + some.shape[-1]]
            if number == 1:
                part[...] = some
            else:
                part += some
            if number == planes > 1:  # while the part is in the cache
                part /= planes
    return total


def _across(values: Values, axis: int) -> Values:
    """The slices across an axis, first: a view, but along the last axis a copy, in which a slice is in one piece."""
    if axis < 2:
        return np.moveaxis(values, axis, 0)
    x, y, z = values.shape
    return np.asarray(cv2.transpose(values.reshape(x * y, z)), np.float32).reshape(z, x, y)


def _one_by_one(every: Iterator[Values]) -> Iterator[tuple[int, Values]]:
    for k, one in enumerate(every):
        yield k, one[..., None]


def _together(every: Iterator[Values]) -> Iterator[tuple[int, Values]]:
    """Put slices together, :data:`TOGETHER` at a time, so that each piece of memory across them is visited once.

    Gives:
        the number of the first one, and K x h x w x slices, valid until the next; slices lie apart by an odd number of cache
        lines, because at a power of two they would push each other out of the cache
    """
    buffer, start, count = np.empty((TOGETHER, 0), np.float32), 0, 0
    for one in every:
        if not buffer.size:
            buffer = np.empty((TOGETHER, one.size + CACHE_LINE), np.float32)
        buffer[count, : one.size].reshape(one.shape)[...] = one
        count += 1
        if count == TOGETHER:
            yield start, np.moveaxis(buffer[:, : one.size].reshape(TOGETHER, *one.shape), 0, -1)
            start, count = start + count, 0
    if count:
        yield start, np.moveaxis(buffer[:count, : one.size].reshape(count, *one.shape), 0, -1)


def _every_slice(across: Values, policy: InputPolicy, run: Run, lanes: int) -> Iterator[Values]:
    """Probabilities of every slice of one plane in order, K x h x w each: those that run, and those between them."""
    last, before = -1, np.empty(0, np.float32)
    for numbers, found in _slice_probabilities(across, policy, run, lanes):
        for k, here in zip(numbers, found, strict=True):
            for between in range(last + 1, k):
                share = np.float32((between - last) / (k - last))
                mixed = here - before
                mixed *= share
                mixed += before
                yield mixed
            yield here
            last, before = k, here


def _slice_probabilities(across: Values, policy: InputPolicy, run: Run, lanes: int) -> Iterator[tuple[Sequence[int], Values]]:
    """Probabilities of the slices of one plane that run, n x K x h x w, batch by batch, with their numbers."""
    count, h, w = across.shape
    chosen = _chosen(count, policy)
    step = max(1, BATCH_PIXELS // (h * w))

    def work(numbers: Sequence[int]) -> Values:
        return softmax(run(slices(across, numbers, policy))[:, :, :h, :w])

    batches = [chosen[start : start + step] for start in range(0, len(chosen), step)]
    if lanes < 2:
        for numbers in batches:
            yield numbers, work(numbers)
        return
    # A slice on a thread each is through sooner than one after the other on all threads; a few batches are ahead, not all.
    with ThreadPoolExecutor(lanes, thread_name_prefix="fcn-slices") as pool:
        waiting = deque(pool.submit(work, numbers) for numbers in batches[: 2 * lanes])
        try:
            for at, numbers in enumerate(batches):
                found = waiting.popleft().result()
                if at + 2 * lanes < len(batches):
                    waiting.append(pool.submit(work, batches[at + 2 * lanes]))
                yield numbers, found
        finally:
            for future in waiting:
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


def _by_blocks(values: Values, manifest: Manifest, run: Run) -> Values:
    """Probabilities of a network of volumes, K x X x Y x Z float32."""
    x, y, z = values.shape
    sides, every = _blocks((x, y, z), manifest)
    padded = np.zeros(sides, np.float32)
    padded[:x, :y, :z] = values
    found = np.empty((len(manifest.classes), *sides), np.float32)
    for block in every:
        seen = np.ascontiguousarray(padded[block.read])
        scores = run(seen[None, ..., None])
        if manifest.stride > 1:
            scores = np.stack([resized(plane, _shape(seen)) for plane in scores[0]])[None]
        found[(slice(None), *block.place)] = softmax(scores)[0][(slice(None), *block.keep)]
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
