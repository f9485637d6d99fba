"""Answers as text that fits on a page."""

import datetime
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

#: Characters of a line of code on the page.
WIDTH = 100


def format_json(value: Any, used: int = 0, indent: int = 0) -> str:
    """Return JSON with as few lines as fit; `used` characters stand before it on its first line."""
    flat = json.dumps(value, ensure_ascii=False)
    if used + len(flat) <= WIDTH or not value or not isinstance(value, dict | list):
        return flat
    pad = " " * (indent + 2)
    if isinstance(value, dict):
        names = {name: json.dumps(name, ensure_ascii=False) for name in value}
        items = [f"{pad}{names[name]}: " + format_json(each, len(pad) + len(names[name]) + 3, indent + 2)
                 for name, each in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + " " * indent + "}"
    items = [pad + format_json(each, len(pad) + 1, indent + 2) for each in value]
    return "[\n" + ",\n".join(items) + "\n" + " " * indent + "]"


def format_body(text: str) -> str:
    """Return a body as it is shown: JSON laid out, everything else as it came."""
    try:
        return format_json(json.loads(text))
    except ValueError:
        return text.rstrip()


def shorten(text: str, lines: int | None) -> str:
    """Return the first lines of a text; what is left out is told."""
    all_lines = text.split("\n")
    if lines is None or len(all_lines) <= lines:
        return text
    return "\n".join([*all_lines[:lines], f"… and {len(all_lines) - lines} more lines"])


class Series(NamedTuple):
    """One series of an answer of /v1/aggregates."""

    label: str
    points: list[tuple[str, float, Any]]


def list_series(answer: Any, names: Mapping[str, str], prefix: str = "") -> Iterator[Series]:
    """Yield the series of an answer, in any of its shapes; `names` tells what ids are called on the page."""
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        for group in answer:
            label = ", ".join(f"{name} {value}" for name, value in group["group"].items())
            yield from list_series(group["measures"]["measures"], names, f"{prefix}{label}: ")
    elif isinstance(answer, list):
        yield Series(prefix.strip(), [tuple(point) for point in answer])
    else:
        for name, each in answer.items():
            yield from list_series(each, names, f"{prefix}{names.get(name, name)} ")


def format_series(all_series: list[Series]) -> str:
    """Return a table for each granularity: a row for each series, a column for each time."""
    tables = []
    for granularity in sorted({point[1] for series in all_series for point in series.points}, reverse=True):
        columns = sorted({point[0] for series in all_series for point in series.points if point[1] == granularity})
        rows = [[f"{granularity:g} s", *map(_format_time, columns)]]
        for series in all_series:
            values = {time: value for time, each, value in series.points if each == granularity}
            rows.append([series.label, *(_format_value(values[time]) if time in values else "" for time in columns)])
        tables.append(_align(rows))
    return "\n\n".join(tables) or "(no points)"


def _format_value(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) else json.dumps(value)


def _format_time(text: str) -> str:
    return datetime.datetime.fromisoformat(text).strftime("%H:%M")


def _align(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
                     for row in rows)
