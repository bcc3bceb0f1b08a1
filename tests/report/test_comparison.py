"""Comparisons of trials: laws, and how often they are wrong where the truth is known."""

import inspect
import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from resnet_rs.report.comparison import (
    Verdict,
    holm,
    mcnemar,
    mean_of_hits,
    paired_difference,
    paired_differences,
    verdict,
)


def crossed(rng, *, gain=0.0, num_seeds=3, num_pictures=400, seed_noise=0.02):
    """Hits of two trials: pictures are of different difficulty, and every seed of a trial has its own luck."""
    difficulty = rng.normal(1.0, 1.0, num_pictures)
    trials = []
    for shift in (gain, 0.0):
        luck = rng.normal(0, seed_noise * 5, (num_seeds, 1))
        noise = rng.normal(0, 0.7, (num_seeds, num_pictures))
        trials.append(difficulty + shift + luck + noise > 0)
    return trials


def test_a_difference_has_the_opposite_sign_the_other_way_round():
    new, old = crossed(np.random.default_rng(1), gain=0.3)
    there, back = paired_difference(new, old), paired_difference(old, new)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.p == pytest.approx(back.p)


def test_a_trial_is_not_told_apart_from_itself():
    new, _ = crossed(np.random.default_rng(2))
    difference = paired_difference(new, new)
    assert (difference.value, difference.p) == (0.0, 1.0)
    assert verdict(difference.value, difference.p) is Verdict.NOT_TOLD_APART


def test_one_seed_keeps_the_level_where_seeds_have_no_luck():
    rng = np.random.default_rng(1)
    found = [paired_difference(*crossed(rng, num_seeds=1, seed_noise=0.0)) for _ in range(600)]
    assert sum(difference.p < 0.05 for difference in found) <= stats.binom.isf(0.001, 600, 0.05)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("luck", [0.005, 0.05])
def test_equal_trials_of_a_study_are_told_apart_no_more_often_than_the_level(num_seeds, luck):
    rng = np.random.default_rng(num_seeds)
    studies = [
        [tuple(crossed(rng, num_seeds=num_seeds, seed_noise=luck, num_pictures=200)) for _ in range(10)]
        for _ in range(80)
    ]
    wrong = sum(difference.p < 0.05 for pairs in studies for difference in paired_differences(pairs))
    assert wrong <= stats.binom.isf(0.001, 800, 0.05)


@pytest.mark.parametrize("num_seeds", [2, 3])
def test_equal_trials_that_are_all_compared_with_each_other_are_rarely_told_apart(num_seeds):
    """Sixty-six pairs of twelve trials share their luck; corrected, one of them is wrong in one of twenty studies."""
    rng = np.random.default_rng(10 + num_seeds)
    wrong = 0
    for _ in range(200):
        luck = rng.normal(0, 0.02, (12, num_seeds, 1))
        trials = list(0.5 + luck + np.zeros((12, num_seeds, 4)))
        differences = paired_differences(list(combinations(trials, 2)))
        wrong += min(holm([difference.p for difference in differences])) < 0.05
    assert wrong <= stats.binom.isf(0.001, 200, 0.05)


def test_three_seeds_with_a_large_gain_are_told_apart():
    rng = np.random.default_rng(3)
    found = [paired_difference(*crossed(rng, gain=0.6, seed_noise=0.005)) for _ in range(50)]
    assert all(verdict(difference.value, difference.p) is Verdict.BETTER for difference in found)


def test_the_interval_of_a_difference_covers_the_truth():
    rng = np.random.default_rng(4)
    # The truth is what very many pictures and seeds say.
    truth = np.mean([a.mean() - b.mean() for a, b in (crossed(rng, gain=0.4) for _ in range(2000))])
    found = [paired_difference(*crossed(rng, gain=0.4)) for _ in range(400)]
    covered = sum(difference.low <= truth <= difference.high for difference in found)
    assert covered >= stats.binom.ppf(0.001, 400, 0.95)


