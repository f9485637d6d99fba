import numpy
import pytest

from gnocchi.query.fetch import _join


def points(*times):
    return numpy.array(times, "i8"), numpy.array(times, "f8") / 2


@pytest.mark.parametrize("parts", [
    [points()], [points(), points(1, 2), points()], [points(5, 6), points(1, 2), points(9)],
    [points(1, 2, 7), points(3, 5), points(8)], [points(1, 9), points(2), points(3, 4), points()]])
def test_parts_in_order(parts):
    """Blocks come in no order, and one that was merged may hold times from before and after those of another."""
    times, values = _join(parts)
    assert sorted(time for part in parts for time in part[0].tolist()) == times.tolist()
    assert (times / 2).tolist() == values.tolist()
