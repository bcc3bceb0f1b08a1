"""The index of a TensorFlow checkpoint: bytes -> what it says of each variable, with every number checked.

The index is a sorted table: blocks of keys and values, a block that says where these are, and a footer that says where
that one is. Its values are protocol buffers: a header under the empty key, then an entry for each variable.

    entries        the whole
    _table         bytes -> keys and values
    _fields        a protocol buffer -> numbers and bytes

Source: the format as TensorFlow's `tensor_bundle.proto`, `tensor_bundle.cc` and `lib/io/format.cc` define it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from resnet_rs.bridges.archive import Unreadable
from resnet_rs.text import quoted

ITEM_BYTES = {
    "float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Types that can be read, and the bytes of one value."""
_DTYPES = dict(
    enumerate(
        "float32 float64 int32 uint8 int16 int8 string complex64 int64 bool qint8 quint8 qint32 bfloat16 qint16 "
        "quint16 uint16 complex128 float16 resource variant uint32 uint64 float8_e5m2 float8_e4m3fn".split(),
        start=1,
    )
)
"""TensorFlow's number of a type -> its name (`types.proto`)."""
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_TRAILER = 5
"""After each block: how it is compressed, and a checksum."""
_SNAPPY = 1
_MAX_SHARDS, _MAX_VARIABLES, _MAX_KEY, _MAX_VALUE, _MAX_DIMS = 100_000, 100_000, 1000, 1 << 16, 32
_VERSION = 1
"""Of the format, which a file may ask of its reader."""

Extend = Callable[[int, bytes], int]
"""The CRC-32C of what came before, and more bytes -> that of all."""
Fields = dict[int, list[int | bytes]]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the index says of one variable."""

    dtype: str
    shape: tuple[int, ...]
    shard: int
    """In which data file it is."""
    offset: int
    num_bytes: int
    crc: int
    """Of its bytes, masked."""
    num_slices: int
    """In how many pieces it is stored under other keys; 0 if it is whole."""


def entries(content: bytes, extend: Extend) -> tuple[int, dict[str, Entry]]:
    """The number of data files, and the entries by name, of a whole index; raises `Unreadable`."""
    table = _table(content, extend)
    num_shards = _num_shards(*next(table, (b"-", b"")))
    found: dict[str, Entry] = {}
    for key, value in table:
        # Such keys are those of slices; their variable has an entry of its own, too.
        if key.startswith(b"\0"):
            continue
        if len(found) == _MAX_VARIABLES:
            raise Unreadable(f"it lists more than {_MAX_VARIABLES:,} variables.")
        try:
            name = key.decode()
        except UnicodeDecodeError:
            raise Unreadable(f"{key[:100]!r} in it is no name.") from None
        found[name] = _entry(name, _fields(value), num_shards)
    return num_shards, found


def masked(crc: int) -> int:
    """A CRC-32C as it is stored: one of bytes that hold their own would be worth little."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _num_shards(key: bytes, value: bytes) -> int:
    """The number of data files, from the first key and value."""
    header = _fields(value)
    num_shards = _number(header, 1)
    if key or not 0 < num_shards < _MAX_SHARDS:
        raise Unreadable("its first entry is not the header of a checkpoint.")
    if _number(header, 2):
        raise Unreadable("it was written on a big-endian machine. Save it again on a little-endian one.")
    asked = _number(_fields(_message(header, 3)), 2)
    if asked > _VERSION:
        raise Unreadable(f"it asks for a reader of version {asked} of the format; this one knows {_VERSION}.")
    return num_shards


def _entry(name: str, fields: Fields, num_shards: int) -> Entry:
    """An entry whose numbers agree with each other."""
    shape = _fields(_message(fields, 2))
    dims = [_number(_fields(dim), 1) for dim in _messages(shape, 2)]
    if len(dims) > _MAX_DIMS or min(dims, default=0) < 0 or _number(shape, 3):
        raise Unreadable(f"{quoted(name)} in it has no shape of at most {_MAX_DIMS} known dimensions.")
    code = _number(fields, 1)
    entry = Entry(
        dtype=_DTYPES.get(code, f"type {code}"),
        shape=tuple(dims),
        shard=_number(fields, 3),
        offset=_number(fields, 4),
        num_bytes=_number(fields, 5),
        crc=_number(fields, 6),
        num_slices=len(_messages(fields, 7)),
    )
    if min(entry.offset, entry.num_bytes) < 0 or not 0 <= entry.shard < num_shards:
        raise Unreadable(
            f"it says that {quoted(name)} has {entry.num_bytes} bytes at {entry.offset} of data file {entry.shard}, "
            f"of {num_shards}, which cannot be."
        )
    if entry.dtype in ITEM_BYTES and not entry.num_slices:
        expected = math.prod(dims) * ITEM_BYTES[entry.dtype]
        if entry.num_bytes != expected:
            raise Unreadable(
                f"it says that {quoted(name)} has {entry.num_bytes} bytes; of shape {entry.shape} and type "
                f"{entry.dtype} it would have {expected}."
            )
    return entry