def test_the_interval_of_a_mean_covers_the_truth():
    rng = np.random.default_rng(5)
    truth = np.mean([crossed(rng)[0].mean() for _ in range(2000)])
    found = [mean_of_hits(crossed(rng)[0]) for _ in range(300)]
    covered = sum(mean.low <= truth <= mean.high for mean in found)
    assert covered >= stats.binom.ppf(0.001, 300, 0.95)


def test_the_interval_of_fifty_thousand_pictures_is_quick_and_that_of_a_binomial():
    hits = np.random.default_rng(9).random((1, 50_000)) < 0.8
    begin = time.process_time()
    mean = mean_of_hits(hits)
    assert time.process_time() - begin < 1
    low, high = stats.binom.interval(0.95, 50_000, hits.mean())
    assert (mean.low, mean.high) == pytest.approx((low / 50_000, high / 50_000), abs=2e-4)


def test_one_seed_has_no_spread_and_an_interval_over_the_pictures():
    hits = np.random.default_rng(6).random((1, 1000)) < 0.8
    mean = mean_of_hits(hits)
    assert mean.spread is None
    half = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert mean.high - mean.low == pytest.approx(2 * half, rel=0.1)


def test_the_mean_of_many_seeds_does_not_depend_on_their_order():
    hits = np.random.default_rng(7).random((4, 50)) < 0.6
    assert mean_of_hits(hits).value == mean_of_hits(hits[::-1]).value


def test_mcnemar_is_the_exact_binomial_test():
    assert mcnemar(8, 2) == pytest.approx(2 * stats.binom.cdf(2, 10, 0.5))
    assert mcnemar(5, 5) == 1.0 == mcnemar(0, 0)


def test_one_seed_is_compared_by_mcnemar():
    new, old = crossed(np.random.default_rng(8), num_seeds=1, gain=0.2)
    won, lost = int((new & ~old).sum()), int((old & ~new).sum())
    assert paired_difference(new, old).p == mcnemar(won, lost)


def test_the_same_answers_on_few_pictures_are_not_taken_for_certainty():
    hits = np.ones((1, 24), dtype=bool)
    found = paired_difference(hits, hits.copy())
    assert (found.value, found.p) == (0.0, 1.0)
    assert 0.05 < found.high == -found.low < 0.2
    many = np.ones((1, 10_000), dtype=bool)
    assert paired_difference(many, many.copy()).high < 0.0005


@pytest.mark.parametrize("num_pictures", [1, 5])
def test_a_handful_of_pictures_proves_nothing(num_pictures):
    """Won all of them: exact is 1 of 1, and 0.0625 of 5, though they do not vary."""
    new, old = np.ones((1, num_pictures), dtype=bool), np.zeros((1, num_pictures), dtype=bool)
    assert paired_difference(new, old).p == 2 * 0.5**num_pictures
    seeds = np.ones((2, num_pictures), dtype=bool), np.zeros((2, num_pictures), dtype=bool)
    assert paired_difference(*seeds).p == 1.0


def test_holm_equals_a_worked_example():
    # Holm 1979: the smallest is multiplied by 4, the next by 3, and none may fall below one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_only_raises_and_keeps_the_order(chances):
    adjusted = holm(chances)
    assert all(a >= c and a <= 1 for a, c in zip(adjusted, chances, strict=True))
    order = np.argsort(chances, kind="stable")
    assert list(np.array(adjusted)[order]) == sorted(adjusted)


@pytest.mark.parametrize(
    ("value", "p", "said"), [(0.1, 0.01, "better"), (-0.1, 0.01, "worse"), (0.1, 0.05, "not told apart")]
)
def test_a_verdict_needs_a_small_chance(value, p, said):
    assert verdict(value, p).value == said


def test_other_pictures_cannot_be_compared():
    # The shapes in its types would refuse them first, in tests alone.
    compare = inspect.unwrap(paired_differences)
    with pytest.raises(
        (ValueError, TypeError), match=r"same seeds and pictures, got \(1, 3\) and \(1, 4\)|S N"
    ):
        compare([(np.ones((1, 3), dtype=bool), np.ones((1, 4), dtype=bool))])


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="a seed and a picture at least"):
        mean_of_hits(np.ones((0, 3), dtype=bool))
