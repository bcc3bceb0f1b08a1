"""The command line with one rank that breaks: `broken_rank.py PLACE train ...`; rank 1 breaks, or 0 while saving.

It raises at every start; given a path `$BREAK_ONCE`, at the first start alone, in the way that its suffix names.
"""

import os
import resource
import signal
import sys
from pathlib import Path

from resnet_rs import cli, storage
from resnet_rs.data import loader
from resnet_rs.tasks.classification import Classification


def main():
    place = sys.argv.pop(1)
    owner, name, rank = {
        "loader": (loader.TrainingBatches, "__getitem__", "1"),
        "reading": (loader.Data, "train_input", "1"),
        "forward": (Classification, "loss", "1"),
        "save": (storage.Disk, "rename", "0"),
    }[place]
    if os.environ["RANK"] == rank:
        calls = []

        def breaking(*arguments, **named):
            calls.append(1)
            if len(calls) > (4 if place == "save" else 40):
                break_down(f"broken in the {place}")
            return original(*arguments, **named)

        original = getattr(owner, name)
        setattr(owner, name, breaking)
    cli.main()


def break_down(said):
    once = os.environ.get("BREAK_ONCE")
    if once is None:
        raise RuntimeError(said)
    try:
        Path(once).touch(exist_ok=False)
    except FileExistsError:
        return
    if once.endswith(".exit"):
        os._exit(1)
    if once.endswith(".segfault"):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    raise RuntimeError(said)


if __name__ == "__main__":
    main()
