"""Is one better than the other? Scores over seeds and pictures, paired, with what chance alone would do.

A trial that was run with S seeds and scored on N test pictures is a table of hits: a network of another seed errs on
other pictures, and another draw of pictures is easier or harder for all seeds. Both spreads count here. Two trials were
scored on the same pictures with the same seeds, so they are compared picture by picture and seed by seed.

Shapes: `S` seeds, `N` pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]: it ships none

from resnet_rs.report.statistics import wilson_interval

_NUM_RESAMPLES = 4000
_LEVEL = 0.05


class Verdict(StrEnum):
    """What may be said of a difference."""

    BETTER = "better"
    WORSE = "worse"
    NOT_TOLD_APART = "not told apart"


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean share of hits, with its 95 % interval over seeds and pictures."""

    value: float
    low: float
    high: float
    spread: float | None
    """Standard deviation over the seeds; None for one seed."""
    num_seeds: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of `new - old` with its 95 % interval, and the chance p of one this large if there were none."""

    value: float
    low: float
    high: float
    p: float
    num_seeds: int


def mean_of_hits(hits: Bool[np.ndarray, "S N"], *, seed: int = 0) -> Mean:
    """The mean of `hits` with its interval by the bootstrap over seeds and over pictures.

    Both are drawn anew, with replacement, and their deviations add up. S seeds drawn from S vary too little by
    S / (S - 1), so the deviation over seeds is stretched by its root; and a spread that is known from few seeds may be
    too small by chance, so the interval is stretched as Student's t is against the normal, with Satterthwaite's degrees
    of freedom. Of one seed nothing is known: its interval is over the pictures alone. Source: Efron 1979 for the
    bootstrap; Owen and Eckles 2012, arXiv:1106.2125, for crossed factors; the stretching is ours, since without it
    three seeds covered the truth in 90 % of simulations.
    """
    num_seeds, num_pictures = _checked(hits)
    of_seeds, of_pictures = hits.mean(axis=1), hits.mean(axis=0)
    value = float(hits.mean())
    rng = np.random.default_rng(seed)
    means = _redrawn(hits.sum(axis=0), rng) / num_seeds
    if num_seeds > 1:
        chosen = rng.integers(num_seeds, size=(_NUM_RESAMPLES, num_seeds))
        stretch = math.sqrt(num_seeds / (num_seeds - 1))
        means = means + stretch * (of_seeds[chosen].mean(axis=1) - value)
    errors = [error for error in (_error(of_seeds), _error(of_pictures)) if error.squared > 0]
    few = float(stats.t.isf(0.025, _freedom(errors)) / stats.norm.isf(0.025)) if errors else 1.0
    low, high = value + few * (np.quantile(means, [0.025, 0.975]) - value)
    if value in (0.0, 1.0):  # nothing varies, and yet little is known of few pictures
        low, high = wilson_interval(int(value * num_pictures), num_pictures)
    return Mean(
        value=value,
        low=max(0.0, float(low)),
        high=min(1.0, float(high)),
        spread=float(of_seeds.std(ddof=1)) if num_seeds > 1 else None,
        num_seeds=num_seeds,
    )


def _redrawn(counts: Int[np.ndarray, " N"], rng: np.random.Generator) -> Float[np.ndarray, " R"]:
    """Mean of as many `counts`, drawn with replacement, many times; equal counts are drawn together."""
    levels, sizes = np.unique(counts, return_counts=True)
    draws = rng.multinomial(len(counts), sizes / len(counts), size=_NUM_RESAMPLES)
    return draws @ levels / len(counts)


Scored = Bool[np.ndarray, "_ _"] | Float[np.ndarray, "_ _"]
"""Hits, or means of hits over several trials: seeds by pictures."""


def paired_differences(pairs: Sequence[tuple[Scored, Scored]]) -> list[Difference]:
    """How much better the first of each pair is than the second, scored on the same pictures with the same seeds.

    The variance of a mean difference is that over seeds and that over pictures together, with Satterthwaite's degrees
    of freedom. Two or three seeds may agree by chance, so the luck of seeds is taken to be at least what it is on
    average over all pairs of the same number of seeds. With one seed it is unknown: the interval is over the pictures,
    and of hits p is McNemar's, exact. Source: Satterthwaite 1946; McNemar 1947; the pooling is ours, since without it
    equal trials of two seeds were told apart in one of eight simulations.
    """
    changes = [_change(new, old) for new, old in pairs]
    # Pairs that share a trial share its luck, so they tell no more than their trials do.
    num_trials = len({id(scored) for pair in pairs for scored in pair})
    luck: dict[int, list[float]] = {}
    for change in changes:
        luck.setdefault(change.num_seeds, []).append(change.luck.squared)
    found: list[Difference] = []
    for change in changes:
        same = luck[change.num_seeds]
        freedom = min(len(same), num_trials - 1) * (change.num_seeds - 1)
        found.append(_difference(change, max(change.luck, _Error(sum(same) / len(same), freedom))))
    return found


def paired_difference(new: Scored, old: Scored) -> Difference:
    """As `paired_differences`, of one pair."""
    return paired_differences([(new, old)])[0]


def mcnemar(won: int, lost: int) -> float:
    """Chance of so uneven a split of the pictures on which two models differ, if both were equally good.

    Exact, two-sided. Source: McNemar 1947.
    """
    if won + lost == 0:
        return 1.0
    return float(stats.binomtest(won, won + lost, 0.5).pvalue)


def holm(chances: Sequence[float]) -> list[float]:
    """Each p raised so far that among all of them a wrong "better" or "worse" stays below the level.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = np.argsort(chances, kind="stable")
    adjusted = [0.0] * len(chances)
    largest = 0.0
    for i, place in enumerate(order):
        largest = max(largest, min(1.0, (len(chances) - i) * chances[place]))
        adjusted[place] = largest
    return adjusted


