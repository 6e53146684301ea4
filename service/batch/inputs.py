"""What a run is given, sorted out: images, videos and recordings, in folders however deep."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from service.batch.recordings import is_recording, plain_name
from service.batch.records import NAME as RECORD
from service.batch.targets import is_result, spoken, stem_that_fits
from service.errors import BadSetting

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
SCAN_SUFFIXES = (".nii.gz", ".nii", ".dcm", ".zip")
"""NIfTI; a DICOM slice; a zip of a DICOM series."""
FOUND_SCAN_SUFFIXES = (".nii.gz", ".nii")
"""Of scans that are found in a folder: a slice of a series alone would be a scan of one slice, and a zip may hold anything."""
VIDEO_SUFFIXES = frozenset(
    (
        *(".264", ".265", ".360", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".insv"),
        *(".ivf", ".lrf", ".lrv", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
        *(".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
    )
)
METADATA = "metadata.yaml"
_TRASH = frozenset((".trashes", "$recycle.bin", "@eadir", "#recycle", "__macosx", "recycler", ".spotlight-v100", ".fseventsd"))


@dataclass(frozen=True)
class Input:
    """Something to work on."""

    path: Path
    folder: Path
    """The folder of its results."""
    whole: bool = False
    """Whether its results carry its whole name: ``a.jpg`` and ``a.png`` go to one folder."""

    @property
    def stem(self) -> str:
        """What its results are called after; a long name is shortened."""
        return stem_that_fits(self._stem())

    def _stem(self) -> str:
        for suffix in SCAN_SUFFIXES:
            if not self.whole and self.path.name.lower().endswith(suffix):
                return self.path.name[: -len(suffix)]
        return self.path.name if self.whole or self.path.is_dir() else Path(plain_name(self.path)).stem


@dataclass
class Inputs:
    """Everything that a run works on, each thing once."""

    images: list[Input] = field(default_factory=list)
    videos: list[Input] = field(default_factory=list)
    bags: list[Input] = field(default_factory=list)
    roots: list[Path] = field(default_factory=list)
    """Folders that all results lie in or below."""
    failures: list[tuple[Path, str]] = field(default_factory=list)
    """What was named or found and cannot be worked on, each with its reason."""


def gather(paths: Sequence[Path], out: Path | None) -> Inputs:
    """Find what there is to do, and the folders of the results.

    A shell does not say that it has resolved a pattern: of several files those that are named as results are left out. One
    that is named alone is meant.

    Takes:
        paths: files, folders, and patterns that the shell has left
        out: the results' folder, in which a folder's own shape is kept; beside each input if None
    Raises:
        BadSetting: if there is nothing but results
    """
    named = [match for path in paths for match in _matching(path)]
    if len(named) > 1:
        given, named = named, [path for path in named if not is_result(path) and not _is_litter(path.name)]
        if not named:
            raise BadSetting(
                f"{spoken(given[0])} and the others are named as results of earlier runs are; name one alone to segment it"
            )
    found = Inputs()
    seen: set[Path] = set()

    def add(path: Path, folder: Path) -> None:
        real = path.resolve()
        if real not in seen:
            seen.add(real)
            _list_for(found, path).append(Input(path, folder))

    for path in named:
        searched = path.is_dir() and not is_bag_folder(path)
        root = (path if searched else path.parent) if out is None else out.parent if out.suffix.lower() == ".mcap" else out
        if root not in found.roots:
            found.roots.append(root)
        if searched:
            before = len(found.failures)
            inside = _within(path, found.failures)
            for below in inside:
                add(below, below.parent if out is None else out / below.relative_to(path).parent)
            if not inside and len(found.failures) == before:
                found.failures.append((path, "there is no image in this folder, nor a video or a bag"))
        else:
            add(path, path.parent if out is None else out)
    for each in (found.images, found.videos, found.bags):
        stems = Counter((entry.folder, entry.stem, entry.path.is_dir()) for entry in each)
        each[:] = [Input(entry.path, entry.folder, stems[entry.folder, entry.stem, entry.path.is_dir()] > 1) for entry in each]
    return found


def is_scan(path: Path) -> bool:
    """Say whether a file is named as a scan is."""
    return path.name.lower().endswith(SCAN_SUFFIXES)


def is_bag_folder(path: Path) -> bool:
    """Say whether a folder is a bag of rosbag2: its metadata lie beside recordings, or name them."""
    metadata = path / METADATA
    if not metadata.is_file():
        return False
    if any(is_recording(file) for file in path.iterdir()):
        return True
    try:
        return b"rosbag2_bagfile_information" in metadata.read_bytes()[:4096]
    except OSError:
        return False


def is_animation(path: Path) -> bool:
    """Say whether a GIF has more than one frame."""
    if path.suffix.lower() != ".gif":
        return False
    try:
        with Image.open(path, formats=("GIF",)) as picture:
            return bool(getattr(picture, "is_animated", False))
    except Exception:  # noqa: BLE001 - a damaged file is told when it is segmented
        return False


def _list_for(found: Inputs, path: Path) -> list[Input]:
    if path.is_dir() or is_recording(path):
        return found.bags
    return found.videos if path.suffix.lower() in VIDEO_SUFFIXES or is_animation(path) else found.images


def _within(folder: Path, failures: list[tuple[Path, str]]) -> list[Path]:
    """Find images, videos and bags below a folder, sorted; results, hidden parts and trash are left out."""

    def refuse(error: OSError) -> None:
        failures.append((Path(error.filename or folder), error.strerror or str(error)))

    found: list[Path] = []
    for above, folders, files in os.walk(folder, onerror=refuse):
        here = Path(above)
        kept = []
        for name in sorted(folders):
            below = here / name
            if is_result(below) or _is_litter(name):
                continue
            if not below.is_symlink() and is_bag_folder(below):
                found.append(below)
            else:
                kept.append(name)
        folders[:] = kept
        if any(name.lower().endswith(".dcm") for name in files):
            failures.append((here, "DICOM slices in a folder: zip those of one series, and name the zip"))
        for name in files:
            path = here / name
            known = path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES or is_recording(path)
            known = known or name.lower().endswith(FOUND_SCAN_SUFFIXES)
            if not known or is_result(path) or _is_litter(name):
                continue
            if path.is_file():
                found.append(path)
            else:
                failures.append((path, _why_not_a_file(path)))
    return sorted(found)


def _why_not_a_file(path: Path) -> str:
    """Say why something named as an input cannot be read as a file."""
    if not path.is_symlink():
        return "not a regular file"
    target = spoken(path.readlink())
    return f"a link to {target}, which is not a regular file" if path.exists() else f"a link to {target}, which is not there"


def _is_litter(name: str) -> bool:
    """Say whether a name is one of those that systems leave behind: macOS's ``._NAME``, trash, our own."""
    if name == RECORD or (name.startswith(".") and name.endswith(".part")):
        return True
    return name.startswith("._") or name.lower().startswith(".trash-") or name.lower() in {".trash", *_TRASH}


def _matching(path: Path) -> list[Path]:
    if path.exists() or not any(character in str(path) for character in "*?["):
        return [path]
    return [Path(match) for match in sorted(glob.glob(str(path), recursive=True))] or [path]  # noqa: PTH207 - absolute ones too
