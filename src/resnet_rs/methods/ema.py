"""Exponential moving average (EMA) of weights and batch-norm statistics. Card: `docs/methods/ema.md`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def ramped_decay(step: int, *, decay: float) -> float:
    """Decay used after update `step` (from 0): `decay`, but at most `(1 + step) / (10 + step)`.

    The ramp lets the average forget the initial weights. Source: TF1 release (`ExponentialMovingAverage` with
    `num_updates`); TF2 release writes the same formula.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], current: Mapping[str, Tensor], *, decay: float) -> None:
    """Move `average` towards `current`, in place: `average = decay * average + (1 - decay) * current`.

    Both hold every parameter *and* buffer by name. Integers (such as a count of batches) are copied.

    Source: TF1 release, where the average covers the running mean and variance too (`get_ema_vars`).
    """
    if average.keys() != current.keys():
        odd = sorted(average.keys() ^ current.keys())
        raise ValueError(
            f"the average and the model must hold the same tensors; only one has {', '.join(odd[:5])}. "
            "Build both from the same experiment."
        )
    moving = [name for name, tensor in average.items() if tensor.is_floating_point()]
    # All tensors at once: thousands of small kernels would keep a fast device waiting.
    if moving:
        move = get_ema_multi_avg_fn(decay)
        move([average[name] for name in moving], [current[name] for name in moving], 0)
    for name in average.keys() - set(moving):
        average[name].copy_(current[name])
