"""Memory that allocators keep."""

import subprocess
import sys

import pytest

#: Forty threads allocate at once, so that each would get a pool of its own; malloc_info() tells how many there are.
COUNT_ARENAS = """
import ctypes, threading
from gnocchi.common import allocators
allocators.limit_arenas()
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(40)
def allocate():
    barrier.wait()
    c.malloc(100_000)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(40)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
c.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(c.fopen(b"/dev/stdout", b"w"))
c.malloc_info(0, file)
c.fclose(file)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is of glibc")
def test_threads_share_arenas():
    """However many threads there are, the C library has few pools that each keep free memory."""
    text = subprocess.run([sys.executable, "-c", COUNT_ARENAS], check=True, capture_output=True, text=True).stdout
    assert 1 <= text.count("<heap nr=") <= 2
