"""System shared memory of the Open Inference Protocol: tensors in POSIX shared memory objects of this machine. No HTTP here.

A caller registers a part of an object under a name, and then names that in the place of a tensor's bytes. The bytes are copied
out of the object's file, and into it, by system calls. A mapping would save the copy. But the object is the caller's: if it
shrank while it was mapped, the next access would end this process (SIGBUS), whereas a read that finds too little is an error
of the request.

Files are opened for each use. So a caller that dies leaves no memory behind that this process would keep.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.errors import BadParameter, BodyTooLarge

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps the objects of shm_open
MAX_REGIONS = 256

_SANE_KEY = re.compile(r"/?(?!\.)[A-Za-z0-9._-]{1,200}")
_SANE_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


@dataclass(frozen=True)
class Region:
    """A part of an object that a caller has registered."""

    name: str
    key: str
    """The object's name, as shm_open takes it."""
    offset: int
    byte_size: int


@dataclass(frozen=True)
class Placement:
    """The part of a region that holds a tensor, or is to hold one."""

    region: str
    byte_size: int
    offset: int = 0


class Regions:
    """The registered regions.

    Takes:
        prefix: the beginning of the names of the objects that may be registered; empty if none may
        max_bytes: the limit on one input
    """

    def __init__(self, prefix: str, max_bytes: int) -> None:
        self.is_on = bool(prefix)
        """Whether any may be registered."""
        self._prefix = prefix.removeprefix("/")
        self._max_bytes = max_bytes
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Register a part of an object.

        Raises:
            BadParameter: if it is off, the object may not be used or does not exist, the part is not inside it, or the name is
                taken
        """
        self._check_on()
        if not _SANE_NAME.fullmatch(name):
            raise _bad("name", "a region has a name of 1 to 200 printable characters")
        if name in self._regions:
            raise _bad("name", f"the region {name!r} is registered already; unregister it first")
        if len(self._regions) >= MAX_REGIONS:
            raise _bad("name", f"{MAX_REGIONS} regions are registered; unregister one first")
        if not _SANE_KEY.fullmatch(key) or not key.removeprefix("/").startswith(self._prefix):
            raise _bad("key", f"{key[:64]!r} is not an object that may be used: their names begin with {'/' + self._prefix!r}")
        if not byte_size:
            raise _bad("byte_size", "a region has one byte at least")
        region = Region(name, key, offset, byte_size)
        with _opened(region, os.O_RDONLY) as (_, size):
            if offset + byte_size > size:
                raise _bad("byte_size", f"{byte_size} bytes from {offset} are not inside the object {key!r} of {size} bytes")
        self._regions[name] = region

    def unregister(self, name: str | None = None) -> None:
        """Forget a region, or all; do nothing if it is not registered, as Triton does."""
        self._check_on()
        if name is None:
            self._regions.clear()
        else:
            self._regions.pop(name, None)

    def status(self, name: str | None = None) -> list[Region]:
        """Return a region, or all by name.

        Raises:
            BadParameter: if it is off, or there is no such region
        """
        self._check_on()
        return sorted(self._regions.values(), key=lambda region: region.name) if name is None else [self._find(name)]

    def read(self, place: Placement, hold: Callable[[int], None]) -> memoryview:
        """Copy a tensor out of its region; for a thread that may wait.

        Takes:
            hold: called with the size before it is in memory; raises Overloaded if it does not fit
        Raises:
            BadParameter: if the region is not registered, the part is not inside it, or its object has become shorter
            BodyTooLarge: if it is larger than any input may be
        """
        region = self._inside(place)
        if place.byte_size > self._max_bytes:
            reason = f"the tensor has {place.byte_size} bytes, and {self._max_bytes} are allowed"
            raise BodyTooLarge(reason, limit=self._max_bytes, actual=place.byte_size, unit="bytes")
        hold(place.byte_size)
        content = np.empty(place.byte_size, np.uint8).data
        at = region.offset + place.offset
        with _opened(region, os.O_RDONLY) as (file, _):
            done = 0
            while done < len(content):
                count = os.preadv(file, [content[done:]], at + done)
                if not count:
                    raise _shrunk(region)
                done += count
        return content

    def write(self, place: Placement, parts: Sequence[bytes]) -> int:
        """Copy a tensor into its region; for a thread that may wait.

        Gives:
            its bytes
        Raises:
            BadParameter: as :meth:`read`, or if the tensor is larger than its place
        """
        region, needed = self._inside(place), sum(map(len, parts))
        if needed > place.byte_size:
            raise _bad("shared_memory_byte_size", f"the output has {needed} bytes, and {place.byte_size} are meant for it")
        at = region.offset + place.offset
        with _opened(region, os.O_RDWR) as (file, size):
            if at + needed > size:  # a write would make the object longer
                raise _shrunk(region)
            for part in parts:
                rest = memoryview(part)
                while rest:
                    count = os.pwrite(file, rest, at)
                    rest, at = rest[count:], at + count
        return needed

    def _inside(self, place: Placement) -> Region:
        region = self._find(place.region)
        if place.offset + place.byte_size > region.byte_size:
            reason = f"{place.byte_size} bytes from {place.offset} are not inside the region {region.name!r}"
            raise _bad("shared_memory_byte_size", f"{reason} of {region.byte_size} bytes")
        return region

    def _find(self, name: str) -> Region:
        self._check_on()
        if (region := self._regions.get(name)) is None:
            known = ", ".join(sorted(self._regions)) or "none"
            raise _bad("shared_memory_region", f"no region {name[:64]!r} is registered; there are: {known[:200]}")
        return region

    def _check_on(self) -> None:
        if not self.is_on:
            raise _bad("shared_memory", "it is off; FCN_SHARED_MEMORY turns it on. Or send tensors in the request")


NO_REGIONS = Regions("", 0)
"""Where shared memory is off."""


@contextmanager
def _opened(region: Region, flags: int) -> Iterator[tuple[int, int]]:
    """Open the object of a region.

    Gives:
        a file descriptor and the object's size in bytes
    Raises:
        BadParameter: if that is not possible, or if a read or a write fails meanwhile
    """
    file = -1
    try:
        file = os.open(FOLDER / region.key.removeprefix("/"), flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise _bad("key", f"{region.key!r} is not a shared memory object")
        yield file, found.st_size
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be used: {error.strerror}"
        raise _bad("key", f"the shared memory object {region.key!r} {reason}") from error
    finally:
        if file >= 0:
            os.close(file)


def _shrunk(region: Region) -> BadParameter:
    return _bad("shared_memory_region", f"the object {region.key!r} is shorter than the region {region.name!r} says")


def _bad(parameter: str, reason: str) -> BadParameter:
    return BadParameter(f"{parameter}: {reason}", parameter=parameter)
