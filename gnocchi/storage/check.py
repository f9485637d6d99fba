"""Verifying stored objects: between them, these checks see every byte."""

from gnocchi.exceptions import CorruptedData
from gnocchi.storage import block as block_format
from gnocchi.storage.object_batch import find_next
from gnocchi.storage.sections import ENTRY, HEADER, MAGIC, ObjectTable, decode_table, pad, parse_begin


def check_object(key: str, data: bytes) -> ObjectTable:
    """Verify all of an object but the content of its sections, and return its table.

    data : what is stored from its beginning on; of another object that follows only that it does is checked

    Raises CorruptedData.
    """
    begin = parse_begin(key)
    table = decode_table(key, data)
    following = find_next(begin, table.length) - begin
    is_last = len(data) == table.length
    if not is_last and (len(data) < following or any(data[table.length:following])
                        or (len(data) > following and not data.startswith(MAGIC, following))):
        raise CorruptedData(key, begin, f"the object has {len(data)} bytes instead of {table.length}")
    data = data[:table.length]
    position = HEADER.size + ENTRY.size * len(table.entries)
    for entry in table.entries:
        position = _check_padding(key, begin, data, position)
        if entry.offset != begin + position:
            raise CorruptedData(key, begin + position, f"section at byte {entry.offset} begins elsewhere")
        position += entry.length
    if _check_padding(key, begin, data, position) != len(data):
        raise CorruptedData(key, begin + position, "more follows than the table tells")
    return table


def _check_padding(key: str, begin: int, data: bytes, position: int) -> int:
    """Return where the next section begins."""
    end = position + pad(position)
    if any(data[position:end]):
        raise CorruptedData(key, begin + position, "bytes between sections are not zero")
    return end


def check_block(data: bytes, key: str, offset: int) -> None:
    """Verify a block: its directory and every frame.  Raises CorruptedData."""
    directory = block_format.decode_directory(data, key, offset)
    if directory.section_length != len(data):
        raise CorruptedData(key, offset, f"a block of {directory.section_length} bytes has {len(data)}")
    block_format.decode_times(directory, data, key, offset)
    for method in directory.methods:
        block_format.decode_column(directory, method, data, key, offset)
