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

    Images are near if the cosine similarity s of their features is high. A vote weighs exp(s / 0.07). One more vote is
    shared by all classes, so that none has probability 0 (ours).
    """

    features: Float[Tensor, "N C"]
    labels: Int[Tensor, " N"]

    def __init__(
        self, features: Float[Tensor, "N C"], labels: Int[Tensor, " N"], *, num_classes: int, count: int
    ) -> None:
        """`count` neighbors vote; with fewer stored images, all of them."""
        super().__init__()
        if count < 1:
            raise ValueError(f"the number of neighbors must be 1 or more, got {count}.")
        self.num_classes, self.count = num_classes, min(count, len(labels))
        self.register_buffer("features", F.normalize(features.float()))
        self.register_buffer("labels", labels)

    def forward(self, features: Float[Tensor, "B C"]) -> Float[Tensor, "B K"]:
        """Logarithms of the classes' shares of the votes."""
        with torch.autocast(features.device.type, enabled=False):
            similarity = F.normalize(features.float()) @ self.features.T
        nearest = similarity.topk(self.count)
        weights = (nearest.values / _TEMPERATURE).softmax(1) * self.count
        votes = weights.new_full((len(features), self.num_classes), 1 / self.num_classes)
        return (votes.scatter_add(1, self.labels[nearest.indices], weights) / (self.count + 1)).log()
