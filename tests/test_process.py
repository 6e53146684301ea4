"""What is freed goes back to the system, whichever thread had it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

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
    """What a process keeps of the images of four threads."""
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | variables
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc")
def test_threads_that_share_a_heap_keep_nothing() -> None:
    """Each with a heap of its own would keep what is free at its end; whoever sets the variable has his way."""
    assert kept_mb("one") < 8
    assert kept_mb() > 15
    assert kept_mb("one", MALLOC_ARENA_MAX="8") > 15
