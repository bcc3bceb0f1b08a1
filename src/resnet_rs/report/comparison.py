"""Is one trial better than another? Means over seeds and samples, and paired differences with simultaneous intervals.

The values of a trial are a matrix [S, N]: one value for each of S seeds and each of N test samples, such as 1 for a
correct answer. A score without values per sample gives [S, 1]. Another seed would give another network. Other test
samples would be easier or harder for all networks. So an interval adds both variances. The trials of a study have the
same seeds and the same samples, so they are compared pair by pair.

Assumptions: seeds are independent of each other, samples too; means are nearly normal; seed variance is about equal
for all pairs that are compared together. With one seed, the seed variance is taken as 0: the interval then holds for
these trained networks alone, and other seeds may give other verdicts.

Simulated coverage of the 95 % intervals, for correct answers on 400 images whose difficulty varies, and a seed standard
deviation of about 0.5, 2 and 5 points:

    seeds   mean              one difference    eight differences at once
    1       0.96              0.96              0.95 (without seed variance)
    2       0.97 0.94 0.88    0.98 0.92 0.87    1.00 0.99 0.97
    3       0.97 0.95 0.92    0.99 0.96 0.93    1.00 1.00 0.99
    5       0.97 0.96 0.95    0.99 0.97 0.95    1.00 1.00 0.98

So two seeds are too few where seeds differ a lot. `tests/report/test_comparison.py` repeats a part.

Shapes: `S` seeds, `N` samples.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from resnet_rs.report.statistics import wilson_interval

_LEVEL = 0.05

Values = Float[np.ndarray, "_ _"]
"""Per-sample values, or means of them over several trials: seeds by samples."""


class Verdict(StrEnum):
    """What may be said of a difference."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SIGNIFICANT = "not significant"


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over seeds and samples with its 95 % interval. The interval is infinite where no variance is known."""

    value: float
    low: float
    high: float
    standard_deviation: float | None
    """Over the seeds; None for one seed."""
    num_seeds: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean of `new - old`.

    Interval and p-value are corrected for the number of comparisons made together (Bonferroni), so all intervals hold
    together with 95 %. Both come from one t statistic, so p < 0.05 exactly where the interval excludes 0.
    """

    value: float
    low: float
    high: float
    p_value: float
    num_seeds: int

    def verdict(self, *, is_higher_better: bool = True) -> Verdict:
        """Better or worse where the interval excludes 0."""
        if self.low <= 0 <= self.high:
            return Verdict.NOT_SIGNIFICANT
        return Verdict.BETTER if (self.low > 0) == is_higher_better else Verdict.WORSE

    def clipped(self, limit: float) -> Difference:
        """The difference with its interval cut to the possible range, [-limit, limit]."""
        return replace(self, low=max(-limit, self.low), high=min(limit, self.high))


def mean_score(values: Values, *, is_share: bool) -> Mean:
    """The mean of `values` with its interval over seeds and samples.

    The variance of the mean is that over seeds plus that over samples, with Satterthwaite's degrees of freedom. With
    one seed the seed variance is unknown, and the interval is over samples alone (Wilson's for 0 and 1). The interval
    of a share stays within [0, 1]. Source: Satterthwaite 1946.
    """
    num_seeds, num_samples = _shape(values)
    value, by_seed = float(values.mean()), values.mean(axis=1)
    radius, _ = _radius_and_p(value, _variance(by_seed), _variance(values.mean(axis=0)), num_comparisons=1)
    low, high = value - radius, value + radius
    if _is_binary(values) and num_samples > 1 and (num_seeds == 1 or value in (0.0, 1.0)):
        low, high = wilson_interval(round(value * num_samples), num_samples)
    return Mean(
        value=value,
        low=max(0.0, low) if is_share else low,
        high=min(1.0, high) if is_share else high,
        standard_deviation=float(by_seed.std(ddof=1)) if num_seeds > 1 else None,
        num_seeds=num_seeds,
    )


