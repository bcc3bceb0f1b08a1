"""`DataSet`: opens and describes a data set; `find` makes one from the value of `--data`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

from resnet_rs.data.builtin import builtin
from resnet_rs.data.decode import MAX_PIXELS
from resnet_rs.data.files import Split
from resnet_rs.data.folders import ClassFolders, split_record
from resnet_rs.data.source import Source, Splits
from resnet_rs.data.subset import classes_of, fold_parts
from resnet_rs.data.tables import EXTENSION, Table, read_table

_FEWEST_IN_FOLD = 2
"""With one, a damaged image would be a fold without a score."""


@dataclass(frozen=True)
class DataSet(ABC):
    """A data set with its own splits, unless it overrides `has_test_part`."""

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

    def folds(self, count: int, *, split: Split | None = None) -> list[DataSet]:
        """This data set `count` times, each with another fold for testing; of the images in `split`, if it is given."""
        raise ValueError(
            f"{self.title} says itself which images are for testing, and folds would mix them with the others. "
            "Leave `--folds` out, or give a folder of classes or a table without splits."
        )


@dataclass(frozen=True)
class _Builtin(DataSet):
    """The images in the package."""

    def open(self, *, split: Split | None = None) -> Splits:
        return builtin()


@dataclass(frozen=True)
class _Files(DataSet):
    """Class folders or a table."""

    read: Callable[[], ClassFolders | Table]
    fold: Split | None = None
    """The split that is made, for a fold; else the usual one."""

    def open(self, *, split: Split | None = None) -> Splits:
        return self._images.splits(split=self.fold if split is None else split)

    def folds(self, count: int, *, split: Split | None = None) -> list[DataSet]:
        if self.has_test_part:
            return super().folds(count)
        splits = self.open(split=split)
        classes = classes_of(splits.train, splits.test)
        parts = fold_parts(classes, count)
        if min(map(len, parts)) < _FEWEST_IN_FOLD:
            raise ValueError(
                f"the {len(classes):,} images of {self.title} are too few for {count} folds; each needs "
                f"{_FEWEST_IN_FOLD} that may be left out of training. Use fewer folds, or add images."
            )
        return [
            replace(self, fold={"train": sorted(classes.keys() - part), "test": sorted(part)})
            for part in parts
        ]

    def open_test(self, *, split: Split | None = None) -> Source:
        is_whole = split is None and self.fold is None
        return self._images.for_scoring() if is_whole else self.open(split=split).test

    @property
    def has_test_part(self) -> bool:
        return self._images.has_test_part

    @cached_property
    def _images(self) -> ClassFolders | Table:
        return self.read()


def find(name: str, *, max_pixels: int = MAX_PIXELS) -> DataSet:
    """The data set `name`: `builtin`, a folder of class folders, or a CSV file. Larger images are `Unreadable`."""
    if name == "builtin":
        return _Builtin(name, "Fashion-MNIST, a part")
    if name.lower().endswith(EXTENSION) and os.path.isfile(name):
        # A link is not followed: paths in a table are relative to where it lies.
        path, read = os.path.abspath(name), read_table
    else:
        path, read = os.path.realpath(name), ClassFolders
    # Errors name the path as it was given.
    return _Files(path, os.path.basename(path), partial(read, name, max_pixels=max_pixels))
