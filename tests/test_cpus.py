"""CPUs that may really be used, under every way to bound them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.pipeline.cpus import available_cpus


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The affinity mask allows eight."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def write(root: Path, path: str, text: str) -> None:
    """Write a file of a made-up /proc or /sys."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_without_a_quota_the_affinity_mask_counts(tmp_path: Path) -> None:
    """No cgroup files: what the scheduler allows."""
    assert available_cpus(tmp_path) == 8


def test_a_v2_quota_bounds(tmp_path: Path) -> None:
    """`docker run --cpus 2` on cgroup v2."""
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "200000 100000\n")
    assert available_cpus(tmp_path) == 2


def test_a_v2_quota_of_a_group_above_bounds_too(tmp_path: Path) -> None:
    """The tightest of all levels counts."""
    write(tmp_path, "proc/self/cgroup", "0::/outer/inner\n")
    write(tmp_path, "sys/fs/cgroup/outer/cpu.max", "300000 100000\n")
    write(tmp_path, "sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n")
    assert available_cpus(tmp_path) == 3


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_a_v1_quota_bounds(mount: str, tmp_path: Path) -> None:
    """The same on cgroup v1, wherever it is mounted."""
    write(tmp_path, "proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n")
    write(tmp_path, f"sys/fs/cgroup/{mount}/cpu.cfs_quota_us", "150000\n")
    write(tmp_path, f"sys/fs/cgroup/{mount}/cpu.cfs_period_us", "100000\n")
    assert available_cpus(tmp_path) == 1


@pytest.mark.parametrize(("quota", "expected"), [("250000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("", 8)])
def test_fractions_round_down_but_never_to_nothing(quota: str, expected: int, tmp_path: Path) -> None:
    """A thread more than the quota would be throttled; a thread less than one cannot work."""
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", quota)
    assert available_cpus(tmp_path) == expected


def test_no_v1_quota_is_minus_one(tmp_path: Path) -> None:
    """-1 means unlimited, not one CPU."""
    write(tmp_path, "proc/self/cgroup", "4:cpu:/\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert available_cpus(tmp_path) == 8


def test_without_an_affinity_mask_the_host_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has none."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available_cpus(tmp_path) == 5
