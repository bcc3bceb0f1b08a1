"""The command line: `resnet-rs VERB ...`. One verb, one function of `verbs`; only this room prints.

What a verb needs is imported when it runs, so that `--help` answers at once.
"""

from resnet_rs.cli import scoring, studies, training, zoo
from resnet_rs.cli.app import app, main

__all__ = ["app", "main", "scoring", "studies", "training", "zoo"]
