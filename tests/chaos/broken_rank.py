"""The command line with one rank that raises: `broken_rank.py PLACE train ...`; rank 1 breaks, or 0 while saving."""

import os
import sys

from resnet_rs import cli, storage
from resnet_rs.data import loader
from resnet_rs.tasks.classification import Classification


def main():
    place = sys.argv.pop(1)
    owner, name, rank = {
        "loader": (loader.TrainingSpans, "__getitem__", "1"),
        "reading": (loader.Data, "train_input", "1"),
        "forward": (Classification, "loss", "1"),
        "save": (storage.Disk, "rename", "0"),
    }[place]
    if os.environ["RANK"] == rank:
        calls = []

        def breaking(*arguments, **named):
            calls.append(1)
            if len(calls) > (4 if place == "save" else 40):
                raise RuntimeError(f"broken in the {place}")
            return original(*arguments, **named)

        original = getattr(owner, name)
        setattr(owner, name, breaking)
    cli.main()


if __name__ == "__main__":
    main()
