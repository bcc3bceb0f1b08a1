"""`DataSet`: opens and describes a data set; `find` makes one from the value of `--data`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_rs.data.builtin import builtin
from resnet_rs.data.decode import MAX_PIXELS
from resnet_rs.data.folders import automatic_split, open_folders, open_for_scoring
from resnet_rs.data.source import Source, Splits

Split = Mapping[str, Sequence[str]]
"""The keys of both parts of an automatic split, as a run records them."""


class DataSet(ABC):
    """A data set with its name."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name for `find`, valid in any working directory of this machine; stored with a run."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Short name for display, without parent folders."""

    @abstractmethod
    def open(self, *, split: Split | None = None) -> Splits:
        """The training and the test split; `split` restores an automatic split that an earlier run recorded."""

    @abstractmethod
    def open_test(self, *, split: Split | None = None) -> Source:
        """The samples for scoring a model: all of them if the data has no splits and no `split` is given."""

    @abstractmethod
    def automatic_split(self, splits: Splits) -> dict[str, list[str]] | None:
        """The record of `splits` if they were split automatically; None if the data set itself has splits."""


@dataclass(frozen=True)
class BuiltinDataSet(DataSet):
    """The images in the package."""

    @property
    def name(self) -> str:
        return "builtin"

    @property
    def title(self) -> str:
        return "Fashion-MNIST, a part"

    def open(self, *, split: Split | None = None) -> Splits:
        del split
        return builtin()

    def open_test(self, *, split: Split | None = None) -> Source:
        del split
        return builtin().test

    def automatic_split(self, splits: Splits) -> None:
        del splits


@dataclass(frozen=True)
class FolderDataSet(DataSet):
    """Class folders below a path."""

    path: Path
    max_pixels: int = MAX_PIXELS
    """Images with more pixels are unreadable."""

    @property
    def name(self) -> str:
        return str(self.path.resolve())

    @property
    def title(self) -> str:
        return self.path.resolve().name

    def open(self, *, split: Split | None = None) -> Splits:
        return open_folders(self.path, split=split, max_pixels=self.max_pixels)

    def open_test(self, *, split: Split | None = None) -> Source:
        if split is None:
            return open_for_scoring(self.path, max_pixels=self.max_pixels)
        return self.open(split=split).test

    def automatic_split(self, splits: Splits) -> dict[str, list[str]] | None:
        return automatic_split(splits)


def find(name: str, *, max_pixels: int = MAX_PIXELS) -> DataSet:
    """The data set `name`: `builtin`, or a folder of class folders. Larger images are `Unreadable`."""
    builtin_data = BuiltinDataSet()
    return builtin_data if name == builtin_data.name else FolderDataSet(Path(name), max_pixels)
