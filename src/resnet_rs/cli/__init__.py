"""The command line: `resnet-rs COMMAND ...`. Each command parses its options, calls a function and prints.

A command imports what it needs when it runs, so that `--help` answers at once.
"""

from resnet_rs.cli import zoo, training, scoring, pseudo, studies  # isort: skip - the order of `--help`
from resnet_rs.cli.app import app, main

__all__ = ["app", "main", "pseudo", "scoring", "studies", "training", "zoo"]
