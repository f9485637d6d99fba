"""What no database would refuse in the same way: texts that do not fit their column."""

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
