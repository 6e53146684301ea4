"""Polygons with holes, one feature a class present (or a thing), as GeoJSON writes them, in the image's pixels.

``{"type": "FeatureCollection", "size": [H, W], "tolerance": 0, "classes": [...], "features": [{"type": "Feature",
"properties": {"id", "name"}, "geometry": {"type": "MultiPolygon", "coordinates": [[exterior, hole, ...], ...]}}]}``

A point is ``[x, y]``: x to the right, y down, (0, 0) the upper left corner of the upper left pixel, so that the pixel in row r
and column c is the square from (c, r) to (c + 1, r + 1). Rings run along the edges of pixels and end where they begin; with y
down as it is, exteriors have a positive area by the shoelace formula and holes a negative one. One polygon is one region of
pixels that share edges; no ring passes a point twice, and the polygons are valid in the sense of the OGC.

A pixel belongs to a feature if its centre lies inside by the even-odd rule. With tolerance 0 this gives the mask back, exactly.
With a tolerance of t pixels each ring keeps only so many of its corners that it strays from itself by about t at the most
(``cv2.approxPolyDP``; on streets by a tenth more); rings of which less than a triangle is left are dropped. Pixels change that
near an edge of a mask alone, the border of the image included; rings may then touch or cross, and where features overlap the
later one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.encodings.document import MAX_PIXELS, reading, size_of
from service.encodings.format import json_format
from service.encodings.runs import (
    UNLABELLED,
    ClassRow,
    ValueMap,
    facts_of,
    find_runs,
    masks_present,
    rows_present,
    value_of,
)
from service.extras import needs

Points = NDArray[np.int64]
"""P x 2: x, y."""

# Corners of a pixel, and quadrants around a corner: the two bits say down and right.
_UL, _UR, _LL, _LR = range(4)


class _Turn(NamedTuple):
    """Where a straight piece of boundary begins or ends: at one corner of the pixel inside of it."""

    side: str
    """The pixel beyond the corner, along the boundary."""
    diagonal: str
    """The pixel across the corner."""
    corner: int
    """The corner of the pixel."""


_SIDES = {
    # side of the pixel: where its boundary begins, where it ends; the mask lies to the right of who walks along it
    "up": (_Turn("left", "up left", _UL), _Turn("right", "up right", _UR)),
    "down": (_Turn("right", "down right", _LR), _Turn("left", "down left", _LL)),
    "right": (_Turn("up", "up right", _UR), _Turn("down", "down right", _LR)),
    "left": (_Turn("down", "down left", _LL), _Turn("up", "up left", _UL)),
}
_ACROSS, _UPRIGHT = ("up", "down"), ("right", "left")


class _Pieces(NamedTuple):
    """N straight pieces of boundary, the horizontal or the vertical ones, each as long as can be."""

    start: Points
    end: Points
    start_link: NDArray[np.int64]
    end_link: NDArray[np.int64]
    """A piece is followed by that one of the other direction whose ``start_link`` is its ``end_link``: the point and the
    quadrant around it in which the mask turns."""
    value: NDArray[np.int64]
    """The value of the mask."""


def encode(labels: ValueMap, classes: Iterable[ClassRow], *, tolerance: float = 0.0) -> dict[str, Any]:
    """Encode each class that has a pixel as a feature of its own.

    Takes:
        labels: H x W, H and W at least 1
        classes: the class table, or the masks that ``things.split`` made of it
        tolerance: pixels, at least 0
    Gives:
        the document, ready for JSON; features in the order of ``classes``
    """
    values, lengths = find_runs(labels.reshape(-1))
    rows = rows_present(values, classes)
    traced = trace(labels, tolerance)
    features = []
    for row in rows:
        regions = [[np.concatenate((ring, ring[:1])).tolist() for ring in region] for region in traced[value_of(row)]]
        geometry = {"type": "MultiPolygon", "coordinates": regions}
        properties = {"id": row.id, "name": row.name, **facts_of(row)}
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    return {
        "type": "FeatureCollection",
        "size": list(labels.shape),
        "tolerance": tolerance,
        "classes": masks_present(values, lengths, rows),
        "features": features,
    }


def decode(document: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Draw a document's polygons into a label map.

    Takes:
        document: as ``encode`` gives it; points need not be whole numbers
    Gives:
        H x W uint8; 255 where no class is
    Raises:
        ValueError: if a field is missing or makes no sense
    """
    with reading("polygons"):
        labels = np.full(size_of(document), UNLABELLED, np.uint8)
        for feature in document["features"]:
            rings = [
                np.asarray(ring, np.float64).reshape(-1, 2)
                for polygon in feature["geometry"]["coordinates"]
                for ring in polygon
            ]
            if rings:
                draw(labels, rings, feature["properties"]["id"])
    return labels


def trace(labels: ValueMap, tolerance: float = 0.0) -> dict[int, list[list[Points]]]:
    """Follow the edges of every mask of a map.

    Takes:
        labels: H x W, H and W at least 1
        tolerance: pixels by which rings may stray, at least 0
    Gives:
        by value: its regions, each as its exterior and its holes; P x 2 int64 a ring, the corners alone, not closed
    """
    exact = _traced(labels)
    if tolerance == 0:
        return exact
    rough = {value: [_simplified(region, tolerance) for region in regions] for value, regions in exact.items()}
    return {value: [region for region in regions if region] for value, regions in rough.items()}


