"""Intervals for shares and means, and the calibration of a classifier's confidence.

Shapes: `N` samples.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

_Z = NormalDist().inv_cdf(0.975)
_TAIL = 0.025
_NUM_BINS = 15
_MOST_RESAMPLED = 1_000_000
"""Values up to which a bootstrap takes about ten seconds."""


class Interval(NamedTuple):
    """The bounds of a 95 % interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """An estimated quantity with its 95 % interval."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, math.nan, math.nan)
"""What too few samples cannot tell."""


class Bin(NamedTuple):
    """Samples whose confidence lies in (low, high]; the first bin holds 0 as well."""

    low: float
    high: float
    confidence: float | None
    """Mean confidence; None for a bin without samples."""
    accuracy: float | None
    """Share that is correct; None for a bin without samples."""
    count: int  # pyright: ignore[reportIncompatibleMethodOverride] - the samples, not tuple.count


def wilson_interval(successes: int, count: int) -> Interval:
    """The 95 % interval of a share after `successes` in `count` independent trials; (0, 1) after no trial.

    Source: Wilson 1927, without continuity correction. The closed form is ours because scipy's
    `binomtest(...).proportion_ci` takes 0.4 to 0.9 ms, and 21,841 classes need two intervals each.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"successes must be between 0 and {count} (the count), got {successes}.")
    if count == 0:
        return Interval(0.0, 1.0)
    share, scale = successes / count, 1 + _Z**2 / count
    center = (share + _Z**2 / (2 * count)) / scale
    radius = _Z / scale * math.sqrt(share * (1 - share) / count + (_Z / (2 * count)) ** 2)
    # Rounding would miss the exact bounds 0 and 1.
    low = 0.0 if successes == 0 else center - radius
    high = 1.0 if successes == count else center + radius
    return Interval(low, high)


def mean_share(successes: Int[np.ndarray, " K"], counts: Int[np.ndarray, " K"]) -> Estimate:
    """The mean of K shares of separate groups, with its 95 % interval; NaN without a group.

    The Wilson intervals of the groups are combined as Zou and Donner 2008 do for sums ("MOVER"): the distances from
    each share to its bounds add up as the squares of independent errors. All `counts` are above 0.
    """
    if not len(counts):
        return UNKNOWN
    shares = successes / counts
    bounds = np.array([wilson_interval(int(n), int(of)) for n, of in zip(successes, counts, strict=True)])
    below, above = (float(np.linalg.norm(bounds[:, i] - shares)) / len(counts) for i in (0, 1))
    mean = float(shares.mean())
    return Estimate(mean, mean - below, mean + above)


def average_precision(values: Float[np.ndarray, " N"], labels: Bool[np.ndarray, " N"]) -> float | None:
    """The mean precision at each true sample, in descending order of `values`; None without a true sample.

    Samples with equal values share the precision after all of them, as in scikit-learn's `average_precision_score`.
    """
    if not labels.any():
        return None
    return float(_average_precisions(values, labels, np.ones((1, len(values))))[0])


def mean_average_precision(
    values: Float[np.ndarray, "N K"], labels: Bool[np.ndarray, "N K"], *, num_resamples: int = 200
) -> Estimate | None:
    """The mean of `average_precision` over the classes with a true sample; None without such a class.

    The 95 % interval is the bootstrap's: percentiles over samples that are drawn with replacement, the same for all
    classes. A class without a true sample in a draw is left out of its mean. The bounds are NaN for more than a million
    values, which would take minutes.
    """
    present = np.flatnonzero(labels.any(axis=0))
    if not len(present):
        return None
    size = len(values)
    weights = np.ones((1, size))
    if values.size <= _MOST_RESAMPLED:
        draws = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=num_resamples)
        weights = np.concatenate([weights, draws])
    each = np.array([_average_precisions(values[:, i], labels[:, i], weights) for i in present])
    of_draw = ~np.isnan(each).all(axis=0)  # a draw may have no true sample at all
    mean, *drawn = np.nanmean(each[:, of_draw], axis=0).tolist()
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL]) if drawn else (math.nan, math.nan)
    return Estimate(mean, float(low), float(high))


