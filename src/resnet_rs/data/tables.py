"""Images in a table: a CSV file with the columns `path`, `label` and perhaps `split`.

    path,label,split
    photos/1.jpg,cat,train
    photos/2.jpg,cat|dog,test

- The file is UTF-8 text with a header, commas, and quotes as in RFC 4180.
- Paths are absolute, or relative to the folder of the table. Every file must exist, and is listed once.
- A label is text; numbers are names, too. Several labels of an image are separated by `|`. If any image has several, or
  none, the data is multi-label: every image may show any number of classes.
- `split` says `train`, `val` (or `valid`, `validation`) or `test`. With both `val` and `test`, `val` is the validation
  part; one of them alone is the test part. Without the column, a fifth of each class is for testing, as for folders.

Source: ours. The columns are those that users of timm and torchvision ask for (pytorch-image-models#21, #2362).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from resnet_rs.data.decode import MAX_PIXELS
from resnet_rs.data.files import ClassImages, ImageFiles, refuse_repeated, sorted_names
from resnet_rs.data.folders import TEST_SHARE, TEST_SPLITS, TRAIN_SPLITS, VALIDATION_SPLITS
from resnet_rs.data.source import Source, Splits
from resnet_rs.data.subset import part_size, shuffled
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
    classes: tuple[str, ...]
    is_multi_label: bool
    max_pixels: int

    @property
    def has_split(self) -> bool:
        """Whether the table says which images are for testing."""
        return any(row.part not in ("", "train") for row in self.rows)

    def splits(self, *, split: Mapping[str, Sequence[str]] | None = None) -> Splits:
        """The parts that the table names, that `split` recorded, or that are made automatically."""
        if split is not None:
            return self._recorded(split)
        parts = defaultdict[str, list[_Row]](list)
        for row in self.rows:
            parts[row.part or "train"].append(row)
        if not self.has_split:
            return self._split_automatically()
        if not parts["test"]:
            parts["test"] = parts.pop("validation")
        self._refuse_untrained(parts["train"])
        validation = parts.get("validation")
        return Splits(
            train=self.source(parts["train"]),
            test=self.source(parts["test"]),
            validation=self.source(validation) if validation else None,
        )

    def source(self, rows: Sequence[_Row]) -> ImageFiles:
        """The images of `rows`."""
        places = {name: i for i, name in enumerate(self.classes)}
        labels = tuple(tuple(sorted(places[name] for name in row.labels)) for row in rows)
        files = tuple(row.path for row in rows)
        if self.is_multi_label:
            return _MultiLabelRows(
                root=self.root,
                files=files,
                labels=labels,
                class_names=self.classes,
                max_pixels=self.max_pixels,
            )
        return _ClassRows(
            root=self.root,
            files=files,
            labels=tuple(label for (label,) in labels),
            class_names=self.classes,
            max_pixels=self.max_pixels,
        )

    def for_scoring(self) -> Source:
        """The images for scoring a model: those for testing, else all."""
        return self.splits().test if self.has_split else self.source(self.rows)

    def _split_automatically(self) -> Splits:
        by_class = defaultdict[tuple[str, ...], list[str]](list)
        for row in self.rows:
            by_class[row.labels[:1]].append(row.path)
        test = {
            path
            for paths in by_class.values()
            for path in shuffled(paths)[: part_size(len(paths), TEST_SHARE)]
        }
        if not test:
            raise ValueError(
                "the table has only one image of every class; expected two or more, for training and testing. Add rows."
            )
        chosen = [[row for row in self.rows if (row.path in test) is is_test] for is_test in (False, True)]
        self._refuse_untrained(chosen[0])
        return Splits(train=self.source(chosen[0]), test=self.source(chosen[1]))

    def _recorded(self, split: Mapping[str, Sequence[str]]) -> Splits:
        rows = {row.path: row for row in self.rows}
        missing = [path for part in ("train", "test") for path in split[part] if path not in rows]
        if missing:
            raise FileNotFoundError(
                f"the table lacks {len(missing)} of the files of the recorded split: {listed(missing)}. Restore their "
                "rows, or start a new run."
            )
        train, test = (self.source([rows[path] for path in split[part]]) for part in ("train", "test"))
        return Splits(train=train, test=test)

    def _refuse_untrained(self, train: Sequence[_Row]) -> None:
        untrained = sorted_names(set(self.classes) - {name for row in train for name in row.labels})
        if untrained:
            raise ValueError(
                f"the table has no training images of {listed(untrained)}; expected some of every class. Add rows, or "
                "remove these labels."
            )


def read_table(path: str, *, max_pixels: int = MAX_PIXELS) -> Table:
    """The table in the CSV file `path`.

    Raises `ValueError` for a table that is not as the top of this file says, and `FileNotFoundError` for missing
    files. Warns about other columns, which are ignored.
    """
    root = os.path.dirname(os.path.abspath(path))
    rows = _rows(Path(path))
    refuse_repeated([row.path for row in rows])
    missing = [row.path for row in rows if not os.path.lexists(os.path.join(root, row.path))]
    if missing:
        raise FileNotFoundError(
            f"{path!r} lists {len(missing):,} of {len(rows):,} files that do not exist: {listed(missing)}. Paths are "
            "relative to the folder of the table, or absolute. Correct them, or remove the rows."
        )
    classes = sorted_names({name for row in rows for name in row.labels})
    if len(classes) < 2:
        raise ValueError(
            f"{path!r} has {len(classes)} class; expected two or more. Add rows of another label."
        )
    return Table(
        root=root,
        rows=tuple(rows),
        classes=classes,
        is_multi_label=any(len(row.labels) != 1 for row in rows),
        max_pixels=max_pixels,
    )


def _rows(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            _refuse_header(header, path)
            return [_row(values, header, path, line=reader.line_num) for values in reader if values]
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text: {error.reason}. Save it as UTF-8.") from None
    except csv.Error as error:
        raise ValueError(
            f"{str(path)!r} is not a CSV file as RFC 4180 has it: {error}. Put values that contain quotes or commas in "
            'double quotes, and write a quote in them as "".'
        ) from None


def _refuse_header(header: list[str], path: Path) -> None:
    """Raise `ValueError` without the columns `path` and `label`; warn about columns that are not read."""
    missing = [name for name in _COLUMNS[:2] if name not in header]
    if missing:
        raise ValueError(
            f"{str(path)!r} begins with {','.join(header)[:80]!r} and lacks the column {listed(missing)}; expected a "
            "first line such as 'path,label' or 'path,label,split', with commas. Add it."
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
