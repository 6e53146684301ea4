"""Settings of the whole process: made in one call, and never by an import."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from service import process
from service.errors import BadSetting

PROGRAM = """
import ctypes, sys, threading
from service import process

if "one" in sys.argv:
    process.share_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def resident_mb():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

def images():
    # One that is mapped teaches glibc that such sizes come often; after it they stay in the heap.
    for size in (24 << 20, 24 << 20, 16 << 20):
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)
    done.wait()
    kept.wait()

before = resident_mb()
done, kept = threading.Barrier(5), threading.Event()
threads = [threading.Thread(target=images) for _ in range(4)]
for thread in threads:
    thread.start()
done.wait()
process.give_back()
print(resident_mb() - before)
kept.set()
"""


def kept_mb(*arguments: str, **variables: str) -> float:
    """Megabytes that a process keeps of the images of four threads."""
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | variables
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc")
def test_threads_that_share_a_heap_keep_nothing() -> None:
    """A heap a thread keeps what is free at its end; one heap does not, and ``MALLOC_ARENA_MAX`` wins."""
    assert kept_mb("one") < 8
    assert kept_mb() > 15
    assert kept_mb("one", MALLOC_ARENA_MAX="8") > 15


IMPORTED = """
import importlib, os, pkgutil, resource, sys, warnings

before = dict(os.environ), resource.getrlimit(resource.RLIMIT_NOFILE)
import service

found = [module.name for module in pkgutil.walk_packages(service.__path__, "service.")]
names = [name for name in found if not name.endswith("__main__") and "labels-" not in name]
for name in names:
    importlib.import_module(name)
print(len(names))
assert resource.getrlimit(resource.RLIMIT_NOFILE) == before[1], "descriptors"
changed = {name for name in before[0] | os.environ if before[0].get(name) != os.environ.get(name)}
assert changed <= {"LD_LIBRARY_PATH"}, changed  # OpenCV's own loader

from service import process

assert not process.is_configured(), "configured"
assert not [filter for filter in warnings.filters if "PIL" in str(filter[3])], "warnings"
from PIL import Image, ImageFile

assert Image.MAX_IMAGE_PIXELS == 2**30 // 12, "Pillow's limit"
assert not ImageFile.LOAD_TRUNCATED_IMAGES, "Pillow's leniency"
import cv2

assert cv2.getNumThreads() == int(sys.argv[1]), "OpenCV's threads"
from service.pipeline.engine import _arena_is_shared

assert not _arena_is_shared(), "ONNX Runtime's arena"
"""


def unconfigured() -> dict[str, str]:
    """The environment of a program that embeds the service. No test sends reports to the maker of ONNX Runtime."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
    return outside | {"ORT_DISABLE_TELEMETRY": "1"}


def test_importing_every_module_changes_nothing_of_the_process() -> None:
    """A program that embeds the service keeps its environment, limits, warnings, threads and allocators."""
    threads = subprocess.run(
        [sys.executable, "-c", "import cv2; print(cv2.getNumThreads())"],
        env=unconfigured(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, threads], env=unconfigured(), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50
    setters = [path.name for path in Path(process.__file__).parent.rglob("*.py") if "ORT_DISABLE" in path.read_text("utf-8")]
    assert setters == ["process.py"]


CONFIGURED = """
import os
from service import process

process.configure_process()
process.configure_process()
import io
import cv2
import numpy as np
from PIL import Image
from service.pipeline.codecs.decoding import Limits, decode
from service.pipeline.engine import _arena_is_shared

file = io.BytesIO()
Image.new("P", (3, 2)).save(file, "PNG", transparency=bytes([0, 128]))
decode(file.getvalue(), Limits())
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
assert cv2.getNumThreads() == 1
assert cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_SILENT
assert Image.MAX_IMAGE_PIXELS is None
assert _arena_is_shared()
"""


@pytest.mark.parametrize("first", ["", "import cv2\n"])
def test_one_call_configures_the_libraries_whether_imported_before_or_after(first: str) -> None:
    """The libraries take their settings from ``configure_process``, with warnings as errors too."""
    command = [sys.executable, "-W", "error", "-c", first + CONFIGURED]
    done = subprocess.run(command, env=unconfigured(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("before", "after"), [("0", "0"), (None, "1")])
def test_reports_are_off_unless_the_environment_says_otherwise(before: str | None, after: str) -> None:
    """The environment wins over ``configure_process``."""
    code = "import os; from service import process; process.configure_process(); print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    if before is not None:
        environment["ORT_DISABLE_TELEMETRY"] = before
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == after


def test_a_session_opens_without_configuration(artifact: Path) -> None:
    """An embedding program that configures nothing runs a network all the same."""
    code = "import pathlib, sys; from service.pipeline.engine import Engine; Engine.open(pathlib.Path(sys.argv[1])).warm_up()"
    subprocess.run([sys.executable, "-c", code, str(artifact)], env=unconfigured(), check=True)


FROZEN = """
import gc, sys, threading, time, urllib.request
from service.__main__ import main
from service.server import _Server

frozen = []
started = _Server.startup

async def startup(self, sockets=None):
    await started(self, sockets)
    frozen.append((len(gc.get_objects()), gc.get_freeze_count()))
    self.should_exit = True

_Server.startup = startup
sys.argv = ["fcn-serve", "serve", "--port", "0"]
try:
    main()
finally:
    ((searched, kept),) = frozen
    assert searched < kept / 20, (searched, kept)
"""


def test_a_started_service_leaves_nothing_of_its_start_to_the_garbage_collector(artifact: Path) -> None:
    """A full collection searches what requests made, and not the hundreds of thousands of objects that stay."""
    environment = {**os.environ, "FCN_MODELS_DIR": str(artifact.parent)}
    done = subprocess.run([sys.executable, "-c", FROZEN], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_too_few_descriptors_are_a_bad_setting() -> None:
    """The error names the purpose, the need and the limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(BadSetting, match=r"seven things need 10+ file descriptors"):
        process.allow_descriptors(10**18, 10**18, "seven things")
    process.allow_descriptors(1, 2, "two things")
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
