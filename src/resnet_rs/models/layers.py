"""Layers that do not care whether space has two dimensions or three."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] - SyncBatchNorm is one, too
from torch.utils.checkpoint import checkpoint

from resnet_rs import draws
from resnet_rs.methods.dropout import drop_features
from resnet_rs.methods.stochastic_depth import skip_branches

NORM_EPS = 1e-5
"""Added to the variance in every batch norm of a ResNet. Source: TF1 release, TF2 release."""

_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a unit normal cut at two sigmas, by which TensorFlow's variance scaling divides."""


class SqueezeExcite(nn.Module):
    """Weigh the channels by a small network of their global means.

    Source: Hu et al. 2018, arXiv:1709.01507. As released (`resnet_layers.py`): reduced to `ratio` of the
    block's *output* width, with biases, ReLU inside, no norm. The released 1x1 convolutions see one mean per
    channel, so here they are linear layers.
    """

    def __init__(self, channels: int, *, ratio: float) -> None:
        super().__init__()
        squeezed = max(1, int(channels * ratio))
        self.reduce = nn.Linear(channels, squeezed)
        self.expand = nn.Linear(squeezed, channels)

    def forward(self, x: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C ..."]:
        places = x.flatten(2)
        gates = torch.sigmoid(self.expand(torch.relu(self.reduce(places.mean(2)))))
        return (places * gates[:, :, None]).view_as(x)


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME does: as little as needed, the larger half at the end."""

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return super().forward(_pad_same(input, self.kernel_size, self.stride))


class StochasticDepth(nn.Module):
    """Skip a residual branch, sample by sample, while training; the identity in evaluation.

    `purpose` names this layer's draws: two layers of one network must not share it.
    """

    def __init__(self, drop_rate: float, *, purpose: str) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.purpose = purpose

    def forward(self, branch: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C ..."]:
        return _skip(branch, self.drop_rate, self.purpose) if self.training else branch

    def extra_repr(self) -> str:
        return f"drop_rate={self.drop_rate}, purpose={self.purpose!r}"


class Dropout(nn.Module):
    """Set features to zero at random while training; the identity in evaluation."""

    def __init__(self, drop_rate: float, *, purpose: str) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.purpose = purpose

    def forward(self, features: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        return _drop(features, self.drop_rate, self.purpose) if self.training else features

    def extra_repr(self) -> str:
        return f"drop_rate={self.drop_rate}, purpose={self.purpose!r}"


# What follows depends on the shape of its input, and so is one call in a graph of torch.fx.


@torch.fx.wrap
def _pad_same(
    x: Float[Tensor, "B C H W"], kernel_size: tuple[int, ...], strides: tuple[int, ...]
) -> Float[Tensor, "B C h w"]:
    pads: list[int] = []
    for pixels, kernel, stride in zip(x.shape[:1:-1], kernel_size[::-1], strides[::-1], strict=True):
        needed = max(0, (math.ceil(pixels / stride) - 1) * stride + kernel - pixels)
        pads += [needed // 2, needed - needed // 2]
    return functional.pad(x, pads)


@torch.fx.wrap
def _skip(branch: Float[Tensor, "B C ..."], drop_rate: float, purpose: str) -> Float[Tensor, "B C ..."]:
    drawn = draws.uniform(purpose, rows=branch.shape[0], columns=1, device=branch.device)
    return skip_branches(branch, drawn, drop_rate=drop_rate)


@torch.fx.wrap
def _drop(features: Float[Tensor, "B C"], drop_rate: float, purpose: str) -> Float[Tensor, "B C"]:
    rows, columns = features.shape
    drawn = draws.uniform(purpose, rows=rows, columns=columns, device=features.device)
    return drop_features(features, drawn, drop_rate=drop_rate)


def build_stochastic_depth(drop_rate: float, *, purpose: str) -> nn.Module:
    """Stochastic depth; the identity where nothing is dropped, which then costs no draw."""
    return StochasticDepth(drop_rate, purpose=purpose) if drop_rate > 0 else nn.Identity()


def recomputed(block: nn.Module, x: Float[Tensor, "B C ..."]) -> Float[Tensor, "B D ..."]:
    """`block(x)`, of which the backward pass computes the inside again, so that nothing of it is kept.

    The second time the draws are the same, and a norm sees the same batch, which must not count twice in its running
    statistics.
    """
    again = _Again(block, draws.remembered())
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), again))


class _Again:
    """A block of code, entered once for each backward pass: draws are as before, and running statistics stay."""

    def __init__(self, block: nn.Module, draws_of_before: Callable[[], AbstractContextManager[None]]) -> None:
        self._norms = [m for m in block.modules() if isinstance(m, _BatchNorm)]
        self._draws_of_before = draws_of_before

    def __enter__(self) -> None:
        self._kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        for norm, _, counter in self._kept:
            norm.momentum = 0.0
            norm.num_batches_tracked = None if counter is None else counter.clone()
        self._draws = self._draws_of_before()
        self._draws.__enter__()

    def __exit__(self, *error: object) -> None:
        self._draws.__exit__(None, None, None)
        for norm, momentum, counter in self._kept:
            norm.momentum, norm.num_batches_tracked = momentum, counter


def init_as_released(module: nn.Module) -> None:
    """Draw the kernels of one convolution or linear layer as the TF1 release does, and set its bias to zero.

    A normal cut at two sigmas, widened so that its variance after the cut is 1 / fan-in: TensorFlow's default
    variance scaling, not He's. Source: TF1 release (`resnet_layers.py` calls it without arguments).
    """
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
        fan_in = module.weight[0].numel()
        std = math.sqrt(1 / fan_in) / _TRUNCATED_STD
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
