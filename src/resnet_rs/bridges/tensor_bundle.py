"""TensorFlow checkpoints (`PREFIX.index`, `PREFIX.data-00000-of-00001`) -> arrays, without TensorFlow.

Such a checkpoint, a "tensor bundle", is what `tf.compat.v1.train.Saver` and `tf.train.Checkpoint` write: an index
(`bundle_index.py`) that says where in which data file (shard) the bytes of each variable are, and their checksum.

Nothing here runs what it reads. Every number of a file is checked before it is used, every variable before it is
returned; a forged file cannot ask for much more memory than it has bytes, a compressed one not for more than
`MAX_BYTES`.

Source: the format as TensorFlow's `tensor_bundle.proto` and `tensor_bundle.cc` define it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from resnet_rs.bridges.archive import ENDINGS, Files, Unreadable, is_archive, naming
from resnet_rs.bridges.bundle_index import ITEM_BYTES, Entry, Extend, entries, masked
from resnet_rs.text import listed, quoted

MAX_BYTES = 1 << 32
"""Of one variable."""

_INDEX = ".index"
_MAX_INDEX = 1 << 26
_LATEST = "checkpoint"
"""The text file in which TensorFlow notes the newest checkpoint of a folder."""
_NAMED = re.compile(r'^\s*model_checkpoint_path\s*:\s*"([^"\n]*)"', re.MULTILINE)
_MAX_LATEST = 1 << 20
_MAX_CLOSEST = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorBundle:
    """The variables of one checkpoint, read when they are asked for."""

    files: Files
    """The folder or archive that holds it."""
    prefix: str
    """What the names of its files begin with; in an archive with the folders before it."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of all variables, sorted by name; also of those that cannot be read."""
    dtypes: Mapping[str, str]
    """As TensorFlow calls them, such as `float32`, `bfloat16` or `string`."""
    _entries: Mapping[str, Entry] = field(repr=False)
    _num_shards: int = field(repr=False)

    @property
    def sources(self) -> list[Path]:
        """The files that it is read from: an archive, or an index and its data files."""
        if not self.files.path.is_dir():
            return [self.files.path]
        shards = sorted({self._shard(name) for name in self._entries})
        return [self.files.path / name for name in (self.prefix + _INDEX, *shards)]

    @staticmethod
    def open(path: Path) -> TensorBundle:
        """The checkpoint at `path`: a prefix, an index file, or a folder or archive that holds one checkpoint.

        Of several it is that which the text file `checkpoint` beside them names. Raises `ValueError` for what is
        damaged or not supported, and `FileNotFoundError` for what is missing.
        """
        extend = _crc32c()
        place, prefix = _locate(path)
        files = Files.of(place)
        if prefix is None:
            with naming(f"{place}"):
                prefix = _choose(files)
        index = prefix + _INDEX
        with naming(f"{place}/{index}"):
            if files.parts[index].num_bytes > _MAX_INDEX:
                raise Unreadable(f"expected an index of at most {_MAX_INDEX:,} bytes.")
            num_shards, found = entries(_content(files, index), extend)
        bundle = TensorBundle(
            files=files,
            prefix=prefix,
            shapes=MappingProxyType({name: entry.shape for name, entry in found.items()}),
            dtypes=MappingProxyType({name: entry.dtype for name, entry in found.items()}),
            _entries=found,
            _num_shards=num_shards,
        )
        for name in found:
            bundle._check_place(name)
        return bundle

    def read(self, name: str) -> np.ndarray:
        """One variable; bfloat16 as float32. To read many of a compressed archive, `read_many` is much faster."""
        [(_, array)] = self.read_many([name])
        return array

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Variables with their names, one at a time, in the order in which the files hold them.

        Raises `ValueError` at once if one of the names is not there or cannot be read; and when the turn of a variable
        comes whose bytes are not those that were written.
        """
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            self._check_readable(name)
        return self._arrays(sorted(wanted, key=self._position))

    def _arrays(self, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        extend = _crc32c()
        with ExitStack() as stack:
            with naming(f"{self.files.path}"):
                read = stack.enter_context(self.files.reading())
            for name in names:
                shard, entry = self._shard(name), self._entries[name]
                with naming(f"{quoted(name)} of {self.files.path}/{shard}"):
                    array = _array(read(shard, entry.offset, entry.num_bytes), entry, extend)
                yield name, array

    def _shard(self, name: str) -> str:
        """The data file that holds a variable."""
        return f"{self.prefix}.data-{self._entries[name].shard:05d}-of-{self._num_shards:05d}"

    def _position(self, name: str) -> tuple[int, str, int]:
        """What variables are sorted by, so that all seeks go forward."""
        shard = self._shard(name)
        return self.files.parts[shard].start, shard, self._entries[name].offset

    def _check_place(self, name: str) -> None:
        """Refuse a variable that lies outside of the files that are there."""
        shard, entry = self._shard(name), self._entries[name]
        if shard not in self.files.parts:
            raise FileNotFoundError(
                f"{self.files.path}/{shard} is missing, in which {quoted(name)} is. It belongs beside "
                f"{self.prefix}{_INDEX}; fetch it, too."
            )
        num_bytes, end = self.files.parts[shard].num_bytes, entry.offset + entry.num_bytes
        if end > num_bytes:
            raise ValueError(
                f"{self.files.path}/{shard} has {num_bytes} bytes, but {quoted(name)} in it ends at {end}. It is cut "
                "off, or of another checkpoint; fetch it again."
            )

    def _check_readable(self, name: str) -> None:
        """Refuse a variable that is not there, or that this reader does not know how to read."""
        label = f"{self.files.path}/{self.prefix}"
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=_MAX_CLOSEST)
            has = f"Closest: {listed(near)}." if near else f"It has {listed(list(self._entries))}."
            raise ValueError(f"{quoted(name)} is not in {label}. {has}")
        entry = self._entries[name]
        with naming(f"{quoted(name)} of {label}"):
            if entry.dtype not in ITEM_BYTES:
                raise Unreadable(f"it holds {entry.dtype}; expected one of {', '.join(sorted(ITEM_BYTES))}.")
            if entry.num_slices:
                raise Unreadable(
                    f"it is partitioned into {entry.num_slices} slices, which are not joined here. Save it in "
                    "TensorFlow without a partitioner."
                )
            # An array with a 0 in its shape has no bytes, yet numpy multiplies the others.
            if math.prod(size or 1 for size in entry.shape) * ITEM_BYTES[entry.dtype] > MAX_BYTES:
                raise Unreadable(f"its shape is {entry.shape}; expected at most {MAX_BYTES:,} bytes.")


def _crc32c() -> Extend:
    try:
        import google_crc32c  # pyright: ignore[reportMissingImports]: an extra
    except ImportError:
        raise ValueError(
            "reading TensorFlow checkpoints needs google-crc32c, which is not installed. Install it with "
            "`pip install resnet-rs[convert]`."
        ) from None
    return google_crc32c.extend


def _locate(path: Path) -> tuple[Path, str | None]:
    """The folder or archive that is meant, and the prefix in it, if `path` says that."""
    if path.name.endswith(_INDEX) and path.is_file():
        return path.parent, path.name.removesuffix(_INDEX)
    if Path(f"{path}{_INDEX}").is_file():
        return path.parent, path.name
    if path.is_dir() or is_archive(path):
        return path, None
    kind = ValueError if path.exists() else FileNotFoundError
    raise kind(
        f"{path} is no TensorFlow checkpoint: expected the prefix of one, such as model.ckpt where there is "
        f"model.ckpt{_INDEX}, or its {_INDEX} file, or a folder or archive ({', '.join(ENDINGS)}) that holds one."
    )


def _choose(files: Files) -> str:
    """The prefix of the one checkpoint in a place, or of that which `checkpoint` names."""
    names = {name: name.rpartition("/") for name in files.parts}
    prefixes = sorted(
        name.removesuffix(_INDEX)
        for name, (_, _, last) in names.items()
        # Archives made on a Mac hold a file ._NAME of attributes beside each.
        if last.endswith(_INDEX) and not last.startswith("._")
    )
    if not prefixes:
        raise FileNotFoundError(
            f"{files.path} holds no TensorFlow checkpoint: expected a file that ends in {_INDEX}, and its data."
        )
    latest = {
        # The folder is one of another machine.
        "".join([folder, slash, re.split(r"[/\\]", found)[-1]])
        for name, (folder, slash, last) in names.items()
        if last == _LATEST and len(prefixes) > 1
        for found in _NAMED.findall(_content(files, name, at_most=_MAX_LATEST).decode(errors="replace"))
    }
    chosen = prefixes if len(prefixes) == 1 else sorted(latest.intersection(prefixes))
    if len(chosen) != 1:
        advice = "Give one of them" if files.path.is_dir() else "Unpack it, and give one of them"
        raise Unreadable(f"it holds several checkpoints: {listed(prefixes)}. {advice}.")
    return chosen[0]


def _content(files: Files, name: str, *, at_most: int = _MAX_INDEX) -> bytes:
    """The beginning of a small file, as a rule all of it."""
    with files.reading() as read:
        return b"".join(read(name, 0, min(files.parts[name].num_bytes, at_most)))


def _array(pieces: Iterator[bytes], entry: Entry, extend: Extend) -> np.ndarray:
    """A variable, made of its bytes after they are checked."""
    content, crc = bytearray(), 0
    for piece in pieces:
        crc = extend(crc, piece)
        content += piece
    if masked(crc) != entry.crc:
        raise Unreadable("its checksum is wrong: it has changed since it was written. Fetch it again.")
    stored = {"bfloat16": "uint16", "bool": "uint8"}.get(entry.dtype, entry.dtype)
    array = np.ndarray(entry.shape, dtype=np.dtype(stored).newbyteorder("<"), buffer=content)
    if entry.dtype == "bfloat16":  # the upper half of a float32
        array = array.astype(np.uint32)
        array <<= 16
        return array.view(np.float32)
    return array.astype(bool) if entry.dtype == "bool" else array