def _traced(labels: ValueMap) -> dict[int, list[list[Points]]]:
    """:func:`trace`, exactly."""
    across, upright = _pieces(labels)
    if not len(across.value):
        return {}
    # Each horizontal piece is followed by a vertical one, and that by the next horizontal one.
    then_up, then_across = _follow(across, upright), _follow(upright, across)
    order, sizes = _walk(then_across[then_up])
    ring = np.empty(len(order), np.int64)
    ring[order] = np.repeat(np.arange(len(sizes)), sizes)
    ring_upright = np.empty_like(ring)
    ring_upright[then_up] = ring
    # Where two pixels of a mask touch at a corner alone, a ring may pass twice: there it becomes two.
    twice = _part(across, then_up, ring) + _part(upright, then_across, ring_upright)
    if twice:
        order, sizes = _walk(then_across[then_up])
        ring[order] = np.repeat(np.arange(len(sizes)), sizes)
        ring_upright[then_up] = ring
    points = np.stack((across.start[order], across.end[order]), 1).reshape(-1, 2)
    first = np.cumsum(sizes) - sizes
    area = np.add.reduceat(across.start[:, 1][order] * (across.start[:, 0] - across.end[:, 0])[order], first)
    outer = _enclosing(labels, upright, ring_upright, points, sizes, area < 0)

    outlines: dict[int, list[list[Points]]] = {}
    polygons: dict[int, list[Points]] = {}
    rings = np.split(points, 2 * first[1:])
    values = across.value[order[first]]
    for at in np.flatnonzero(area > 0).tolist():
        polygons[at] = [rings[at]]
        outlines.setdefault(int(values[at]), []).append(polygons[at])
    for at in np.flatnonzero(area < 0).tolist():
        polygons[int(outer[at])].append(rings[at])
    return outlines


def _pieces(labels: ValueMap) -> tuple[_Pieces, _Pieces]:
    """Cut the edges of all masks into straight pieces, horizontal and vertical."""
    width = labels.shape[1]
    padded = np.pad(labels, 1, constant_values=UNLABELLED)
    beside, below = padded[1:-1, 1:] != padded[1:-1, :-1], padded[1:, 1:-1] != padded[:-1, 1:-1]
    edge = beside[:, 1:] | beside[:, :-1] | below[1:] | below[:-1]
    edge &= labels != UNLABELLED
    y, x = np.divmod(np.flatnonzero(edge), width)
    flat, here = padded.reshape(-1), (y + 1) * (width + 2) + x + 1
    value = flat[here]
    steps = {"up": -(width + 2), "down": width + 2, "left": -1, "right": 1}
    other = {name: flat[here + step] != value for name, step in steps.items()}
    for vertical in _ACROSS:
        for horizontal in _UPRIGHT:
            other[f"{vertical} {horizontal}"] = flat[here + steps[vertical] + steps[horizontal]] != value

    def ends(side: str, turn: _Turn) -> tuple[NDArray[np.intp], Points, NDArray[np.int64]]:
        """The pixels at which pieces begin or end, in the order of the lines on which they lie; point and link of each."""
        at = np.flatnonzero(other[side] & (other[turn.side] | ~other[turn.diagonal]))
        if side in _UPRIGHT:
            at = at[np.lexsort((y[at], x[at]))]
        down, right = divmod(turn.corner, 2)
        point = np.stack((x[at] + right, y[at] + down), 1)
        # Outward the mask turns within the pixel itself, whose quadrant is opposite to the pixel's corner. Inward it turns
        # around the one pixel of four that it lacks, and the link is the quadrant opposite to that.
        outward = 3 - turn.corner
        beyond = outward ^ (1 if side in _UPRIGHT else 2)  # the quadrant of the pixel on the other side of the edge
        quadrant = np.where(other[turn.side][at], outward, 3 - beyond)
        return at, point, (point[:, 1] * (width + 1) + point[:, 0]) * 4 + quadrant

    def collect(sides: tuple[str, str]) -> _Pieces:
        found = []
        for side in sides:
            turn_in, turn_out = _SIDES[side]
            at, start, start_link = ends(side, turn_in)
            _, end, end_link = ends(side, turn_out)
            found.append((start, end, start_link, end_link, value[at].astype(np.int64)))
        return _Pieces(*(np.concatenate(both) for both in zip(*found, strict=True)))

    return collect(_ACROSS), collect(_UPRIGHT)


def _follow(pieces: _Pieces, others: _Pieces) -> NDArray[np.intp]:
    """Return the piece that follows each piece."""
    following = np.empty(len(pieces.value), np.intp)
    following[np.argsort(pieces.end_link)] = np.argsort(others.start_link)
    return following


