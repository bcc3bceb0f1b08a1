"""Images in a table: a CSV file with the columns `path`, `label` and perhaps `split`.

    path,label,split
    photos/1.jpg,cat,train
    photos/2.jpg,cat|dog,test

- The file is UTF-8 text with a header, commas, and quotes as in RFC 4180.
- Paths are absolute, or relative to the folder of the table. Every file must exist, and is listed once.
- A label is text; labels such as 1 are names, not indices. Several labels of an image are separated by `|`. If any
  image has several, the data is multi-label: every image may show any number of classes, and an empty label means none.
- `split` says `train`, `val` (or `valid`, `validation`) or `test`. With both `val` and `test`, `val` is the validation
  part; one of them alone is the test part. Without the column, a fifth of each class is for testing, as for folders.

Source: ours.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from resnet_rs.data.decode import MAX_PIXELS
from resnet_rs.data.files import ClassImages, ImageFiles, refuse_repeated, sorted_names
from resnet_rs.data.folders import TEST_SHARE, TEST_SPLITS, TRAIN_SPLITS, VALIDATION_SPLITS
from resnet_rs.data.source import Source, Splits
from resnet_rs.data.subset import held_out
from resnet_rs.data.target import Labels
from resnet_rs.text import listed

EXTENSION = ".csv"
_COLUMNS = ("path", "label", "split")
_SEPARATOR = "|"
_PARTS = {"train": TRAIN_SPLITS, "validation": VALIDATION_SPLITS, "test": TEST_SPLITS}


class _Row(NamedTuple):
    path: str
    labels: tuple[str, ...]
    part: str
    """`train`, `validation` or `test`; empty without a column `split`."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of a table, checked."""

    root: str
    """The folder of the table."""
    rows: tuple[_Row, ...]
    max_pixels: int

    @property
    def has_split(self) -> bool:
        """Whether the table says which images are for testing."""
        return any(row.part not in ("", "train") for row in self.rows)

    def splits(self, *, split: Mapping[str, Sequence[str]] | None = None) -> Splits:
        """The parts that the table names, that `split` recorded, or that are made automatically."""
        parts: dict[str, list[_Row]] = {"train": [], "validation": [], "test": []}
        for row, part in self._recorded(split) if split is not None else self._parts():
            parts[part].append(row)
        rows = [row for part in parts.values() for row in part]
        untrained = sorted_names(_names(rows) - _names(parts["train"]))
        if untrained:
            raise ValueError(
                f"the table has no training images of {listed(untrained)}; expected some of every class. Add rows, or "
                "remove these labels."
            )
        classes = sorted_names(_names(rows))
        if len(classes) < 2:
            raise ValueError(
                f"the table has only one class, {next(iter(classes))!r}; expected two or more. Add rows of others."
            )
        if not parts["test"]:
            raise ValueError(
                "the table has only one image of every class; expected two or more, for training and testing. Add rows."
            )
        return Splits(
            train=_source(self, parts["train"], rows),
            test=_source(self, parts["test"], rows),
            validation=_source(self, parts["validation"], rows) if parts["validation"] else None,
        )

    def for_scoring(self, *, split: Mapping[str, Sequence[str]] | None = None) -> Source:
        """The images for scoring a model: those for testing, or of a recorded split, else all. One class is enough."""
        rows = self.rows
        if split is not None:
            test = set(split["test"])
            rows = [row for row in rows if row.path in test]
        elif self.has_split:
            rows = [row for row, part in self._parts() if part == "test"]
        return _source(self, rows, rows)

    def _parts(self) -> Iterator[tuple[_Row, str]]:
        """Each row with its part."""
        if self.has_split:
            has_test = any(row.part == "test" for row in self.rows)
            for row in self.rows:
                yield row, row.part if has_test or row.part == "train" else "test"
            return
        test = held_out({row.path: row.labels for row in self.rows}, TEST_SHARE)
        for row in self.rows:
            yield row, "test" if row.path in test else "train"

    def _recorded(self, split: Mapping[str, Sequence[str]]) -> Iterator[tuple[_Row, str]]:
        """Each recorded row with its part; other rows are left out."""
        if set(split) != {"train", "test"}:
            raise ValueError(
                f"a recorded split must list files under 'train' and 'test', got {listed(sorted(split))}. "
                "Use the record that the run wrote."
            )
        rows = {row.path: row for row in self.rows}
        missing = [path for part in split.values() for path in part if path not in rows]
        if missing:
            raise FileNotFoundError(
                f"the table lacks {len(missing)} of the files of the recorded split: {listed(missing)}. Restore their "
                "rows, or start a new run."
            )
        for part in ("train", "test"):
            for path in split[part]:
                yield rows[path], part


