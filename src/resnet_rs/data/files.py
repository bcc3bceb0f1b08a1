"""Sources of image files: `ImageFiles` reads them, `ClassImages` gives each a class."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_rs.data.decode import MAX_PIXELS, check_max_pixels, decode
from resnet_rs.data.sample import Request, Sample, Unreadable
from resnet_rs.data.source import Source
from resnet_rs.data.target import Label, Target
from resnet_rs.text import listed


@dataclass(frozen=True, kw_only=True)
class ImageFiles(Source):
    """Images below `root`."""

    root: str
    files: tuple[str, ...]
    """Paths below `root`, with `/` between folders on every system, or absolute ones. They are also the keys."""
    class_names: tuple[str, ...]
    max_pixels: int = MAX_PIXELS
    """Larger images are unreadable."""

    def __post_init__(self) -> None:
        check_max_pixels(self.max_pixels)
        refuse_repeated(self.files)
        if len(self.files) != self.num_labeled:
            raise ValueError(
                f"every file needs one label, got {self.num_labeled} labels for {len(self.files)} files."
            )
        used = {number for i in range(len(self.files)) for number in self.target(i).class_indices}
        unknown = used - set(range(len(self.class_names)))
        if unknown:
            raise ValueError(
                f"labels must be class indices from 0 to {len(self.class_names) - 1}, got {min(unknown)}."
            )

    @property
    @abstractmethod
    def num_labeled(self) -> int:
        """How many files have their label, which must be all of them."""

    @abstractmethod
    def target(self, index: int) -> Target: ...

    @property
    def classes(self) -> tuple[str, ...]:
        return self.class_names

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        # The default is left out, so that the digest of most runs is that of names alone.
        limit = "" if self.max_pixels == MAX_PIXELS else f" with at most {self.max_pixels} pixels"
        return super().digest() + limit

    def key(self, index: int) -> str:
        return self.files[index]

    def path(self, index: int) -> str:
        """Where the file of sample `index` is."""
        return os.path.join(self.root, self.files[index])

    def stamp(self, index: int) -> str | None:
        try:
            found = os.stat(self.path(index))
        except OSError:
            return None
        return f"{found.st_size} {found.st_mtime_ns}"

    def read(self, index: int, request: Request) -> Sample:
        key = self.files[index]
        path = Path(self.path(index))
        try:
            # To open a named pipe would block until another process writes to it.
            if not path.is_file():
                raise Unreadable(key, "there is no regular file with this name")
            encoded = path.read_bytes()
        except OSError as error:
            raise Unreadable(key, error.strerror or type(error).__name__) from error
        pixels = decode(
            encoded,
            key=key,
            channels=request.channels,
            max_pixels=self.max_pixels,
            max_short_side=request.max_short_side,
        )
        return Sample(pixels, self.target(index), key)


@dataclass(frozen=True, kw_only=True)
class ClassImages(ImageFiles):
    """Images with one class each."""

    labels: tuple[int, ...]
    """For each file the index of its class in `class_names`."""

    @property
    def num_labeled(self) -> int:
        return len(self.labels)

    def target(self, index: int) -> Label:
        return Label(self.labels[index])


def refuse_repeated(paths: Sequence[str]) -> None:
    """Raise `ValueError` if a path is listed twice."""
    if len(set(paths)) != len(paths):
        twice = [path for path, count in Counter(paths).items() if count > 1]
        raise ValueError(
            f"every file must be listed once, got {listed(twice)} more than once. Remove the repetition."
        )


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """`names` by code point, or as numbers if all names are integers."""
    ordered = sorted(names)
    if all(re.fullmatch("-?[0-9]+", name) for name in ordered):
        ordered.sort(key=int)
    return tuple(ordered)
