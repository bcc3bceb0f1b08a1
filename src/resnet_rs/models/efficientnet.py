"""EfficientNet B0 to B7, with which the paper compares, and EfficientNet-Lite0, for small machines.

Layout, norms, drop rates and initialization follow EfficientNet's own release (`efficientnet_builder.py`,
`efficientnet_model.py`, `lite/efficientnet_lite_builder.py`). Tensor names are torchvision's, and so is the padding of
B0 to B7: both sides alike, where TensorFlow's SAME pads an even map at its end only. Lite0 has TensorFlow's padding,
because its weights were trained with it. torchvision itself is not imported: that takes 2 s, because it imports torch's
compiler.

Shapes: `B` batch, `C` channels, `H W` pixels. Source: Tan and Le 2019, arXiv:1905.11946; paper, section 7.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resnet_rs.models.backbone import Arch, StagedBackbone
from resnet_rs.models.checkpointing import Stage
from resnet_rs.models.layers import SameConv2d, build_stochastic_depth
from resnet_rs.text import refuse_outside

Activation = Literal["silu", "relu6"]
Padding = Literal["symmetric", "same"]

_STEM_CHANNELS = 32
_LAST_CHANNELS = 1280
_GROUPS = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Groups of blocks in B0: expansion, kernel size, stride, channels out, blocks.

Source: EfficientNet, Table 1; its release (`efficientnet_builder.py`).
"""
_STAGES = ("stem", "c2", "c3", "c4", "c4", "c5", "c5")
"""The stage of each group."""


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
    se_ratio: float | None = 0.25
    """Width of the squeeze-and-excitation bottleneck, as a share of the block's input; none removes it, as in Lite."""
    activation: Activation = "silu"
    """`relu6` in Lite."""
    padding: Padding = "symmetric"
    """`same` is TensorFlow's: it pads an even map at its end only, which Lite's weights need."""
    scales_ends: bool = True
    """Whether width and depth also scale the stem, the last convolution, and the depth of the first and the last group.
    In Lite they do not."""

    def __post_init__(self) -> None:
        refuse_outside(self, width="(0, 16]", depth="(0, 16]", drop_path="[0, 1)")
        refuse_outside(self, norm_eps="(0, 0.1]", norm_momentum="(0, 1]", se_ratio="(0, 1] or none")

    @property
    def needs_ema(self) -> bool:
        return self.norm_momentum == 1

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Blocks in each of the seven groups."""
        counts = [num_blocks for *_, num_blocks in _GROUPS]
        scaled = [math.ceil(self.depth * count) for count in counts]
        return tuple(scaled if self.scales_ends else [counts[0], *scaled[1:-1], counts[-1]])

    def block_paths(self) -> tuple[tuple[str, ...], ...]:
        """The path of each block in the backbone, by group, such as `c4.0`. The stem begins with a convolution."""
        paths: list[tuple[str, ...]] = []
        counts = {"stem": 1}
        for stage, count in zip(_STAGES, self.group_sizes, strict=True):
            first = counts.get(stage, 0)
            counts[stage] = first + count
            paths.append(tuple(f"{stage}.{first + i}" for i in range(count)))
        return tuple(paths)

    @property
    def last_path(self) -> str:
        """The path of the last convolution in the backbone."""
        return f"c5.{sum(self.group_sizes[5:])}"

    def build(self, *, in_channels: int) -> EfficientNet:
        return EfficientNet(self, in_channels=in_channels)

    def conv_norm(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 1, stride: int = 1, groups: int = 1
    ) -> nn.Sequential:
        """Convolution, batch norm and activation."""
        is_same = self.padding == "same" and stride > 1  # at stride 1 both pad alike
        conv = (SameConv2d if is_same else nn.Conv2d)(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=0 if is_same else (kernel_size - 1) // 2,
            groups=groups,
            bias=False,
        )
        norm = nn.BatchNorm2d(out_channels, eps=self.norm_eps, momentum=self.norm_momentum)
        activation = nn.SiLU if self.activation == "silu" else nn.ReLU6
        return nn.Sequential(conv, norm, activation(inplace=True))

    def excite(self, channels: int, in_channels: int) -> list[nn.Module]:
        """Squeeze-and-excitation in a block of `in_channels`, if the arch has it."""
        if self.se_ratio is None:
            return []
        return [_SqueezeExcite(channels, max(1, int(in_channels * self.se_ratio)))]


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

LITE0 = EfficientNetArch(
    width=1.0, depth=1.0, se_ratio=None, activation="relu6", padding="same", scales_ends=False
)
"""EfficientNet-Lite0. Source: EfficientNet's release (`lite/efficientnet_lite_builder.py`)."""


class EfficientNet(StagedBackbone):
    """Stem and four stages; c5 ends with the last 1x1 convolution, so its mean is what a classifier sees.

    The stem contains the first group of blocks, at 1/2 of the image, which is not in a `Pyramid`.
    """

    def __init__(self, arch: EfficientNetArch, *, in_channels: int) -> None:
        super().__init__()
        width = arch.width if arch.scales_ends else 1.0
        first, last = (scale_channels(channels, width) for channels in (_STEM_CHANNELS, _LAST_CHANNELS))
        groups = _build_groups(arch, first)
        stem = arch.conv_norm(in_channels, first, kernel_size=3, stride=2)
        self.stem = nn.Sequential(stem, *groups[0])
        self.c2 = Stage(*groups[1])
        self.c3 = Stage(*groups[2])
        self.c4 = Stage(*groups[3], *groups[4])
        self.c5 = Stage(*groups[5], *groups[6], arch.conv_norm(groups[6][-1].out_channels, last))
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
        arch: EfficientNetArch,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        kernel_size: int,
        stride: int,
    ) -> None:
        super().__init__()
        expanded = scale_channels(in_channels * expansion)
        expand = [] if expanded == in_channels else [arch.conv_norm(in_channels, expanded)]
        filters = arch.conv_norm(expanded, expanded, kernel_size=kernel_size, stride=stride, groups=expanded)
        project = arch.conv_norm(expanded, out_channels)[:2]
        self.block = nn.Sequential(*expand, filters, *arch.excite(expanded, in_channels), project)
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


def _build_groups(arch: EfficientNetArch, stem_channels: int) -> list[list[MBConv]]:
    """The seven groups; only the first block of a group strides and changes the number of channels."""
    groups: list[list[MBConv]] = []
    index, in_channels = 0, stem_channels
    for (expansion, kernel_size, stride, out, _), count in zip(_GROUPS, arch.group_sizes, strict=True):
        groups.append([])
        out_channels = scale_channels(out, arch.width)
        for step in (stride, *[1] * (count - 1)):
            block = MBConv(
                arch, in_channels, out_channels, expansion=expansion, kernel_size=kernel_size, stride=step
            )
            drop_rate = arch.drop_path * index / sum(arch.group_sizes)
            block.stochastic_depth = build_stochastic_depth(
                drop_rate, purpose=f"stochastic depth of block {index}"
            )
            groups[-1].append(block)
            index, in_channels = index + 1, out_channels
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
