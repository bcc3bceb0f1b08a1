"""`NeighborClassifier`: k-nearest-neighbor classification of features, which needs no training.

Shapes: `B` images of a batch, `N` stored images, `C` features, `K` classes.
Source: Wu et al., 2018, "Unsupervised Feature Learning via Non-parametric Instance Discrimination", section 3.4.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

_TEMPERATURE = 0.07


class NeighborClassifier(nn.Module):
    """In place of a linear classifier: the nearest of the stored images vote for their classes.

    Images are near if the cosine similarity s of their features is high. A vote weighs exp(s / 0.07), and the weights
    are scaled so that they sum to the number of votes. One more vote is shared by all classes, so that none has
    probability 0 (ours).
    """

    features: Float[Tensor, "N C"]
    labels: Int[Tensor, " N"]

    def __init__(
        self,
        features: Float[Tensor, "N C"],
        labels: Int[Tensor, " N"],
        *,
        num_classes: int,
        num_neighbors: int,
    ) -> None:
        """With fewer stored images than `num_neighbors`, all of them vote."""
        super().__init__()
        self.num_classes, self.num_neighbors = num_classes, min(num_neighbors, len(labels))
        self.register_buffer("features", F.normalize(features.float()))
        self.register_buffer("labels", labels)

    def forward(self, features: Float[Tensor, "B C"]) -> Float[Tensor, "B K"]:
        """Logarithms of the classes' shares of the votes."""
        with torch.autocast(features.device.type, enabled=False):
            similarity = F.normalize(features.float()) @ self.features.T
        nearest = similarity.topk(self.num_neighbors)
        weights = (nearest.values / _TEMPERATURE).softmax(1) * self.num_neighbors
        votes = weights.new_full((len(features), self.num_classes), 1 / self.num_classes)
        return (votes.scatter_add(1, self.labels[nearest.indices], weights) / (self.num_neighbors + 1)).log()
