"""The command itself: what every verb is added to, and how errors are told."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress

import typer

from resnet_rs.cli.output import say

EXIT_ERROR = 2
EXIT_STOPPED = 75
"""A signal has stopped the run, and its state is saved: start the same command again. Schedulers know EX_TEMPFAIL."""

app = typer.Typer(
    name="resnet-rs",
    help="ResNet-RS: train, scale and judge ResNets as in 'Revisiting ResNets' (arXiv:2103.07579).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line; errors of what was given become one message and exit code 2."""
    warnings.showwarning = _say_warning
    with _explained():
        app(standalone_mode=True)


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except (ValueError, OSError, RecursionError) as error:
        with suppress(OSError):
            say(f"error: {error}", is_error=True)
        sys.exit(getattr(error, "exit_code", EXIT_ERROR))


def _say_warning(message: Warning | str, *_: object) -> None:
    say(f"warning: {message}", is_error=True)
