"""Folders that are written whole or not at all, and files that prove they are what was written.

A folder is filled under a temporary name beside its final place. Every file is flushed to the disk, a manifest with the
size and SHA-256 of each file is written last, and only then is the folder renamed. So a reader sees the whole folder or
nothing, also after a crash or a power cut.

Every operation that changes a file, except the lock, goes through `disk`: tests make it fail, kill the process or cut
the power before and after each operation.

Source: ours. timm, torchvision and torchtitan load a checkpoint with a flipped bit without an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from resnet_rs.text import MAX_WORD, unique_keys

MANIFEST = "manifest.json"
LOCK = "lock"
HOLDER = "lock.holder"
"""File that names the process which holds the lock; it exists while the lock is held."""
PARTIAL = ".partial-"
"""Prefix of the names of files and folders that are being written or removed."""
_SECONDS_FOR_LOCK = 0.5
"""Children of a process that was killed a moment ago may hold its lock a moment longer."""


class Damaged(ValueError):
    """A folder differs from what was written; the message names the file and the reason."""


class InUse(ValueError):
    """Another process holds the folder; the message names that process."""


class Disk:
    """The operations that change files, one system call each."""

    def create(self, path: Path) -> int:
        """A descriptor of a new, empty file; an existing file is truncated."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)

    def extend(self, path: Path) -> int:
        """A descriptor that appends to a file; a missing file is created."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def write(self, descriptor: int, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def cut(self, path: Path, num_bytes: int) -> None:
        """Truncate a file to its first `num_bytes`."""
        os.truncate(path, num_bytes)

    def sync(self, descriptor: int) -> None:
        """Return when the content of the file is on the disk."""
        os.fsync(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Return when the names in a folder are on the disk. Windows cannot open folders and needs no such flush."""
        if os.name == "nt":
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file or folder atomically; an existing file of the new name is replaced."""
        os.replace(old, new)

    def make_folder(self, path: Path) -> None:
        path.mkdir()

    def remove(self, path: Path) -> None:
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        path.rmdir()


disk = Disk()
"""What this module writes through."""


def write_folder(path: Path, files: Iterable[tuple[str, bytes]], *, is_sealed: bool = True) -> None:
    """Write a folder of `files`, given as name and content; it appears at `path` with its manifest, or not at all.

    `is_sealed=False` leaves the manifest out, for folders that users may change. When this returns, the folder is on
    the disk. Raises `OSError` if that failed; nothing is left then, unless only the last flush failed.
    """
    if path.exists():
        raise FileExistsError(
            f"{path} exists already. A stored folder is never changed; choose another name."
        )
    partial = path.with_name(f"{PARTIAL}{path.name}")
    make_folders(path.parent)
    remove_tree(partial)
    try:
        disk.make_folder(partial)
        listed: dict[str, dict[str, Any]] = {}
        for name, content in files:
            _write_through(partial / name, content)
            listed[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if is_sealed:
            _write_through(partial / MANIFEST, manifest(listed))
        disk.sync_folder(partial)
        disk.rename(partial, path)
    except BaseException:
        with suppress(OSError):
            remove_tree(partial)
        raise
    disk.sync_folder(path.parent)


def manifest(listed: Mapping[str, Mapping[str, Any] | None]) -> bytes:
    """The manifest of files with these sizes and hashes, with a hash of the list itself."""
    seal = hashlib.sha256(json.dumps(listed, indent=2).encode()).hexdigest()
    # Without a newline at the end, the text is invalid JSON wherever it is cut.
    return json.dumps({"files": listed, "sha256": seal}, indent=2).encode()


def make_folders(path: Path) -> None:
    """Make a folder and its missing parents; when this returns, they are on the disk."""
    if path.is_dir():
        return
    make_folders(path.parent)
    with suppress(FileExistsError):
        disk.make_folder(path)
    disk.sync_folder(path.parent)


def is_vacant(folder: Path, *, but: Collection[str] = ()) -> bool:
    """Whether `folder` can be used: it is missing, or holds only its lock, partial files, and files called `but`."""
    if not folder.exists():
        return True
    return all(f.name in (LOCK, HOLDER, *but) or f.name.startswith(PARTIAL) for f in folder.iterdir())


def remove_tree(path: Path) -> None:
    """Remove a file or folder, if it exists. A folder is renamed first, so no reader sees a part of it."""
    if path.is_dir() and not path.is_symlink():
        if not path.name.startswith(PARTIAL):
            partial = path.with_name(f"{PARTIAL}removed-{path.name}")
            remove_tree(partial)
            disk.rename(path, partial)
            path = partial
        for child in path.iterdir():
            remove_tree(child)
        disk.remove_folder(path)
    elif os.path.lexists(path):
        disk.remove(path)


def remove_leftovers(folder: Path) -> None:
    """Remove the partial files that a killed process left in `folder`."""
    for path in folder.glob(f"{PARTIAL}*"):
        remove_tree(path)


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by `value` as JSON, atomically: a reader sees the old or the new content."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """`value` as the text of a JSON file."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`, atomically."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, atomically; when this returns, it is on the disk."""
    partial = path.with_name(f"{PARTIAL}{path.name}")
    try:
        _write_through(partial, content)
        disk.rename(partial, path)
    except OSError:
        with suppress(OSError):
            disk.remove(partial)
        raise
    disk.sync_folder(path.parent)


def read_json(path: Path, *, needs: Collection[str] = ()) -> Any:
    """The value of a JSON file. With `needs`, it must be an object that has these keys."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is not valid JSON: {error}.") from None
    missing = [key for key in needs if not isinstance(value, dict) or key not in value]
    if missing:
        raise Damaged(f"{path} lacks {', '.join(missing)}: resnet-rs did not write it, or it has changed.")
    return value


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def verify(folder: Path) -> None:
    """Check every file of `folder` against its manifest.

    Raises `Damaged` for a file that is missing, of another size or content, or not in the manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise Damaged(f"{folder} has no {MANIFEST}: resnet-rs did not write it, or not completely.")
    listed = _listed_files(path)
    there = {file.name for file in folder.iterdir()} - {MANIFEST}
    for name in sorted(there ^ listed.keys()):
        reason = "is not in the manifest of its folder" if name in there else "is missing"
        raise Damaged(f"{folder / name[:MAX_WORD]} {reason}.")
    for name, expected in sorted(listed.items()):
        file = folder / name
        if not file.is_file():
            raise Damaged(f"{file} is not a file.")
        if file.stat().st_size != expected["bytes"]:
            raise Damaged(f"{file} has {file.stat().st_size} bytes, expected {expected['bytes']}.")
        if file_sha256(file) != expected["sha256"]:
            raise Damaged(f"{file} has changed since it was written: its SHA-256 differs from the manifest.")


@contextmanager
def locked(folder: Path, *, seconds: float = _SECONDS_FOR_LOCK) -> Generator[None]:
    """Hold `folder` for this process within the block; another process is waited for at most `seconds`.

    Raises `InUse` with the name of the process that holds the folder. The system frees the lock when its process ends,
    however it ends.
    """
    import filelock  # here, since most commands lock nothing

    lock = filelock.FileLock(folder / LOCK, timeout=seconds)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InUse(
            f"{folder} is in use by {_holder(folder)}. Wait until it ends, stop it, or choose another folder."
        ) from None
    try:
        with suppress(OSError):  # a full disk has no room for the name, and the lock works without it
            (folder / HOLDER).write_text(f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink()
        lock.release()


def _holder(folder: Path) -> str:
    with suppress(OSError):
        return (folder / HOLDER).read_text(errors="replace")[:1000] or "another process"
    return "another process"


def _write_through(path: Path, content: bytes) -> None:
    """Write a file whose content is on the disk when this returns."""
    descriptor = disk.create(path)
    try:
        disk.write(descriptor, content)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)


def _listed_files(path: Path) -> dict[str, dict[str, Any]]:
    """What a manifest says: the size and the hash of each file."""
    listed = read_json(path, needs=("files",))["files"]
    if not isinstance(listed, dict) or not all(map(_is_entry, listed.values())):
        raise Damaged(f"{path} does not list files: resnet-rs did not write it, or it has changed.")
    # Compared as bytes, so that even a changed space is found.
    if path.read_bytes() != manifest(listed):
        raise Damaged(f"{path} has changed since it was written.")
    return listed


def _is_entry(value: object) -> bool:
    """Whether `value` is what a manifest says of a file."""
    if not isinstance(value, dict) or value.keys() != {"bytes", "sha256"}:
        return False
    return type(value["bytes"]) is int and type(value["sha256"]) is str


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
