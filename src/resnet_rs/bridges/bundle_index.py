"""The index of a TensorFlow checkpoint: bytes -> type, shape and place of each variable, with every number checked.

The index is a sorted table of keys and values. It consists of blocks of keys and values, a block that lists these
blocks, and a footer that says where that list is. The values are protocol buffers: a header under the empty key, then
one entry for each variable.

Source: the format as TensorFlow's `tensor_bundle.proto`, `tensor_bundle.cc` and `lib/io/format.cc` define it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from resnet_rs.bridges.archive import Unreadable
from resnet_rs.text import quoted

ITEM_BYTES = {
    "float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Types that can be read, and the bytes of one value."""
_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 7: "string", 8: "complex64", 9: "int64", 10: "bool",
    14: "bfloat16", 19: "float16",
}  # fmt: skip
"""TensorFlow's numbers of types (`types.proto`); other types get no name."""
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
"""The last bytes of every index."""
_FOOTER = 48
_TRAILER = 5
"""Bytes after each block: one for the compression method, four for the checksum."""
_SNAPPY = 1
_MAX_SHARDS, _MAX_VARIABLES, _MAX_KEY, _MAX_VALUE, _MAX_DIMS = 100_000, 100_000, 1000, 1 << 16, 32
_VERSION = 1
"""Version of the format that this reader knows."""

Fields = dict[int, list[int | bytes]]


class Entry(NamedTuple):
    """What the index says of one variable."""

    dtype: str
    """TensorFlow's name, such as `float32`, `bfloat16` or `string`."""
    shape: tuple[int, ...]
    shard: int
    """Number of the data file that holds it."""
    offset: int
    """Where it begins in that file, in bytes."""
    num_bytes: int
    crc: int
    """The masked checksum of its bytes."""
    num_slices: int
    """Number of slices that are stored under other keys; 0 for a variable that is stored whole."""


def entries(content: bytes) -> tuple[int, dict[str, Entry]]:
    """The number of data files, and the entry of each variable, from a whole index. Raises `Unreadable`."""
    table = _table(content)
    num_shards = _num_shards(*next(table, (b"-", b"")))
    found: dict[str, Entry] = {}
    for key, value in table:
        if key.startswith(b"\0"):  # a slice of a variable that has an entry of its own
            continue
        if len(found) == _MAX_VARIABLES:
            raise Unreadable(f"it lists more than {_MAX_VARIABLES:,} variables.")
        try:
            name = key.decode()
        except UnicodeDecodeError:
            raise Unreadable(f"{key[:100]!r} in it is not a name in UTF-8.") from None
        found[name] = _entry(name, _fields(value), num_shards)
    return num_shards, found


def masked_crc(crc: int) -> int:
    """A CRC-32C in the form in which TensorFlow stores it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def extend_crc(crc: int, content: bytes) -> int:
    """The CRC-32C of bytes with the CRC-32C `crc` and then `content`."""
    import google_crc32c  # pyright: ignore[reportMissingImports]: an extra, which `TensorBundle` requires

    return google_crc32c.extend(crc, content)


def _num_shards(key: bytes, value: bytes) -> int:
    header = _fields(value)
    num_shards = _number(header, 1)
    if key or not 0 < num_shards < _MAX_SHARDS:
        raise Unreadable("its first entry is not the header of a checkpoint.")
    if _number(header, 2):
        raise Unreadable("it was written on a big-endian machine. Save it again on a little-endian one.")
    version = _number(_fields(_message(header, 3)), 2)
    if version > _VERSION:
        raise Unreadable(f"it needs a reader of version {version} of the format; this one knows {_VERSION}.")
    return num_shards


def _entry(name: str, fields: Fields, num_shards: int) -> Entry:
    """An entry whose numbers do not contradict each other."""
    shape = _fields(_message(fields, 2))
    dims = tuple(_number(_fields(dim), 1) for dim in _messages(shape, 2))
    if len(dims) > _MAX_DIMS or min(dims, default=0) < 0 or _number(shape, 3):
        raise Unreadable(f"the shape of {quoted(name)} is unknown or has more than {_MAX_DIMS} dimensions.")
    code, shard, offset, num_bytes, crc = (_number(fields, number) for number in (1, 3, 4, 5, 6))
    dtype, num_slices = _DTYPES.get(code, f"type {code}"), len(_messages(fields, 7))
    if min(offset, num_bytes) < 0 or not 0 <= shard < num_shards:
        raise Unreadable(
            f"it places {quoted(name)} at bytes {offset} to {offset + num_bytes} of data file {shard} of {num_shards}, "
            "which cannot be."
        )
    expected = math.prod(dims) * ITEM_BYTES.get(dtype, 0)
    if dtype in ITEM_BYTES and not num_slices and num_bytes != expected:
        raise Unreadable(
            f"it gives {quoted(name)} {num_bytes} bytes; shape {dims} and type {dtype} need {expected}."
        )
    return Entry(dtype, dims, shard, offset, num_bytes, crc, num_slices)


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a sorted table, in order."""
    if len(content) < _FOOTER or not content.endswith(_MAGIC):
        raise Unreadable("it does not end as the index of a checkpoint does. Is it cut off?")
    footer = content[-_FOOTER : -len(_MAGIC)]
    _, at = _place(footer, 0)  # of a block that is always empty
    last, end = None, 0
    for _, value in _block(content, _place(footer, at)[0]):
        place, _ = _place(value, 0)
        if place.start < end:
            raise _damaged("blocks out of order")
        end = place.stop + _TRAILER
        for key, found in _block(content, place):
            if last is not None and key <= last:
                raise _damaged("keys out of order")
            if len(found) > _MAX_VALUE:
                raise _damaged(f"an entry of more than {_MAX_VALUE:,} bytes")
            last = key
            yield key, found


