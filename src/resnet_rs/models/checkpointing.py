"""Activation checkpointing: recompute the inside of each block in the backward pass instead of keeping it in memory."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] - SyncBatchNorm is one, too
from torch.utils.checkpoint import checkpoint

from resnet_rs.models.randomness import RandomLayer


class Stage(nn.Sequential):
    """Blocks one after the other, whose activations can be checkpointed while training."""

    activation_checkpointing: bool = False
    """Ignored in compiled code, where the compiler decides what to keep."""

    def forward(self, input: Float[Tensor, "B C ..."]) -> Float[Tensor, "B D ..."]:
        is_checkpointed = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        if not is_checkpointed or torch.compiler.is_compiling():
            return super().forward(input)
        for block in self:
            input = _checkpointed(block, input)
        return input


def set_activation_checkpointing(model: nn.Module, enable: bool = True) -> None:
    """Keep only the inputs of blocks for the backward pass, which takes less memory and more time.

    Gradients, statistics and draws are the same, bit for bit. Raises `ValueError` for a model without a `Stage`.
    """
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    if not stages:
        raise ValueError(
            f"{type(model).__name__} has no stages of blocks, so it cannot checkpoint its activations. Build its "
            "stages as resnet_rs.models.checkpointing.Stage, or leave activation checkpointing out."
        )
    for stage in stages:
        stage.activation_checkpointing = enable


def _checkpointed(block: nn.Module, x: Float[Tensor, "B C ..."]) -> Float[Tensor, "B D ..."]:
    """`block(x)`, computed again in the backward pass."""
    again = _Recomputation(block)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), again))


class _Recomputation:
    """A context in which `block` has the draws of its first pass and its running statistics do not change.

    It is entered once per backward pass, perhaps after other forward passes and on another thread.
    """

    def __init__(self, block: nn.Module) -> None:
        self._norms = [m for m in block.modules() if isinstance(m, _BatchNorm)]
        self._draws = [(m, m.draws) for m in block.modules() if isinstance(m, RandomLayer)]

    def __enter__(self) -> None:
        self._after_norms = [(norm, norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        self._after_draws = [(layer, layer.draws) for layer, _ in self._draws]
        for norm in self._norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        for layer, draws in self._draws:
            layer.draws = draws

    def __exit__(self, *error: object) -> None:
        for norm, momentum, counter in self._after_norms:
            norm.momentum, norm.num_batches_tracked = momentum, counter
        for layer, draws in self._after_draws:
            layer.draws = draws
