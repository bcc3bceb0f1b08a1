"""Text of many packages: names in messages, the closest word, intervals of fields, JSON without repeated keys."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

MAX_WORD = 100
"""A longer word is cut in messages, and the closest known one is not searched, which would be slow."""

_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))} | {9: "\t"}
"""Control characters could move the cursor or change colors, so they become escapes. A tab stays."""


def printable(text: str) -> str:
    """`text` for a terminal: control characters and bytes that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode().translate(_CONTROLS)


def quoted(name: str) -> str:
    """`name` in quotes, with escapes for what cannot be printed; a long name is cut."""
    return repr(name[:MAX_WORD])


def listed(names: Collection[str], *, at_most: int = 5) -> str:
    """The first of `names` in quotes, and how many more there are."""
    first = ", ".join(quoted(name) for name in list(names)[:at_most])
    return first if len(names) <= at_most else f"{first} and {len(names) - at_most} more"


def macs_text(macs: int) -> str:
    """A number of multiply-adds in the unit that fits, such as `2.28 billion multiply-adds`."""
    shown = f"{macs / 1e9:.3g} billion" if macs >= 1e9 else f"{macs / 1e6:.3g} million"
    return f"{shown} multiply-adds"


def closest(word: str, known: Iterable[str], *, at_most: int = 3, likeness: float = 0.4) -> str:
    """The words of `known` that are most like a misspelled one, with commas; empty if none is.

    `likeness` is in [0, 1], the least that counts. A word above 100 letters has no closest one.
    """
    found = get_close_matches(word, known, n=at_most, cutoff=likeness) if len(word) <= MAX_WORD else []
    return ", ".join(found)


def is_within(path: str, others: Iterable[str]) -> bool:
    """Whether the field at `path` is one of the fields `others`, or inside one of them."""
    return any(f"{path}.".startswith(f"{other}.") for other in others)


def refuse_outside(value: object, **intervals: str) -> None:
    """Raise `ValueError` for a field of `value` outside of its interval, such as `drop_path="[0, 1)"`, or NaN.

    `"(0, inf)"` has no upper end, and `"(0, 1] or none"` also allows None.
    """
    for name, interval in intervals.items():
        number: float | None = getattr(value, name)
        bounds, _, alternative = interval.partition(" or ")
        low, high = (math.inf if end == "inf" else float(Fraction(end)) for end in bounds[1:-1].split(", "))
        if number is None:
            is_allowed = alternative == "none"
        else:
            is_end = (number == low and bounds[0] == "[") or (number == high and bounds[-1] == "]")
            is_allowed = low < number < high or is_end
        if not is_allowed:
            raise ValueError(f"{name} must be in {interval}, got {number}.")


def require(module: str, *, extra: str, what: str) -> None:
    """Raise `ValueError` if an optional library is not installed, with the extra that brings it."""
    if find_spec(module) is None:
        raise ValueError(
            f"{what} needs {module}, which is not installed. Install it with `pip install 'resnet-rs[{extra}]'`."
        )


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
