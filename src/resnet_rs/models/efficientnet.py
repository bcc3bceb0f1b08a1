"""EfficientNet B0 to B7, with which the paper compares, over torchvision's blocks.

Layout, norms, drop rates and initialization follow EfficientNet's own release (`efficientnet_builder.py`,
`efficientnet_model.py`). Padding is torchvision's: alike on both sides, where TensorFlow's SAME pads an even
map at its end only, so released TensorFlow weights would need another padding.

Shapes: `B` batch, `C` channels, `H W` pixels. Source: Tan and Le 2019, arXiv:1905.11946; paper, section 7.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from torch import nn
from torchvision.models.efficientnet import (  # pyright: ignore[reportMissingTypeStubs]: it ships none
    MBConv,
    MBConvConfig,
)
from torchvision.ops import Conv2dNormActivation  # pyright: ignore[reportMissingTypeStubs]: it ships none

from resnet_rs.models.backbone import Arch, StagedBackbone
from resnet_rs.models.layers import build_stochastic_depth

_STEM_CHANNELS = 32
_LAST_CHANNELS = 1280
_GROUPS = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
"""Groups of blocks in B0: expansion, kernel size, stride, channels in, channels out, blocks.

Source: EfficientNet, Table 1; its release (`efficientnet_builder.py`).
"""


@dataclass(frozen=True, kw_only=True)
class EfficientNetArch(Arch):
    """An EfficientNet. Defaults: its own release."""

    width: float
    """Multiplier of all channel counts, which are then rounded to multiples of 8."""
    depth: float
    """Multiplier of the blocks per group, rounded up."""
    drop_path: float = 0.2
    """Stochastic depth: block i of n has drop rate `drop_path * i / n`, counted from 0."""
    norm_momentum: float = 0.01
    """Share of the last batch in the running statistics; TensorFlow calls it 0.99."""
    norm_eps: float = 1e-3
    """Added to the variance in every batch norm; torchvision's weights up to B4 want 1e-5."""

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            if not 0 < getattr(self, name) <= 16:
                raise ValueError(f"{name} must be in (0, 16], got {getattr(self, name)}.")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}.")
        if not 0 < self.norm_eps <= 0.1:
            raise ValueError(f"norm_eps must be in (0, 0.1], got {self.norm_eps}.")
        if not 0 < self.norm_momentum <= 1:
            raise ValueError(f"norm_momentum must be in (0, 1], got {self.norm_momentum}.")

    @property
    def needs_average(self) -> bool:
        return self.norm_momentum == 1

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Blocks in each of the seven groups."""
        return tuple(math.ceil(self.depth * num_blocks) for *_, num_blocks in _GROUPS)

    def build(self, *, in_channels: int) -> EfficientNet:
        return EfficientNet(self, in_channels=in_channels)


EFFICIENTNETS: dict[str, EfficientNetArch] = {
    "b0": EfficientNetArch(width=1.0, depth=1.0),
    "b1": EfficientNetArch(width=1.0, depth=1.1),
    "b2": EfficientNetArch(width=1.1, depth=1.2),
    "b3": EfficientNetArch(width=1.2, depth=1.4),
    "b4": EfficientNetArch(width=1.4, depth=1.8),
    "b5": EfficientNetArch(width=1.6, depth=2.2),
    "b6": EfficientNetArch(width=1.8, depth=2.6),
    "b7": EfficientNetArch(width=2.0, depth=3.1),
}
"""Name -> arch. Source: EfficientNet's release (`efficientnet_builder.py`)."""


class EfficientNet(StagedBackbone):
    """Stem and four stages; c5 ends with the last 1x1 convolution, so its mean is what a classifier sees.

    The stem holds the first group of blocks, at 1/2 of the picture, which a `Pyramid` does not show.
    """

    def __init__(self, arch: EfficientNetArch, *, in_channels: int) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=arch.norm_eps, momentum=arch.norm_momentum)
        conv = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.SiLU)
        first = MBConvConfig.adjust_channels(_STEM_CHANNELS, arch.width)
        last = MBConvConfig.adjust_channels(_LAST_CHANNELS, arch.width)
        groups = _build_groups(arch, norm=norm)
        self.stem = nn.Sequential(conv(in_channels, first, kernel_size=3, stride=2), *groups[0])
        self.c2 = nn.Sequential(*groups[1])
        self.c3 = nn.Sequential(*groups[2])
        self.c4 = nn.Sequential(*groups[3], *groups[4])
        self.c5 = nn.Sequential(*groups[5], *groups[6], conv(groups[6][-1].out_channels, last, kernel_size=1))
        c2, c3, c4 = (groups[i][-1].out_channels for i in (1, 2, 4))
        self.widths = (c2, c3, c4, last)
        self.num_early, self.early_width = len(self.stem), groups[0][-1].out_channels
        self.reductions = (2, 4, 8, 16, 32)
        self.apply(_init_as_efficientnet)


def _build_groups(arch: EfficientNetArch, *, norm: partial[nn.BatchNorm2d]) -> list[list[MBConv]]:
    """The seven groups; only the first block of a group strides and changes the number of channels."""
    groups: list[list[MBConv]] = []
    index = 0
    for (expansion, kernel_size, stride, in_channels, out_channels, _), count in zip(
        _GROUPS, arch.group_sizes, strict=True
    ):
        groups.append([])
        for entry in [(stride, in_channels), *[(1, out_channels)] * (count - 1)]:
            config = MBConvConfig(expansion, kernel_size, *entry, out_channels, 1, width_mult=arch.width)
            block = MBConv(config, 0.0, norm)
            # Torchvision's own stochastic depth draws from global random state.
            drop_rate = arch.drop_path * index / sum(arch.group_sizes)
            drop = build_stochastic_depth(drop_rate, purpose=f"stochastic depth of block {index}")
            block.add_module("stochastic_depth", drop)
            groups[-1].append(block)
            index += 1
    return groups


def _init_as_efficientnet(module: nn.Module) -> None:
    """Draw a kernel from a normal of variance 2 / (kernel area * filters); biases are zero.

    The release counts one filter per channel in a depthwise kernel; torchvision counts all channels, and so
    starts those kernels smaller by the root of their number.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
