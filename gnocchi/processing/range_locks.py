"""Locks of processes and threads on one machine: bytes of one file, in place of tooz's one file for each lock.

A lock of tooz's file driver leaves its file behind for ever, one for each sack: who deletes it may be taking it from
under somebody who has just opened it.
"""

import fcntl
import hashlib
import os
import struct
import sys

#: struct flock of Linux on 64 bits: type, whence, start, length, process id (which must be 0), padding.
_FLOCK = struct.Struct("@hhqqi4x")

#: The file, beside those of tooz.
FILE_NAME = "locks"

#: Locks of open files (OFD), unlike those of processes, keep threads apart too, and outlive other uses of the file.
SUPPORTED = sys.platform == "linux" and sys.maxsize > 2 ** 32 and hasattr(fcntl, "F_OFD_SETLK")


class RangeLock:
    """The lock of one byte, which ends with the process at the latest.

    Any byte will do, also one behind the end of the file.  Two names that shared one would only wait for each other.
    """

    def __init__(self, path: str, name: bytes) -> None:
        self._path = path
        self._start = int.from_bytes(hashlib.sha1(name, usedforsecurity=False).digest()[:8]) >> 2
        self._fd: int | None = None

    def acquire(self, blocking: bool = False) -> bool:
        """Take the lock unless somebody has it, this object included; it never waits.  Raises OSError."""
        assert not blocking, "BUG: these locks do not wait"
        if self._fd is not None:
            return False
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, self._start, 1, 0))
        except (BlockingIOError, PermissionError):    # EAGAIN or EACCES, as the file system likes it
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __del__(self) -> None:
        self.release()


class RangeLocks:
    """Makes locks.  directory : str; has to exist once they are taken"""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, FILE_NAME)

    def get_lock(self, name: bytes) -> RangeLock:
        return RangeLock(self._path, name)
