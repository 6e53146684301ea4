"""Class ids of other tables, and the way there by name: ``ids=cityscapes-train | cityscapes-label | autoware``.

A class is found by its name, whatever table it comes from: CamVid's, VOC's, Cityscapes', ADE20K's or the user's own. First
the target's own names count, then :data:`SENSES`. A class without a row becomes 255, unlabelled: nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.encodings.runs import UNLABELLED, ClassRow, translate
from service.errors import BadParameter


class Row(NamedTuple):
    """One row of a table of ids: what the reply's masks, palettes and class lists say."""

    id: int
    name: str
    color: tuple[int, int, int]
    """RGB, 0..255."""


class Sense(NamedTuple):
    """The meaning of class names of various tables in the target tables."""

    names: tuple[str, ...]
    """Lower case, words apart by spaces."""
    cityscapes: str | None
    autoware: str | None
    reason: str


SENSES = (
    Sense(("road",), "road", "road", "the same; Autoware lists it as 0 and as 9, and its fusion reads 0 as unknown: 9"),
    Sense(("pavement", "sidewalk"), "sidewalk", "sidewalk", "British and American for the same"),
    Sense(("building", "house", "skyscraper", "tower", "hovel"), "building", "building", "all kinds of houses"),
    Sense(("wall",), "wall", "wall", "the same"),
    Sense(("fence",), "fence", "obstacle", "Autoware knows no fence, and it is in the way"),
    Sense(("railing", "guard rail"), "guard rail", "obstacle", "has a label id and no train id in Cityscapes"),
    Sense(("pole", "streetlight"), "pole", "obstacle", "Cityscapes counts the post of a lamp; Autoware knows no pole"),
    Sense(("traffic light",), "traffic light", "traffic light", "the same"),
    Sense(("sign", "traffic sign"), "traffic sign", "traffic sign", "ADE20K's signboard, mostly advertising, is not"),
    Sense(("tree", "vegetation", "plant", "palm"), "vegetation", "vegetation", "whatever grows upwards"),
    Sense(("terrain", "grass", "earth", "field", "sand", "land"), "terrain", "vegetation", "Autoware has no soft ground"),
    Sense(("sky",), "sky", "sky", "the same"),
    Sense(("person", "pedestrian"), "person", "person", "the same"),
    Sense(("rider", "bicyclist"), "rider", "bike", "CamVid's is the rider with the bicycle; Autoware counts both as one"),
    Sense(("car", "van"), "car", "vehicle", "Cityscapes counts vans as cars"),
    Sense(("truck",), "truck", "vehicle", "Autoware knows one kind of vehicle"),
    Sense(("bus",), "bus", "vehicle", "the same"),
    Sense(("train",), "train", "vehicle", "the same"),
    Sense(("motorcycle", "motorbike", "minibike"), "motorcycle", "bike", "Autoware's bike has an engine or none"),
    Sense(("bicycle",), "bicycle", "bike", "the same"),
    Sense(("bridge",), "bridge", None, "has a label id and no train id in Cityscapes"),
    Sense(("cat", "cow", "dog", "horse", "sheep", "animal"), None, "obstacle", "on a road they are; Cityscapes knows none"),
)  # fmt: skip
"""Everything that is known of names; docs/formats.md shows it as a table."""

_CITYSCAPES = """
    7 0 road 128 64 128, 8 1 sidewalk 244 35 232, 9 - parking 250 170 160, 10 - rail track 230 150 140,
    11 2 building 70 70 70, 12 3 wall 102 102 156, 13 4 fence 190 153 153, 14 - guard rail 180 165 180, 15 - bridge 150 100 100,
    16 - tunnel 150 120 90, 17 5 pole 153 153 153, 18 - polegroup 153 153 153, 19 6 traffic light 250 170 30,
    20 7 traffic sign 220 220 0, 21 8 vegetation 107 142 35, 22 9 terrain 152 251 152, 23 10 sky 70 130 180,
    24 11 person 220 20 60, 25 12 rider 255 0 0, 26 13 car 0 0 142, 27 14 truck 0 0 70, 28 15 bus 0 60 100,
    29 - caravan 0 0 90, 30 - trailer 0 0 110, 31 16 train 0 80 100, 32 17 motorcycle 0 0 230, 33 18 bicycle 119 11 32"""