def compare(
    pairs: Sequence[tuple[Values, Values]], *, num_comparisons: int | None = None
) -> list[Difference]:
    """The difference `new - old` of each pair (new, old). Both have the same seeds and samples.

    The variance is that over seeds plus that over samples, with Satterthwaite's degrees of freedom. A few seeds may
    agree by chance, so the seed variance is at least its mean over all pairs with as many seeds. With one seed it is
    unknown and left out. Where all values are 0 or 1, one gained and one lost sample are added (Bonett and Price 2012),
    because a few samples that agree prove little. Intervals and p-values are corrected for `num_comparisons`, by
    default the number of pairs.

    Source: Satterthwaite 1946. The pooling is ours: without it, equal trials of two seeds differed significantly in one
    of eight simulations.
    """
    num_comparisons = num_comparisons or len(pairs)
    # Pairs that share a trial share its seed variance, so they tell no more than their trials do.
    num_trials = len({values.tobytes() for pair in pairs for values in pair})
    by_seed = [_variance(_change(new, old).mean(axis=1)) for new, old in pairs]
    pooled: defaultdict[int, list[float]] = defaultdict(list)
    for seeds in by_seed:
        pooled[seeds.freedom].append(seeds.squared)
    found: list[Difference] = []
    for (new, old), seeds in zip(pairs, by_seed, strict=True):
        same = pooled[seeds.freedom]
        freedom = min(len(same), num_trials - 1) * seeds.freedom
        by_sample = _change(new, old).mean(axis=0)
        value = float(by_sample.mean())
        if len(by_sample) > 1 and _is_binary(new) and _is_binary(old):
            by_sample = np.append(by_sample, [1.0, -1.0])
        center = float(by_sample.mean())
        radius, p_value = _radius_and_p(
            center,
            max(seeds, _Variance(sum(same) / len(same), freedom)),
            _variance(by_sample),
            num_comparisons=num_comparisons,
        )
        found.append(
            Difference(
                value=value,
                low=center - radius,
                high=center + radius,
                p_value=p_value,
                num_seeds=len(new),
            )
        )
    return found


class _Variance(NamedTuple):
    """Variance of a mean, and its degrees of freedom. Both are 0 where it is unknown."""

    squared: float
    freedom: int


def _variance(values: Float[np.ndarray, " M"]) -> _Variance:
    if len(values) < 2:
        return _Variance(0.0, 0)
    return _Variance(float(values.var(ddof=1)) / len(values), len(values) - 1)


def _radius_and_p(center: float, *variances: _Variance, num_comparisons: int) -> tuple[float, float]:
    """Half the width of the interval around `center`, and the p-value of a true center of 0; both corrected.

    Infinite and 1 where no variance is known. Source of the degrees of freedom: Satterthwaite 1946.
    """
    from scipy import special  # pyright: ignore[reportMissingTypeStubs]: none shipped; here since `show` needs no scipy

    known = [part for part in variances if part.squared > 0]
    total = sum(part.squared for part in known)
    if not total:
        return math.inf, 1.0
    freedom = total**2 / sum(part.squared**2 / part.freedom for part in known)
    quantile = -float(special.stdtrit(freedom, _LEVEL / 2 / num_comparisons))
    one_side = float(special.stdtr(freedom, -abs(center) / math.sqrt(total)))
    return quantile * math.sqrt(total), min(1.0, num_comparisons * 2 * one_side)


def _change(new: Values, old: Values) -> Values:
    if new.shape != old.shape:
        raise ValueError(
            f"the two must have the same seeds and samples, got {new.shape} and {old.shape} (seeds, samples)."
        )
    _shape(new)
    return new - old


def _is_binary(values: Values) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _shape(values: Values) -> tuple[int, int]:
    if not values.size:
        raise ValueError(f"at least one seed and one sample are needed, got {values.shape} (seeds, samples).")
    return values.shape[0], values.shape[1]
