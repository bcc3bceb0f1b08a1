"""Label smoothing. Card: `docs/methods/label_smoothing.md`."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def smooth_labels(labels: Int[Tensor, " B"], *, num_classes: int, smoothing: float) -> Float[Tensor, "B K"]:
    """One-hot targets with `smoothing` of their mass spread evenly over all classes.

    `smoothing` is in [0, 1); all eleven released configs use 0.1.
    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    targets = torch.full((len(labels), num_classes), smoothing / num_classes, device=labels.device)
    return targets.scatter(1, labels[:, None], 1 - smoothing + smoothing / num_classes)
