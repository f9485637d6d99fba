"""Archive policies: how a metric's measures are aggregated and for how long aggregates are kept."""

import dataclasses
import uuid
from collections.abc import Iterable, Sequence

import numpy

from gnocchi import times
from gnocchi.carbonara.methods import METHODS
from gnocchi.carbonara.window import WindowPolicy
from gnocchi.exceptions import InvalidArchivePolicy


@dataclasses.dataclass(frozen=True)
class ArchivePolicyItem:
    """One granularity of a policy.

    granularity : timedelta64[ns], above zero
    points : int or None (unlimited)
    timespan : timedelta64[ns] == granularity * points, or None (unlimited)
    """

    granularity: numpy.timedelta64
    points: int | None
    timespan: numpy.timedelta64 | None


@dataclasses.dataclass(frozen=True)
class ArchivePolicy:
    """id is a surrogate that storage refers to: the name may be deleted and made anew.

    definition keeps the order given; aggregation_methods is the resolved set, sorted.
    """

    id: uuid.UUID
    name: str
    back_window: int
    definition: tuple[ArchivePolicyItem, ...]
    aggregation_methods: tuple[str, ...]

    @property
    def granularities(self) -> tuple[numpy.timedelta64, ...]:
        """The granularities, finest first."""
        return tuple(sorted(item.granularity for item in self.definition))

    @property
    def coarsest(self) -> numpy.timedelta64:
        return self.granularities[-1]

    @property
    def has_rates(self) -> bool:
        return any(method.startswith("rate:") for method in self.aggregation_methods)

    @property
    def window_blocks(self) -> int:
        """W: how many coarsest periods before the newest point's one still accept measures (contract, timeseries 2)."""
        return self.back_window + (1 if self.has_rates else 0)

    @property
    def window_policy(self) -> WindowPolicy:
        """What the numeric engine has to know of this policy."""
        return WindowPolicy(tuple((item.granularity, item.timespan) for item in self.definition),
                            self.window_blocks, self.aggregation_methods)

    def get_item(self, granularity: numpy.timedelta64) -> ArchivePolicyItem | None:
        for item in self.definition:
            if item.granularity == granularity:
                return item
        return None


def complete_item(granularity: numpy.timedelta64 | None = None, points: int | None = None,
                  timespan: numpy.timedelta64 | None = None) -> ArchivePolicyItem:
    """Work out the missing one of granularity, points and timespan.

    Parameters
    ----------
    granularity, timespan : timedelta64[ns], above zero (not checked here), or None
    points : int, at least 1 (not checked here), or None

    Raises
    ------
    InvalidArchivePolicy
        Too little was given, the three contradict each other, or the result is not a whole number of nanoseconds
        or longer than 292 years.

    Source: contract, timeseries 1.1.
    """
    if granularity is not None and points is None and timespan is None:
        return ArchivePolicyItem(granularity, None, None)
    if (granularity, points, timespan).count(None) > 1:
        raise InvalidArchivePolicy("At least two of granularity/points/timespan must be provided")
    granularity_ns = None if granularity is None else _to_ns(granularity)
    timespan_ns = None if timespan is None else _to_ns(timespan)
    if granularity_ns is None:
        assert timespan is not None and timespan_ns is not None and points is not None
        granularity_ns, rest = divmod(timespan_ns, points)
        if rest or granularity_ns == 0:
            raise InvalidArchivePolicy(
                f"timespan {times.format_timespan(timespan)} cannot be divided into {points} points "
                f"of whole nanoseconds")
    elif points is None:
        assert timespan_ns is not None
        points = timespan_ns // granularity_ns
        if points < 1:
            raise InvalidArchivePolicy("Calculated number of points is < 0")
        timespan_ns = granularity_ns * points
    elif timespan_ns is None:
        timespan_ns = granularity_ns * points
    elif timespan_ns != granularity_ns * points:
        raise InvalidArchivePolicy("timespan ≠ granularity × points")
    if timespan_ns > times.NS_MAX:
        raise InvalidArchivePolicy("timespan (granularity × points) is longer than 292 years")
    return ArchivePolicyItem(numpy.timedelta64(granularity_ns, "ns"), points, numpy.timedelta64(timespan_ns, "ns"))


