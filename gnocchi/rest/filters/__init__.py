"""Filters of clients: text -> tree (`text`), tree -> typed conditions (`tree`).  Contract, rest 13.

The tree is what a JSON body holds, `{"and": [{"=": {"flavor": "small"}}, {"not": {"in": {"zone": ["a", "b"]}}}]}`;
text is turned into the same, so both have one meaning.
"""

#: Levels of a filter: more than any person writes, and less than what databases nest.
LEVELS_MAX = 100

#: Comparisons in one filter.  SQLite's limit is a depth of 1,000, and a chain of `or` is as deep as it is long.
CONDITIONS_MAX = 500

#: Values of all lists in one filter.
VALUES_MAX = 5_000

#: Characters of a pattern for `like`; SQLite takes 50,000 bytes.
PATTERN_LENGTH_MAX = 5_000
