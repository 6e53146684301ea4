"""Blocks of a picture or a volume that give, put together, the scores of the whole.

A score depends on a bounded part of the input: the receptive field. A block is read with a halo around the part that is kept,
so every kept score sees all that it would see in the whole. At the borders of the whole a block ends where the whole ends, so
the network's own padding is the same. Blocks begin at multiples of the network's coarsest stride, so its cells lie alike. All
have one size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """One part, along every axis; in input pixels, which a network of stride 1 shares with its scores."""

    read: tuple[slice, ...]
    """The region that the network sees, in the whole."""
    keep: tuple[slice, ...]
    """The region of its scores that is kept, in the block."""
    place: tuple[slice, ...]
    """Where that goes, in the whole."""


@dataclass(frozen=True)
class _Span:
    """A block along one axis."""

    read: slice
    keep: slice
    place: slice


def blocks(shape: Sequence[int], *, halo: int, multiple: int, largest: int) -> Iterator[Block]:
    """Cut a shape into blocks.

    Takes:
        shape: sides of the whole
        halo: input pixels around what is kept; a multiple of ``multiple``
        multiple: the network's coarsest stride; blocks begin at multiples of it
        largest: the longest side of a block; where the halo leaves too little, a block keeps one multiple
    Gives:
        blocks whose places cover the whole once
    Raises:
        ValueError: if the halo is not a multiple
    """
    if halo % multiple:
        raise ValueError(f"the halo {halo} must be a multiple of {multiple}")
    for spans in itertools.product(*(_spans(side, halo, multiple, largest) for side in shape)):
        yield Block(tuple(span.read for span in spans), tuple(span.keep for span in spans), tuple(span.place for span in spans))


def _spans(side: int, halo: int, multiple: int, largest: int) -> list[_Span]:
    if side <= largest:
        return [_Span(slice(0, side), slice(0, side), slice(0, side))]
    rest = side % multiple  # every block has it, so that the last one ends where the whole ends and is as long as the others
    most = max(multiple, (largest - 2 * halo - rest) // multiple * multiple)
    inside = max(0, side - rest - 2 * halo)
    count = max(1, -(-inside // most))
    kept = max(1, -(-inside // (count * multiple))) * multiple
    length = min(side, kept + 2 * halo + rest)
    spans: list[_Span] = []
    start = 0
    while start < side:  # blocks of one shape keep the runtime's memory flat; at a border, one needs no halo and keeps more
        first = min(len(spans) * kept, side - length)
        stop = side if first + length >= side else first + kept + halo
        spans.append(_Span(slice(first, first + length), slice(start - first, stop - first), slice(start, stop)))
        start = stop
    return spans
