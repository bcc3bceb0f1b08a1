"""The command `resnet-rs`, to which all others are added, and its error messages."""

from __future__ import annotations

import errno
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_rs import __version__
from resnet_rs.cli.output import say

if TYPE_CHECKING:
    from resnet_rs.processes import Stop

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


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        say(f"resnet-rs {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line. Wrong input gives one message and exit code 2."""
    warnings.showwarning = _say_warning
    try:
        app(standalone_mode=True)
    except (MemoryError, OSError, RuntimeError, ValueError) as error:
        message = _message(error)
        if message is None:
            raise
        with suppress(OSError):
            say(f"error: {message}", is_error=True)
        sys.exit(getattr(error, "exit_code", EXIT_ERROR))


def exit_unfinished(stop: Stop, failed: str) -> None:
    """Exit with the code of a command that was stopped, or of which `failed` names a part that failed; else go on."""
    if stop.is_requested:
        say(f"stopped by {stop.reason}. The same command continues.", is_error=True)
        raise typer.Exit(EXIT_STOPPED)
    if failed:
        say(f"{failed} failed. The same command tries them again.", is_error=True)
        raise typer.Exit(EXIT_PARTLY)


def _message(error: Exception) -> str | None:
    """The message of an error, with what to do; None for a bug, which needs its traceback."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "out of memory" in str(error)):
        text = str(error).partition("\n")[0] or "this machine has too little memory"
        cure = "Use a smaller --micro-batch, --activation-checkpointing, or a smaller network."
        return f"out of memory: {text} {cure}"
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        paths = " and ".join(str(path) for path in (error.filename, error.filename2) if path is not None)
        reason, cure = error.strerror or type(error).__name__, _CURES.get(error.errno, "Check the path.")
        return f"cannot use {paths}: {reason.lower()}. {cure}"
    is_bug = isinstance(error, RuntimeError) and not isinstance(error, RecursionError)
    return None if is_bug else str(error)


def _say_warning(message: Warning | str, *_: object) -> None:
    say(f"warning: {message}", is_error=True)