def verdict(value: float, p: float) -> Verdict:
    """What may be said of a difference of `value` whose (adjusted) chance is `p`, at the level of 5 %."""
    if not p < _LEVEL or value == 0:
        return Verdict.NOT_TOLD_APART
    return Verdict.BETTER if value > 0 else Verdict.WORSE


class _Error(NamedTuple):
    """Squared standard error of a mean, and its degrees of freedom."""

    squared: float
    freedom: int


class _Change(NamedTuple):
    """What is known of the change from one trial to another."""

    value: float
    num_seeds: int
    luck: _Error
    """How far another choice of seeds would move it."""
    pictures: _Error
    """How far another choice of pictures would."""
    outcome: tuple[int, int] | None
    """Pictures won and lost, of a single seed of hits."""


def _change(new: Scored, old: Scored) -> _Change:
    if new.shape != old.shape:
        raise ValueError(
            f"the two must have the same seeds and pictures, got {new.shape} and {old.shape} (seeds, pictures)."
        )
    num_seeds, _ = _checked(new)
    change = new.astype(np.float64) - old.astype(np.float64)
    is_hits = num_seeds == 1 and new.dtype == old.dtype == np.bool_
    return _Change(
        value=float(change.mean()),
        num_seeds=num_seeds,
        luck=_error(change.mean(axis=1)),
        pictures=_error(change.mean(axis=0)),
        outcome=(int((change > 0).sum()), int((change < 0).sum())) if is_hits else None,
    )


def _width_of_nothing(pictures: _Error) -> float:
    """How far a difference may reach of which no picture shows any: as if one had been won and one lost.

    Source: Bonett and Price 2012, who add these two pictures to every table.
    """
    count = pictures.freedom + 1
    return min(1.0, float(stats.t.isf(0.025, max(1, count - 1))) * math.sqrt(2) / (count + 2))


def _difference(change: _Change, luck: _Error) -> Difference:
    value = change.value
    parts = [part for part in (luck, change.pictures) if part.squared > 0]
    if not parts:
        # Nothing is known of how it would vary, unless it can be counted.
        p = 1.0 if change.outcome is None else mcnemar(*change.outcome)
        width = _width_of_nothing(change.pictures)
        low, high = (-width, width) if value == 0 else (-1.0, 1.0)
        return Difference(value=value, low=low, high=high, p=p, num_seeds=change.num_seeds)
    error = math.sqrt(sum(part.squared for part in parts))
    radius = float(stats.t.isf(0.025, _freedom(parts))) * error
    if change.outcome is not None:
        p = mcnemar(*change.outcome)
    else:
        p = float(2 * stats.t.sf(abs(value) / error, _freedom(parts)))
    return Difference(value=value, low=value - radius, high=value + radius, p=p, num_seeds=change.num_seeds)


def _freedom(parts: Sequence[_Error]) -> float:
    """Degrees of freedom of a sum of squared errors. Source: Satterthwaite 1946."""
    return sum(part.squared for part in parts) ** 2 / sum(part.squared**2 / part.freedom for part in parts)


def _error(values: Float[np.ndarray, " M"]) -> _Error:
    if len(values) < 2:
        return _Error(0.0, 0)
    return _Error(float(values.var(ddof=1)) / len(values), len(values) - 1)


def _checked(hits: Scored) -> tuple[int, int]:
    if not hits.size:
        raise ValueError(f"there must be a seed and a picture at least, got {hits.shape} (seeds, pictures).")
    return hits.shape[0], hits.shape[1]
