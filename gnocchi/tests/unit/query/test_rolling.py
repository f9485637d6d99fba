"""Moving windows of any width against the definition."""

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from gnocchi.query import rolling

METHODS = ("mean", "median", "std", "min", "max", "sum", "var", "count")

#: Values of which many are equal, and which may be missing or infinite; those that are finite are exact in sums.
elements = st.one_of(st.integers(-9, 9).map(float), st.integers(-9, 9).map(float),
                     st.sampled_from([math.nan, math.nan, math.inf, -math.inf]))
matrices = of_numpy.arrays(float, of_numpy.array_shapes(min_dims=2, max_dims=2, max_side=60), elements=elements)


def define(values, method):
    held = values[~numpy.isnan(values)]
    if method == "count":
        return float(len(held))
    if method == "sum":
        return float(held.sum())
    if not len(held):
        return math.nan
    return float({"mean": numpy.mean, "median": numpy.median, "std": numpy.std, "min": numpy.min, "max": numpy.max,
                  "var": numpy.var}[method](held))


@given(matrices, st.sampled_from(METHODS), st.data(), st.sampled_from([1, 7, 10**6]))
def test_windows(values, method, data, chunk):
    """Also when few series are worked on at once."""
    window = data.draw(st.integers(1, values.shape[1]))
    with numpy.errstate(all="ignore"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(rolling, "CHUNK_VALUES", chunk)
        found = rolling.roll(values, method, window)
        expected = [[define(row[begin:begin + window], method) for begin in range(values.shape[1] - window + 1)]
                    for row in values]
    numpy.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_large_values_do_not_spoil_later_windows(method):
    """As sums that go along with the window would."""
    values = numpy.array([[1e300, -1e300, 1e17, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0]])
    with numpy.errstate(all="ignore"):
        found = rolling.roll(values, method, 10)[0]
    assert [pytest.approx(define(values[0, begin:begin + 10], method)) for begin in (3, 4)] == found[3:].tolist()


def test_wide_windows_take_no_longer():
    """200,000 rows of 100,000 values each would be 20 billion values."""
    values = numpy.arange(300_000.0)[None, :]
    begins = numpy.arange(200_001.0)
    for method, expected in (("median", begins + 49_999.5), ("mean", begins + 49_999.5), ("max", begins + 99_999),
                             ("std", numpy.full(200_001, numpy.std(numpy.arange(100_000.0))))):
        numpy.testing.assert_allclose(rolling.roll(values, method, 100_000)[0], expected, rtol=1e-9)
