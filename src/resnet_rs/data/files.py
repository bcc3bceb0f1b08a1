"""Image files: `ImageList` says which there are, with labels and parts; `ImageFiles` is a source that reads them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from resnet_rs.data.decode import MAX_PIXELS, check_max_pixels, decode
from resnet_rs.data.sample import Request, Sample, Unreadable
from resnet_rs.data.source import Source, Splits, content_fingerprint
from resnet_rs.data.subset import held_out
from resnet_rs.data.target import Label, Labels
from resnet_rs.text import listed

PARTS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation"),
}
"""The parts of a data set, and what people call them."""
TEST_SHARE = 0.2
"""Share of each class that is for testing where the data does not say what is."""

Split = Mapping[str, Sequence[str]]
"""The keys of the training and the test part of an automatic split, as a run records them."""


class Row(NamedTuple):
    """An image, with the names of its classes and one of `PARTS`; without a part if nothing says it."""

    path: str
    labels: tuple[str, ...]
    part: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageList:
    """Images below `root`, as folders or a table list them."""

    root: str
    name: str
    """What messages call it."""
    rows: Sequence[Row]
    max_pixels: int
    are_labels_in_paths: bool

    @property
    def has_test_part(self) -> bool:
        """Whether the rows say which images are for testing."""
        return any(row.part not in ("", "train") for row in self.rows)

    def splits(self) -> Splits:
        """The parts that the rows name. Without any, a share of each class is for testing."""
        rows = self._with_parts()
        parts = {part: [row for row in rows if row.part == part] for part in PARTS}
        untrained = sorted_names(_names(rows) - _names(parts["train"]))
        if untrained:
            raise ValueError(
                f"{self.name} has no training images of {listed(untrained)}; expected some of every class. Add them, "
                "or remove these classes."
            )
        classes = _names(rows)
        if len(classes) < 2:
            raise ValueError(
                f"{self.name} has only one class, {min(classes)!r}; expected two or more. Add images of others, "
                "or check the path."
            )
        if not parts["test"]:
            raise ValueError(
                f"{self.name} has only one image of every class; expected two or more, for training and testing. Add "
                "images."
            )
        return Splits(
            train=self._source(parts["train"], rows),
            test=self._source(parts["test"], rows),
            validation=self._source(parts["validation"], rows) if parts["validation"] else None,
        )

    def for_scoring(self) -> ImageFiles:
        """The images for scoring a model: those for testing, else all. One class is enough."""
        rows = self.rows
        if self.has_test_part:
            rows = [row for row in self._with_parts() if row.part == "test"]
        return self._source(rows, rows)

    def _with_parts(self) -> list[Row]:
        """The rows with their parts. Validation images without test images are for testing."""
        if self.has_test_part:
            parts = {row.part for row in self.rows}
            return [
                row._replace(part="test") if row.part == "validation" and "test" not in parts else row
                for row in self.rows
            ]
        test = held_out({row.path: row.labels for row in self.rows}, TEST_SHARE)
        return [row._replace(part="test" if row.path in test else "train") for row in self.rows]

    def _source(self, rows: Sequence[Row], all_rows: Sequence[Row]) -> ImageFiles:
        """The images of `rows`; `all_rows` decide on the classes, and on whether there are several per image."""
        classes = sorted_names(_names(all_rows))
        places = {name: i for i, name in enumerate(classes)}
        if any(len(row.labels) != 1 for row in all_rows):
            labels = tuple(tuple(sorted(places[name] for name in row.labels)) for row in rows)
        else:
            labels = tuple(places[row.labels[0]] for row in rows)
        return ImageFiles(
            root=self.root,
            files=tuple(row.path for row in rows),
            labels=labels,
            class_names=classes,
            max_pixels=self.max_pixels,
            are_labels_in_paths=self.are_labels_in_paths,
        )


@dataclass(frozen=True, kw_only=True)
class ImageFiles(Source):
    """Images below `root`, with their classes."""

    root: str
    files: tuple[str, ...]
    """Paths below `root`, with `/` between folders on every system, or absolute ones. They are also the keys."""
    labels: tuple[int, ...] | tuple[tuple[int, ...], ...]
    """For each file the index of its class in `class_names`. In multi-label data: the indices, in ascending order."""
    class_names: tuple[str, ...]
    max_pixels: int = MAX_PIXELS
    """Larger images are unreadable."""
    are_labels_in_paths: bool = True
    """Whether the paths tell the labels, as in class folders. If not, the digest includes the labels."""

    def __post_init__(self) -> None:
        check_max_pixels(self.max_pixels)
        refuse_repeated(self.files)
        if len(self.files) != len(self.labels):
            raise ValueError(
                f"every file needs one label, got {len(self.labels)} labels for {len(self.files)} files."
            )
        used = {number for i in range(len(self.files)) for number in self.target(i).class_indices}
        unknown = used - set(range(len(self.class_names)))
        if unknown:
            raise ValueError(
                f"labels must be class indices from 0 to {len(self.class_names) - 1}, got {min(unknown)}."
            )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.class_names

    def __len__(self) -> int:
        return len(self.files)

    def target(self, index: int) -> Label | Labels:
        label = self.labels[index]
        return Label(label) if isinstance(label, int) else Labels(label)

    def digest(self) -> str:
        # The default is left out, so that the digest of most runs is that of names alone.
        limit = "" if self.max_pixels == MAX_PIXELS else f" with at most {self.max_pixels} pixels"
        digest = super().digest() + limit
        if self.are_labels_in_paths:
            return digest
        return hashlib.sha256(f"{digest} {json.dumps(self.labels)}".encode()).hexdigest()

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

    def fingerprint(self, index: int) -> bytes | None:
        try:
            return content_fingerprint(self._content(index))
        except Unreadable:
            return None

    def read(self, index: int, request: Request) -> Sample:
        key = self.files[index]
        pixels = decode(self._content(index), request, key=key, max_pixels=self.max_pixels)
        return Sample(pixels, self.target(index), key)

    def _content(self, index: int) -> bytes:
        key, path = self.files[index], Path(self.path(index))
        try:
            # To open a named pipe would block until another process writes to it.
            if not path.is_file():
                raise Unreadable(key, "there is no regular file with this name")
            return path.read_bytes()
        except OSError as error:
            raise Unreadable(key, error.strerror or type(error).__name__) from error


def recorded_parts(split: Split, *, name: str, exists: Callable[[str], bool]) -> dict[str, str]:
    """The part of each file of a recorded split. Raises `ValueError` if it is malformed or files of it are missing."""
    if set(split) != {"train", "test"} or not all(split.values()):
        raise ValueError(
            f"a recorded split must list files under 'train' and 'test', got {listed(sorted(split))}. "
            "Use the record that the run wrote."
        )
    paths = [*split["train"], *split["test"]]
    refuse_repeated(paths)
    missing = [path for path in paths if not exists(path)]
    if missing:
        raise FileNotFoundError(
            f"{name} lacks {len(missing)} of the {len(paths)} files of the recorded split: {listed(missing)}. "
            "Restore them, or start a new run."
        )
    return {path: part for part in ("train", "test") for path in split[part]}


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


def _names(rows: Iterable[Row]) -> set[str]:
    return {name for row in rows for name in row.labels}
