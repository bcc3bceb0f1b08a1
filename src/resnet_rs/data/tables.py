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
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resnet_rs.data.decode import MAX_PIXELS
from resnet_rs.data.files import PARTS, ImageList, Row, Split, recorded_parts, refuse_repeated
from resnet_rs.data.source import Splits
from resnet_rs.text import listed

EXTENSION = ".csv"
_COLUMNS = ("path", "label", "split")
_SEPARATOR = "|"


@dataclass(frozen=True, kw_only=True)
class Table(ImageList):
    """The images that a table lists."""

    def splits(self, *, split: Split | None = None) -> Splits:
        """The parts that the table names, that `split` recorded, or that are made automatically."""
        if split is None:
            return super().splits()
        rows = {row.path: row for row in self.rows}
        parts = recorded_parts(split, name=self.name, exists=rows.__contains__)
        recorded = [rows[path]._replace(part=part) for path, part in parts.items()]
        return replace(self, rows=recorded).splits()


def read_table(path: str, *, max_pixels: int = MAX_PIXELS, is_pool: bool = False) -> Table:
    """The table in the CSV file `path`. In a pool, labels are not needed, and files may be missing.

    Raises `ValueError` for a table that is not as the top of this file says, and `FileNotFoundError` for missing
    files. Warns about other columns, which are ignored.
    """
    root = os.path.dirname(os.path.abspath(path))
    rows = _rows(Path(path), needs=_COLUMNS[:1] if is_pool else _COLUMNS[:2])
    if not rows:
        raise ValueError(f"{path!r} has no rows below its header. Add one for each image.")
    places = [os.path.join(root, row.path) for row in rows]
    refuse_repeated([os.path.normpath(place) for place in places])
    if is_pool:
        return Table(root=root, name=repr(path), rows=rows, max_pixels=max_pixels, are_labels_in_paths=False)
    missing = [
        row.path
        for row, place in zip(rows, places, strict=True)
        if not os.path.lexists(place) or os.path.isdir(place)
    ]
    if missing:
        raise FileNotFoundError(
            f"{len(missing):,} of the {len(rows):,} files that {path!r} lists are missing or folders: "
            f"{listed(missing)}. Paths are relative to the folder of the table, or absolute, with / between folders. "
            "Correct them, or remove the rows."
        )
    unlabeled = [row.path for row in rows if not row.labels]
    if unlabeled and all(len(row.labels) < 2 for row in rows):
        raise ValueError(
            f"{path!r} has no label for {listed(unlabeled)}; expected one for every image, because none has several. "
            "Add the labels, or remove the rows."
        )
    return Table(root=root, name=repr(path), rows=rows, max_pixels=max_pixels, are_labels_in_paths=False)


def _rows(path: Path, *, needs: Sequence[str]) -> list[Row]:
    rows, line = list[Row](), 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            _refuse_header(header, path, needs)
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


def _refuse_header(header: list[str], path: Path, needs: Sequence[str]) -> None:
    """Raise `ValueError` without the columns that it `needs`; warn about columns that are not read."""
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise ValueError(
            f"{str(path)!r} has semicolons or tabs between its columns; expected commas. Save it with commas."
        )
    missing = [name for name in needs if name not in header]
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


def _row(values: Sequence[str], header: Sequence[str], path: Path, *, line: int) -> Row:
    if len(values) != len(header):
        raise ValueError(
            f"line {line} of {str(path)!r} has {len(values)} values; expected {len(header)}, one for each column. Put "
            "values that contain a comma in double quotes."
        )
    fields = dict(zip(header, (value.strip() for value in values), strict=True))
    if not fields["path"]:
        raise ValueError(f"line {line} of {str(path)!r} has no path. Add it, or remove the line.")
    file = os.path.normpath(fields["path"]).replace(os.sep, "/")
    names = [name.strip() for name in fields.get("label", "").split(_SEPARATOR)]
    return Row(file, tuple(dict.fromkeys(name for name in names if name)), _part(fields, path, line))


def _part(fields: Mapping[str, str], path: Path, line: int) -> str:
    given = fields.get("split")
    if given is None:
        return ""
    for part, names in PARTS.items():
        if given.lower() in names:
            return part
    raise ValueError(
        f"line {line} of {str(path)!r} has the split {given!r}; expected train, val or test. Correct it, or remove the "
        "column, and the images are split automatically."
    )
