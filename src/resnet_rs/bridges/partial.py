"""A large file that arrives piece by piece, perhaps over many attempts: it gets its name when it is whole and verified.

    weights.pth                 the file
    weights.pth.json            its size, time and hashes when it was verified; hashed anew only if it has changed
    weights.pth.partial         what has arrived
    weights.pth.partial.json    of which version that is, and how much of it is safe on the disk
    lock                        one process at a time

Source: ours.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from resnet_rs import storage

_LABELS = {"size": "size in bytes", "sha256": "SHA-256", "md5": "MD5"}
_CHUNK = 1 << 20
_BETWEEN_COMMITS = 16 << 20
"""Bytes; at most so many arrive again after a power cut."""


class NotStored(OSError):
    """A file for which the disk has no room, or which cannot be written for another reason; the message says which."""


class Partial:
    """The first bytes of what will be the file `target`, and what is known of the version they are of."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.partial")
        self.num_bytes = 0
        self.total: int | None = None
        """Bytes of the whole file, if they are known."""
        self.validator: str | None = None
        """By which a server knows the version again."""
        self._target = target
        self._descriptor = -1
        self._num_committed = 0
        match _read_note(self.path):
            case {"bytes": int(num), "total": int() | None as total, "validator": str() | None as validator}:
                # Later bytes than those that were flushed may be anything after a power cut.
                if 0 <= num <= _size(self.path):
                    self.num_bytes, self.total, self.validator = num, total, validator
            case _:
                pass

    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self.num_bytes == self.total

    def is_continuable(self) -> bool:
        """Whether a server can be asked for the rest alone."""
        return self.num_bytes > 0 and self.validator is not None

    @contextmanager
    def opened(self, *, begin: int, total: int | None, validator: str | None) -> Generator[None]:
        """Take what follows byte `begin` within the block; at its end, however it ends, that is on the disk."""
        with storing(self.path):
            _refuse_without_room(self.path, total)
            if begin:
                storage.disk.cut(self.path, begin)
            self._descriptor = (storage.disk.extend if begin else storage.disk.create)(self.path)
        self.num_bytes, self.total, self.validator = begin, total, validator
        try:
            with storing(self.path):
                self._commit()  # before the first byte, so that an old note never speaks of new bytes
            yield
        except BaseException:
            with suppress(OSError):
                self._commit()
            raise
        else:
            with storing(self.path):
                self._commit()
        finally:
            os.close(self._descriptor)

    def write(self, chunk: bytes) -> None:
        """Add `chunk`."""
        with storing(self.path):
            storage.disk.write(self._descriptor, chunk)
            self.num_bytes += len(chunk)
            if self.num_bytes - self._num_committed >= _BETWEEN_COMMITS:
                self._commit()

    def finish(self, found: Mapping[str, Any]) -> None:
        """Make this the file, for good; `found` is what was found when it was examined."""
        with storing(self._target):
            storage.disk.rename(self.path, self._target)
            storage.disk.sync_folder(self._target.parent)
            _remove(_note(self.path))
        _remember(self._target, found)

    def drop(self) -> None:
        """Remove what has arrived."""
        with storing(self.path):
            _remove(_note(self.path))
            _remove(self.path)
        self.num_bytes, self.total, self.validator = 0, None, None

    def _commit(self) -> None:
        storage.disk.sync(self._descriptor)
        known = {"bytes": self.num_bytes, "total": self.total, "validator": self.validator}
        storage.write_json(_note(self.path), known)
        self._num_committed = self.num_bytes


def fault(path: Path, expected: Mapping[str, Any]) -> str | None:
    """What is wrong with the file at `path`; None if it is as `expected`, or of the content it was verified with.

    `expected` holds what is known of `size`, `sha256` and `md5`. If it has no hash, a file that was never examined is
    taken as it is, and held to its present content from then on.
    """
    if not path.is_file():
        return "it is missing"
    note = _read_note(path)
    if note.items() >= _stamp(path).items() and note.items() >= expected.items():
        return None
    if "sha256" in note and not {"sha256", "md5"} & expected.keys():
        expected = {**expected, "sha256": note["sha256"]}
    found, wrong = examined(path, expected)
    if wrong is None:
        _remember(path, found)
    return wrong


def examined(path: Path, expected: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Size, time and hashes of a file, and what of them is not as `expected`."""
    # MD5 is asked for what it can do, to find damage; where it is forbidden for secrets it is allowed for that.
    kinds = {"sha256", *expected} - {"size"}
    digests = {kind: hashlib.new(kind, usedforsecurity=kind != "md5") for kind in kinds}
    found = _stamp(path)
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            for digest in digests.values():
                digest.update(chunk)
    found |= {kind: digest.hexdigest() for kind, digest in digests.items()}
    wrong = [
        f"its {_LABELS[kind]} is {found[kind]}, expected {value}"
        for kind, value in expected.items()
        if found[kind] != value
    ]
    return found, "; ".join(wrong) or None


@contextmanager
def turn(path: Path, *, seconds: float) -> Generator[None]:
    """Be the only process that makes the file at `path` within the block; waits for another as long as it gets on.

    Raises `storage.InUse` if nothing more has arrived there for `seconds`.
    """
    partial = Partial(path).path
    with ExitStack() as stack:
        seen, deadline = -1, 0.0
        while True:
            try:
                with storing(path):
                    storage.make_folders(path.parent)
                    stack.enter_context(storage.locked(path.parent))
                break
            except storage.InUse:
                if (size := _size(partial)) != seen:
                    seen, deadline = size, time.monotonic() + seconds
                elif time.monotonic() > deadline:
                    raise
        yield


@contextmanager
def storing(path: Path) -> Generator[None]:
    """Say of errors of the disk within the block what they mean for the file at `path`."""
    try:
        yield
    except NotStored:
        raise
    except OSError as error:
        cure = "Mend that or choose another cache with RESNET_RS_CACHE; what has arrived is continued"
        raise NotStored(f"cannot store {path}: {error.strerror or error}. {cure}.") from error


def _refuse_without_room(path: Path, total: int | None) -> None:
    needed, free = (total or 0) - _size(path), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"{needed:,} more bytes are needed, but {os.strerror(errno.ENOSPC)}: {free:,} are free",
        )


def _stamp(path: Path) -> dict[str, Any]:
    """By which it is seen that a file has changed."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_note(path: Path) -> dict[str, Any]:
    """What was noted of the file at `path`; nothing, if that is damaged or missing."""
    with suppress(OSError, ValueError):
        note = storage.read_json(_note(path))
        return note if isinstance(note, dict) else {}
    return {}


def _remember(path: Path, found: Mapping[str, Any]) -> None:
    """Note what was found, where we may; else it is found again the next time."""
    with suppress(OSError):
        storage.write_json(_note(path), found)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        storage.disk.remove(path)