def _average_precisions(
    values: Float[np.ndarray, " N"], labels: Bool[np.ndarray, " N"], weights: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """The average precision for each row of sample weights; NaN where all true samples have no weight."""
    order = np.argsort(-values, kind="stable")
    weighted = weights[:, order].astype(np.float64)
    hits = np.cumsum(weighted * labels[order], axis=1)
    found = np.cumsum(weighted, axis=1)
    # Only the last of equal values counts as a threshold.
    is_last = np.append(np.diff(values[order]) != 0, True)
    hits, found = hits[:, is_last], found[:, is_last]
    gains = np.diff(hits, axis=1, prepend=0.0)
    with np.errstate(invalid="ignore"):
        return (gains * hits / np.maximum(found, 1e-12)).sum(axis=1) / hits[:, -1]


def mean_interval(values: Float[np.ndarray, " N"]) -> Interval:
    """The 95 % interval of a mean by Student's t; NaN for fewer than two values.

    Source: Student 1908. It assumes independent samples, and enough of them for a nearly normal mean.
    """
    from scipy import special  # pyright: ignore[reportMissingTypeStubs]: none shipped; here since `show` needs no scipy

    count = len(values)
    if count < 2:
        return Interval(math.nan, math.nan)
    mean = float(values.mean())
    radius = float(special.stdtrit(count - 1, 1 - _TAIL) * values.std(ddof=1) / math.sqrt(count))
    return Interval(mean - radius, mean + radius)


def calibration_error(confidences: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"]) -> Estimate:
    """The root mean square of (accuracy - confidence) over 15 bins of nearly equal size, without its bias.

    NaN for fewer than two samples. The bins are quantiles of confidence, and equal confidences share a bin. The
    squared error of a bin is too large by the variance of its accuracy, p (1 - p) / n, which is subtracted. The
    interval inverts the distribution of the sum of squares: a scaled noncentral chi-squared with the same mean.

    Simulated coverage of the 95 % interval, at true errors of 0, 0.002, 0.02 and 0.1 with 500, 2,000 and 50,000
    samples, three distributions of confidence and four shapes of miscalibration: 92.5 to 98 % in each of the 111 cases,
    and the value is always inside. The truth there is the error of the bins. Errors that cancel within a bin are not
    seen.

    Source: Kumar et al. 2019, arXiv:1909.10155, section 4, for the debiased error; the interval is ours. The usual
    expected calibration error is biased upward, and a bootstrap does not cover it.
    """
    total = len(confidences)
    if total < 2:
        return UNKNOWN
    quantiles = np.sort(confidences)[[total * i // _NUM_BINS for i in range(1, _NUM_BINS)]]
    bins = _per_bin(confidences, correct, upper=np.unique(quantiles))
    counts, num_correct, totals = bins[:, bins[0] > 0]  # the last may be empty: equal confidences share a bin
    accuracy, confidence = num_correct / counts, totals / counts
    # One more sample, as correct as the bin is confident: a bin without mistakes still has a variance.
    share = (num_correct + confidence) / (counts + 1)
    variance = share * (1 - share)
    parts = counts * (accuracy - confidence) ** 2
    squares, noise = float(parts.sum()), float(variance.sum())
    if noise < np.finfo(np.float64).eps:  # every confidence is 0 or 1, but for rounding, and right
        return Estimate(0.0, 0.0, 1.0)
    # Where the bins with the errors are also the noisy ones, the sum of squares varies more.
    scale = max(float((variance * w).sum() / w.sum()) for w in (variance, parts) if w.any())
    freedom = noise / scale
    low, high = (
        math.sqrt(scale * _noncentrality(squares / scale, freedom, p) / total) for p in (1 - _TAIL, _TAIL)
    )
    value = math.sqrt(max(0.0, squares - noise) / total)
    return Estimate(value, min(low, 1.0), min(high, 1.0))


def _noncentrality(x: float, freedom: float, p: float) -> float:
    """The noncentrality for which a chi-squared value is at most `x` with probability `p`; 0 if there is none."""
    from scipy import special  # pyright: ignore[reportMissingTypeStubs]: it ships none

    return 0.0 if special.chdtr(freedom, x) <= p else float(special.chndtrinc(x, freedom, p))


def reliability_bins(
    confidences: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"], *, num_bins: int = _NUM_BINS
) -> tuple[Bin, ...]:
    """The accuracy at each level of confidence, in bins of equal width over [0, 1].

    Source: Guo et al. 2017, arXiv:1706.04599, section 2, with its 15 bins.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be 1 or more, got {num_bins}.")
    bins = _per_bin(confidences, correct, upper=np.arange(1, num_bins) / num_bins)
    return tuple(
        Bin(
            low=i / num_bins,
            high=(i + 1) / num_bins,
            confidence=total / count if count else None,
            accuracy=num_correct / count if count else None,
            count=int(count),
        )
        for i, (count, num_correct, total) in enumerate(bins.T.tolist())
    )


def _per_bin(
    confidences: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"], *, upper: Float[np.ndarray, " E"]
) -> Float[np.ndarray, "3 M"]:
    """Number of samples, number of correct ones and sum of confidences per bin; `upper` are all bounds but the last.

    The samples are sorted, so that the sums do not depend on their order.
    """
    order = np.argsort(confidences)
    values = confidences[order].astype(np.float64)
    if len(values) and not (values[0] >= 0 and values[-1] <= 1):
        raise ValueError(f"confidences must be in [0, 1], got {values[0]} to {values[-1]}.")
    bins, minlength = np.searchsorted(upper, values), len(upper) + 1
    summed = (np.ones(len(values)), correct[order], values)
    return np.array([np.bincount(bins, weights, minlength) for weights in summed], dtype=np.float64)
