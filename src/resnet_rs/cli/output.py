"""Printing, with control characters escaped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from resnet_rs.text import printable


def flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Path and text of each value in nested JSON. Types are shown by their last name."""
    from resnet_rs.config import as_text

    if isinstance(value, dict):
        for name, item in value.items():
            yield from flat(f"{path}.{name}", item) if name != "type" else [(path, item.rpartition(".")[2])]
    else:
        yield path, as_text(tuple(value) if isinstance(value, list) else value)


def say(text: object, *, is_error: bool = False) -> None:
    """Print a line. Control characters and bytes that are not UTF-8 are escaped."""
    print(printable(str(text)), file=sys.stderr if is_error else sys.stdout, flush=True)


def say_json(value: Any) -> None:
    """Print JSON in ASCII."""
    print(json.dumps(value, indent=2, allow_nan=False))
