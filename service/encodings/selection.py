"""Which pixels keep their class: the filters by class and by confidence, applied before any format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.encodings.runs import UNLABELLED, ClassRow, translate
from service.errors import BadParameter, UnknownClass


def class_ids(wanted: Iterable[str], classes: Sequence[ClassRow], parameter: str = "classes") -> frozenset[int]:
    """Find the classes that a caller names.

    Takes:
        wanted: names, ids as decimal numbers, or several of them separated by commas; a name wins over an id
        classes: the class table
        parameter: the name of the query that has the names
    Gives:
        their ids
    Raises:
        UnknownClass: naming the first one that the table lacks, and those that it has
        BadParameter: if the list is empty
    """
    by_word = {str(row.id): row.id for row in classes} | {row.name: row.id for row in classes}
    # A name may itself contain a comma.
    words = [word.strip() for value in wanted for word in ([value] if value in by_word else value.split(","))]
    words = [word for word in words if word]
    if not words:
        default = "to keep them all" if parameter == "classes" else "for its default"
        raise BadParameter(f"{parameter} names no class; leave it out {default}", parameter=parameter)
    for word in words:
        if word not in by_word:
            known = [row.name for row in classes]
            raise UnknownClass(f"no class {word[:64]!r}; the model knows {', '.join(known)}", allowed=known)
    return frozenset(by_word[word] for word in words)


def keep_classes(labels: NDArray[np.uint8], ids: Iterable[int]) -> NDArray[np.uint8]:
    """Take the class away from every pixel whose class is not wanted.

    Takes:
        labels: H x W uint8
        ids: the class ids to keep
    Gives:
        H x W uint8, a new array; 255 where the class was another
    """
    table = np.full(256, UNLABELLED, np.uint8)
    for kept in ids:
        table[kept] = kept
    return translate(table, labels)


def drop_uncertain(labels: NDArray[np.uint8], confidence: NDArray[np.uint8], min_confidence: float) -> NDArray[np.uint8]:
    """Take the class away from every pixel of which the network is less sure than asked for.

    Takes:
        labels: H x W uint8
        confidence: H x W uint8, the winner's probability times 255
        min_confidence: 0..1; a pixel that has exactly this much keeps its class
    Gives:
        H x W uint8, a new array; 255 where the confidence was less
    Raises:
        BadParameter: if ``min_confidence`` is not a number from 0 to 1
    """
    if not 0 <= min_confidence <= 1:
        raise BadParameter(f"min_confidence must be from 0 to 1, not {min_confidence}", parameter="min_confidence")
    return np.where(confidence >= min_confidence * 255, labels, np.uint8(UNLABELLED))
