"""What is printed, and only here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))} | {9: "\t"}
"""Control characters, which could move the cursor or change colors, as their escapes; a tab stays."""


def flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """The leaves of nested JSON as dotted paths and typed values; types are shown by their last name."""
    from resnet_rs.config import as_typed

    if isinstance(value, dict):
        for name, item in value.items():
            yield from flat(f"{path}.{name}", item) if name != "type" else [(path, item.rpartition(".")[2])]
    else:
        yield path, as_typed(tuple(value) if isinstance(value, list) else value)


def say(text: object, *, is_error: bool = False) -> None:
    """Print a line; control characters in names, and bytes that no terminal shows, are escaped."""
    shown = str(text).encode("utf-8", "backslashreplace").decode().translate(_CONTROLS)
    print(shown, file=sys.stderr if is_error else sys.stdout, flush=True)


def say_json(value: Any) -> None:
    """Print JSON, which escapes what is not ASCII."""
    print(json.dumps(value, indent=2, allow_nan=False))
