"""The files of a folder or of an archive (`.tar`, `.tar.gz`, `.tgz`, `.zip`), read in place.

Nothing is written to disk, and links in an archive are not followed. What an archive says of sizes is not believed:
all is read in pieces, and who asks for much of a compressed one, which may be a thousandfold, sets a limit.

Source: ours.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")

_PIECE = 1 << 20
_MAX_READ = 1 << 24
_MAX_MEMBERS = 10_000
_ENCRYPTED = 1

Read = Callable[[str, int, int], Iterator[bytes]]
"""The name of a file, an offset, a number of bytes -> these bytes in pieces."""


class Unreadable(ValueError):
    """Why something cannot be read, as a sentence that does not name it yet; `naming` does."""


@contextmanager
def naming(what: str) -> Generator[None]:
    """Turn whatever goes wrong within into a `ValueError` of one sentence that begins with what was read."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Unreadable as reason:
        raise ValueError(f"cannot read {what}: {reason}") from None
    except MemoryError:
        raise ValueError(f"cannot read {what}: it needs more memory than there is.") from None
    except Exception as error:  # of damaged or hostile bytes tarfile and zipfile raise nearly every kind
        raise ValueError(
            f"cannot read {what}: it is damaged ({type(error).__name__}). Fetch it again."
        ) from None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file of a folder or an archive."""

    num_bytes: int
    start: int = 0
    """Where it begins in the bytes of its tar; 0 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a folder, or the regular ones of an archive in all its folders."""

    path: Path
    """Of the folder or the archive."""
    parts: Mapping[str, Part]
    """By name; in an archive with the folders before it."""

    @staticmethod
    def of(path: Path) -> Files:
        """Those at `path`, a folder or an archive, by what its name ends in."""
        with naming(f"{path}"):
            if path.is_dir():
                parts = {f.name: Part(num_bytes=f.stat().st_size) for f in path.iterdir() if f.is_file()}
            else:
                parts = _zip_parts(path) if _is_zip(path) else _tar_parts(path)
        return Files(path=path, parts=parts)

    @contextmanager
    def reading(self) -> Generator[Read]:
        """A function that reads; in a compressed archive, to read on is much faster than to go back."""
        with ExitStack() as stack:
            whole = None if self.path.is_dir() else stack.enter_context(_stream(self.path))
            archive = stack.enter_context(zipfile.ZipFile(whole)) if whole and _is_zip(self.path) else None

            @cache
            def opened(name: str) -> io.BufferedIOBase:
                if archive:
                    return stack.enter_context(archive.open(name))  # pyright: ignore[reportReturnType]: a ZipExtFile
                # The files of a tar are one stream, so that it is unpacked only once.
                return whole or stack.enter_context((self.path / name).open("rb"))

            def read(name: str, offset: int, num_bytes: int) -> Iterator[bytes]:
                part = self.parts[name]
                if offset + num_bytes > part.num_bytes:
                    raise Unreadable("it is cut off. Fetch it again.")
                return _pieces(opened(name), part.start + offset, num_bytes)

            yield read


def is_archive(path: Path) -> bool:
    """Whether a path is that of a file whose name ends as those of archives do."""
    return path.is_file() and path.name.lower().endswith(ENDINGS)


def _is_zip(path: Path) -> bool:
    return path.name.lower().endswith(".zip")


class _Stream(io.BufferedReader):
    """Bytes that are never read in one large piece: an archive states sizes, and its readers believe them."""

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(_MAX_READ + 1 if size is None or size < 0 else min(size, _MAX_READ + 1))
        if len(content) > _MAX_READ:
            raise Unreadable("a part of it that should be small is not.")
        return content


def _stream(path: Path) -> _Stream:
    """The bytes of an archive, unpacked if it is a compressed tar."""
    if path.name.lower().endswith((".gz", ".tgz")):
        return _Stream(gzip.GzipFile(path))  # pyright: ignore[reportArgumentType]: reads as a raw file does
    return _Stream(io.FileIO(path))


def _tar_parts(path: Path) -> dict[str, Part]:
    found: dict[str, Part] = {}
    with _stream(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for number, member in enumerate(archive):
            if number == _MAX_MEMBERS or member.size < 0:
                raise Unreadable(f"expected at most {_MAX_MEMBERS:,} files in it, none smaller than nothing.")
            if member.isreg() and not member.issparse() and member.name.isprintable():
                found[member.name] = Part(num_bytes=member.size, start=member.offset_data)
        # At a damaged member tarfile takes the files before it for all. The end of a tar is a block of zeros.
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise Unreadable("it is cut off or damaged. Fetch it again.")
        while stream.read(_PIECE):  # at its end a compressed one is checked
            pass
    return found


def _zip_parts(path: Path) -> dict[str, Part]:
    found: dict[str, Part] = {}
    with _stream(path) as stream, zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            if member.is_dir() or stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                continue
            if member.flag_bits & _ENCRYPTED:
                raise Unreadable(
                    f"{member.filename[:100]!r} in it is encrypted. Unpack it, and give the folder."
                )
            # The others unpack a piece as a whole, however large it becomes.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Unreadable(
                    f"{member.filename[:100]!r} in it is compressed by method {member.compress_type}; expected "
                    "deflate. Unpack it, and give the folder."
                )
            if member.filename.isprintable():
                found[member.filename] = Part(num_bytes=member.file_size)
    return found


def _pieces(stream: io.BufferedIOBase, start: int, num_bytes: int) -> Iterator[bytes]:
    """So many bytes from `start` on, in pieces, since a stated size may be more than there is."""
    stream.seek(start)
    while num_bytes:
        piece = stream.read(min(_PIECE, num_bytes))
        if not piece:
            raise Unreadable("it is cut off. Fetch it again.")
        num_bytes -= len(piece)
        yield piece
