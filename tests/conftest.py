"""Settings of all tests."""

import sys
from typing import NamedTuple

import pytest
import torch

# Tests run side by side, and threads that wait for each other on shared cores are slow.
torch.set_num_threads(1)

LONG = ("test_docs.py", "test_comparison.py")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The order is random, but the longest come first, so that no core waits for them at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


class Said(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command line in this process."""
    from resnet_rs.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["resnet-rs", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Said(ended.value.code or 0, said.out, said.err)

    return run
