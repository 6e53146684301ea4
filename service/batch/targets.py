"""Where the results of a run go: no two of them the same file, none over an input, and none taken for an input the next time.

May import: ``service.encodings``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from service.encodings import FORMATS

MASK, OVERLAY, FILM = ".mask", ".overlay.png", ".overlay.mp4"
LINES, MASKS, BAG = ".masks.jsonl", ".masks", ".masks.mcap"
ALL_LINES = "masks.jsonl"
"""Of the images of a run."""

_ENDINGS = (*sorted({f"{MASK}{form.suffix}" for form in FORMATS.values()}), OVERLAY, FILM, LINES, MASKS, BAG)


def is_result(path: Path) -> bool:
    """Whether a file or a folder is called as the results of a run are."""
    return path.name == ALL_LINES or path.name.endswith(_ENDINGS)


def unfinished(result: Path) -> Path:
    """Where a result grows, to be renamed when it is whole."""
    return result.with_name(f".{result.name}.part")


def up_to_date(results: Iterable[Path], source: Path) -> bool:
    """Whether all results are there, and none is older than what it was made of; of a folder its newest file counts."""
    try:
        made_of = _last_change(source)
        return all(_last_change(result) >= made_of for result in results)
    except OSError:
        return False


def _last_change(path: Path) -> int:
    own = path.stat().st_mtime_ns
    return max((file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()), default=own) if path.is_dir() else own


class Source(NamedTuple):
    """Something to work on."""

    path: Path
    folder: Path
    """Of its results."""
    whole: bool
    """Whether its results are called after its whole name: ``a.jpg`` and ``a.png`` go to one folder."""

    @property
    def stem(self) -> str:
        """What its results are called after."""
        return self.path.name if self.whole or self.path.is_dir() else self.path.stem


def sources(paths: Sequence[Path], out: Path | None, within: Callable[[Path], Sequence[Path]]) -> list[Source]:
    """Find what there is to do, each thing once, and the folders of the results.

    Takes:
        paths: of files and folders
        out: the results' folder, in which a folder's own shape is kept; beside each source if None
        within: what is looked for in a folder, or the path itself in a list
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for path in paths:
        for source in within(path):
            below = source.relative_to(path).parent if source != path else Path()
            found.setdefault(source.resolve(), (source, source.parent if out is None else out / below))
    stems = Counter((folder, source.stem, source.is_dir()) for source, folder in found.values())
    return [Source(path, folder, stems[folder, path.stem, path.is_dir()] > 1) for path, folder in found.values()]


class Targets:
    """The results of one run."""

    def __init__(self) -> None:
        self._taken: set[Path] = set()

    def spare(self, inputs: Iterable[Source]) -> None:
        """Never let anything be written over these."""
        self._taken |= {source.path.resolve() for source in inputs}

    def take(self, results: Iterable[Path]) -> str | None:
        """Allot results to one source; or say why they cannot be."""
        wanted = {path.resolve() for path in results}
        if collision := wanted & self._taken:
            return f"{min(collision)} is an input, or the result of another one: use another --out, or name the folder above"
        self._taken |= wanted
        return None
