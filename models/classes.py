"""Class tables: what each score plane means, and how it is drawn.

May import: ``service.pipeline.manifest`` (for the row type).
"""

from __future__ import annotations

from dataclasses import dataclass

from service.pipeline.manifest import ClassEntry


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set."""

    name: str
    entries: tuple[ClassEntry, ...]
    ignored: tuple[int, ...]
    """Pixel values of label files that are neither trained on nor scored."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their ids."""
        return tuple(entry.name for entry in self.entries)


CAMVID = ClassTable(
    name="camvid",
    entries=(
        ClassEntry(id=0, name="sky", color=(128, 128, 128)),
        ClassEntry(id=1, name="building", color=(128, 0, 0)),
        ClassEntry(id=2, name="pole", color=(192, 192, 128)),
        ClassEntry(id=3, name="road", color=(128, 64, 128)),
        ClassEntry(id=4, name="pavement", color=(60, 40, 222)),
        ClassEntry(id=5, name="tree", color=(128, 128, 0)),
        ClassEntry(id=6, name="sign", color=(192, 128, 128)),
        ClassEntry(id=7, name="fence", color=(64, 64, 128)),
        ClassEntry(id=8, name="car", color=(64, 0, 128)),
        ClassEntry(id=9, name="pedestrian", color=(64, 64, 0)),
        ClassEntry(id=10, name="bicyclist", color=(0, 128, 192)),
    ),
    ignored=(11, 255),
)
"""CamVid in the 11-class form of the SegNet tutorial; 11 is unlabelled (Brostow, Fauqueur, Cipolla 2009)."""

TABLES = {table.name: table for table in (CAMVID,)}
