"""How much memory the allocators under Python keep that nobody uses any more."""

import ctypes
import gc
import os
import threading
import time

#: Pools of memory that all threads of a process share; the C library would make one for each, up to eight per CPU.
ARENAS_MAX = 2

#: Seconds between two times that memory is given back.  It takes some milliseconds, and so does having it again.
TRIM_PAUSE_S = 0.25

#: New objects after which garbage is looked for among them (a few MB), and how many such times make an older one.
GC_THRESHOLDS = (20_000, 20, 50)

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


def collect_seldom() -> None:
    """Look for garbage less often than by default, and never among what is there now, which stays.

    Requests and commits leave next to none that only the collector finds; looking for it every few of them takes 5 to
    15 % of their time.  Child processes inherit it.
    """
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def trim() -> None:
    """Give back the memory that the C library keeps free, in the middle of its pools too.

    By itself it gives back only what is free at their ends, and less and less of that the larger the pieces are that
    it was once asked for: after bodies of some MB a quarter of the pools is free memory.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


class Trimmer:
    """Trims some time after `wake`, in a thread, and no more often than every TRIM_PAUSE_S.

    Threads do not survive a fork, so one belongs to the process that made it.
    """

    def __init__(self) -> None:
        self._used = threading.Event()
        threading.Thread(target=self._work, name="memory", daemon=True).start()

    def wake(self) -> None:
        """Say that memory was in use; cheap."""
        if not self._used.is_set():
            self._used.set()

    def _work(self) -> None:
        while self._used.wait():
            time.sleep(TRIM_PAUSE_S)
            self._used.clear()
            trim()