def _table(content: bytes, extend: Extend) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a sorted table, in order."""
    if len(content) < _FOOTER or not content.endswith(_MAGIC):
        raise Unreadable("it does not end as an index does. It is cut off, or no index of a checkpoint.")
    footer = content[-_FOOTER : -len(_MAGIC)]
    _, _, at = _handle(footer, 0)  # of a block about blocks, which is empty
    start, num_bytes, _ = _handle(footer, at)
    last, end = None, 0
    for _, value in _block(content, start, num_bytes, extend):
        start, num_bytes, _ = _handle(value, 0)
        if start < end:
            raise Unreadable("its blocks do not follow each other.")
        end = start + num_bytes + _TRAILER
        for key, found in _block(content, start, num_bytes, extend):
            if last is not None and key <= last:
                raise Unreadable("its keys are not in order.")
            if len(found) > _MAX_VALUE:
                raise Unreadable(f"what it says of a variable is longer than {_MAX_VALUE:,} bytes.")
            last = key
            yield key, found


def _block(content: bytes, start: int, num_bytes: int, extend: Extend) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block. A key leaves out what it shares with the one before.

    At the end are the places of keys that are whole, and their number, of use only to search in it.
    """
    end = start + num_bytes
    if end + _TRAILER > len(content) - _FOOTER:
        raise Unreadable("a block of it is not inside it.")
    if masked(extend(0, content[start : end + 1])) != int.from_bytes(
        content[end + 1 : end + _TRAILER], "little"
    ):
        raise Unreadable("a checksum in it is wrong: it has changed since it was written. Fetch it again.")
    if content[end]:
        method = "snappy" if content[end] == _SNAPPY else f"method {content[end]}"
        raise Unreadable(f"it is compressed ({method}), which is not read here. Save it again in TensorFlow.")
    block = content[start:end]
    limit = num_bytes - 4 - 4 * int.from_bytes(block[-4:], "little")
    if limit < 0:
        raise Unreadable("a block of it is shorter than it says.")
    key, at = b"", 0
    while at < limit:
        num_shared, at = _varint(block, at)
        num_own, at = _varint(block, at)
        num_value, at = _varint(block, at)
        if num_shared > len(key) or at + num_own + num_value > limit:
            raise Unreadable("a key or value of it is longer than its block.")
        if num_shared + num_own > _MAX_KEY:
            raise Unreadable(f"a name in it is longer than {_MAX_KEY} bytes.")
        key = key[:num_shared] + block[at : at + num_own]
        at += num_own + num_value
        yield key, block[at - num_value : at]


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Where a block begins, its size, and where the next thing begins."""
    start, at = _varint(data, at)
    num_bytes, at = _varint(data, at)
    return start, num_bytes, at


def _fields(message: bytes) -> Fields:
    """The values of a protocol buffer by the number of their field: integers as unsigned, all else as bytes."""
    found: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _value(message, at, kind=tag & 7)
        found.setdefault(tag >> 3, []).append(value)
    return found


def _value(message: bytes, at: int, *, kind: int) -> tuple[int | bytes, int]:
    """A value, and where the next thing begins; kinds: 0 integer, 1 and 5 integer of fixed size, 2 bytes."""
    if kind == 0:
        return _varint(message, at)
    num_bytes, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, len(message)), at)
    if num_bytes > len(message) - at:
        raise Unreadable("a message in it is cut off, or holds a value of an unknown kind.")
    value = message[at : at + num_bytes]
    return (value if kind == 2 else int.from_bytes(value, "little")), at + num_bytes


def _number(fields: Fields, number: int) -> int:
    """An integer field, signed as all of these messages are; 0 if it is not there."""
    value = fields.get(number, [0])[-1]
    if isinstance(value, bytes):
        raise Unreadable(f"field {number} of a message in it is no number.")
    return value - (1 << 64) if value >> 63 else value


def _messages(fields: Fields, number: int) -> list[bytes]:
    """All values of a field that holds messages."""
    values = fields.get(number, [])
    found = [value for value in values if isinstance(value, bytes)]
    if len(found) < len(values):
        raise Unreadable(f"field {number} of a message in it is no message.")
    return found


def _message(fields: Fields, number: int) -> bytes:
    """The message of a field; if it is there several times, all of them, which together are one."""
    return b"".join(_messages(fields, number))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer in groups of seven bits, at most ten, and where the next thing begins."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128 and value < 1 << 64:
            return value, at + place + 1
    raise Unreadable("a number in it is cut off, or too long.")