def _block(content: bytes, place: slice) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block. A key is stored without the beginning that it shares with the one before.

    At the end of a block are the places of keys that are stored whole, and their number. Only a search needs them.
    """
    block, trailer = content[place], content[place.stop : place.stop + _TRAILER]
    if place.stop + _TRAILER > len(content) - _FOOTER:
        raise _damaged("a block outside of the file")
    if masked_crc(extend_crc(0, block + trailer[:1])) != int.from_bytes(trailer[1:], "little"):
        raise Unreadable("its checksum is wrong: it has changed since it was written. Fetch it again.")
    if trailer[0]:
        method = "snappy" if trailer[0] == _SNAPPY else f"method {trailer[0]}"
        raise Unreadable(f"it is compressed ({method}), which is not supported. Save it again in TensorFlow.")
    limit = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if limit < 0:
        raise _damaged("a block that is too short")
    key, at = b"", 0
    while at < limit:
        num_shared, at = _varint(block, at)
        num_own, at = _varint(block, at)
        num_value, at = _varint(block, at)
        if num_shared > len(key) or at + num_own + num_value > limit or num_shared + num_own > _MAX_KEY:
            raise _damaged("a key or value that is too long")
        key = key[:num_shared] + block[at : at + num_own]
        at += num_own + num_value
        yield key, block[at - num_value : at]


def _place(data: bytes, at: int) -> tuple[slice, int]:
    """The place of a block, stored at `at` as its start and its size; and where the next value begins."""
    start, at = _varint(data, at)
    num_bytes, at = _varint(data, at)
    return slice(start, start + num_bytes), at


def _fields(message: bytes) -> Fields:
    """The values of a protocol buffer by field number: integers without a sign, all others as bytes."""
    found: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
        else:
            # Kind 2 states its size. An unknown kind gets a size that no message has.
            num_bytes, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, len(message)), at)
            value = message[at : at + num_bytes]
            if len(value) < num_bytes:
                raise _damaged("a message that is cut off or has a value of an unknown kind")
            at += num_bytes
            value = value if kind == 2 else int.from_bytes(value, "little")
        found.setdefault(tag >> 3, []).append(value)
    return found


def _number(fields: Fields, number: int) -> int:
    """An integer field, with a sign as in all of these messages; 0 if it is missing."""
    value = fields.get(number, [0])[-1]
    if isinstance(value, bytes):
        raise _damaged(f"no number in field {number}")
    return value - (1 << 64) if value >> 63 else value


def _messages(fields: Fields, number: int) -> list[bytes]:
    """All values of a field of messages."""
    values = fields.get(number, [])
    found = [value for value in values if isinstance(value, bytes)]
    if len(found) < len(values):
        raise _damaged(f"no message in field {number}")
    return found


def _message(fields: Fields, number: int) -> bytes:
    """The message in a field. Several values of the field are parts of one message."""
    return b"".join(_messages(fields, number))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer in at most ten groups of seven bits, and where the next value begins."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128 and value < 1 << 64:
            return value, at + place + 1
    raise _damaged("a number that is cut off or too long")


def _damaged(what: str) -> Unreadable:
    return Unreadable(f"it is damaged: it has {what}. Fetch it again.")
