"""What a network costs: parameters, multiply-adds and activations, counted without allocating its weights."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Costs of one forward pass over one picture (or clip)."""

    params: int
    """Weights, biases and norm scales and offsets; running statistics are none."""
    macs: int
    """Multiply-adds of convolutions and linear layers. The paper's "FLOPs" of ResNet-RS are twice as many."""
    activations: int
    """Numbers that convolutions and linear layers put out."""


def count_cost(model: nn.Module, shape: tuple[int, ...]) -> Cost:
    """Cost of `model`, which stands on the meta device, for one input of `shape`, such as (3, 224, 224).

    Counted as in evaluation; the model's modes are afterwards as they were.
    """
    device = next(model.parameters()).device
    if device.type != "meta":
        raise ValueError(
            f"count_cost takes a model on the meta device, got one on {device}. "
            'Build it within `torch.device("meta")`.'
        )
    macs = activations = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs, activations
        macs += output.numel() * layer.get_parameter("weight")[0].numel()
        activations += output.numel()

    modes = {module: module.training for module in model.modules()}
    counted = [module for module in modes if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in counted]
    try:
        with torch.no_grad(), _norms_left_out(model):
            model.eval()(torch.empty(1, *shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
        # `model.train(was_training)` would also wake norms that were frozen on purpose.
        for module, was_training in modes.items():
            module.training = was_training
    params = sum(parameter.numel() for parameter in model.parameters())
    return Cost(params=params, macs=macs, activations=activations)


@contextmanager
def _norms_left_out(model: nn.Module) -> Generator[None]:
    """Within this block batch norms hand their input on: they cost nothing, and on the meta device half of the time."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
    for norm in norms:
        norm.forward = _unchanged
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _unchanged(input: Tensor) -> Tensor:
    return input
