"""Other people's class ids."""

from __future__ import annotations

import numpy as np
import pytest

from models.training import classes
from service.encodings import tables
from service.encodings.runs import UNLABELLED
from service.errors import BadParameter
from service.pipeline.manifest import ClassEntry
from tests.maps import STREET_CLASSES, streets


def named(*names: str) -> tuple[ClassEntry, ...]:
    """A class table of these names."""
    return tuple(ClassEntry(id=place, name=name, color=(place, 0, 0)) for place, name in enumerate(names))


def went(ids: str, entries: tuple[ClassEntry, ...]) -> dict[str, int]:
    """Where each class of a table goes."""
    table = tables.translation(ids, entries).table
    return {entry.name: int(table[entry.id]) for entry in entries}


def test_camvid_goes_to_cityscapes_and_autoware() -> None:
    """The shipped model's classes, one by one."""
    names = [entry.name for entry in STREET_CLASSES]
    assert names == "sky building pole road pavement tree sign fence car pedestrian bicyclist".split()  # noqa: SIM905
    assert list(went("cityscapes-train", STREET_CLASSES).values()) == [10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 12]
    assert list(went("cityscapes-label", STREET_CLASSES).values()) == [23, 11, 17, 7, 8, 21, 20, 13, 26, 24, 25]
    assert list(went("autoware", STREET_CLASSES).values()) == [15, 1, 3, 9, 10, 14, 5, 3, 7, 6, 8]


def test_cityscapes_goes_to_itself() -> None:
    """Train ids stay as they are, and label ids are those of the data set's label files."""
    table = classes.CITYSCAPES
    assert list(went("cityscapes-train", table.entries).values()) == list(range(19))
    assert list(went("cityscapes-label", table.entries).values()) == list(table.label_ids)
    rows = {row.name: row.color for row in tables.TABLES["cityscapes-train"]}
    assert rows == {entry.name: entry.color for entry in table.entries}


@pytest.mark.parametrize("ids", tables.TABLES)
@pytest.mark.parametrize("table", classes.TABLES.values(), ids=list(classes.TABLES))
def test_every_served_table_finds_its_way(table: classes.ClassTable, ids: str) -> None:
    """What has no place becomes 255; what has one gets an id of the target table; road goes to road wherever it is known."""
    targets = {row.id: row.name for row in tables.TABLES[ids]}
    for name, id_ in went(ids, table.entries).items():
        assert id_ in targets or id_ == UNLABELLED
        if name in ("road", "car", "person", "sky", "bus"):
            expected = "vehicle" if ids == "autoware" and name in ("car", "bus") else name
            assert targets[id_] == expected
    assert "background" not in went(ids, table.entries) or went(ids, table.entries)["background"] == UNLABELLED


def test_names_are_found_however_they_are_written() -> None:
    """A user's own table may write capitals, underscores and hyphens."""
    assert went("autoware", named("Traffic_Light", " ROAD", "traffic-sign", "crate")) == {
        "Traffic_Light": 4,
        " ROAD": 9,
        "traffic-sign": 5,
        "crate": UNLABELLED,
    }


def test_autoware_s_zero_is_never_written() -> None:
    """Its fusion reads 0 as unknown, whatever its documentation says."""
    assert 0 not in {row.id for row in tables.TABLES["autoware"]}
    assert [row.id for row in tables.TABLES["autoware"]] == list(range(1, 16))


def test_a_map_is_translated_pixel_by_pixel() -> None:
    """Unlabelled pixels stay so."""
    labels = streets()[0].copy()
    labels[:5] = UNLABELLED
    translation = tables.translation("cityscapes-label", STREET_CLASSES)
    by_id = dict(zip(range(11), [23, 11, 17, 7, 8, 21, 20, 13, 26, 24, 25], strict=True)) | {UNLABELLED: UNLABELLED}
    assert np.array_equal(translation.apply(labels), np.vectorize(by_id.get)(labels))


def test_no_name_means_two_things() -> None:
    """Each name stands in one row, and each target exists."""
    names = [name for sense in tables.SENSES for name in sense.names]
    assert len(names) == len(set(names))
    cityscapes = {row.name for row in tables.TABLES["cityscapes-label"]}
    autoware = {row.name for row in tables.TABLES["autoware"]}
    assert {sense.cityscapes for sense in tables.SENSES} - {None} <= cityscapes
    assert {sense.autoware for sense in tables.SENSES} - {None} <= autoware


def test_a_table_that_does_not_exist_is_refused_with_those_that_do() -> None:
    """The message and the facts name them; what was sent comes back cut."""
    with pytest.raises(BadParameter, match="cityscapes-train, cityscapes-label, autoware") as caught:
        tables.translation("x" * 1000, STREET_CLASSES)
    assert (caught.value.parameter, caught.value.facts["allowed"]) == ("ids", list(tables.TABLES))
    assert len(caught.value.message) < 200


def test_a_model_of_other_things_is_refused() -> None:
    """A mask of 255 alone would be worse than an error."""
    with pytest.raises(BadParameter, match="red, green, blue"):
        tables.translation("autoware", named("red", "green", "blue"))
