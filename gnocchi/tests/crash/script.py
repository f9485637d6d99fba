"""A short life of a service that takes every way through commit, journal and janitor."""

from gnocchi.tests.crash.ledger import MINUTE, START
from gnocchi.tests.crash.machine import METRICS

#: Deleted on the way.
DOOMED = METRICS[4]


def make_posts():
    """Return the requests, each {id: {ns: value}}: values are all different, and no measure comes too late."""
    value = 0.0
    posts = []
    for begin, end, ids in ((0, 12, METRICS), (12, 13, METRICS[:1]), (11, 14, METRICS[:2]), (14, 31, METRICS),
                            (31, 47, METRICS[:5]), (47, 48, METRICS), (47, 49, METRICS[:4]), (49, 66, METRICS),
                            (66, 67, METRICS[2:6])):
        series = {}
        for metric in ids:
            series[metric] = {}
            for minute in range(begin, end):
                value += 1.0
                series[metric][START + minute * MINUTE] = value
        posts.append(series)
    return posts


#: What happens, in this order; a number is a request to post.
STEPS = (0, "work", 1, "work", 2, 3, "work", "clean up", 4, "work", "delete", "clean up", 5, "work", 6, 7, "work",
         "clean up", 8)