def read_table(path: str, *, max_pixels: int = MAX_PIXELS) -> Table:
    """The table in the CSV file `path`.

    Raises `ValueError` for a table that is not as the top of this file says, and `FileNotFoundError` for missing
    files. Warns about other columns, which are ignored.
    """
    root = os.path.dirname(os.path.abspath(path))
    rows = _rows(Path(path))
    if not rows:
        raise ValueError(f"{path!r} has no rows below its header. Add one for each image.")
    places = [os.path.join(root, row.path) for row in rows]
    refuse_repeated([os.path.normpath(place) for place in places])
    missing = [row.path for row, place in zip(rows, places, strict=True) if not os.path.lexists(place)]
    if missing:
        raise FileNotFoundError(
            f"{len(missing):,} of the {len(rows):,} files that {path!r} lists do not exist: {listed(missing)}. Paths "
            "are relative to the folder of the table, or absolute, with / between folders. Correct them, or remove the "
            "rows."
        )
    folders = [row.path for row, place in zip(rows, places, strict=True) if os.path.isdir(place)]
    if folders:
        raise ValueError(f"{path!r} lists folders: {listed(folders)}; expected files. Correct these paths.")
    unlabeled = [row.path for row in rows if not row.labels]
    if unlabeled and all(len(row.labels) < 2 for row in rows):
        raise ValueError(
            f"{path!r} has no label for {listed(unlabeled)}; expected one for every image, because none has several. "
            "Add the labels, or remove the rows."
        )
    return Table(root=root, rows=tuple(rows), max_pixels=max_pixels)


def _names(rows: Iterable[_Row]) -> set[str]:
    return {name for row in rows for name in row.labels}


def _source(table: Table, rows: Sequence[_Row], all_rows: Sequence[_Row]) -> ImageFiles:
    """The images of `rows`; `all_rows` decide on the classes, and on whether there are several per image."""
    classes = sorted_names(_names(all_rows))
    places = {name: i for i, name in enumerate(classes)}
    labels = tuple(tuple(sorted(places[name] for name in row.labels)) for row in rows)
    files = tuple(row.path for row in rows)
    if any(len(row.labels) != 1 for row in all_rows):
        return _MultiLabelRows(
            root=table.root, files=files, labels=labels, class_names=classes, max_pixels=table.max_pixels
        )
    return _ClassRows(
        root=table.root,
        files=files,
        labels=tuple(label for (label,) in labels),
        class_names=classes,
        max_pixels=table.max_pixels,
    )


def _rows(path: Path) -> list[_Row]:
    rows, line = list[_Row](), 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            _refuse_header(header, path)
            for values in reader:
                line = reader.line_num
                if any(map(str.strip, values)):
                    rows.append(_row(values, header, path, line=line))
            return rows
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text: {error.reason}. Save it as UTF-8.") from None
    except csv.Error as error:
        raise ValueError(
            f"the quotes in {str(path)!r} are not those of a CSV file ({error}), after line {line}. Put values "
            'that contain quotes or commas in double quotes, and write a quote in them as "".'
        ) from None


def _refuse_header(header: list[str], path: Path) -> None:
    """Raise `ValueError` without the columns `path` and `label`; warn about columns that are not read."""
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise ValueError(
            f"{str(path)!r} has semicolons or tabs between its columns; expected commas. Save it with commas."
        )
    missing = [name for name in _COLUMNS[:2] if name not in header]
    if missing:
        raise ValueError(
            f"{str(path)!r} has no column {' and no column '.join(map(repr, missing))} in its first line; expected "
            "'path,label' or 'path,label,split'. Add it."
        )
    twice = [name for name in _COLUMNS if header.count(name) > 1]
    if twice:
        raise ValueError(f"{str(path)!r} has the column {listed(twice)} twice. Remove one of them.")
    unknown = [name for name in header if name not in _COLUMNS]
    if unknown:
        warnings.warn(
            f"{path} has columns that are ignored: {listed(unknown)}. Known are {', '.join(_COLUMNS)}.",
            stacklevel=2,
        )


def _row(values: Sequence[str], header: Sequence[str], path: Path, *, line: int) -> _Row:
    if len(values) != len(header):
        raise ValueError(
            f"line {line} of {str(path)!r} has {len(values)} values; expected {len(header)}, one for each column. Put "
            "values that contain a comma in double quotes."
        )
    fields = dict(zip(header, (value.strip() for value in values), strict=True))
    if not fields["path"]:
        raise ValueError(f"line {line} of {str(path)!r} has no path. Add it, or remove the line.")
    file = os.path.normpath(fields["path"]).replace(os.sep, "/")
    names = [name.strip() for name in fields["label"].split(_SEPARATOR)]
    return _Row(file, tuple(dict.fromkeys(name for name in names if name)), _part(fields, path, line))


def _part(fields: Mapping[str, str], path: Path, line: int) -> str:
    given = fields.get("split")
    if given is None:
        return ""
    for part, names in _PARTS.items():
        if given.lower() in names:
            return part
    raise ValueError(
        f"line {line} of {str(path)!r} has the split {given!r}; expected train, val or test. Correct it, or remove the "
        "column, and the images are split automatically."
    )


def _with_labels(digest: str, labels: object) -> str:
    """A digest that changes with the labels, which the paths of a table do not tell."""
    return hashlib.sha256(f"{digest} {json.dumps(labels)}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class _ClassRows(ClassImages):
    """Images of a table with one class each."""

    def digest(self) -> str:
        return _with_labels(super().digest(), self.labels)


@dataclass(frozen=True, kw_only=True)
class _MultiLabelRows(ImageFiles):
    """Images of a table with any number of classes each."""

    labels: tuple[tuple[int, ...], ...]
    """For each file the indices of its classes in `class_names`, in ascending order."""

    @property
    def num_labeled(self) -> int:
        return len(self.labels)

    def target(self, index: int) -> Labels:
        return Labels(self.labels[index])

    def digest(self) -> str:
        return _with_labels(super().digest(), self.labels)
