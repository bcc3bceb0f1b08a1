"""Printing, with control characters escaped."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resnet_rs.config import as_text
from resnet_rs.text import printable


def say(text: object, *, is_error: bool = False) -> None:
    """Print a line. Control characters and bytes that are not UTF-8 are escaped."""
    print(printable(str(text)), file=sys.stderr if is_error else sys.stdout, flush=True)


def say_lines(lines: Iterable[object]) -> None:
    """Print lines."""
    for line in lines:
        say(line)


def say_json(value: Any) -> None:
    """Print JSON in ASCII."""
    print(json.dumps(value, indent=2, allow_nan=False))


def say_report(study: Path, *, out: Path | None = None) -> None:
    """Print the tables of a study and write its page to `out`, by default into its folder."""
    from resnet_rs.studies import summary

    text, page = summary.report(study, out=out)
    say_lines(text.splitlines())
    if page is not None:
        say(f"page: {page}")


def train_command(base: str, edits: Mapping[str, Any], *, data: str, out: str) -> str:
    """The command that trains an experiment with edits, for a shell."""
    words = ["resnet-rs", "train", base, "--data", data, "--out", out]
    return shlex.join([*words, *(f"{path}={as_text(value)}" for path, value in edits.items())])
