"""Cityscapes' instance ids: a grey PNG of 16 bits, ``id`` for what is not counted and ``id * 1000 + k`` for the k-th thing.

k begins at 0 with the largest thing of its class. Pixels of a countable class that belong to no thing, and things beyond the
thousandth, have the plain ``id``, as groups have in Cityscapes. Unlabelled pixels are 255, or 0 where no written class has the
id 0: so with ``ids=cityscapes-label`` the file is what Cityscapes' scripts evaluate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.encodings import png, things
from service.encodings.format import Format
from service.encodings.runs import UNLABELLED, ClassRow, Thing, ValueMap, value_of
from service.encodings.several import zipped
from service.errors import BadParameter

FACTOR = 1000
LARGEST_ID = 64
"""The largest id whose thousand things fit into 16 bits."""


def encode(labels: ValueMap, classes: Iterable[ClassRow], *, unlabelled: int = UNLABELLED) -> NDArray[np.uint16]:
    """Number the things of a value map.

    Takes:
        labels: H x W
        classes: the masks that ``things.split`` made
        unlabelled: the value of pixels without a class
    Gives:
        H x W uint16
    """
    table = np.full(max(int(labels.max()), UNLABELLED) + 1, unlabelled, np.uint16)
    for row in classes:
        if value_of(row) < len(table):
            numbered = isinstance(row, Thing) and row.number <= FACTOR
            table[value_of(row)] = row.id * FACTOR + row.number - 1 if numbered and isinstance(row, Thing) else row.id
    return table[labels]


def unlabelled_of(classes: Sequence[ClassRow]) -> int:
    """The value of pixels without a class: 0 where no class has it, otherwise 255."""
    return UNLABELLED if any(row.id == 0 for row in classes) else 0


def check(classes: Sequence[ClassRow]) -> None:
    """Reject countable classes whose things 16 bits cannot hold.

    Raises:
        BadParameter: naming the first one
    """
    ids = things.countable(classes)
    for row in classes:
        if row.id in ids and row.id > LARGEST_ID:
            raise BadParameter(
                f"instance-ids: {row.name} has the id {row.id}, and 16 bits hold the things of ids up to {LARGEST_ID}; "
                "use format=panoptic or ids=cityscapes-label",
                parameter="format",
            )


FORMAT = Format(
    "instance-ids",
    ".png",
    "image/png",
    "Cityscapes' instance ids as a grey PNG of 16 bits: `id`, or `id * 1000 + k` for the k-th thing.",
    encode=lambda view: png.encode_gray16(encode(*view.masks(), unlabelled=unlabelled_of(view.classes))),
    gather=zipped(".png"),
    takes=frozenset(("instances", "min_area")),
    things=True,
    check=check,
)
