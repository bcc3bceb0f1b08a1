"""Exponential moving average (EMA) of weights and batch-norm statistics. Card: `docs/methods/ema.md`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def ramped_decay(step: int, *, decay: float) -> float:
    """Decay used after update `step` (from 0): `decay`, but at most `(1 + step) / (10 + step)`.

    The ramp reduces the influence of the initial weights. Source: TF1 release (`ExponentialMovingAverage`
    with `num_updates`); the TF2 release has the same formula.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(ema: Mapping[str, Tensor], current: Mapping[str, Tensor], *, decay: float) -> None:
    """Move `ema` towards `current`, in place: `ema = decay * ema + (1 - decay) * current`.

    Both hold every parameter *and* buffer by name. Integers, such as a count of batches, are copied.

    Source: TF1 release, where the EMA covers the running mean and variance too (`get_ema_vars`).
    """
    if ema.keys() != current.keys():
        unmatched = sorted(ema.keys() ^ current.keys())
        raise ValueError(
            f"the EMA and the model must have the same tensors; only one has {', '.join(unmatched[:5])}. "
            "Build both from the same experiment."
        )
    moving = [name for name, tensor in ema.items() if tensor.is_floating_point()]
    # All tensors at once: thousands of small kernels would keep a fast device waiting.
    if moving:
        move = get_ema_multi_avg_fn(decay)
        move([ema[name] for name in moving], [current[name] for name in moving], 0)
    for name in ema.keys() - set(moving):
        ema[name].copy_(current[name])
