"""How much memory the allocators under Python keep that nobody uses any more."""

import ctypes
import os

#: Pools of memory that all threads of a process share; the C library would make one for each, up to eight per CPU.
ARENAS_MAX = 2

#: mallopt() of glibc, malloc.h.
_M_ARENA_MAX = -8


def limit_arenas() -> None:
    """Let threads share the C library's pools of memory, of which each keeps what was ever free in it.

    To be called before there are threads; child processes inherit it.  The environment's MALLOC_ARENA_MAX goes first,
    and C libraries that know no such thing are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, ARENAS_MAX)
