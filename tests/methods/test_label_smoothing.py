"""Label smoothing against a reference in float64 and against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from resnet_rs.methods.label_smoothing import smooth_labels


def reference_loss(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> np.ndarray:
    """Cross-entropy with smoothed targets, one per row, in float64."""
    losses = []
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        log_probabilities = row - row.max() - np.log(np.exp(row - row.max()).sum())
        target = np.full(len(row), smoothing / len(row))
        target[label] += 1 - smoothing
        losses.append(-(target * log_probabilities).sum())
    return np.array(losses)


@st.composite
def cases(draw) -> tuple[torch.Tensor, torch.Tensor, float]:
    num_classes, batch = draw(st.integers(2, 1000)), draw(st.integers(1, 8))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logits = draw(st.sampled_from([0.1, 1.0, 10.0])) * torch.randn(batch, num_classes, generator=rng)
    labels = torch.randint(num_classes, (batch,), generator=rng)
    return logits, labels, draw(st.floats(0, 1, exclude_max=True))


@given(case=cases())
@settings(max_examples=80, deadline=None)
def test_cross_entropy_with_smooth_labels_equals_the_reference_and_that_of_torch(case):
    logits, labels, smoothing = case
    targets = smooth_labels(labels, num_classes=logits.shape[1], smoothing=smoothing)
    losses = F.cross_entropy(logits.double(), targets.double(), reduction="none")
    theirs = F.cross_entropy(logits.double(), labels, reduction="none", label_smoothing=smoothing)
    expected = reference_loss(logits.numpy(), labels.numpy(), smoothing)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(losses.numpy(), theirs.numpy(), rtol=1e-6, atol=1e-6)


@given(case=cases())
@settings(max_examples=40, deadline=None)
def test_targets_are_probabilities_that_still_name_the_label(case):
    logits, labels, smoothing = case
    targets = smooth_labels(labels, num_classes=logits.shape[1], smoothing=smoothing)
    assert targets.shape == logits.shape and targets.min() >= 0
    torch.testing.assert_close(targets.sum(1), torch.ones(len(labels)))
    others = targets.scatter(1, labels[:, None], -1.0)
    assert (targets.gather(1, labels[:, None])[:, 0] >= others.max(1).values).all()


def test_of_ten_classes_the_label_keeps_91_percent():
    targets = smooth_labels(torch.tensor([3]), num_classes=10, smoothing=0.1)
    expected = torch.full((1, 10), 0.01)
    expected[0, 3] = 0.91
    torch.testing.assert_close(targets, expected)


def test_no_smoothing_gives_one_hot_targets_exactly():
    labels = torch.tensor([0, 6, 2])
    assert torch.equal(smooth_labels(labels, num_classes=7, smoothing=0.0), F.one_hot(labels, 7).float())


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_outside_of_the_classes_is_refused(label):
    with pytest.raises(RuntimeError, match="out of bounds"):
        smooth_labels(torch.tensor([label]), num_classes=5, smoothing=0.1)
