"""TensorFlow checkpoints (`PREFIX.index`, `PREFIX.data-00000-of-00001`) -> arrays, without TensorFlow.

`tf.compat.v1.train.Saver` and `tf.train.Checkpoint` write this format, a tensor bundle. Its index (`bundle_index.py`)
tells the data file (shard), place and checksum of each variable.

Every number is checked before it is used, and every variable before it is returned. A forged file cannot take much more
memory than its size; a compressed one not more than `MAX_BYTES`.

Source: the format as TensorFlow's `tensor_bundle.proto` and `tensor_bundle.cc` define it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from resnet_rs.bridges.archive import ENDINGS, Files, Unreadable, is_archive, naming
from resnet_rs.bridges.bundle_index import ITEM_BYTES, Entry, entries, extend_crc, masked_crc
from resnet_rs.text import listed, quoted, require

MAX_BYTES = 1 << 32
"""Largest variable that is read."""

_INDEX = ".index"
_MAX_INDEX = 1 << 26
_LATEST = "checkpoint"
"""The text file in which TensorFlow records the newest checkpoint of a folder."""
_NAMED = re.compile(r'^[ \t]*model_checkpoint_path[ \t]*:[ \t]*"([^"\n]*)"', re.MULTILINE)


class TensorBundle:
    """The variables of the checkpoint at a path: a prefix, an index file, or a folder or archive with one checkpoint.

    Of several checkpoints in a folder, it is the one that the text file `checkpoint` names. Raises `ValueError` for a
    checkpoint that is damaged or not supported, and `FileNotFoundError` for a missing file.
    """

    def __init__(self, path: Path) -> None:
        require("google_crc32c", extra="convert", what="a TensorFlow checkpoint")
        place, prefix = _locate(path)
        self._files = Files.of(place)
        with naming(f"{place}"):
            self.prefix = _choose(self._files) if prefix is None else prefix
        index = self.prefix + _INDEX
        with naming(f"{place}/{index}"):
            self._num_shards, self.entries = entries(_content(self._files, index))
        for name in self.entries:
            self._check_place(name)
        self.shapes = {name: entry.shape for name, entry in self.entries.items()}

    @property
    def sources(self) -> list[Path]:
        """The files that it is read from: an archive, or an index and its data files."""
        folder = self._files.path
        if not folder.is_dir():
            return [folder]
        shards = sorted({self._shard(name) for name in self.entries})
        return [folder / name for name in (self.prefix + _INDEX, *shards)]

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Variables with their names, one at a time, in the order of the files; bfloat16 as float32.

        Raises `ValueError` for a variable of a kind that is not supported, before any is read, and for one whose bytes
        have changed since they were written.
        """
        names = sorted(names, key=self._position)
        for name in names:
            self._check_readable(name)
        with ExitStack() as stack:
            with naming(f"{self._files.path}"):
                read = stack.enter_context(self._files.reading())
            for name in names:
                shard, entry = self._shard(name), self.entries[name]
                with naming(f"{quoted(name)} of {self._files.path}/{shard}"):
                    array = _array(read(shard, entry.offset, entry.num_bytes), entry)
                yield name, array

    def _shard(self, name: str) -> str:
        """The data file that holds a variable."""
        return f"{self.prefix}.data-{self.entries[name].shard:05d}-of-{self._num_shards:05d}"

    def _position(self, name: str) -> tuple[int, str, int]:
        """Sort key of variables, in the order in which reading never goes back."""
        shard = self._shard(name)
        return self._files.parts[shard].start, shard, self.entries[name].offset

    def _check_place(self, name: str) -> None:
        """Refuse a variable outside of the files."""
        shard, entry = self._shard(name), self.entries[name]
        if shard not in self._files.parts:
            raise FileNotFoundError(
                f"{self._files.path}/{shard} is missing, which holds {quoted(name)}. It belongs beside "
                f"{self.prefix}{_INDEX}; fetch it too."
            )
        num_bytes, end = self._files.parts[shard].num_bytes, entry.offset + entry.num_bytes
        if end > num_bytes:
            raise ValueError(
                f"{self._files.path}/{shard} has {num_bytes} bytes, but {quoted(name)} in it ends at {end}. It is cut "
                "off, or belongs to another checkpoint; fetch it again."
            )

    def _check_readable(self, name: str) -> None:
        """Refuse a variable of a kind that is not supported."""
        entry = self.entries[name]
        with naming(f"{quoted(name)} of {self._files.path}/{self.prefix}"):
            if entry.dtype not in ITEM_BYTES:
                raise Unreadable(f"it holds {entry.dtype}; expected one of {', '.join(sorted(ITEM_BYTES))}.")
            if entry.num_slices:
                raise Unreadable(
                    f"it is stored in {entry.num_slices} slices, which is not supported. Save it in TensorFlow "
                    "without a partitioner."
                )
            # numpy multiplies the sizes of an array without a 0 among them.
            if math.prod(size or 1 for size in entry.shape) * ITEM_BYTES[entry.dtype] > MAX_BYTES:
                raise Unreadable(f"its shape is {entry.shape}; expected at most {MAX_BYTES:,} bytes.")