_AUTOWARE = """
    1 building 70 70 70, 2 wall 102 102 156, 3 obstacle 190 153 153, 4 traffic light 250 170 30, 5 traffic sign 220 220 0,
    6 person 220 20 60, 7 vehicle 0 0 142, 8 bike 119 11 32, 9 road 128 64 128, 10 sidewalk 244 35 232,
    11 road paint 255 255 255, 12 curbstone 196 196 196, 13 crosswalk 200 128 128, 14 vegetation 107 142 35,
    15 sky 70 130 180"""


def _cityscapes(column: int) -> tuple[Row, ...]:
    found = re.findall(r"(\d+) (\d+|-) ([a-z ]+) (\d+) (\d+) (\d+)", _CITYSCAPES)
    return tuple(Row(int(row[column]), row[2], (int(row[3]), int(row[4]), int(row[5]))) for row in found if row[column] != "-")


def _autoware() -> tuple[Row, ...]:
    found = re.findall(r"(\d+) ([a-z ]+) (\d+) (\d+) (\d+)", _AUTOWARE)
    return tuple(Row(int(id_), name, (int(red), int(green), int(blue))) for id_, name, red, green, blue in found)


TABLES: dict[str, tuple[Row, ...]] = {
    "cityscapes-train": _cityscapes(1),
    "cityscapes-label": _cityscapes(0),
    "autoware": _autoware(),
}
"""What ``ids`` may say. Cityscapes' names, ids and colours are those of its scripts (Cordts et al. 2016); Autoware's names
and ids are those of ``autoware_tensorrt_yolox``, its colours Cityscapes' of the nearest meaning. Its 0 is never written."""


@dataclass(frozen=True, eq=False)
class Translation:
    """From a model's ids to a table's."""

    rows: tuple[Row, ...]
    """The whole target table."""
    targets: tuple[Row | None, ...]
    """The row to which each class of the model goes, in the order of its table."""
    table: NDArray[np.uint8]
    """256: the new id of every pixel value."""

    def apply(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Translate a label map.

        Takes:
            labels: H x W uint8, the model's ids
        Gives:
            H x W uint8, a new array: the table's ids; 255 where it has none
        """
        return translate(self.table, labels)


def translation(ids: str, classes: Sequence[ClassRow]) -> Translation:
    """Find the way from a model's classes to a table.

    Takes:
        ids: the table's name
        classes: the model's class table
    Raises:
        BadParameter: if there is no such table, or if it has a place for none of the classes
    """
    rows = TABLES.get(ids)
    if rows is None:
        known = list(TABLES)
        raise BadParameter(f"no table of ids {ids[:64]!r}; there are {', '.join(known)}", parameter="ids", allowed=known)
    by_name = {row.name: row for row in rows}
    for sense in SENSES:
        target = by_name.get((sense.autoware if ids == "autoware" else sense.cityscapes) or "")
        if target is not None:
            by_name = dict.fromkeys(sense.names, target) | by_name
    targets = tuple(by_name.get(_plain(entry.name)) for entry in classes)
    if not any(targets):
        names = ", ".join(entry.name for entry in classes)[:200]
        raise BadParameter(f"{ids!r} has a place for none of the model's classes ({names}); leave ids out", parameter="ids")
    table = np.full(256, UNLABELLED, np.uint8)
    for entry, target in zip(classes, targets, strict=True):
        if target is not None:
            table[entry.id] = target.id
    return Translation(rows, targets, table)


def _plain(name: str) -> str:
    """A class name as :data:`SENSES` spells it: ``Traffic_Light`` and ``traffic-light`` are a traffic light."""
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))
