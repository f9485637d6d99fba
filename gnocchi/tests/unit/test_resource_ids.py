"""Identifiers as clients write them."""

import uuid

import pytest

from gnocchi import resource_ids
from gnocchi.exceptions import InvalidInput

ID = uuid.UUID("9eee0b25-0dcc-4f2b-b2ea-10c0b6b6d6a0")


@pytest.mark.parametrize("text", [
    str(ID), str(ID).upper(), ID.hex, f"{{{ID}}}", f"urn:uuid:{ID}", "9eee0b250dcc-4f2bb2ea-10c0b6b6d6a0"])
def test_parse_uuid(text):
    """All usual spellings are one id."""
    assert resource_ids.parse_uuid(text) == ID
    assert resource_ids.resource_id(text, "foobar") == ID


@pytest.mark.parametrize("text", ["", "foo", ID.hex[:-1], ID.hex + "0", ID.hex[:-2] + "  ", ID.hex[:-2] + "_0",
                                  ID.hex[:-1] + "٣"])
def test_parse_uuid_refused(text):
    """What Python's int() would let through is no UUID here."""
    with pytest.raises(ValueError, match="badly formed"):
        resource_ids.parse_uuid(text)


@pytest.mark.parametrize(("text", "creator", "expected"), [
    ("1.2.3.4", "foobar", "a9c729cc-d1b0-5e6b-b5ba-8b5a7f45f1fc"),
    ("foobar", "foobar", "2fbfbb20-8d56-5e1e-afb9-b3007da11fdf"),
])
def test_resource_id_text(text, creator, expected):
    """Text is hashed with the caller's name, as it always was."""
    assert uuid.UUID(expected) == resource_ids.resource_id(text, creator)


def test_resource_id_length():
    """289 characters are the most."""
    assert resource_ids.resource_id("é" * 289, "me").version == 5
    with pytest.raises(InvalidInput, match="^transformable resource id >289 max allowed characters$"):
        resource_ids.resource_id("é" * 290, "me")


def test_resource_id_slash():
    with pytest.raises(InvalidInput, match="^'/' is not supported in resource id$"):
        resource_ids.resource_id("a/b", "me")