def _locate(path: Path) -> tuple[Path, str | None]:
    """The folder or archive, and the prefix in it if `path` tells it."""
    if path.name.endswith(_INDEX) and path.is_file():
        return path.parent, path.name.removesuffix(_INDEX)
    if Path(f"{path}{_INDEX}").is_file():
        return path.parent, path.name
    if path.is_dir() or is_archive(path):
        return path, None
    kind = ValueError if path.exists() else FileNotFoundError
    raise kind(
        f"{path} is no TensorFlow checkpoint. Expected a prefix, such as model.ckpt if there is a model.ckpt{_INDEX}, "
        f"an {_INDEX} file, or a folder or archive ({', '.join(ENDINGS)}) that holds one."
    )


def _choose(files: Files) -> str:
    """The prefix of the only checkpoint in a folder or archive, or of the one that `checkpoint` names."""
    names = {name: name.rpartition("/") for name in files.parts}
    prefixes = sorted(
        name.removesuffix(_INDEX)
        for name, (_, _, last) in names.items()
        # macOS puts a file ._NAME with attributes beside each file of an archive.
        if last.endswith(_INDEX) and not last.startswith("._")
    )
    if not prefixes:
        raise FileNotFoundError(
            f"{files.path} holds no TensorFlow checkpoint: expected a file that ends in {_INDEX}, and its data."
        )
    if len(prefixes) == 1:
        return prefixes[0]
    latest = {
        # The recorded folder is that of the machine on which it was written.
        "".join([folder, slash, re.split(r"[/\\]", found)[-1]])
        for name, (folder, slash, last) in names.items()
        if last == _LATEST
        for found in _NAMED.findall(_content(files, name).decode(errors="replace"))
    }
    chosen = latest.intersection(prefixes)
    if len(chosen) != 1:
        advice = "Give one of them" if files.path.is_dir() else "Unpack it, and give one of them"
        raise Unreadable(f"it holds several checkpoints: {listed(prefixes)}. {advice}.")
    return chosen.pop()


def _content(files: Files, name: str) -> bytes:
    """An index, or the text file `checkpoint`."""
    num_bytes = files.parts[name].num_bytes
    if num_bytes > _MAX_INDEX:
        raise Unreadable(f"{name} in it has {num_bytes:,} bytes, expected at most {_MAX_INDEX:,}.")
    with files.reading() as read:
        return b"".join(read(name, 0, num_bytes))


def _array(pieces: Iterator[bytes], entry: Entry) -> np.ndarray:
    """A variable from its bytes, whose checksum is compared first."""
    content, crc = bytearray(), 0
    for piece in pieces:
        crc = extend_crc(crc, piece)
        content += piece
    if masked_crc(crc) != entry.crc:
        raise Unreadable("its checksum is wrong: it has changed since it was written. Fetch it again.")
    stored = {"bfloat16": "uint16", "bool": "uint8"}.get(entry.dtype, entry.dtype)
    array = np.ndarray(entry.shape, dtype=np.dtype(stored).newbyteorder("<"), buffer=content)
    if entry.dtype == "bfloat16":  # the upper half of a float32
        array = array.astype(np.uint32)
        array <<= 16
        return array.view(np.float32)
    return array.astype(bool) if entry.dtype == "bool" else array
