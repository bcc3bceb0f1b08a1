"""Scores as values: `ScoreName` (what is measured), `Number` (a score with its interval), `PerSample` (one per sample).

Code outside of `tasks` knows scores by these values alone. It never names one.

Shapes: `N` samples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True, kw_only=True)
class ScoreName:
    """What a score is called, and how it is shown."""

    key: str
    """Its key in `scores.json` and in the log. The bounds of its interval are `KEY_low` and `KEY_high`."""
    label: str
    is_share: bool = True
    """Whether it lies in [0, 1] and is shown in percent."""
    is_higher_better: bool = True

    @property
    def title(self) -> str:
        """The score with its unit, as the head of a column: `accuracy, %`, or `error`."""
        return f"{self.label}, %" if self.is_share else self.label

    @property
    def unit(self) -> str:
        """The unit of a difference."""
        return "points" if self.is_share else self.label

    def text(self, value: float | None) -> str:
        """`value` as people read it: `90.4%`, or `0.312`; of None an empty text."""
        if value is None:
            return ""
        return f"{value:.1%}" if self.is_share else f"{value:.4g}"

    def cell(self, value: float | None, *, sign: str = "") -> str:
        """`value` in a column with the title: `90.42`, or `0.312`. An empty text for None and for infinity."""
        if value is None or not math.isfinite(value):
            return ""
        return f"{100 * value:{sign}.2f}" if self.is_share else f"{value:{sign}.4g}"

    def change(self, value: float | None) -> str:
        """A difference with its sign and without its unit: `+1.20`, or `-0.031`."""
        return self.cell(value, sign="+")

    def number(self, scores: Mapping[str, Any]) -> Number:
        """This score of `scores`, with its interval where they have one."""
        low, high = scores.get(f"{self.key}_low"), scores.get(f"{self.key}_high")
        return Number(name=self, value=scores.get(self.key), low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Number:
    """A measured score. None means that it was not measured."""

    name: ScoreName
    value: float | None
    low: float | None = None
    high: float | None = None
    """Bounds of the 95 % interval."""

    @property
    def interval(self) -> str:
        """The interval as text, such as `89.0% to 91.6%`; empty if there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.name.text(self.low)} to {self.name.text(self.high)}"


@dataclass(frozen=True, kw_only=True)
class PerSample:
    """One value per scored sample; their mean is the headline score. Stored sparsely, without the most common value."""

    default: float
    """Value of all samples that are not listed."""
    indices: tuple[int, ...] = ()
    """Samples with another value, in increasing order."""
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.indices) != len(self.values):
            raise ValueError(
                f"every listed sample needs one value, got {len(self.values)} values for {len(self.indices)} samples."
            )

    @classmethod
    def of(cls, indices: Sequence[int], values: Sequence[float]) -> PerSample:
        """The sparse form of `values`, which belong to the samples `indices`."""
        counts = Counter(values)
        # Of equally common values the smallest, so that the order of the samples does not matter.
        default = min(counts, key=lambda value: (-counts[value], value), default=0.0)
        listed = sorted((i, v) for i, v in zip(indices, values, strict=True) if v != default)
        return cls(default=default, indices=tuple(i for i, _ in listed), values=tuple(v for _, v in listed))

    def dense(self, num_samples: int) -> Float64[np.ndarray, " N"]:
        """The values of the samples 0 to `num_samples - 1`. Samples that were not scored get the default."""
        found = np.full(num_samples, self.default, dtype=np.float64)
        found[list(self.indices)] = self.values
        return found

    def to_plain(self) -> dict[str, Any]:
        """As JSON. One value for all listed samples is written once."""
        same = len(set(self.values)) == 1
        values = self.values[0] if same else list(self.values)
        return {"default": self.default, "indices": list(self.indices), "values": values}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> PerSample:
        """The inverse of `to_plain`."""
        indices = tuple(int(i) for i in plain["indices"])
        values = plain["values"]
        listed = [values] * len(indices) if isinstance(values, int | float) else values
        return cls(default=float(plain["default"]), indices=indices, values=tuple(map(float, listed)))
