"""Imbalanced classes, balanced by their order or by weights."""

import numpy as np
import pytest
from shapes import Shapes

from resnet_rs.data.balance import Balanced, refuse_unknown_classes, sample_weights
from resnet_rs.data.builtin import Builtin
from resnet_rs.data.subset import Subset
from resnet_rs.data.target import Labels

TRAIN = Builtin(split="train")
LABELS = np.array([TRAIN.target(i).index for i in range(400)])
SKEWED = Subset(
    source=TRAIN,
    indices=tuple(
        np.concatenate([np.flatnonzero(LABELS == label)[: 1 + 5 * label] for label in (0, 1, 4)]).tolist()
    ),
)
"""1, 6 and 21 images of three of ten classes."""


def test_every_class_comes_equally_often_and_every_sample_before_any_comes_again():
    order = Balanced(source=SKEWED).order(0, 21 * 3, seed=3)
    labels = np.array([SKEWED.target(int(i)).index for i in order.samples])
    for first in range(0, len(labels), 3):
        assert sorted(labels[first : first + 3]) == [0, 1, 4]
    assert len(set(order.samples[labels == 4].tolist())) == 21
    counts = np.unique(order.samples[labels == 1], return_counts=True)[1]
    assert counts.min() == 3 and counts.max() == 4
    assert order.passes[labels == 0].tolist() == list(range(21))


def test_another_order_is_another_digest():
    assert Balanced(source=SKEWED).digest() != SKEWED.digest()


def test_weights_make_the_sum_over_each_class_equal_and_have_mean_1():
    weights = sample_weights(SKEWED)
    sums = [weights[:1].sum(), weights[1:7].sum(), weights[7:].sum()]
    np.testing.assert_allclose(sums, 28 / 3, rtol=1e-6)
    assert weights.mean() == pytest.approx(1)


def test_sources_without_one_known_class_per_sample_are_refused():
    for source in (Shapes(num_samples=3), SeveralClasses(num_samples=3)):
        for refused in (sample_weights, refuse_unknown_classes):
            with pytest.raises(ValueError, match=r"one known class, unlike 'shapes/shape/0/0' .multi-label"):
                refused(source)


class SeveralClasses(Shapes):
    """A source whose samples have several classes."""

    def target(self, index):
        return Labels((0, 1))
