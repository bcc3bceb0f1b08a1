"""Folders that are written whole or not at all, and files that prove they are what was written.

A folder is filled under a temporary name beside its place, every file is flushed to the disk, a manifest with
the size and SHA-256 of each is written last, and only then is it renamed. Whoever sees the folder sees all of
it.

Source: ours. No peer verifies what it loads: one flipped bit in a checkpoint loads without an error
elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
PARTIAL = ".partial-"
"""Begins the names of what is being written."""
_CHUNK = 1 << 20


class Damaged(ValueError):
    """A folder that is not what was written; the message names the file and the reason."""


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """A folder to be filled; it appears at `path`, with its manifest, when the block ends without an error."""
    if path.exists():
        raise FileExistsError(
            f"{path} exists already. A stored folder is never changed; choose another name."
        )
    partial = path.with_name(f"{PARTIAL}{path.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        _seal(partial)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by `value` as JSON, at once: a reader sees the old or the new, never a part."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`, at once."""
    partial = path.with_name(f"{PARTIAL}{path.name}")
    with partial.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def read_json(path: Path, *, needs: Collection[str] = ()) -> Any:
    """The value of a JSON file: an object that has the keys `needs`, if any are asked for."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise Damaged(f"{path} is no JSON: {error}.") from None
    missing = [key for key in needs if not isinstance(value, dict) or key not in value]
    if missing:
        raise Damaged(f"{path} lacks {', '.join(missing)}: it was not written by resnet-rs, or has changed.")
    return value


def verify(folder: Path) -> None:
    """Check every file of `folder` against its manifest.

    Raises `Damaged` for a file that is missing, of another size or content, or not in the manifest.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise Damaged(f"{folder} has no {MANIFEST}: it was not written by resnet-rs, or not completely.")
    listed = _read_manifest(manifest)
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


def _seal(folder: Path) -> None:
    """Flush every file of `folder` to the disk, then write the manifest."""
    listed: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        listed[file.name] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
    body = json.dumps(listed, indent=2)
    seal = hashlib.sha256(body.encode()).hexdigest()
    # No newline at the end: cut anywhere, the text is no JSON.
    write_text(folder / MANIFEST, json.dumps({"files": listed, "sha256": seal}, indent=2))


def _read_manifest(manifest: Path) -> dict[str, dict[str, Any]]:
    """The files of a manifest, checked against the manifest's own hash."""
    content = read_json(manifest)
    listed = content.get("files") if isinstance(content, dict) else None
    seal = hashlib.sha256(json.dumps(listed, indent=2).encode()).hexdigest()
    if listed is None or content.get("sha256") != seal:
        raise Damaged(f"{manifest} has changed since it was written.")
    return listed


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk. Windows cannot open folders, and needs no such flush."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
