"""What no database would refuse in the same way: texts that do not fit their column."""

from collections.abc import Iterable

from gnocchi import exceptions
from gnocchi.indexer import models


def check_text(field: str, value: str | None, length: int = models.NAME_LENGTH) -> None:
    """Raise InvalidInput if a text is longer than `length` characters or no database could store it."""
    if value is None:
        return
    if len(value) > length:
        raise exceptions.InvalidInput(f"{field} is longer than {length} characters")
    if "\0" in value:
        raise exceptions.InvalidInput(f"{field} contains a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise exceptions.InvalidInput(f"{field} is not valid Unicode") from None


def check_padding(names: Iterable[str | None]) -> None:
    """Raise InvalidInput for names that an old MySQL takes for equal, when it has refused one: see `table_options`."""
    seen: dict[str, str] = {}
    for name in names:
        if name is not None and seen.setdefault(name.rstrip(" "), name) != name:
            raise exceptions.InvalidInput(
                f"Metric name `{name}' differs from another one of its resource in trailing blanks only, which this "
                "database does not tell apart")
