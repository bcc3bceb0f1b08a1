"""The files of a folder or of an archive (`.tar`, `.tar.gz`, `.tgz`, `.zip`), read without unpacking the archive.

Nothing is written to disk, and links in an archive are ignored. Stated sizes may be false, and the content may be a
thousand times larger than the file. So files are read in pieces of at most 1 MiB, and callers limit how much they read.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from resnet_rs.text import quoted

ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")

_PIECE = 1 << 20
_MAX_HEADER = 1 << 24
_MAX_FILES = 10_000
_ENCRYPTED = 1

Read = Callable[[str, int, int], Iterator[bytes]]
"""The name of a file, an offset, a number of bytes -> these bytes in pieces."""


class Unreadable(ValueError):
    """The reason why a file cannot be read, as a sentence about "it"; `naming` puts the name of the file before it."""


@contextmanager
def naming(what: str) -> Generator[None]:
    """Turn any error in the block into a `ValueError` of one sentence that begins with the name of the file."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Unreadable as reason:
        raise ValueError(f"cannot read {what}: {reason}") from None
    except MemoryError:
        raise ValueError(f"cannot read {what}: it needs more memory than there is.") from None
    except Exception as error:  # tarfile and zipfile raise almost any exception for damaged or hostile files
        raise ValueError(
            f"cannot read {what}: it is damaged ({type(error).__name__}). Fetch it again."
        ) from None


class Part(NamedTuple):
    """A file of a folder or an archive."""

    num_bytes: int
    start: int = 0
    """In a tar: where the file begins in the bytes of the unpacked tar."""


class Files(NamedTuple):
    """The files of a folder, or all regular files of an archive."""

    path: Path
    """The folder or the archive."""
    parts: Mapping[str, Part]
    """The files by name; the names in an archive include their folders."""

    @staticmethod
    def of(path: Path) -> Files:
        """The files at `path`, a folder or an archive with one of `ENDINGS`."""
        with naming(f"{path}"):
            if path.is_dir():
                parts = {f.name: Part(f.stat().st_size) for f in path.iterdir() if f.is_file()}
            else:
                parts = _zip_parts(path) if _is_zip(path) else _tar_parts(path)
        return Files(path, parts)

    @contextmanager
    def reading(self) -> Generator[Read]:
        """A function that reads the files. In a compressed archive, going back is slow: it unpacks from the start."""
        with ExitStack() as stack:
            whole = None if self.path.is_dir() else stack.enter_context(_stream(self.path))
            archive = stack.enter_context(zipfile.ZipFile(whole)) if whole and _is_zip(self.path) else None

            @cache
            def opened(name: str) -> io.BufferedIOBase:
                if archive:
                    return stack.enter_context(archive.open(name))  # pyright: ignore[reportReturnType]: a ZipExtFile
                return whole or stack.enter_context((self.path / name).open("rb"))

            def read(name: str, offset: int, num_bytes: int) -> Iterator[bytes]:
                part, file = self.parts[name], opened(name)
                if offset + num_bytes > part.num_bytes:
                    raise Unreadable("it is cut off. Fetch it again.")
                file.seek(part.start + offset)
                while num_bytes:
                    piece = file.read(min(_PIECE, num_bytes))
                    if not piece:
                        raise Unreadable("it is cut off. Fetch it again.")
                    num_bytes -= len(piece)
                    yield piece

            yield read


def is_archive(path: Path) -> bool:
    """Whether `path` is a file whose name ends as those of archives do."""
    return path.is_file() and path.name.lower().endswith(ENDINGS)


def _is_zip(path: Path) -> bool:
    return path.name.lower().endswith(".zip")


class _Stream(io.BufferedReader):
    """A file that refuses to read a large piece at once, because headers of archives may state any size."""

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(_MAX_HEADER + 1 if size is None or size < 0 else min(size, _MAX_HEADER + 1))
        if len(content) > _MAX_HEADER:
            raise Unreadable(f"one of its headers has more than {_MAX_HEADER:,} bytes.")
        return content


def _stream(path: Path) -> _Stream:
    """The bytes of an archive; those of a compressed tar are unpacked."""
    if path.name.lower().endswith((".gz", ".tgz")):
        return _Stream(gzip.GzipFile(path))  # pyright: ignore[reportArgumentType]: reads as a raw file does
    return _Stream(io.FileIO(path))


def _tar_parts(path: Path) -> dict[str, Part]:
    found: dict[str, Part] = {}
    with _stream(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for number, member in enumerate(archive):
            if number == _MAX_FILES or member.size < 0:
                raise Unreadable(f"expected at most {_MAX_FILES:,} files in it, of 0 bytes or more.")
            if member.isreg() and not member.issparse() and member.name.isprintable():
                found[member.name] = Part(member.size, member.offset_data)
        # At a damaged header, tarfile ends without an error. A complete tar ends with a block of zeros.
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise Unreadable("it is cut off or damaged. Fetch it again.")
        while stream.read(_PIECE):  # gzip compares its checksum at the end
            pass
    return found


def _zip_parts(path: Path) -> dict[str, Part]:
    found: dict[str, Part] = {}
    with _stream(path) as stream, zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            if member.is_dir() or stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                continue
            # Other methods unpack a piece as a whole, however large it becomes.
            is_deflated = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if not is_deflated or member.flag_bits & _ENCRYPTED:
                raise Unreadable(
                    f"{quoted(member.filename)} in it is encrypted or not deflated. Unpack it, and give the folder."
                )
            if member.filename.isprintable():
                found[member.filename] = Part(member.file_size)
    return found
