"""The processors that this process may use, and their instructions for int8.

In a container the host's count is wrong: a pool sized from the host under a quota of two CPUs is throttled most of the time.
Three things bound the count: the affinity mask, the cgroup v2 quota (``cpu.max``, of the process's group and of every group
above it) and the cgroup v1 quota (``cpu.cfs_quota_us`` / ``cpu.cfs_period_us``).
"""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs for one compute pool.

    Takes:
        root: where ``proc`` and ``sys`` are mounted
    Gives:
        at least 1; a quota of 2.5 CPUs counts as 2, because a third thread would spend half its time throttled
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *(math.floor(quota) for quota in _quotas(root))]))


INT8_INSTRUCTIONS = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "asimddp": "dot-product instructions",
}
"""Linux' names of processor features that sum products of 8-bit numbers, the fastest first, and their usual names."""


def int8_instructions(root: Path = Path("/")) -> str | None:
    """Name the processor's instructions for sums of 8-bit products.

    Takes:
        root: where ``proc`` is mounted
    Gives:
        None if it has none, or its features are unknown
    """
    if sys.platform == "darwin":
        return INT8_INSTRUCTIONS["asimddp"] if platform.machine() == "arm64" else None
    try:
        text = (root / "proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return None
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    features = set(line.partition(":")[2].split())
    return next((name for feature, name in INT8_INSTRUCTIONS.items() if feature in features), None)


def _quotas(root: Path) -> Iterator[float]:
    """Every CPU quota above us, in CPUs."""
    for controllers, group in _groups(root):
        if not controllers:
            for folder in _upwards(root / "sys/fs/cgroup", group):
                yield from _quota(_words(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for mount in ("cpu", "cpu,cpuacct"):
                for folder in _upwards(root / "sys/fs/cgroup" / mount, group):
                    yield from _quota([*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")])


def _groups(root: Path) -> Iterator[tuple[str, str]]:
    """(controllers, path) of each line of ``/proc/self/cgroup``; v2 has one line without controllers."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        yield controllers, path


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    """The group's folder and those above it; in a container the mount itself is often all that can be seen."""
    parts = [part for part in PurePosixPath(group).parts if part not in ("/", "..")]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _quota(words: list[str]) -> Iterator[float]:
    """``["200000", "100000"]`` is 2 CPUs; ``max`` and ``-1`` mean no quota."""
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]) > 0:
        yield int(words[0]) / int(words[1])
