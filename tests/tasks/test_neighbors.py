"""Neighbors vote by the formula of the paper, and every class keeps a probability."""

import math

import pytest
import torch
from torch.testing import assert_close

from resnet_rs.tasks.classification_neighbors import NeighborClassifier

GENERATOR = torch.Generator().manual_seed(0)
STORED, LABELS = torch.randn(40, 8, generator=GENERATOR), torch.arange(40) % 3


@pytest.mark.parametrize("count", [1, 7, 40, 1000])
def test_the_shares_are_those_of_the_formula(count):
    classifier = NeighborClassifier(STORED, LABELS, num_classes=4, num_neighbors=count)
    asked = torch.randn(5, 8, generator=GENERATOR)
    shares = classifier(asked).exp()
    for i in range(5):
        cosines = [float(torch.cosine_similarity(asked[i], row, dim=0)) for row in STORED]
        nearest = sorted(range(40), key=lambda j: -cosines[j])[:count]
        total = sum(math.exp(cosines[j] / 0.07) for j in nearest)
        votes = [
            sum(math.exp(cosines[j] / 0.07) for j in nearest if LABELS[j] == k) / total for k in range(4)
        ]
        n = len(nearest)
        assert_close(
            shares[i], torch.tensor([(n * v + 1 / 4) / (n + 1) for v in votes]), rtol=1e-3, atol=1e-6
        )


def test_a_stored_image_is_its_own_nearest_neighbor_at_any_brightness_of_its_features():
    classifier = NeighborClassifier(STORED, LABELS, num_classes=3, num_neighbors=1)
    assert (classifier(3 * STORED).argmax(1) == LABELS).all()
