"""Settings of the whole process: other libraries' globals, the C library's heap, file descriptors.

Importing a module of ``service`` changes none of them: a program that embeds the service keeps its own. An entry point (a
command, a worker of a cluster, a node) calls :func:`configure_process` once, before it imports ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import threading
import warnings
from collections.abc import Callable

from service.errors import BadSetting

# Other C libraries have neither, nor need them.
_MALLOC_TRIM: Callable[[int], object] = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)
_MALLOPT: Callable[[int, int], object] = getattr(ctypes.CDLL(None), "mallopt", lambda _option, _value: None)
_M_ARENA_MAX = -8
"""The numbers of glibc's malloc.h."""

_CONFIGURED = threading.Event()


def configure_process() -> None:
    """Adapt the whole process to the service. Later calls change nothing more.

    - ONNX Runtime sends no reports to its maker and writes no event database into the home folder, unless
      ``ORT_DISABLE_TELEMETRY`` is set already. It reads the variable when it is imported.
    - ONNX Runtime's sessions share one arena, but for those of lanes (``pipeline.engine`` registers it with the first session).
    - OpenCV uses one thread: images run in parallel, and a second pool of threads would compete for the same cores. It writes
      nothing to the standard error: damaged images would fill a log that is not its own.
    - Pillow has no limit of pixels of its own (``pipeline.codecs.pillow`` lifts it with the first image): those of
      ``pipeline.codecs.limits`` count. Its warnings about odd metadata are silent.
    - glibc gives all threads one heap, unless ``MALLOC_ARENA_MAX`` is set: see :func:`share_one_heap`.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    if "cv2" in sys.modules:  # it read the variables when it was imported
        sys.modules["cv2"].setNumThreads(1)
        sys.modules["cv2"].utils.logging.setLogLevel(0)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    share_one_heap()
    _CONFIGURED.set()


def is_configured() -> bool:
    """Return whether :func:`configure_process` was called: whether globals of libraries may be changed."""
    return _CONFIGURED.is_set()


def share_one_heap() -> None:
    """Have all threads allocate from one heap, unless ``MALLOC_ARENA_MAX`` is set. Call before a second thread allocates.

    glibc gives every thread a heap of its own, and never returns the free space at the end of such a heap to the system: 30 MB
    a lane after images of many sizes. One heap is as fast: the threads here allocate a few arrays a frame.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        _MALLOPT(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return freed memory to the system.

    glibc keeps freed blocks of up to 32 MB for later allocations; Pillow's pictures and a closed session's weights are such
    blocks. Takes 0.2 ms and does not slow the next inference.
    """
    _MALLOC_TRIM(0)


def freeze_garbage() -> None:
    """Collect garbage once, then keep the collector from searching everything that is left. Call at the end of a start.

    What a start makes stays: modules, models, routes, schemas. A full collection that searches it holds the interpreter, and so
    every request, for as long as the search takes; without it, only objects of requests are searched.
    """
    gc.collect()
    gc.freeze()


def allow_descriptors(needed: int, wanted: int, purpose: str) -> None:
    """Raise the soft limit of file descriptors.

    Takes:
        needed: descriptors without which the purpose fails
        wanted: descriptors up to which the limit is raised, where the hard limit allows it; at least ``needed``
        purpose: what needs them, for the error's text
    Raises:
        BadSetting: if the hard limit is below ``needed``
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if limit == resource.RLIM_INFINITY else limit for limit in limits)
    if hard < needed:
        raise BadSetting(f"{purpose} need {needed} file descriptors, and this process may have {hard} (ulimit -Hn)")
    enough = min(hard, wanted)
    if soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, limits[1]))
