"""EfficientNet B0 to B7, with which the paper compares.

Layout, norms, drop rates and initialization follow EfficientNet's own release (`efficientnet_builder.py`,
`efficientnet_model.py`). Tensor names and padding are torchvision's. It pads both sides alike, where TensorFlow's SAME
pads an even map at its end only, so released TensorFlow weights would need another padding. torchvision itself is not
imported: that takes 2 s, because it imports torch's compiler.

Shapes: `B` batch, `C` channels, `H W` pixels. Source: Tan and Le 2019, arXiv:1905.11946; paper, section 7.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resnet_rs.models.backbone import Arch, StagedBackbone
from resnet_rs.models.checkpointing import Stage
from resnet_rs.models.layers import build_stochastic_depth
from resnet_rs.text import refuse_outside

Norm = Callable[[int], nn.Module]

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
    """Weight of the last batch in the running statistics; TensorFlow writes it as 0.99."""
    norm_eps: float = 1e-3
    """Added to the variance in every batch norm; torchvision's weights up to B4 need 1e-5."""

    def __post_init__(self) -> None:
        refuse_outside(self, width="(0, 16]", depth="(0, 16]", drop_path="[0, 1)")
        refuse_outside(self, norm_eps="(0, 0.1]", norm_momentum="(0, 1]")

    @property
    def needs_ema(self) -> bool:
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

    The stem contains the first group of blocks, at 1/2 of the image, which is not in a `Pyramid`.
    """

    def __init__(self, arch: EfficientNetArch, *, in_channels: int) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=arch.norm_eps, momentum=arch.norm_momentum)
        first, last = (scale_channels(channels, arch.width) for channels in (_STEM_CHANNELS, _LAST_CHANNELS))
        groups = _build_groups(arch, norm=norm)
        self.stem = nn.Sequential(_conv_norm(in_channels, first, norm, kernel_size=3, stride=2), *groups[0])
        self.c2 = Stage(*groups[1])
        self.c3 = Stage(*groups[2])
        self.c4 = Stage(*groups[3], *groups[4])
        self.c5 = Stage(*groups[5], *groups[6], _conv_norm(groups[6][-1].out_channels, last, norm))
        c2, c3, c4 = (groups[i][-1].out_channels for i in (1, 2, 4))
        self.widths = (c2, c3, c4, last)
        self.stem_layer, self.stem_width = len(self.stem) - 1, groups[0][-1].out_channels
        self.reductions = (2, 4, 8, 16, 32)
        self.apply(_init_as_efficientnet)


class MBConv(nn.Module):
    """An inverted bottleneck: expand, filter each channel, weigh the channels, project.

    The identity is added where the shape stays the same.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: Norm,
        *,
        expansion: int,
        kernel_size: int,
        stride: int,
    ) -> None:
        super().__init__()
        expanded = scale_channels(in_channels * expansion)
        expand = [] if expanded == in_channels else [_conv_norm(in_channels, expanded, norm)]
        filters = _conv_norm(
            expanded, expanded, norm, kernel_size=kernel_size, stride=stride, groups=expanded
        )
        weigh = _SqueezeExcite(expanded, max(1, in_channels // 4))
        project = _conv_norm(expanded, out_channels, norm)[:2]
        self.block = nn.Sequential(*expand, filters, weigh, project)
        self.stochastic_depth: nn.Module = nn.Identity()
        self.has_identity = stride == 1 and in_channels == out_channels
        self.out_channels = out_channels

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        branch = self.block(x)
        return self.stochastic_depth(branch).add_(x) if self.has_identity else branch


class _SqueezeExcite(nn.Module):
    """Weigh the channels by a small network of their means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return torch.sigmoid(self.fc2(nn.functional.silu(self.fc1(self.avgpool(x))))) * x


def scale_channels(channels: int, width: float = 1.0) -> int:
    """`channels * width` as the nearest multiple of 8 that is at least 90 % of it."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def _conv_norm(
    in_channels: int, out_channels: int, norm: Norm, *, kernel_size: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm and SiLU."""
    padding = (kernel_size - 1) // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, norm(out_channels), nn.SiLU(inplace=True))


def _build_groups(arch: EfficientNetArch, *, norm: Norm) -> list[list[MBConv]]:
    """The seven groups; only the first block of a group strides and changes the number of channels."""
    groups: list[list[MBConv]] = []
    index = 0
    for (expansion, kernel_size, stride, *channels, _), count in zip(_GROUPS, arch.group_sizes, strict=True):
        groups.append([])
        in_channels, out_channels = (scale_channels(c, arch.width) for c in channels)
        for before, step in [(in_channels, stride), *[(out_channels, 1)] * (count - 1)]:
            block = MBConv(
                before, out_channels, norm, expansion=expansion, kernel_size=kernel_size, stride=step
            )
            drop_rate = arch.drop_path * index / sum(arch.group_sizes)
            block.stochastic_depth = build_stochastic_depth(
                drop_rate, purpose=f"stochastic depth of block {index}"
            )
            groups[-1].append(block)
            index += 1
    return groups


def _init_as_efficientnet(module: nn.Module) -> None:
    """Draw a kernel from a normal of variance 2 / (kernel area * filters); biases are zero.

    The release counts one filter per channel in a depthwise kernel. torchvision counts all channels, so it starts
    those kernels smaller by the root of their number.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
