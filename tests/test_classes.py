"""The class tables: what every artifact, label file and mask agrees on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.scenes import CLASSES
from models.training.classes import CAMVID, TABLES, ClassTable, ClassTableError, table, voc_color
from models.training.losses import IGNORED

EVERY_TABLE = pytest.mark.parametrize("known", TABLES.values(), ids=TABLES)


@EVERY_TABLE
def test_row_k_is_the_class_of_score_plane_k(known: ClassTable) -> None:
    """Ids count from 0 without a gap, and no two classes share a name or a colour, but for two that ADE20K has published so."""
    assert [entry.id for entry in known.entries] == list(range(len(known.entries)))
    assert len({entry.name for entry in known.entries}) == len(known.entries)
    twins = {"road", "skyscraper"} if known.name == "ade20k" else set()
    colors = [entry.color for entry in known.entries]
    assert {entry.name for entry in known.entries if colors.count(entry.color) > 1} == twins
    assert known.names == tuple(entry.name for entry in known.entries)


@EVERY_TABLE
def test_what_is_ignored_is_not_a_class(known: ClassTable) -> None:
    """A pixel value is trained on or left out, never both; the value that marks padding is always left out."""
    assert len(set(known.label_ids)) == len(known.label_ids) == len(known.entries)
    assert not set(known.label_ids) & set(known.ignored)
    assert IGNORED in known.ignored


def test_a_table_is_found_by_its_name() -> None:
    """The command lines name tables as the tables name themselves."""
    assert [known.name for known in TABLES.values()] == [*TABLES]
    assert all(table(name) is known for name, known in TABLES.items())


@pytest.mark.parametrize(
    ("name", "classes", "rows"),
    [
        ("voc", 21, {0: ("background", (0, 0, 0)), 15: ("person", (192, 128, 128)), 20: ("tvmonitor", (0, 64, 128))}),
        ("camvid", 11, {0: ("sky", (128, 128, 128)), 10: ("bicyclist", (0, 128, 192))}),
        ("cityscapes", 19, {0: ("road", (128, 64, 128)), 13: ("car", (0, 0, 142)), 18: ("bicycle", (119, 11, 32))}),
        ("ade20k", 150, {0: ("wall", (120, 120, 120)), 7: ("bed", (204, 5, 255)), 149: ("flag", (92, 0, 255))}),
    ],
)
def test_tables_are_as_their_data_sets_published_them(
    name: str, classes: int, rows: dict[int, tuple[str, tuple[int, int, int]]]
) -> None:
    """Number, names and colours; the first and the last row would show a shift."""
    found = TABLES[name].entries
    assert len(found) == classes
    assert {k: (found[k].name, found[k].color) for k in rows} == rows


def test_label_files_become_class_ids() -> None:
    """Cityscapes' labelIds become its trainIds, ADE20K's 1..150 become 0..149, and what is ignored becomes 255."""
    pixels = np.array([[7, 33, 0, 255]], np.uint8)
    assert TABLES["cityscapes"].class_ids(pixels).tolist() == [[0, 18, 255, 255]]
    assert TABLES["ade20k"].class_ids(np.array([1, 150, 0], np.uint8)).tolist() == [0, 149, 255]
    assert TABLES["voc"].class_ids(np.array([0, 20, 255], np.uint8)).tolist() == [0, 20, 255]
    with pytest.raises(ClassTableError, match=r"\[12, 200\] are not classes of 'camvid'"):
        CAMVID.class_ids(np.array([0, 12, 200], np.uint8))


def test_a_table_of_the_wrong_length_names_both_numbers() -> None:
    """It fits its network, or it is refused."""
    CAMVID.check_planes(11)
    with pytest.raises(ClassTableError, match="'camvid' has 11 classes, the network 21 score planes"):
        CAMVID.check_planes(21)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    """Writes a user's table, as JSON if it is not text already."""

    def invoke(content: object) -> Path:
        path = tmp_path / "yard.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return path

    return invoke


def test_a_table_is_read_from_the_users_json(write: Callable[[object], Path]) -> None:
    """Names suffice; colours and label values are taken where they are given."""
    rows = [{"name": "road", "color": [1, 2, 3]}, {"name": "crate"}, {"name": "person", "label_id": 9}]
    found = table(write({"classes": rows}))
    assert found.name == "yard"
    assert found.names == ("road", "crate", "person")
    assert [entry.color for entry in found.entries] == [(1, 2, 3), voc_color(1), voc_color(2)]
    assert found.label_ids == (0, 1, 9)
    assert found.ignored == (255,)
    named = table(str(write({"name": "hof", "classes": rows, "ignored": [5]})))
    assert (named.name, named.ignored) == ("hof", (5,))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Invalid JSON"),
        ([], "valid dictionary|object"),
        ({}, "classes: Field required"),
        ({"classes": []}, "classes: .*at least 1"),
        ({"classes": [{"name": f"c{k}"} for k in range(256)]}, "classes: .*at most 255"),
        ({"classes": ["road"]}, r"classes\.0: "),
        ({"classes": [{"name": ""}]}, r"classes\.0\.name: "),
        ({"classes": [{"name": "road", "color": [0, 0]}]}, r"classes\.0\.color"),
        ({"classes": [{"name": "road", "color": [0, 0, 256]}]}, r"classes\.0\.color\.2: .*255"),
        ({"classes": [{"name": "road", "colour": [0, 0, 0]}]}, r"classes\.0\.colour: "),
        ({"classes": [{"name": "road"}, {"name": "road"}]}, "more than one class has the name road"),
        ({"classes": [{"name": "road"}, {"name": "car", "label_id": 0}]}, "more than one class has the label_id 0"),
        ({"classes": [{"name": "road"}], "ignored": [0]}, "pixel value 0 is a class and ignored"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_with_the_place(
    content: object, reason: str, write: Callable[[object], Path]
) -> None:
    """The file, the row and what is wrong with it, in one line."""
    with pytest.raises(ClassTableError, match=rf"yard\.json: no class table: .*({reason})") as caught:
        table(write(content))
    assert "\n" not in str(caught.value)


def test_a_table_that_does_not_exist_is_told_with_those_that_do(tmp_path: Path) -> None:
    """A mistyped name is neither a table nor a file."""
    with pytest.raises(ClassTableError, match=r"no class table 'vok': .*voc, camvid, cityscapes, ade20k"):
        table("vok")
    with pytest.raises(ClassTableError, match="neither"):
        table(tmp_path)


def test_the_generator_of_scenes_draws_the_classes_of_camvid() -> None:
    """Scenes can stand in for CamVid because their ids mean the same."""
    assert CAMVID.names == CLASSES
