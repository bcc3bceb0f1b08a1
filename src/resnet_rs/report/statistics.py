"""Intervals for measured shares and scores, and how far a classifier's confidence can be believed.

Calibration is a function of the *set* of samples: it is equal to the last bit in whatever order they come.

Shapes: `N` samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

_TOP = 5


class Interval(NamedTuple):
    """Two bounds between which a quantity lies at some confidence."""

    low: float
    high: float


class Bin(NamedTuple):
    """Samples whose confidence lies in (low, high]; the first bin holds 0 as well."""

    low: float
    high: float
    confidence: float | None
    """Mean confidence; None for a bin without samples."""
    accuracy: float | None
    """Share that is correct; None for a bin without samples."""
    count: int  # pyright: ignore[reportIncompatibleMethodOverride] - the samples, not tuple.count


def wilson_interval(successes: int, count: int, *, confidence: float = 0.95) -> Interval:
    """Where the true share lies after `successes` in `count` independent trials; after none, anywhere.

    Unlike the normal approximation it stays within [0, 1] and has a width at 0 % and 100 %.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference"; without
    continuity correction.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"successes must be between 0 and {count} (the count), got {successes}.")
    z = NormalDist().inv_cdf((1 + _checked(confidence)) / 2)
    if count == 0:
        return Interval(0.0, 1.0)
    share = successes / count
    scale = 1 + z**2 / count
    center = (share + z**2 / (2 * count)) / scale
    radius = z / scale * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    # The bounds at no and at every success are exactly 0 and 1, which rounding would miss.
    low = 0.0 if successes == 0 else center - radius
    high = 1.0 if successes == count else center + radius
    return Interval(low, high)


def bootstrap_interval(
    statistic: Callable[[Int[np.ndarray, " N"]], float],
    count: int,
    *,
    seed: int = 0,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """Where `statistic` would lie on another draw of `count` samples: the percentile bootstrap.

    `statistic` gets the indices of each resample, drawn with replacement from [0, count). It is the order of
    the samples that says which of them an index names, so keep it fixed. Of no samples, both bounds are NaN.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    tail = (1 - _checked(confidence)) / 2
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be 1 or more, got {num_resamples}.")
    if count == 0:
        return Interval(math.nan, math.nan)
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(count, size=count)) for _ in range(num_resamples)]
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def reliability_bins(
    confidences: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"], *, num_bins: int = 15
) -> tuple[Bin, ...]:
    """How often predictions are right at each level of confidence, in bins of equal width over [0, 1].

    Source: Guo et al. 2017, arXiv:1706.04599, section 2, with its 15 bins.
    """
    edges = [i / num_bins for i in range(num_bins + 1)]
    counts, hits, totals = _per_bin(confidences, correct, num_bins=num_bins)
    return tuple(
        Bin(
            low=edges[i],
            high=edges[i + 1],
            confidence=float(totals[i] / counts[i]) if counts[i] else None,
            accuracy=float(hits[i] / counts[i]) if counts[i] else None,
            count=int(counts[i]),
        )
        for i in range(num_bins)
    )


def expected_calibration_error(
    confidences: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"], *, num_bins: int = 15
) -> float:
    """Mean over samples of |accuracy - confidence| of the sample's bin, in [0, 1]. Of no samples, NaN.

    Source: Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning".
    """
    if len(confidences) == 0:
        return math.nan
    _, hits, totals = _per_bin(confidences, correct, num_bins=num_bins)
    return float(np.abs(hits - totals).sum() / len(confidences))


def _per_bin(
    confidences: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"], *, num_bins: int
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Number of samples, number of correct ones, and sum of confidences in each of M bins.

    Sorted samples make each bin a slice, and its sum the same for every order they came in.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be 1 or more, got {num_bins}.")
    values = np.sort(confidences.astype(np.float64))
    if len(values) and not (values[0] >= 0 and values[-1] <= 1):
        raise ValueError(f"confidences must be in [0, 1], got {values[0]} to {values[-1]}.")
    upper = np.arange(1, num_bins) / num_bins
    ends = np.concatenate([[0], np.searchsorted(values, upper, side="right"), [len(values)]])
    right = np.searchsorted(np.sort(confidences[correct].astype(np.float64)), upper, side="right")
    hits = np.diff(np.concatenate([[0], right, [int(correct.sum())]]))
    totals = np.array([values[ends[i] : ends[i + 1]].sum() for i in range(num_bins)])
    return np.diff(ends), hits, totals


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}. For 95 %, give 0.95.")
    return confidence


def is_telling(score: str, num_classes: int) -> bool:
    """Whether a score says something: of up to five classes, all are among the first five; 0 stands for unknown."""
    return score != "top5" or not 0 < num_classes <= _TOP
