"""Comparisons of trials: laws, and how often they are wrong where the truth is known."""

import inspect
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from resnet_rs.report.comparison import Verdict, compare, mean_score


def crossed(rng, *, gain=0.0, num_seeds=3, num_images=400, seed_noise=0.02):
    """Correct answers of two trials: images differ in difficulty, and each seed of a trial in quality."""
    difficulty = rng.normal(1.0, 1.0, num_images)
    trials = []
    for shift in (gain, 0.0):
        quality = rng.normal(0, seed_noise * 5, (num_seeds, 1))
        noise = rng.normal(0, 0.7, (num_seeds, num_images))
        trials.append((difficulty + shift + quality + noise > 0).astype(float))
    return trials


def study(rng, num_pairs, **options):
    return [tuple(crossed(rng, **options)) for _ in range(num_pairs)]


def difference(new, old):
    return compare([(new, old)])[0]


def too_many(count, share, *, level=0.001):
    """The most events among `count` that a probability of `share` explains."""
    return stats.binom.isf(level, count, share)


def test_a_difference_has_the_opposite_sign_the_other_way_round():
    new, old = crossed(np.random.default_rng(1), gain=0.3)
    there, back = difference(new, old), difference(old, new)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.p_value == pytest.approx(back.p_value)


def test_a_trial_does_not_differ_from_itself():
    new, _ = crossed(np.random.default_rng(2))
    found = difference(new, new)
    assert (found.value, found.p_value, found.verdict()) == (0.0, 1.0, Verdict.NOT_SIGNIFICANT)


