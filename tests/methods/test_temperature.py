"""Temperature scaling against its definition."""

import pytest
import torch
from torch.nn import functional as F

from resnet_rs.methods.temperature import fitted_sigmoid_temperature, fitted_temperature


def drawn(true, *, count=4000, num_classes=7):
    """Logits that are `true` times too large for labels drawn from their softmax."""
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, num_classes, generator=rng)
    labels = torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]
    return true * logits, labels


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_it_finds_by_how_much_logits_are_too_large(true):
    assert fitted_temperature(*drawn(true)) == pytest.approx(true, rel=0.05)


def test_no_other_temperature_has_a_lower_cross_entropy():
    logits, labels = drawn(2.5, count=50)
    shares = torch.full((50, 7), 1 / 52 / 6).scatter(1, labels[:, None], 51 / 52)
    found = fitted_temperature(logits, labels)
    losses = [F.cross_entropy(logits / (found * factor), shares) for factor in (0.98, 1.0, 1.02)]
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_a_few_correct_predictions_do_not_make_it_certain():
    logits = 10 * torch.eye(4)
    confidence = (logits / fitted_temperature(logits, torch.arange(4))).softmax(1).max()
    assert float(confidence) == pytest.approx(5 / 6, abs=0.01)


def test_wrong_predictions_stay_within_the_bounds_and_no_sample_changes_nothing():
    assert fitted_temperature(10 * torch.eye(4), (torch.arange(4) + 1) % 4) == 20
    assert fitted_temperature(torch.empty(0, 4), torch.empty(0, dtype=torch.int64)) == 1


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_same_for_a_sigmoid_per_class(true):
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=rng)
    labels = torch.bernoulli(logits.sigmoid(), generator=rng)
    assert fitted_sigmoid_temperature(true * logits, labels) == pytest.approx(true, rel=0.05)
    assert fitted_sigmoid_temperature(torch.empty(0, 4), torch.empty(0, 4)) == 1
