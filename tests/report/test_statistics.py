"""Statistics, against scipy, closed forms, and the law that the order of the samples does not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from resnet_rs.report.statistics import (
    bootstrap_interval,
    expected_calibration_error,
    reliability_bins,
    wilson_interval,
)


def predictions(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and which of the predictions are right."""
    rng = np.random.default_rng(seed)
    return rng.random(count), rng.random(count) < 0.7


@given(count=st.integers(1, 5000), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_wilson_interval_equals_scipys(count, share, confidence):
    successes = round(share * count)
    theirs = binomtest(successes, count).proportion_ci(confidence_level=confidence, method="wilson")
    assert wilson_interval(successes, count, confidence=confidence) == pytest.approx(tuple(theirs), abs=1e-12)


@given(count=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_interval_is_mirrored_when_successes_and_failures_swap(count, share):
    successes = round(share * count)
    low, high = wilson_interval(successes, count)
    assert wilson_interval(count - successes, count) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(count=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_interval_holds_the_seen_share_and_stays_within_0_and_1(count, share):
    successes = round(share * count)
    low, high = wilson_interval(successes, count)
    assert 0 <= low <= successes / count <= high <= 1
    assert low < high


def test_wilson_interval_of_no_trials_says_nothing():
    assert wilson_interval(0, 0) == (0, 1)


def test_wilson_interval_at_0_and_all_successes_touches_the_end():
    """Closed form: with z the normal quantile, the other bound is z^2 / (n + z^2) away."""
    z2 = 1.959963984540054**2
    assert wilson_interval(0, 10) == pytest.approx((0, z2 / (10 + z2)))
    assert wilson_interval(10, 10) == pytest.approx((10 / (10 + z2), 1))
    assert wilson_interval(0, 10).low == 0 and wilson_interval(10, 10).high == 1


@pytest.mark.parametrize(("successes", "count"), [(-1, 10), (11, 10), (0, -1)])
def test_impossible_counts_are_refused_with_their_value(successes, count):
    with pytest.raises(ValueError, match=rf"between 0 and {count} .*got {successes}\."):
        wilson_interval(successes, count)


def test_confidence_in_percent_is_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"got 95\.0\. For 95 %, give 0\.95\."):
        wilson_interval(1, 2, confidence=95.0)


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    """Oracle: the central limit theorem. 1000 resamples leave about 3 % of the width to chance."""
    values = np.random.default_rng(1).normal(5, 2, size=400)
    low, high = bootstrap_interval(lambda chosen: float(values[chosen].mean()), len(values))
    radius = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - radius, values.mean() + radius), abs=0.15 * radius)


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    """A share of 0.7 seen in 200 trials, at 90 %, 300 times over: so 90 % within 2.6 standard errors."""
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(300):
        hits = rng.random(200) < 0.7
        low, high = bootstrap_interval(
            lambda chosen, hits=hits: float(hits[chosen].mean()),
            200,
            seed=seed,
            num_resamples=200,
            confidence=0.9,
        )
        covered += low <= 0.7 <= high
    assert covered / 300 == pytest.approx(0.9, abs=0.045)


def test_bootstrap_resamples_are_drawn_with_replacement_from_all_samples():
    drawn: list[np.ndarray] = []
    bootstrap_interval(lambda chosen: float(drawn.append(chosen) or 0), 50, num_resamples=20)
    assert all(len(indices) == 50 and 0 <= indices.min() and indices.max() < 50 for indices in drawn)
    assert all(len(set(indices.tolist())) < 50 for indices in drawn)
    assert set(np.concatenate(drawn).tolist()) == set(range(50))


def test_bootstrap_interval_is_a_function_of_its_seed():
    values = np.random.default_rng(3).random(100)

    def mean(chosen: np.ndarray) -> float:
        return float(values[chosen].mean())

    assert bootstrap_interval(mean, 100, seed=4) == bootstrap_interval(mean, 100, seed=4)
    assert bootstrap_interval(mean, 100, seed=4) != bootstrap_interval(mean, 100, seed=5)


def test_bootstrap_interval_of_a_constant_has_no_width():
    assert bootstrap_interval(lambda chosen: 0.25, 10) == (0.25, 0.25)


def test_bootstrap_interval_of_no_samples_is_not_a_number():
    assert all(math.isnan(bound) for bound in bootstrap_interval(lambda chosen: 1.0, 0))


@settings(max_examples=50)
@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=300),
    seed=st.integers(0, 9),
)
def test_calibration_is_equal_to_the_last_bit_in_any_order(pairs, seed):
    confidences = np.array([confidence for confidence, _ in pairs])
    correct = np.array([is_right for _, is_right in pairs])
    order = np.random.default_rng(seed).permutation(len(pairs))
    shuffled = confidences[order], correct[order]
    assert expected_calibration_error(*shuffled) == expected_calibration_error(confidences, correct)
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


def test_calibration_error_is_the_weighted_gap_of_the_bins():
    confidences, correct = predictions(500)
    bins = [bin for bin in reliability_bins(confidences, correct) if bin.count]
    expected = sum(bin.count / 500 * abs(bin.accuracy - bin.confidence) for bin in bins)
    assert expected_calibration_error(confidences, correct) == pytest.approx(expected)


def test_calibration_error_in_closed_form():
    """Always 80 % sure: right 80 % of the time it is 0, never right 0.8, always right 0.2."""
    sure = np.full(10, 0.8)
    first = np.arange(10)
    assert expected_calibration_error(sure, first < 8) == pytest.approx(0)
    assert expected_calibration_error(sure, first < 0) == pytest.approx(0.8)
    assert expected_calibration_error(sure, first < 10) == pytest.approx(0.2)


def test_over_and_underconfident_bins_do_not_cancel():
    confidences = np.array([0.9, 0.9, 0.1, 0.1])
    correct = np.array([False, False, True, True])
    assert expected_calibration_error(confidences, correct) == pytest.approx(0.9)


def test_empty_bins_are_kept_and_a_confidence_on_an_edge_belongs_below_it():
    bins = reliability_bins(np.array([0.0, 0.5, 1.0]), np.array([False, True, True]), num_bins=4)
    assert [bin.count for bin in bins] == [1, 1, 0, 1]
    assert bins[2] == (0.5, 0.75, None, None, 0)
    assert (bins[0].confidence, bins[1].confidence, bins[3].confidence) == (0, 0.5, 1)


def test_calibration_of_nothing_is_not_a_number_and_its_bins_are_empty():
    nothing = np.empty(0), np.empty(0, dtype=bool)
    assert math.isnan(expected_calibration_error(*nothing))
    assert [bin.count for bin in reliability_bins(*nothing)] == [0] * 15


@pytest.mark.parametrize("odd", [-0.01, 1.01, math.nan])
def test_a_confidence_that_is_no_probability_is_refused(odd):
    with pytest.raises(ValueError, match=r"confidences must be in \[0, 1\]"):
        expected_calibration_error(np.array([0.5, odd]), np.array([True, False]))