@given(
    seed=st.integers(0, 10_000),
    num_seeds=st.integers(1, 3),
    num_pairs=st.integers(1, 12),
    gain=st.floats(-0.5, 0.5),
    is_binary=st.booleans(),
)
def test_a_verdict_is_significant_exactly_where_p_is_small_and_the_interval_excludes_0(
    seed, num_seeds, num_pairs, gain, is_binary
):
    rng = np.random.default_rng(seed)
    pairs = study(rng, num_pairs, num_seeds=num_seeds, gain=gain, num_images=60)
    if not is_binary:
        pairs = [(new + rng.normal(0, 0.1, new.shape), old) for new, old in pairs]
    for found in compare(pairs):
        is_significant = found.verdict() is not Verdict.NOT_SIGNIFICANT
        assert is_significant == (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
        assert found.low <= found.value <= found.high
        assert found.clipped(1.0).verdict() is found.verdict()


def test_a_lower_error_is_better():
    new, old = crossed(np.random.default_rng(3), gain=0.8)
    assert difference(new, old).verdict() is Verdict.BETTER
    assert difference(1 - new, 1 - old).verdict(is_higher_better=False) is Verdict.BETTER
    assert difference(1 - old, 1 - new).verdict(is_higher_better=False) is Verdict.WORSE


@pytest.mark.parametrize("num_seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_all_intervals_of_a_study_hold_together_in_95_percent_of_studies(num_seeds, gain):
    rng = np.random.default_rng(num_seeds)
    noise = 0.0 if num_seeds == 1 else 0.02
    options = {"num_seeds": num_seeds, "gain": gain, "seed_noise": noise, "num_images": 200}
    truth = np.mean([a.mean() - b.mean() for a, b in study(rng, 1500, **options)])
    wrong = 0
    for _ in range(120):
        wrong += not all(found.low <= truth <= found.high for found in compare(study(rng, 8, **options)))
    assert wrong <= too_many(120, 0.05)


@pytest.mark.parametrize("num_seeds", [2, 3])
def test_equal_trials_that_are_all_compared_with_each_other_rarely_differ(num_seeds):
    """Sixty-six pairs of twelve trials share their seed variance."""
    rng = np.random.default_rng(10 + num_seeds)
    wrong = 0
    for _ in range(100):
        quality = rng.normal(0, 0.02, (12, num_seeds, 1))
        trials = list(0.5 + quality + np.zeros((12, num_seeds, 4)))
        wrong += min(found.p_value for found in compare(list(combinations(trials, 2)))) < 0.05
    assert wrong <= too_many(100, 0.05)


def test_a_trial_counts_once_whether_its_values_are_the_same_array_or_a_copy():
    trials = list(np.random.default_rng(4).random((4, 3, 20)))
    pairs = list(combinations(trials, 2))
    assert compare([(new.copy(), old.copy()) for new, old in pairs]) == compare(pairs)


def test_three_seeds_with_a_large_gain_differ_significantly():
    rng = np.random.default_rng(3)
    found = [difference(*crossed(rng, gain=0.6, seed_noise=0.005)) for _ in range(50)]
    assert all(one.verdict() is Verdict.BETTER for one in found)


def test_the_interval_of_a_mean_covers_the_truth():
    rng = np.random.default_rng(5)
    truth = np.mean([crossed(rng)[0].mean() for _ in range(2000)])
    found = [mean_score(crossed(rng)[0], is_share=True) for _ in range(300)]
    missed = sum(not mean.low <= truth <= mean.high for mean in found)
    assert missed <= too_many(300, 0.05)


def test_one_seed_has_no_standard_deviation_and_wilsons_interval():
    correct = (np.random.default_rng(9).random((1, 1000)) < 0.8).astype(float)
    mean = mean_score(correct, is_share=True)
    theirs = stats.binomtest(int(correct.sum()), 1000).proportion_ci(method="wilson")
    assert mean.standard_deviation is None and (mean.low, mean.high) == pytest.approx(tuple(theirs))


def test_scores_without_per_sample_values_are_compared_over_seeds():
    """Oracle: Student's paired t-test."""
    rng = np.random.default_rng(11)
    new, old = rng.normal(3, 1, (6, 1)), rng.normal(2, 1, (6, 1))
    theirs = stats.ttest_rel(new[:, 0], old[:, 0])
    found = difference(new, old)
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_one_score_alone_proves_nothing():
    alone = difference(np.array([[3.0]]), np.array([[2.0]]))
    assert (alone.value, alone.p_value, alone.verdict()) == (1.0, 1.0, Verdict.NOT_SIGNIFICANT)
    mean = mean_score(np.array([[3.0]]), is_share=False)
    assert (mean.value, mean.low, mean.high) == (3.0, -np.inf, np.inf)


def test_one_seed_of_correct_answers_is_compared_nearly_as_by_mcnemars_exact_test():
    for won, lost in ((30, 10), (12, 2), (60, 45), (5, 0)):
        new, old = np.ones((1, 1000)), np.ones((1, 1000))
        old[0, :won], new[0, -lost or 1000 :] = 0, 0
        exact = stats.binomtest(won, won + lost).pvalue
        assert difference(new, old).p_value == pytest.approx(exact, rel=0.25, abs=0.002)


def test_the_same_answers_on_few_images_are_no_certainty():
    found = difference(np.ones((1, 24)), np.ones((1, 24)))
    assert found.value == 0.0 and 0.05 < found.high == -found.low < 0.2
    assert difference(np.ones((1, 10_000)), np.ones((1, 10_000))).high < 0.0005


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (2, 4)])
def test_a_handful_of_images_proves_nothing(shape):
    assert difference(np.ones(shape), np.zeros(shape)).verdict() is Verdict.NOT_SIGNIFICANT


def test_other_images_cannot_be_compared():
    # The shapes in its types would refuse them first, in tests alone.
    function = inspect.unwrap(compare)
    with pytest.raises(
        (ValueError, TypeError), match=r"same seeds and samples, got \(1, 3\) and \(1, 4\)|S N"
    ):
        function([(np.ones((1, 3)), np.ones((1, 4)))])


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="at least one seed and one sample are needed"):
        mean_score(np.ones((0, 3)), is_share=True)
