"""From what a person types after `--data` to a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from resnet_rs.data.builtin import builtin
from resnet_rs.data.folders import open_folders, open_for_scoring
from resnet_rs.data.source import Source, Splits


def open_data(name: str, *, split: Mapping[str, Sequence[str]] | None = None) -> Splits:
    """The data set called `name`: `builtin`, or a folder of class folders.

    `split` restores an automatic split that an earlier run has written down.
    """
    if name == "builtin":
        return builtin()
    return open_folders(Path(name), split=split)


def open_test(name: str, *, split: Mapping[str, Sequence[str]] | None = None) -> Source:
    """The samples of the data set called `name` that a model is scored on; of a folder without splits, all."""
    if name == "builtin":
        return builtin().test
    return open_for_scoring(Path(name)) if split is None else open_folders(Path(name), split=split).test
