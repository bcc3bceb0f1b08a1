"""The command `resnet-rs`, to which all others are added, and its error messages."""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer

from resnet_rs import __version__
from resnet_rs.cli.output import say

EXIT_ERROR = 2
EXIT_PARTLY = 1
"""Some images could not be read, some trials or measurements failed; the output says which."""
EXIT_STOPPED = 75
"""A signal has stopped the run, and its state is saved: start the same command again. Schedulers know EX_TEMPFAIL."""

_CURES = {
    errno.EACCES: "Change its permissions, which `ls -ld` shows, or choose another path.",
    errno.EPERM: "Change its permissions, which `ls -ld` shows, or choose another path.",
    errno.EROFS: "Choose a path on a file system that is not read-only.",
    errno.ENOSPC: "Free some space, or choose a path on another disk.",
    errno.EDQUOT: "Free some space, or choose a path on another disk.",
    errno.EMFILE: "Raise the limit of open files with `ulimit -n`, or use fewer --workers.",
}

app = typer.Typer(
    name="resnet-rs",
    help="Train, scale and compare ResNets as in 'Revisiting ResNets' (arXiv:2103.07579).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(is_asked: bool) -> bool:
    if is_asked:
        say(f"resnet-rs {__version__}")
        raise typer.Exit
    return is_asked


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line. Wrong input gives one message and exit code 2."""
    warnings.showwarning = _say_warning
    with _explained():
        app(standalone_mode=True)


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "out of memory" not in str(error):
            raise
        text = str(error).partition("\n")[0] or "this machine has too little memory"
        cure = "Use a smaller --micro-batch, --activation-checkpointing, or a smaller network."
        say(f"error: out of memory: {text} {cure}", is_error=True)
        sys.exit(EXIT_ERROR)
    except (ValueError, OSError, RecursionError) as error:
        with suppress(OSError):
            say(f"error: {_message(error)}", is_error=True)
        sys.exit(getattr(error, "exit_code", EXIT_ERROR))


def _message(error: Exception) -> str:
    """The message of an error; an error of the operating system names the path, the reason and what to do."""
    if not isinstance(error, OSError) or error.errno is None or error.filename is None:
        return str(error)
    paths = " and ".join(str(path) for path in (error.filename, error.filename2) if path is not None)
    reason, cure = error.strerror or type(error).__name__, _CURES.get(error.errno, "Check the path.")
    return f"cannot use {paths}: {reason.lower()}. {cure}"


def _say_warning(message: Warning | str, *_: object) -> None:
    say(f"warning: {message}", is_error=True)
