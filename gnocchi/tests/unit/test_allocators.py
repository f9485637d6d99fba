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


#: A thousand pieces, every other one freed: none of them is at an end of the pool.
FREE_IN_THE_MIDDLE = """
import ctypes, time
from gnocchi.common import allocators
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.free.argtypes = [ctypes.c_void_p]
def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096
trimmer = allocators.Trimmer()
pieces = [c.malloc(100_000) for _ in range(1000)]
for piece in pieces:
    ctypes.memset(piece, 1, 100_000)
for piece in pieces[::2]:
    c.free(piece)
before = resident()
assert before > 90e6, before
trimmer.wake()
while resident() > before - 40e6:
    time.sleep(0.01)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc, and the allocator of glibc")
def test_freed_memory_is_given_back():
    """The system has memory again that is free in the middle of a pool."""
    subprocess.run([sys.executable, "-c", FREE_IN_THE_MIDDLE], check=True, timeout=60)
