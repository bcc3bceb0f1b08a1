"""From what a person types after `--data` to a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from resnet_rs.data.builtin import builtin
from resnet_rs.data.folders import open_folders
from resnet_rs.data.source import Splits


def open_data(name: str, *, split: Mapping[str, Sequence[str]] | None = None) -> Splits:
    """The data set called `name`: `builtin`, or a folder of class folders.

    `split` restores an automatic split that an earlier run has written down.
    """
    if name == "builtin":
        return builtin()
    return open_folders(Path(name), split=split)
