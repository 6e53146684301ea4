"""``labels.c``, ``objects.c`` and ``planes.c``, compiled into one library: three to ten times as fast as numpy in
``semantic.py``, ``panoptic.py`` and ``volume.py``, which do the same without a compiler.

Run as a script (``python -P``), this compiles them, with ``cc`` or what ``CC`` names; the build of
the package does that, and so do the Makefile and the Dockerfile. A library is named after its sources, so that an old one is
never loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SOURCES = ("labels.c", "objects.c", "planes.c")

FLAGS = ("-std=c99", "-O3", "-ffp-contract=off", "-fPIC", "-shared")
"""Without contraction: a fused multiplication and addition would round differently than numpy, on some machines."""


@dataclass(frozen=True)
class Library:
    """The functions of the library. They take numpy arrays that are C-contiguous and of the types that the source names, and
    numbers.
    """

    label_map: Callable[..., int]
    find_peaks: Callable[..., int]
    nearest_peaks: Callable[..., int]
    add_probabilities: Callable[..., int]
    rename: Callable[..., int]
    find_runs: Callable[..., int]
    join_runs: Callable[..., int]
    find_regions: Callable[..., int]
    add_distances: Callable[..., int]
    move_pixels: Callable[..., int]
    add_slices: Callable[..., int]


def library() -> Path:
    """Where the library is, or would be."""
    told = b"".join((FOLDER / name).read_bytes() for name in SOURCES)
    return FOLDER / f"labels-{hashlib.sha256(told).hexdigest()[:12]}.so"


def loaded() -> Library | None:
    """The library; None if there is none, or none for this machine."""
    try:
        found = ctypes.CDLL(str(library()))
        named = {field.name: getattr(found, f"fcn_{field.name}") for field in fields(Library)}
    except (OSError, AttributeError):
        return None
    return _taking_arrays(named)


def _taking_arrays(functions: dict[str, Any]) -> Library:
    import numpy as np  # noqa: PLC0415 - the script runs where it is not installed

    def array(kind: Any, dimensions: int) -> Any:
        return np.ctypeslib.ndpointer(kind, dimensions, flags="C_CONTIGUOUS")

    bytes_, planes = array(np.uint8, 1), array(np.uint8, 2)
    doubles, whole = array(np.float64, 1), array(np.int64, 1)
    points, pairs, ids, heatmap, scores = (
        array(np.float64, 2),
        array(np.int64, 2),
        array(np.uint16, 2),
        array(np.float32, 2),
        array(np.float32, 3),
    )
    sampling, pointed = (whole, doubles, whole, doubles), (array(np.float64, 3), int, int)
    runs = whole, pairs, whole
    kinds: dict[str, tuple[Any, ...]] = {
        "label_map": (scores, int, int, int, *sampling, planes, planes, int),
        "find_peaks": (heatmap, int, int, float, int, int, array(np.uint64, 1), bytes_, pairs),
        "nearest_peaks": (
            *(planes, int, bytes_, int, *pointed, *sampling, points, int),
            *(ids, points, points, bytes_, whole),
            *(ids, planes, pairs),
        ),
        "add_probabilities": (scores, int, int, int, ids, int, whole, whole, whole, doubles, whole),
        "rename": (ids, int, planes, int, int, whole, whole, array(np.uint16, 1)),
        "find_runs": (planes, int, int, bytes_, int, int, bytes_, whole, pairs),
        "join_runs": (planes, int, int, *runs),
        "find_regions": (*runs, whole, int, whole, int, pairs),
        "add_distances": (pairs, int, int, bytes_, array(np.float64, 3), points, int, whole, doubles),
        "move_pixels": (
            *(planes, int, int, *runs, array(np.uint16, 1), whole, whole, points, int, whole),
            *(*pointed, *sampling, whole, whole, ids, pairs),
        ),
        "add_slices": (
            *(array(np.uint64, 1), whole, whole, array(np.float32, 1), int, int, int, int, float),
            *(array(np.uint16, 1), int, int, int, int, int),
        ),
    }
    counting = ("find_peaks", "find_runs", "join_runs")
    return Library(**{n: _function(f, *kinds[n], gives=int if n in counting else None) for n, f in functions.items()})


_NUMBERS: dict[Any, Any] = {int: ctypes.c_int64, float: ctypes.c_double}


def _function(function: Any, *kinds: Any, gives: type[int] | None) -> Callable[..., int]:
    """A function that checks its arguments.

    Takes:
        kinds: of each argument: ``int``, ``float`` or an array
        gives: whether it returns a number; otherwise 0 comes back
    """
    function.restype = ctypes.c_int64 if gives else None
    function.argtypes = [_NUMBERS.get(kind, ctypes.c_void_p) for kind in kinds]

    def call(*arguments: Any) -> int:
        # Converted here and not by ctypes, which makes an error of its own of a Ctrl-C that comes meanwhile.
        found = function(
            *[value if kind in _NUMBERS else kind.from_param(value).data for kind, value in zip(kinds, arguments, strict=True)]
        )
        return found or 0

    return call


def compile_sources() -> Path:
    """Compile the sources, next to them.

    Gives:
        the library
    Raises:
        OSError, subprocess.CalledProcessError: if there is no compiler, or it fails
    """
    target = library()
    unfinished = target.with_suffix(f".{os.getpid()}")
    sources = [str(FOLDER / name) for name in SOURCES]
    command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS, "-o", str(unfinished), *sources, "-lm"]
    try:
        subprocess.run(command, check=True)  # noqa: S603
        for old in FOLDER.glob("labels-*.so"):
            old.unlink()
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


if __name__ == "__main__":
    try:
        compile_sources()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"labels.c, objects.c and planes.c were not compiled, and masks will take longer: {error}")
