"""`Cached`: a source whose large decoded images are kept in files, so that they are not decoded in every epoch.

A cached image has exactly the pixels that the source gives, so no result depends on the cache. Each file holds a CRC-32
of its content and of what it was made from: the sample's key, the size and time of its file, and the request. A file
that does not match is made anew, so a killed process, a damaged file or a changed image never gives wrong pixels.

The files are written without flushing, because they can be made again. Worker processes share them, and the system
keeps them in memory while there is room.
"""

from __future__ import annotations

import math
import os
import shutil
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from resnet_rs import storage
from resnet_rs.data.sample import Request, Sample
from resnet_rs.data.source import Source, WrappedSource

_FEWEST_BYTES = 1 << 16
"""Smaller images are decoded about as fast as a file is opened."""
_MOST_BYTES = 4 << 30
"""Size limit of the cached images of a source."""
_SHARE_OF_FREE = 0.2
"""Fraction of the free disk space that a cache may take."""
_NUM_LOOKED_AT = 8
"""Samples whose `stamp` is looked at. They are several, because the file of one may be missing."""
_given_up = set[Path]()
"""Folders that this process could not write to."""


@dataclass(frozen=True, kw_only=True)
class Cached(WrappedSource):
    """`source`, with its decoded images kept in `folder`, which must exist."""

    folder: Path
    num_bytes: int
    """Size limit of the folder. An image is kept only if as many of its size as there are samples are within it."""

    def read(self, index: int, request: Request) -> Sample:
        stamp = None if request.frames is not None else self.source.stamp(index)
        target = self.source.target(index)
        if stamp is None or target is None:
            return self.source.read(index, request)
        made_from = f"{self.key(index)}\0{stamp}\0{request.channels}\0{request.max_short_side}".encode(
            "utf-8", "surrogateescape"
        )
        path = self.folder / str(index)
        pixels = _read(path, made_from)
        if pixels is not None:
            return Sample(pixels, target, self.key(index))
        sample = self.source.read(index, request)
        size = sample.input.nbytes
        is_small_enough = size * len(self) <= self.num_bytes
        if size >= _FEWEST_BYTES and is_small_enough and self.folder not in _given_up:
            _write(path, sample.input, made_from)
        return sample


def cached(source: Source, folder: Path) -> Source:
    """`source` with a cache in `folder`, which is made if it is missing.

    It is `source` itself if its samples are not decoded from files, or if the folder cannot be used.
    """
    if all(source.stamp(i) is None for i in range(min(_NUM_LOOKED_AT, len(source)))):
        return source
    try:
        storage.make_folders(folder)
        num_bytes = min(_MOST_BYTES, int(_SHARE_OF_FREE * shutil.disk_usage(folder).free))
    except OSError as error:
        _give_up(folder, error)
        return source
    return Cached(source=source, folder=folder, num_bytes=num_bytes)


def _read(path: Path, made_from: bytes) -> UInt8[np.ndarray, "H W C"] | None:
    """The image in a file; None if there is no such file, or if it holds anything else."""
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return None
    checksum, shape, pixels = content[:4], content[4:16], content[16:]
    if len(shape) < 12 or bytes(checksum) != _checksum(made_from, content[4:]):
        return None
    sides = np.frombuffer(shape, "<u4").tolist()
    return np.frombuffer(pixels, np.uint8).reshape(sides) if math.prod(sides) == len(pixels) else None


def _write(path: Path, pixels: UInt8[np.ndarray, "H W C"], made_from: bytes) -> None:
    """Write the image, whole or not at all; a warning if that fails."""
    content = np.array(pixels.shape, "<u4").tobytes() + pixels.tobytes()
    partial = path.with_name(f"{storage.PARTIAL}{path.name}-{os.getpid()}")
    try:
        descriptor = storage.disk.create(partial)
        try:
            storage.disk.write(descriptor, _checksum(made_from, content) + content)
        finally:
            os.close(descriptor)
        storage.disk.rename(partial, path)
    except OSError as error:
        with suppress(OSError):
            storage.disk.remove(partial)
        _give_up(path.parent, error)


def _checksum(made_from: bytes, content: bytes | memoryview) -> bytes:
    return zlib.crc32(content, zlib.crc32(made_from)).to_bytes(4, "little")


def _give_up(folder: Path, error: OSError) -> None:
    """Keep no more images of this process in `folder`, and say so."""
    _given_up.add(folder)
    warnings.warn(
        f"decoded images cannot be kept in {folder}: {error.strerror}. Training goes on, but slower, because "
        "images are decoded anew in every epoch. Free some space, or check the permissions.",
        stacklevel=2,
    )
