"""Memory that was freed, given back to the system.

May import: the standard library.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

# Other C libraries have neither, nor need them.
_MALLOC_TRIM: Callable[[int], object] = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)
_MALLOPT: Callable[[int, int], object] = getattr(ctypes.CDLL(None), "mallopt", lambda _option, _value: None)
_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


def share_one_heap() -> None:
    """Have all threads allocate from one heap, unless ``MALLOC_ARENA_MAX`` says otherwise. Before a second thread allocates.

    glibc gives every thread a heap of its own, and what is free at the end of such a heap it never gives back: 30 MB a lane
    after images of many sizes. It takes no longer: the threads here allocate a few arrays a frame.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        _MALLOPT(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give freed memory back to the system.

    glibc keeps freed blocks of up to 32 MB for the next to come, and both Pillow's pictures and a closed session's weights are
    such. 0.2 ms, and the next inference takes no longer.
    """
    _MALLOC_TRIM(0)
