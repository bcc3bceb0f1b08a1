"""Folders that are written whole or not at all, and files that prove they are what was written.

A folder is filled under a temporary name beside its place, every file is flushed to the disk, a manifest with
the size and SHA-256 of each is written last, and only then is it renamed. Whoever sees the folder sees all of
it, after a crash or a power cut too.

Every operation that changes a file, but for the lock, goes through `disk`, so that tests can fail it, or kill the
process or cut the power before and after it.

Source: ours. No peer verifies what it loads: one flipped bit in a checkpoint loads without an error
elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import time
from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

MANIFEST = "manifest.json"
LOCK = "lock"
PARTIAL = ".partial-"
"""Begins the names of what is being written or removed."""
_CHUNK = 1 << 20
_SECONDS_FOR_LOCK = 0.5
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems say that have no such locks."""


class Damaged(ValueError):
    """A folder that is not what was written; the message names the file and the reason."""


class InUse(ValueError):
    """A folder that another process holds; the message names it."""


class Disk:
    """The operations that change files, one system call each."""

    def create(self, path: Path) -> int:
        """A descriptor of a new, empty file; an old one of that name is emptied."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)

    def extend(self, path: Path) -> int:
        """A descriptor that writes to the end of a file, which is made if there is none."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def write(self, descriptor: int, content: bytes) -> None:
        """Write all of `content`."""
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def cut(self, path: Path, num_bytes: int) -> None:
        """Drop what follows the first `num_bytes` of a file."""
        os.truncate(path, num_bytes)

    def sync(self, descriptor: int) -> None:
        """Return when the content of the file is on the disk."""
        os.fsync(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Return when the names in a folder are on the disk. Windows cannot open folders, and needs no such flush."""
        if os.name == "nt":
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder another name at once; a file of that name is replaced."""
        os.replace(old, new)

    def make_folder(self, path: Path) -> None:
        """Make an empty folder."""
        path.mkdir()

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()


disk = Disk()
"""What this module writes through."""


def write_folder(path: Path, files: Iterable[tuple[str, bytes]], *, is_sealed: bool = True) -> None:
    """Write a folder of `files`, given as name and content; it appears at `path` with its manifest, or not at all.

    Without the manifest if it is not `is_sealed`, as people may go on to change it.

    When this returns, all of it is on the disk. Raises `OSError` if that failed; unless the very last flush did, no
    trace is left.
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


def manifest(listed: dict[str, dict[str, Any]]) -> bytes:
    """The manifest of files with these sizes and hashes, sealed by a hash of its own."""
    seal = hashlib.sha256(json.dumps(listed, indent=2).encode()).hexdigest()
    # No newline at the end: cut anywhere, the text is no JSON.
    return json.dumps({"files": listed, "sha256": seal}, indent=2).encode()


def make_folders(path: Path) -> None:
    """Make a folder and those above it that are missing, for good."""
    if path.is_dir():
        return
    make_folders(path.parent)
    with suppress(FileExistsError):
        disk.make_folder(path)
    disk.sync_folder(path.parent)


def is_vacant(folder: Path, *, but: Collection[str] = ()) -> bool:
    """Whether `folder` is free to be taken: absent, or nothing in it but a lock, torn files, and files called `but`."""
    if not folder.exists():
        return True
    return all(f.name in (LOCK, *but) or f.name.startswith(PARTIAL) for f in folder.iterdir())


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it; nothing, if there is none.

    It loses its name first, so nobody meets a part of it.
    """
    if path.is_symlink():
        disk.remove(path)
        return
    if not path.is_dir():
        return
    if not path.name.startswith(PARTIAL):
        partial = path.with_name(f"{PARTIAL}removed-{path.name}")
        remove_tree(partial)
        disk.rename(path, partial)
        path = partial
    for child in path.iterdir():
        if child.is_dir() and not child.is_symlink():
            disk.rename(child, child.with_name(f"{PARTIAL}{child.name}"))
            remove_tree(child.with_name(f"{PARTIAL}{child.name}"))
        else:
            disk.remove(child)
    disk.remove_folder(path)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing or removing in `folder`."""
    for path in folder.glob(f"{PARTIAL}*") if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            disk.remove(path)


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by `value` as JSON, at once: a reader sees the old or the new, never a part."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """`value` as the text of a JSON file."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`, at once."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, at once and for good."""
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
    """The value of a JSON file: an object that has the keys `needs`, if any are asked for."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is no JSON that we write: {error}.") from None
    missing = [key for key in needs if not isinstance(value, dict) or key not in value]
    if missing:
        raise Damaged(f"{path} lacks {', '.join(missing)}: it was not written by resnet-rs, or has changed.")
    return value


def verify(folder: Path) -> None:
    """Check every file of `folder` against its manifest.

    Raises `Damaged` for a file that is missing, of another size or content, or not in the manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise Damaged(f"{folder} has no {MANIFEST}: it was not written by resnet-rs, or not completely.")
    listed = _read_manifest(path)
    found = {file.name for file in folder.iterdir()} - {MANIFEST}
    for name in sorted(found - listed.keys()):
        raise Damaged(f"{folder / name} is not in the manifest of its folder.")
    for name, expected in sorted(listed.items()):
        file = folder / name
        if not file.is_file():
            raise Damaged(f"{file} is missing.")
        if file.stat().st_size != expected["bytes"]:
            raise Damaged(f"{file} has {file.stat().st_size} bytes, expected {expected['bytes']}.")
        if _sha256(file) != expected["sha256"]:
            raise Damaged(f"{file} has changed since it was written: its SHA-256 differs from the manifest.")


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold `folder` for this process within the block; raises `InUse`, naming who holds it, if another does.

    The system frees the lock when the process ends, however it ends. Windows and some network file systems have no
    such lock: there two processes are not kept apart.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _try_lock(descriptor):
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace") or "another process"
            raise InUse(
                f"{folder} is in use by {holder}. Wait until it ends, stop it, or choose another folder."
            )
        with suppress(OSError):  # the name is for others to read; a full disk has no room for it
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Take the lock; children of a process that was killed a moment ago may hold theirs for a moment longer."""
    if fcntl is None:
        return True
    deadline = time.monotonic() + _SECONDS_FOR_LOCK
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return True


def _write_through(path: Path, content: bytes) -> None:
    """Write a file whose content is on the disk when this returns."""
    descriptor = disk.create(path)
    try:
        disk.write(descriptor, content)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The files of a manifest, checked against the manifest's own hash."""
    content = read_json(path)
    listed = content.get("files") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not all(_is_entry(entry) for entry in listed.values()):
        raise Damaged(f"{path} is no list of files.")
    # Compared as bytes, so that not even a blank can have changed.
    if path.read_bytes() != manifest(listed):
        raise Damaged(f"{path} has changed since it was written.")
    return listed


def _is_entry(entry: Any) -> bool:
    """Whether a value can be the size and the hash of a file."""
    is_object = isinstance(entry, dict) and entry.keys() == {"bytes", "sha256"}
    return is_object and type(entry["bytes"]) is int and isinstance(entry["sha256"], str)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; the same name twice is refused, since readers differ in which of the two they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is set twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
