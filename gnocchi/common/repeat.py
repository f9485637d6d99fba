"""Requests that look, decide, and then change: what they looked at may have changed meanwhile."""

from collections.abc import Callable
from typing import TypeVar

from gnocchi.exceptions import ChangedMeanwhile

R = TypeVar("R")

#: How often a request looks again.  Each time, another one has succeeded.
ATTEMPTS_MAX = 50


def until_unchanged(attempt: Callable[[], R]) -> R:
    """Return what `attempt` does, which is called again as long as it finds that another request came in between.

    Raises ChangedMeanwhile after ATTEMPTS_MAX of them.
    """
    for _ in range(ATTEMPTS_MAX - 1):
        try:
            return attempt()
        except ChangedMeanwhile:
            continue
    return attempt()
