"""``labels.c``, compiled: three to five times as fast as numpy in ``semantic.py``, which does the same without a compiler.

Run as a script (``python -P``), this compiles it, with ``cc`` or what ``CC`` names; the build of
the package does that, and so do the Makefile and the Dockerfile. A library is named after its source, so that an old one is
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
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("labels.c")

FLAGS = ("-std=c99", "-O3", "-ffp-contract=off", "-fPIC", "-shared")
"""Without contraction: a fused multiplication and addition would round differently than numpy, on some machines."""


def library() -> Path:
    """Where the library is, or would be."""
    return SOURCE.with_name(f"labels-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so")


def loaded() -> Callable[..., None] | None:
    """``fcn_label_map`` of the library; None if there is none, or none for this machine.

    It takes numpy arrays that are C-contiguous and of the types that the source names, and whole numbers.
    """
    try:
        function = ctypes.CDLL(str(library())).fcn_label_map
    except OSError:
        return None
    return _taking_arrays(function)


def _taking_arrays(function: Any) -> Callable[..., None]:
    import numpy as np  # noqa: PLC0415 - the script runs where it is not installed

    def array(kind: Any, dimensions: int) -> Any:
        return np.ctypeslib.ndpointer(kind, dimensions, flags="C_CONTIGUOUS")

    arrays = [
        array(np.float32, 3),
        *[None] * 3,
        *[array(np.int64, 1), array(np.float64, 1)] * 2,
        array(np.float32, 2),
        array(np.uint8, 2),
        array(np.uint8, 2),
        None,
    ]
    function.restype = None
    function.argtypes = [ctypes.c_int64 if kind is None else ctypes.c_void_p for kind in arrays]

    def call(*arguments: Any) -> None:
        # Converted here and not by ctypes, which makes an error of its own of a Ctrl-C that comes meanwhile.
        function(
            *[value if kind is None else kind.from_param(value).data for kind, value in zip(arrays, arguments, strict=True)]
        )

    return call


def compile_source() -> Path:
    """Compile the source, next to it.

    Gives:
        the library
    Raises:
        OSError, subprocess.CalledProcessError: if there is no compiler, or it fails
    """
    target = library()
    unfinished = target.with_suffix(f".{os.getpid()}")
    command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS, "-o", str(unfinished), str(SOURCE)]
    try:
        subprocess.run(command, check=True)  # noqa: S603
        for old in SOURCE.parent.glob("labels-*.so"):
            old.unlink()
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


if __name__ == "__main__":
    try:
        compile_source()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"labels.c was not compiled, and labels will take longer: {error}")
