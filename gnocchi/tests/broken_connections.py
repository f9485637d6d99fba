"""What drivers of object stores have to do about connections that break, whatever the store."""

import contextlib

import pytest

from gnocchi.exceptions import BackendUnavailable
from gnocchi.storage.drivers import StorageDriver
from gnocchi.tests.faulty import FaultyProxy


def check_broken_connections(driver: StorageDriver, proxy: FaultyProxy) -> None:
    """Wherever an answer is cut off, it is tried again, or the server is away; what is no answer is none.

    driver : of an empty store, behind the proxy
    """
    driver.put("a/1", b"x" * 1000)
    calls = (lambda: driver.get("a/1"), lambda: driver.put("a/2", b"y"), lambda: list(driver.list("a/")),
             lambda: driver.delete_many(["a/7", "a/8"]), driver.upgrade)
    for count in [*range(0, 600, 37), 1200]:
        for call in calls:
            proxy.cut_after(count)
            with contextlib.suppress(BackendUnavailable):
                call()
    # Also amid the headers, of which then some are missing.
    for count in range(0, 700, 7):
        for call, expected in ((calls[0], b"x" * 1000), (calls[2], ["a/1", "a/2"])):
            proxy.cut_after(count)
            with contextlib.suppress(BackendUnavailable):
                assert expected == call(), f"cut off after {count} bytes"
    proxy.pass_on()
    assert (b"x" * 1000, ["a/1", "a/2"]) == (calls[0](), calls[2]())
    for answer in (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<<<>>", b"nonsense\r\n\r\n",
                   b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"):
        proxy.answer(answer)
        with pytest.raises(BackendUnavailable):
            list(driver.list("a/"))
