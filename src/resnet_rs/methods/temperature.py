"""Temperature scaling: probabilities that say how often a classifier is right. Card: `docs/methods/temperature.md`."""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

_LOW, _HIGH = math.log(0.05), math.log(20.0)
_NUM_STEPS = 60
"""Halvings of the interval: enough for every digit of float64."""


def fitted_temperature(logits: Float[Tensor, "B K"], labels: Int[Tensor, " B"]) -> float:
    """The temperature with the least cross-entropy, from 0.05 to 20; 1 without samples.

    It does not change which class is the likeliest. Of N labels each has a share of (N + 1) / (N + 2), and the other
    classes have the rest, because a few correct predictions do not prove that none is wrong. The cross-entropy has one
    minimum in `1 / temperature`, which bisection of its slope finds.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2; the shares are those of Platt 1999, "Probabilistic outputs
    for support vector machines", section 2.
    """
    count, num_classes = logits.shape
    if not count:
        return 1.0
    logits = logits.double()
    of_label = logits.gather(1, labels[:, None])[:, 0]
    of_others = (logits.sum(1) - of_label) / (num_classes - 1)
    wanted = ((count + 1) * of_label + of_others) / (count + 2)
    return _root(lambda temperature: ((logits / temperature).softmax(1) * logits).sum(1) - wanted)


def fitted_sigmoid_temperature(logits: Float[Tensor, "B K"], labels: Float[Tensor, "B K"]) -> float:
    """The same for a sigmoid per class and `labels` of 0 and 1, with the same shares of each label."""
    count = len(logits)
    if not count:
        return 1.0
    logits = logits.double()
    wanted = (labels.double() * count + 1) / (count + 2) * logits
    return _root(lambda temperature: (logits / temperature).sigmoid() * logits - wanted)


def _root(slope: Callable[[float], Tensor]) -> float:
    """The temperature at which the sum of the cross-entropy's `slope` in `1 / temperature` is 0.

    The slope falls with the temperature.
    """
    low, high = _LOW, _HIGH
    for _ in range(_NUM_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if float(slope(math.exp(middle)).sum()) > 0 else (low, middle)
    return float(f"{math.exp((low + high) / 2):.4g}")
