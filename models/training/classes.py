"""Class tables: what each score plane means, how it is drawn, and which pixel value it has in the data set's label files.

:func:`table` finds one by name, or reads the user's own from JSON::

    {"name": "yard", "ignored": [255],
     "classes": [{"name": "road", "color": [128, 64, 128]}, {"name": "crate", "countable": true},
                 {"name": "wall", "label_id": 9}]}

Classes stand in the order of the score planes. ``color`` is RGB, 0..255, and by default what the VOC colour map has for the
plane's number; ``label_id`` is the class's pixel value in label files, by default the plane's number; ``ignored`` lists the
pixel values that are neither trained on nor scored, by default 255. ``countable`` says whether a class consists of things, such
as cars; by default its name decides, as for connected components.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.encodings.things import COUNTABLE
from service.pipeline.manifest import UNLABELLED, Channel, ClassEntry

Color = tuple[Channel, Channel, Channel]


class ClassTableError(ValueError):
    """A class table that does not exist, or is none, or does not fit its network; the message says what is wrong with it."""


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set."""

    name: str
    entries: tuple[ClassEntry, ...]
    label_ids: tuple[int, ...]
    """Pixel value of each class in the data set's label files."""
    ignored: tuple[int, ...]
    """Pixel values of label files that are neither trained on nor scored."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their ids."""
        return tuple(entry.name for entry in self.entries)

    @property
    def things(self) -> tuple[int, ...]:
        """Ids of the countable classes."""
        return tuple(entry.id for entry in self.entries if entry.countable)

    def check_planes(self, planes: int) -> None:
        """Check that a network with ``planes`` score planes can have these classes.

        Raises:
            ClassTableError: naming both numbers
        """
        classes = len(self.entries)
        if planes != classes:
            raise ClassTableError(f"class table '{self.name}' has {classes} classes, the network {planes} score planes")

    def to_json(self) -> str:
        """The table as :func:`from_json` reads it."""
        rows = [
            _Row(name=entry.name, color=entry.color, label_id=value, countable=entry.countable)
            for entry, value in zip(self.entries, self.label_ids, strict=True)
        ]
        return _File(name=self.name, classes=rows, ignored=list(self.ignored)).model_dump_json()

    def class_ids(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Translate a label file's pixels.

        Takes:
            labels: any shape, the pixel values of a label file
        Gives:
            the same shape; class ids, 255 where ignored
        Raises:
            ClassTableError: if a value is neither a class nor ignored
        """
        unknown = np.setdiff1d(labels, [*self.label_ids, *self.ignored])
        if len(unknown):
            known = f"{min(self.label_ids)}..{max(self.label_ids)}"
            raise ClassTableError(f"pixel values {unknown.tolist()} are not classes of '{self.name}' ({known}) and not ignored")
        ids = np.full(256, UNLABELLED, np.uint8)
        ids[list(self.label_ids)] = range(len(self.label_ids))
        return ids[labels]


def table(name_or_path: str | Path) -> ClassTable:
    """Find a class table.

    Takes:
        name_or_path: a name of :data:`TABLES`, or a JSON file
    Raises:
        ClassTableError: if there is no such table, or the file cannot be read, or makes no sense
    """
    known = TABLES.get(str(name_or_path))
    if known is not None:
        return known
    path = Path(name_or_path)
    if not path.is_file():
        raise ClassTableError(f"no class table '{name_or_path}': it is neither one of {', '.join(TABLES)} nor a JSON file")
    try:
        return from_json(path.read_bytes(), str(path), path.stem)
    except OSError as error:
        raise ClassTableError(f"{path}: cannot be read: {error.strerror}") from error


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1)]
    color: Color | None = None
    label_id: Annotated[int, Field(ge=0, le=255)] | None = None
    countable: bool | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1)] | None = None
    classes: Annotated[list[_Row], Field(min_length=1, max_length=255)]
    ignored: list[Channel] = [255]


def from_json(text: str | bytes, source: str, name: str = "unnamed") -> ClassTable:
    """Read a class table.

    Takes:
        text: JSON, as above
        source: where it comes from, for the error
        name: of the table, if it does not say
    Raises:
        ClassTableError: if it makes no sense
    """
    try:
        file = _File.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ClassTableError(f"{source}: no class table: {where + ': ' if where else ''}{first['msg']}") from error
    rows = list(enumerate(file.classes))
    entries = tuple(_entry(k, row.name, row.color or voc_color(k), countable=row.countable) for k, row in rows)
    label_ids = tuple(k if row.label_id is None else row.label_id for k, row in rows)
    for what, values in (("name", [row.name for row in file.classes]), ("label_id", list(map(str, label_ids)))):
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ClassTableError(f"{source}: no class table: more than one class has the {what} {twice[0]}")
    both = sorted(set(label_ids) & set(file.ignored))
    if both:
        raise ClassTableError(f"{source}: no class table: the pixel value {both[0]} is a class and ignored")
    return ClassTable(file.name or name, entries, label_ids, tuple(file.ignored))


def voc_color(k: int) -> tuple[int, int, int]:
    """The colour of a number in the VOC colour map: its bits, dealt out to red, green and blue from the highest down."""
    red, green, blue = (sum((k >> (3 * place + channel) & 1) << (7 - place) for place in range(8)) for channel in range(3))
    return red, green, blue


def _entry(k: int, name: str, color: tuple[int, int, int], *, countable: bool | None = None) -> ClassEntry:
    """A row; where nothing is said of it, its name decides whether it is countable."""
    return ClassEntry(id=k, name=name, color=color, countable=name.casefold() in COUNTABLE if countable is None else countable)


def _entries(text: str) -> tuple[ClassEntry, ...]:
    """Read ``name R G B, name R G B, ...``."""
    rows = re.findall(r"([a-z][a-z ]*[a-z]) +(\d+) +(\d+) +(\d+)", text)
    return tuple(_entry(k, name, (int(r), int(g), int(b))) for k, (name, r, g, b) in enumerate(rows))


CAMVID = ClassTable(
    name="camvid",
    entries=_entries("""
        sky 128 128 128, building 128 0 0, pole 192 192 128, road 128 64 128, pavement 60 40 222, tree 128 128 0,
        sign 192 128 128, fence 64 64 128, car 64 0 128, pedestrian 64 64 0, bicyclist 0 128 192"""),
    label_ids=tuple(range(11)),
    ignored=(11, 255),
)
"""CamVid in the 11-class form of the SegNet tutorial; 11 is unlabelled (Brostow, Fauqueur, Cipolla 2009)."""

_VOC_NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
    "sheep sofa train tvmonitor"
)
VOC = ClassTable(
    name="voc",
    entries=tuple(_entry(k, name, voc_color(k)) for k, name in enumerate(_VOC_NAMES.split())),
    label_ids=tuple(range(21)),
    ignored=(255,),
)
"""PASCAL VOC, background first, in the devkit's spelling and colours; 255 is the void around objects (Everingham 2010)."""

_CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES = ClassTable(
    name="cityscapes",
    entries=_entries("""
        road 128 64 128, sidewalk 244 35 232, building 70 70 70, wall 102 102 156, fence 190 153 153, pole 153 153 153,
        traffic light 250 170 30, traffic sign 220 220 0, vegetation 107 142 35, terrain 152 251 152, sky 70 130 180,
        person 220 20 60, rider 255 0 0, car 0 0 142, truck 0 0 70, bus 0 60 100, train 0 80 100, motorcycle 0 0 230,
        bicycle 119 11 32"""),
    label_ids=_CITYSCAPES_LABEL_IDS,
    ignored=(*(value for value in range(34) if value not in _CITYSCAPES_LABEL_IDS), 255),
)
"""Cityscapes: ids are its trainIds, label files are its ``*_labelIds.png`` (Cordts et al. 2016)."""

ADE20K = ClassTable(
    name="ade20k",
    entries=_entries("""
        wall 120 120 120, building 180 120 120, sky 6 230 230, floor 80 50 50, tree 4 200 3, ceiling 120 120 80,
        road 140 140 140, bed 204 5 255, windowpane 230 230 230, grass 4 250 7, cabinet 224 5 255, sidewalk 235 255 7,
        person 150 5 61, earth 120 120 70, door 8 255 51, table 255 6 82, mountain 143 255 140, plant 204 255 4,
        curtain 255 51 7, chair 204 70 3, car 0 102 200, water 61 230 250, painting 255 6 51, sofa 11 102 255,
        shelf 255 7 71, house 255 9 224, sea 9 7 230, mirror 220 220 220, rug 255 9 92, field 112 9 255,
        armchair 8 255 214, seat 7 255 224, fence 255 184 6, desk 10 255 71, rock 255 41 10, wardrobe 7 255 255,
        lamp 224 255 8, bathtub 102 8 255, railing 255 61 6, cushion 255 194 7, base 255 122 8, box 0 255 20,
        column 255 8 41, signboard 255 5 153, chest of drawers 6 51 255, counter 235 12 255, sand 160 150 20,
        sink 0 163 255, skyscraper 140 140 140, fireplace 250 10 15, refrigerator 20 255 0, grandstand 31 255 0,
        path 255 31 0, stairs 255 224 0, runway 153 255 0, case 0 0 255, pool table 255 71 0, pillow 0 235 255,
        screen door 0 173 255, stairway 31 0 255, river 11 200 200, bridge 255 82 0, bookcase 0 255 245, blind 0 61 255,
        coffee table 0 255 112, toilet 0 255 133, flower 255 0 0, book 255 163 0, hill 255 102 0, bench 194 255 0,
        countertop 0 143 255, stove 51 255 0, palm 0 82 255, kitchen island 0 255 41, computer 0 255 173,
        swivel chair 10 0 255, boat 173 255 0, bar 0 255 153, arcade machine 255 92 0, hovel 255 0 255, bus 255 0 245,
        towel 255 0 102, light 255 173 0, truck 255 0 20, tower 255 184 184, chandelier 0 31 255, awning 0 255 61,
        streetlight 0 71 255, booth 255 0 204, television receiver 0 255 194, airplane 0 255 82, dirt track 0 10 255,
        apparel 0 112 255, pole 51 0 255, land 0 194 255, bannister 0 122 255, escalator 0 255 163, ottoman 255 153 0,
        bottle 0 255 10, buffet 255 112 0, poster 143 255 0, stage 82 0 255, van 163 255 0, ship 255 235 0,
        fountain 8 184 170, conveyer belt 133 0 255, canopy 0 255 92, washer 184 0 255, plaything 255 0 31,
        swimming pool 0 184 255, stool 0 214 255, barrel 255 0 112, basket 92 255 0, waterfall 0 224 255,
        tent 112 224 255, bag 70 184 160, minibike 163 0 255, cradle 153 0 255, oven 71 255 0, ball 255 0 163,
        food 255 204 0, step 255 0 143, tank 0 255 235, trade name 133 255 0, microwave 255 0 235, pot 245 0 255,
        animal 255 0 122, bicycle 255 245 0, lake 10 190 212, dishwasher 214 255 0, screen 0 204 255, blanket 20 0 255,
        sculpture 255 255 0, hood 0 153 255, sconce 0 41 255, vase 0 255 204, traffic light 41 0 255, tray 41 255 0,
        ashcan 173 0 255, fan 0 245 255, pier 71 0 255, crt screen 122 0 255, plate 0 255 184, monitor 0 92 255,
        bulletin board 184 255 0, shower 0 133 255, radiator 255 214 0, glass 25 194 194, clock 102 255 0, flag 92 0 255"""),
    label_ids=tuple(range(1, 151)),
    ignored=(0, 255),
)
"""ADE20K's scene parsing benchmark, each class by the first of its synonyms; label files have 1..150 (Zhou et al. 2017)."""

TABLES = {known.name: known for known in (VOC, CAMVID, CITYSCAPES, ADE20K)}
