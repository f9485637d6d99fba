"""Journals for tests, and a system whose calls fail."""

import os

from gnocchi.tests.backlog import make_batch, make_id

SACKS = 2


class System:
    """The functions of `os`, some of which fail: `faults` maps a name to what happens before the call.

    An item is an OSError to raise, a callable to call, or None; the last one stays.
    """

    def __init__(self, **faults):
        self.faults = faults
        self.calls = []

    def __getattr__(self, name):
        function = getattr(os, name)

        def call(*args):
            self.calls.append(name)
            faults = self.faults.get(name)
            fault = (faults.pop(0) if len(faults) > 1 else faults[0]) if faults else None
            if isinstance(fault, OSError):
                raise fault
            if fault is not None:
                return fault(*args)
            return function(*args)

        return call


def error(number):
    return OSError(number, os.strerror(number))


def request(number, sack=0):
    return make_batch((make_id(sack, 1), [(number, float(number))]))


def series(*numbers, sack=0):
    return [(make_id(sack, 1), [(number, float(number))]) for number in numbers]


def list_journals(driver):
    return sorted(name for name in os.listdir(driver.directory) if name.endswith(".journal"))
