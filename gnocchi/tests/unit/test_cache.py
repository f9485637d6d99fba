"""What processes remember is bounded."""

from gnocchi.common.cache import Recent


def test_recent_keeps_what_is_used():
    """At least the last `count` entries, at most twice as many, and whatever is asked for again and again."""
    recent = Recent(10)
    recent.put("used", -1)
    for number in range(1000):
        recent.put(number, number)
        assert -1 == recent.get("used")
        assert all(recent.get(n) == n for n in range(max(0, number - 4), number))
        assert len(recent._young) + len(recent._old) <= 20
    assert recent.get(0) is None


def test_recent_drops():
    """Whichever generation has it."""
    recent = Recent(1)
    recent.put("a", 1)
    recent.put("b", 2)
    recent.drop("a")
    recent.drop("b")
    recent.drop("c")
    assert [None, None] == [recent.get("a"), recent.get("b")]
