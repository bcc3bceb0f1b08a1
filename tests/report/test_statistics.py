"""Statistics, against scipy, closed forms, and the law that the order of the samples does not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, ttest_1samp

from resnet_rs.report.statistics import (
    calibration_error,
    mean_interval,
    mean_share,
    reliability_bins,
    wilson_interval,
)


def predictions(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and which of the predictions are right."""
    rng = np.random.default_rng(seed)
    return rng.random(count), rng.random(count) < 0.7


@given(count=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_interval_equals_scipys(count, share):
    successes = round(share * count)
    theirs = binomtest(successes, count).proportion_ci(method="wilson")
    low, high = wilson_interval(successes, count)
    assert (low, high) == pytest.approx(tuple(theirs), abs=1e-12)
    assert 0 <= low <= successes / count <= high <= 1


def test_wilson_interval_is_exact_at_the_ends():
    assert wilson_interval(0, 0) == (0, 1)
    assert wilson_interval(0, 10).low == 0 and wilson_interval(10, 10).high == 1


@pytest.mark.parametrize(("successes", "count"), [(-1, 10), (11, 10), (0, -1)])
def test_impossible_counts_are_refused_with_their_value(successes, count):
    with pytest.raises(ValueError, match=rf"between 0 and {count} .*got {successes}\."):
        wilson_interval(successes, count)


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(1).normal(5, 2, size=40)
    theirs = ttest_1samp(values, 0).confidence_interval()
    assert mean_interval(values) == pytest.approx(tuple(theirs))
    assert all(math.isnan(bound) for bound in mean_interval(np.ones(1)))


@settings(max_examples=50)
@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=300),
    seed=st.integers(0, 9),
)
@example(pairs=[(0.0, False), (2.2e-311, False)], seed=0)  # a variance that underflows when it is squared
def test_calibration_is_equal_to_the_last_bit_in_any_order(pairs, seed):
    confidences = np.array([confidence for confidence, _ in pairs])
    correct = np.array([is_right for _, is_right in pairs])
    order = np.random.default_rng(seed).permutation(len(pairs))
    shuffled = confidences[order], correct[order]
    assert str(calibration_error(*shuffled)) == str(
        calibration_error(confidences, correct)
    )  # NaN of one sample
    assert reliability_bins(*shuffled) == reliability_bins(confidences, correct)


@settings(max_examples=50)
@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=200),
    num_bins=st.integers(1, 20),
)
def test_bins_agree_with_a_loop_over_samples(pairs, num_bins):
    """Oracle: the definition, one sample at a time, with exactly rounded sums."""
    confidences = np.array([confidence for confidence, _ in pairs])
    correct = np.array([is_right for _, is_right in pairs])
    for i, bin in enumerate(reliability_bins(confidences, correct, num_bins=num_bins)):
        held = [
            pair for pair in pairs if (i == 0 or pair[0] > i / num_bins) and pair[0] <= (i + 1) / num_bins
        ]
        assert (bin.low, bin.high, bin.count) == (i / num_bins, (i + 1) / num_bins, len(held))
        if not held:
            assert bin.confidence is None and bin.accuracy is None
        else:
            assert bin.confidence == pytest.approx(math.fsum(c for c, _ in held) / len(held), abs=1e-12)
            assert bin.accuracy == pytest.approx(sum(r for _, r in held) / len(held))


@pytest.mark.parametrize("error", [0.0, 0.002, 0.02, 0.1])
@pytest.mark.parametrize(("count", "num_repeats"), [(500, 200), (2_000, 200), (50_000, 40)])
@pytest.mark.parametrize("is_concentrated", [False, True])
def test_the_interval_of_the_calibration_error_covers_the_truth(error, count, num_repeats, is_concentrated):
    """The same error at every confidence, or only at a third of them, where it is larger."""
    rng, missed = np.random.default_rng(1), 0
    for _ in range(num_repeats):
        confidences = 0.4 + 0.6 * rng.beta(3, 1, count)
        shift = np.full(count, error)
        if is_concentrated:
            shift = error * math.sqrt(3) * (confidences < np.quantile(confidences, 1 / 3))
        correct = rng.random(count) < confidences - shift
        value, low, high = calibration_error(confidences, correct)
        assert low <= value <= high
        missed += not low <= error <= high
    assert missed <= binom.isf(0.001, num_repeats, 0.05)


def test_calibration_error_has_little_bias():
    """The usual expected calibration error of 500 calibrated predictions is about 0.04."""
    rng = np.random.default_rng(2)
    values = []
    for _ in range(200):
        confidences = rng.random(500)
        values.append(calibration_error(confidences, rng.random(500) < confidences).value)
    assert np.mean(values) < 0.02


def test_calibration_error_in_closed_form():
    """Always 80 % sure: one bin, of which the debiased squared error is the gap's square minus p (1 - p) / n."""
    sure, first = np.full(1000, 0.8), np.arange(1000)
    for num_correct in (0, 500, 1000):
        gap, share = num_correct / 1000 - 0.8, (num_correct + 0.8) / 1001
        expected = math.sqrt(gap**2 - share * (1 - share) / 1000)
        assert calibration_error(sure, first < num_correct).value == pytest.approx(expected)
    assert calibration_error(sure, first < 800).value == 0


def test_over_and_underconfident_bins_do_not_cancel():
    confidences, correct = np.repeat([0.9, 0.1], 500), np.repeat([False, True], 500)
    assert calibration_error(confidences, correct).value == pytest.approx(0.9, abs=1e-3)


def test_empty_bins_are_kept_and_a_confidence_on_an_edge_belongs_below_it():
    bins = reliability_bins(np.array([0.0, 0.5, 1.0]), np.array([False, True, True]), num_bins=4)
    assert [bin.count for bin in bins] == [1, 1, 0, 1]
    assert bins[2] == (0.5, 0.75, None, None, 0)
    assert (bins[0].confidence, bins[1].confidence, bins[3].confidence) == (0, 0.5, 1)


def test_calibration_of_nothing_is_not_a_number_and_its_bins_are_empty():
    nothing = np.empty(0), np.empty(0, dtype=bool)
    assert all(math.isnan(number) for number in calibration_error(*nothing))
    assert [bin.count for bin in reliability_bins(*nothing)] == [0] * 15


@pytest.mark.parametrize("odd", [-0.01, 1.01, math.nan])
def test_a_confidence_that_is_no_probability_is_refused(odd):
    with pytest.raises(ValueError, match=r"confidences must be in \[0, 1\]"):
        reliability_bins(np.array([0.5, odd]), np.array([True, False]))


@pytest.mark.parametrize("shares", [(0.9, 0.5, 0.2), (1.0, 0.98, 0.9), (0.05, 0.5, 0.5)])
def test_the_interval_of_a_mean_share_covers_it_95_times_in_100(shares):
    rng, counts = np.random.default_rng(0), np.array([5, 20, 100])
    covered = 0
    for _ in range(2000):
        found = mean_share(rng.binomial(counts, shares), counts)
        covered += found.low <= np.mean(shares) <= found.high
    assert 0.925 <= covered / 2000 <= 0.985


def test_the_mean_share_of_one_group_is_its_wilson_interval():
    assert mean_share(np.array([3]), np.array([7]))[1:] == pytest.approx(wilson_interval(3, 7))
    assert np.isnan(mean_share(np.array([], dtype=int), np.array([], dtype=int)).value)
