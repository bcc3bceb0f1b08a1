"""`DataSet`: opens and describes a data set; `find` makes one from the value of `--data`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

from resnet_rs.data.builtin import builtin
from resnet_rs.data.decode import MAX_PIXELS
from resnet_rs.data.files import Split
from resnet_rs.data.folders import has_test_folder, open_folders, open_for_scoring, split_record
from resnet_rs.data.source import Source, Splits
from resnet_rs.data.tables import EXTENSION, Table, read_table


@dataclass(frozen=True)
class DataSet(ABC):
    """A data set with its own splits, unless it overrides the last two methods."""

    name: str
    """The name for `find`, valid in any working directory of this machine; stored with a run."""
    title: str
    """Short name for display, without parent folders."""

    @abstractmethod
    def open(self, *, split: Split | None = None) -> Splits:
        """The training and the test split; `split` restores an automatic split that an earlier run recorded."""

    def open_test(self, *, split: Split | None = None) -> Source:
        """The samples for scoring a model: all of them if the data has no splits and no `split` is given."""
        return self.open(split=split).test

    @property
    def has_test_part(self) -> bool:
        """Whether the data set itself says which samples are for testing."""
        return True

    def automatic_split(self, splits: Splits) -> dict[str, list[str]] | None:
        """The record of `splits` if they were split automatically; None if the data set itself has splits."""
        return None if self.has_test_part else split_record(splits)


@dataclass(frozen=True)
class _Builtin(DataSet):
    """The images in the package."""

    def open(self, *, split: Split | None = None) -> Splits:
        del split
        return builtin()


@dataclass(frozen=True)
class _Folder(DataSet):
    """Class folders. Images with more than `max_pixels` pixels are unreadable."""

    path: str
    """As given, so that errors name it."""
    max_pixels: int

    def open(self, *, split: Split | None = None) -> Splits:
        return open_folders(self.path, split=split, max_pixels=self.max_pixels)

    def open_test(self, *, split: Split | None = None) -> Source:
        if split is None:
            return open_for_scoring(self.path, max_pixels=self.max_pixels)
        return self.open(split=split).test

    @property
    def has_test_part(self) -> bool:
        return has_test_folder(self.path)


@dataclass(frozen=True)
class _Table(DataSet):
    """A CSV file that lists images. Images with more than `max_pixels` pixels are unreadable."""

    path: str
    """As given, so that errors name it."""
    max_pixels: int

    def open(self, *, split: Split | None = None) -> Splits:
        return self._table.splits(split=split)

    def open_test(self, *, split: Split | None = None) -> Source:
        return self._table.for_scoring() if split is None else self.open(split=split).test

    @property
    def has_test_part(self) -> bool:
        return self._table.has_test_part

    @cached_property
    def _table(self) -> Table:
        return read_table(self.path, max_pixels=self.max_pixels)


def find(name: str, *, max_pixels: int = MAX_PIXELS) -> DataSet:
    """The data set `name`: `builtin`, a folder of class folders, or a CSV file. Larger images are `Unreadable`."""
    if name == "builtin":
        return _Builtin(name, "Fashion-MNIST, a part")
    if name.lower().endswith(EXTENSION) and os.path.isfile(name):
        # A link is not followed: paths in a table are relative to where it lies.
        return _Table(os.path.abspath(name), os.path.basename(name), name, max_pixels)
    path = os.path.realpath(name)
    return _Folder(path, os.path.basename(path), name, max_pixels)
