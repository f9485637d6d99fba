"""What stands before a back end that many requests share."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from gnocchi.common.breaker import Breaker

#: Makes the context in which a thread waits for others, or for a network.
Waiting = Callable[[], AbstractContextManager[None]]


class Gate:
    """Calls to a back end: those that would wait in vain fail, and who waits lets others work.

    Parameters
    ----------
    name : str
        Of the back end, for texts.
    waiting : callable
        Makes the context in which calls are made.
    """

    def __init__(self, name: str, waiting: Waiting) -> None:
        self.waiting = waiting
        self._breaker = Breaker(name)

    @contextlib.contextmanager
    def calling(self, *, always: bool = False) -> Iterator[None]:
        """Make a call, as a Breaker does."""
        with self.waiting(), self._breaker.calling(always=always):
            yield