def _walk(following: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Walk along every ring: a loop over corners, some ten thousand on a street, and not over pixels.

    Gives:
        the pieces, ring after ring, each ring from its first piece on; how many each ring has
    """
    ahead = following.tolist()
    order: list[int] = []
    sizes: list[int] = []
    for first, unseen in enumerate(ahead):
        if unseen < 0:
            continue
        before, at = len(order), first
        while ahead[at] >= 0:
            order.append(at)
            ahead[at], at = -1, ahead[at]
        sizes.append(len(order) - before)
    return np.array(order, np.intp), np.array(sizes, np.int64)


def _part(pieces: _Pieces, following: NDArray[np.intp], ring: NDArray[np.int64]) -> int:
    """Where one ring passes a point twice, exchange what follows: two rings come of it.

    Gives:
        how often
    """
    order = np.argsort(pieces.end_link)
    link = pieces.end_link[order]
    first, second = order[:-1], order[1:]
    # Two corners of one mask at one point, both outward, stand in opposite quadrants: 1 and 2, or 0 and 3.
    opposite = (link[:-1] // 4 == link[1:] // 4) & (link[:-1] % 4 + link[1:] % 4 == 3)
    meet = opposite & (pieces.value[first] == pieces.value[second]) & (ring[first] == ring[second])
    a, b = first[meet], second[meet]
    following[a], following[b] = following[b], following[a]
    return len(a)


def _enclosing(
    labels: ValueMap,
    upright: _Pieces,
    ring_upright: NDArray[np.int64],
    points: Points,
    sizes: NDArray[np.int64],
    hole: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return the exterior of each ring's region; an exterior belongs to its own."""
    height, width = labels.shape
    outer = np.arange(len(sizes))
    holes = np.flatnonzero(hole)
    if not len(holes):
        return outer
    # Left of a hole's leftmost point lies the region around it. Where its row begins, there is another of its rings.
    column_first = points[:, 0] * (height + 1) + points[:, 1]
    x, y = np.divmod(np.minimum.reduceat(column_first, 2 * (np.cumsum(sizes) - sizes))[holes], height + 1)
    changes = np.ones(labels.shape, bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=changes[:, 1:])
    begins = np.flatnonzero(changes)
    x = begins[np.searchsorted(begins, y * width + x - 1, side="right") - 1] - y * width
    rising = np.flatnonzero(upright.start[:, 1] > upright.end[:, 1])  # left edges, which are walked upwards
    top = upright.end[rising, 0] * (height + 1) + upright.end[rising, 1]
    by_column = np.argsort(top)
    piece = rising[by_column[np.searchsorted(top[by_column], x * (height + 1) + y, side="right") - 1]]
    outer[holes] = ring_upright[piece]
    while hole[outer].any():  # that ring may be a hole too, further to the left
        outer = outer[outer]
    return outer


def _simplified(polygon: Sequence[Points], tolerance: float) -> list[Points]:
    """A region with fewer corners; none at all where its exterior is not even a triangle any more."""
    try:
        import cv2  # noqa: PLC0415 - exact polygons, and reading any, need numpy alone
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(needs("polygons with a tolerance need", "serve"), name=error.name) from error

    kept: list[Points] = []
    for ring in polygon:
        rough = np.asarray(cv2.approxPolyDP(ring.astype(np.int32)[:, None], tolerance, closed=True), np.int64)[:, 0]
        if len(rough) > 2:
            kept.append(rough)
        elif not kept:
            break
    return kept


def draw(labels: NDArray[np.uint8], rings: list[NDArray[np.float64]], value: int) -> None:
    """Give every pixel whose centre is inside by the even-odd rule a value, in place.

    Takes:
        labels: H x W uint8
        rings: P x 2 each: x, y in pixels; together, at least one
        value: 0..255
    Raises:
        ValueError: if a point lies beyond any image, or is not a number
    """
    height, width = labels.shape
    edges = np.concatenate([np.stack((ring, np.roll(ring, -1, 0)), 1) for ring in rings])
    if not (np.abs(edges) < MAX_PIXELS).all():  # so written, NaN is refused too
        raise ValueError("a point lies beyond any image, or is not a number")
    edges = np.take_along_axis(edges, np.argsort(edges[..., 1:], axis=1), axis=1)  # downwards
    (x0, y0), (x1, y1) = edges[:, 0].T, edges[:, 1].T
    top, bottom = (np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (y0, y1))
    rows = bottom - top
    edge = np.repeat(np.arange(len(edges)), rows)
    if not len(edge):
        return
    row = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + top[edge]
    crossing = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    first, last = int(row.min()), int(row.max()) + 1
    crossed = np.bincount((row - first) * (width + 1) + column, minlength=(last - first) * (width + 1)).astype(np.uint8)
    inside = np.cumsum(crossed.reshape(last - first, width + 1)[:, :-1], axis=1, dtype=np.uint8) & 1  # modulo 256 is even
    labels[first:last][inside.astype(bool)] = value


FORMAT = json_format(
    "polygons",
    "Polygons with holes in the image's pixels, written as GeoJSON, for shapely and browsers.",
    lambda labels, rows, view: encode(labels, rows, tolerance=view.options.tolerance),
    decode,
    "instances",
    "min_area",
    "tolerance",
)