def _to_ns(span: numpy.timedelta64) -> int:
    return int(span.astype("timedelta64[ns]").astype(numpy.int64))


def make_definition(items: Iterable[ArchivePolicyItem]) -> tuple[ArchivePolicyItem, ...]:
    """Return the items in their order; InvalidArchivePolicy if two have one granularity."""
    definition = tuple(items)
    seen = set()
    for item in definition:
        if item.granularity in seen:
            raise InvalidArchivePolicy(
                f"More than one archive policy uses granularity `{times.to_seconds(item.granularity)}'")
        seen.add(item.granularity)
    return definition


def resolve_methods(names: Sequence[str] | None, default: Sequence[str]) -> tuple[str, ...]:
    """Resolve a list that may hold `*`, `-name` and `+name`; edits apply in the order given.

    Parameters
    ----------
    names : sequence of str, or None
        What the client asked for; None, the empty list and one of edits only start from `default`.
    default : sequence of str
        `[archive_policy] default_aggregation_methods`; resolved in the same way.

    Returns
    -------
    tuple of str, sorted, unique, at least one

    Raises
    ------
    InvalidArchivePolicy
        A name is unknown, or nothing is left.

    Source: contract, timeseries 1.2; only the resolved set is kept.
    """
    names = list(names or ())
    chosen: set[str] = set()
    if "*" in names:
        chosen.update(METHODS)
    elif all(name.startswith(("+", "-")) for name in names):
        # The default cannot start from a default: if it consists of edits only, they apply to all methods.
        chosen.update(resolve_methods(default, ("*",)))
    for name in names:
        if name == "*":
            continue
        edit, method = (name[0], name[1:]) if name.startswith(("+", "-")) else ("+", name)
        if method not in METHODS:
            raise InvalidArchivePolicy(f"Unknown aggregation method {method}")
        if edit == "+":
            chosen.add(method)
        else:
            chosen.discard(method)
    if not chosen:
        raise InvalidArchivePolicy("An archive policy needs at least one aggregation method")
    return tuple(sorted(chosen))


def make_archive_policy(name: str, back_window: int, items: Iterable[ArchivePolicyItem],
                        methods: Sequence[str] | None, default_methods: Sequence[str]) -> ArchivePolicy:
    """Return a new policy (with a new id); InvalidArchivePolicy when definition or methods are not acceptable."""
    return ArchivePolicy(id=uuid.uuid4(), name=name, back_window=back_window, definition=make_definition(items),
                         aggregation_methods=resolve_methods(methods, default_methods))


_SECOND = numpy.timedelta64(1, "s").astype("timedelta64[ns]")
_MINUTE, _HOUR, _DAY = 60 * _SECOND, 3600 * _SECOND, 86400 * _SECOND

#: name, back window, (granularity, timespan) pairs, methods (None: the configured default).  Contract, timeseries 1.3.
DEFAULT_POLICIES = (
    ("bool", 3600, ((_SECOND, 365 * _DAY),), ("last",)),
    ("low", 0, ((5 * _MINUTE, 30 * _DAY),), None),
    ("medium", 0, ((_MINUTE, 7 * _DAY), (_HOUR, 365 * _DAY)), None),
    ("high", 0, ((_SECOND, _HOUR), (_MINUTE, 7 * _DAY), (_HOUR, 365 * _DAY)), None),
)


def make_default_policies(default_methods: Sequence[str]) -> list[ArchivePolicy]:
    """Return the policies that `gnocchi-upgrade` creates in an empty index."""
    return [
        make_archive_policy(name, back_window,
                            [complete_item(granularity=granularity, timespan=timespan)
                             for granularity, timespan in pairs],
                            methods, default_methods)
        for name, back_window, pairs, methods in DEFAULT_POLICIES]
