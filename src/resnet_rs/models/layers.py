"""Layers for images and clips alike."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_rs.methods.dropout import drop
from resnet_rs.models.randomness import RandomLayer

NORM_EPS = 1e-5
"""Added to the variance in every batch norm of a ResNet. Source: TF1 release, TF2 release."""

_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a unit normal truncated at two sigmas. TensorFlow's variance scaling divides by it."""


class SqueezeExcite(nn.Module):
    """Scale the channels by a small network of their global means.

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
    """A convolution with TensorFlow's SAME padding: as little as needed, the larger half at the end."""

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return super().forward(_pad_same(input, self.kernel_size, self.stride))


class Dropout(RandomLayer):
    """Set features to zero at random while training; the identity in evaluation."""

    def __init__(self, num_features: int, *, drop_rate: float, purpose: str) -> None:
        super().__init__(drop_rate, purpose=purpose, num_draws=num_features)

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        return _drop(x, self.draws, self.drop_rate, self.num_draws) if self.training else x


class StochasticDepth(Dropout):
    """Skip a residual branch, sample by sample, while training; the identity in evaluation."""

    def __init__(self, drop_rate: float, *, purpose: str) -> None:
        super().__init__(1, drop_rate=drop_rate, purpose=purpose)


# The following functions depend on the shape of their input. Each is one call in a graph of torch.fx.


@torch.fx.wrap
def _pad_same(
    x: Float[Tensor, "B C H W"], kernel_size: tuple[int, ...], strides: tuple[int, ...]
) -> Float[Tensor, "B C h w"]:
    pads: list[int] = []
    for pixels, kernel, stride in zip(x.shape[:1:-1], kernel_size[::-1], strides[::-1], strict=True):
        needed = max(0, (math.ceil(pixels / stride) - 1) * stride + kernel - pixels)
        pads += [needed // 2, needed - needed // 2]
    return F.pad(x, pads)


@torch.fx.wrap
def _drop(
    x: Float[Tensor, "B ..."], draws: Tensor | None, drop_rate: float, num_draws: int
) -> Float[Tensor, "B ..."]:
    """With the draws of an RNG scope, or new ones from torch's generator."""
    if draws is None:
        draws = torch.rand(x.shape[0], num_draws, device=x.device)
    if draws.shape != (x.shape[0], num_draws):
        raise ValueError(
            f"the RNG scope has draws of shape {list(draws.shape)}, expected {[x.shape[0], num_draws]}. Give "
            "`ModelRng.scope` one global sample index per sample of the batch."
        )
    return drop(x, draws, drop_rate=drop_rate)


def build_stochastic_depth(drop_rate: float, *, purpose: str) -> nn.Module:
    """Stochastic depth, or the identity if `drop_rate` is 0."""
    return StochasticDepth(drop_rate, purpose=purpose) if drop_rate > 0 else nn.Identity()


def build_dropout(num_features: int, *, drop_rate: float, purpose: str) -> nn.Module:
    """Dropout, or the identity if `drop_rate` is 0."""
    return Dropout(num_features, drop_rate=drop_rate, purpose=purpose) if drop_rate > 0 else nn.Identity()


def init_as_released(module: nn.Module) -> None:
    """Draw the kernels of one convolution or linear layer as the TF1 release does, and set its bias to zero.

    A normal truncated at two sigmas and scaled so that its variance is 1 / fan-in: TensorFlow's default
    variance scaling, not He's. Source: TF1 release (`resnet_layers.py` calls it without arguments).
    """
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
        fan_in = module.weight[0].numel()
        std = math.sqrt(1 / fan_in) / _TRUNCATED_STD
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
