"""Verifying stored objects: between them, these checks see every byte."""

from gnocchi.exceptions import CorruptedData
from gnocchi.storage import block as block_format
from gnocchi.storage.drivers import parse_offset
from gnocchi.storage.sections import ENTRY, HEADER, ObjectTable, decode_table, pad


def check_object(key: str, data: bytes) -> ObjectTable:
    """Verify all of an object but the content of its sections, and return its table.

    data : all that is stored under its key, where other objects may lie beside it

    Raises CorruptedData.
    """
    begin = parse_offset(key)
    table = decode_table(key, data[begin:])
    if begin is not None:
        data = data[:begin + table.length]
    else:
        begin = 0
    if begin + table.length != len(data):
        raise CorruptedData(key, begin, f"the object has {len(data) - begin} bytes instead of {table.length}")
    position = begin + HEADER.size + ENTRY.size * len(table.entries)
    for entry in table.entries:
        position = _check_padding(key, data, position)
        if entry.offset != position:
            raise CorruptedData(key, position, f"section at byte {entry.offset} begins elsewhere")
        position += entry.length
    if _check_padding(key, data, position) != len(data):
        raise CorruptedData(key, position, "more follows than the table tells")
    return table


def _check_padding(key: str, data: bytes, position: int) -> int:
    """Return where the next section begins."""
    end = position + pad(position)
    if any(data[position:end]):
        raise CorruptedData(key, position, "bytes between sections are not zero")
    return end


def check_block(data: bytes, key: str, offset: int) -> None:
    """Verify a block: its directory and every frame.  Raises CorruptedData."""
    directory = block_format.decode_directory(data, key, offset)
    if directory.section_length != len(data):
        raise CorruptedData(key, offset, f"a block of {directory.section_length} bytes has {len(data)}")
    block_format.decode_times(directory, data, key, offset)
    for method in directory.methods:
        block_format.decode_column(directory, method, data, key, offset)
