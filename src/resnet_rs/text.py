"""Text that several packages write or read alike: names in messages, and JSON without repeated keys."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

_MAX_CHARACTERS = 120


_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))} | {9: "\t"}
"""Control characters could move the cursor or change colors, so they become escapes. A tab stays."""


def printable(text: str) -> str:
    """`text` for a terminal: control characters and bytes that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode().translate(_CONTROLS)


def quoted(name: str) -> str:
    """`name` in quotes, with escapes for what cannot be printed; a long name is cut."""
    return repr(name[:_MAX_CHARACTERS])


def listed(names: Collection[str], *, at_most: int = 5) -> str:
    """The first of `names` in quotes, and how many more there are."""
    first = ", ".join(quoted(name) for name in list(names)[:at_most])
    return first if len(names) <= at_most else f"{first} and {len(names) - at_most} more"


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, as `object_pairs_hook` of `json.loads`.

    Raises `ValueError` for a repeated key: JSON parsers differ in which of the two values they take.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{quoted(key)} is set twice")
        found[key] = value
    return found
