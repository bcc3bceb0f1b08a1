"""The 2-D ResNet family of the paper: one bottleneck network, every variant a value of `ResNetArch`.

- 2015: 7x7 stem with max-pool, plain shortcuts.
- ResNet-D: three 3x3 convolutions as stem and a strided fourth for the max-pool; average-pooled shortcuts.
- ResNet-RS: ResNet-D with squeeze-and-excitation in every block and one stochastic-depth rate per stage.

Shapes: `B` batch, `C D` channels, `H W` and `h w` pixels, before and after a block.
Source: paper, section 4.1; TF1 release (`resnet_model.py`), which this file follows wherever the two differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from resnet_rs.methods.stochastic_depth import stage_drop_rates
from resnet_rs.models.backbone import Arch, StagedBackbone
from resnet_rs.models.checkpointing import Stage
from resnet_rs.models.layers import (
    NORM_EPS,
    SqueezeExcite,
    build_stochastic_depth,
    init_as_released,
)
from resnet_rs.text import refuse_outside

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    14: (1, 1, 1, 1),
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    300: (4, 36, 54, 4),
    350: (4, 36, 72, 4),
    400: (6, 48, 72, 6),
    420: (4, 44, 87, 4),
}
"""Depth -> blocks in c2, c3, c4 and c5. Source: paper, Table 11; 300 and 400: appendix E.

14 and 26 are ours: 14 has one block per stage, for small images. No source gives the layout of 26: it has 3 * 8 + 2
layers, with the eight bottlenecks spread evenly.
"""

Stem = Literal["2015", "released", "small"]
Shortcut = Literal["strided", "pooled"]
StrideIn = Literal["reduce", "spatial"]

_CHOICES = {"stem": Stem, "shortcut": Shortcut, "stride_in": StrideIn}
_STEM_LAYER: dict[Stem, int] = {"2015": 2, "released": 8, "small": 8}
_STAGE_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4
_MAX_BLOCKS = 256
"""Per stage; the deepest published one has 87. A typing error is refused before it fills the memory."""


@dataclass(frozen=True, kw_only=True)
class ResNetArch(Arch):
    """A bottleneck ResNet. Defaults: ResNet-RS as released (without stochastic depth, as up to depth 152)."""

    blocks: tuple[int, int, int, int]
    """Blocks in the stages c2, c3, c4 and c5."""
    width: float = 1.0
    """Multiplier of all channel counts, also in the stem."""
    stem: Stem = "released"
    """`2015`: 7x7 of stride 2, max-pool. `released`: four 3x3, the first and the last of stride 2. `small`
    (ours): three 3x3 of stride 1, for images of 64 pixels and less; its pyramid lies at 1/1 to 1/8."""
    shortcut: Shortcut = "pooled"
    """How a shortcut halves its map: a strided 1x1 convolution, or (ResNet-D) a 2x2 average before it."""
    stride_in: StrideIn = "spatial"
    """Which convolution of a block has its stride: the first 1x1 (as in 2015) or (ResNet-D) the 3x3."""
    se_ratio: float | None = 0.25
    """Squeezed width over the block's output width; None leaves squeeze-and-excitation out."""
    drop_path: float = 0.0
    """Stochastic depth: drop rate of the last stage; stage i of (2, 3, 4, 5) has `drop_path * i / 5`."""
    norm_momentum: float = 1.0
    """Weight of the last batch in the running statistics. 1.0, as released, needs EMA weights (`recipe.ema_decay`),
    which average the statistics too; without EMA weights use 0.1."""
    zero_init: bool = True
    """Start the last norm of every block at zero, so that every block begins as the identity."""

    def __post_init__(self) -> None:
        if len(self.blocks) != 4 or min(self.blocks) < 1 or max(self.blocks) > _MAX_BLOCKS:
            raise ValueError(
                f"blocks must be four counts of 1 to {_MAX_BLOCKS}, one per stage, got {list(self.blocks)}."
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                allowed = ", ".join(get_args(choices))
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}.")
        # Below a width of 1/32 the first convolution of the stem would have no channel left.
        refuse_outside(
            self, width="[1/32, 16]", se_ratio="(0, 1] or none", drop_path="[0, 1)", norm_momentum="(0, 1]"
        )

    @property
    def needs_ema(self) -> bool:
        return self.norm_momentum == 1

    def build(self, *, in_channels: int) -> ResNet:
        return ResNet(self, in_channels=in_channels)

    # The layers that a variant for other released weights may replace:

    def conv(self, in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1) -> nn.Conv2d:
        """A convolution without bias, padded alike on all sides."""
        padding = kernel_size // 2
        return nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """A batch norm with this arch's momentum."""
        return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=self.norm_momentum)

    def activation(self) -> nn.Module:
        """The activation as a layer."""
        return nn.ReLU(inplace=True)

    def shortcut_pool(self, *, stride: int) -> list[nn.Module]:
        """The 2x2 average before a shortcut's convolution, if there is one."""
        if stride == 1 or self.shortcut == "strided":
            return []
        # ceil_mode keeps odd maps whole; the released code pads SAME, and never meets an odd map at its sizes.
        return [nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)]


class ResNet(StagedBackbone):
    """Stem, then four stages of bottlenecks."""

    def __init__(self, arch: ResNetArch, *, in_channels: int) -> None:
        super().__init__()
        channels, self.stem = _build_stem(arch, in_channels=in_channels)
        self.stem_width, self.stem_layer = channels, _STEM_LAYER[arch.stem]
        drop_rates = stage_drop_rates(arch.drop_path)
        stages: list[Stage] = []
        widths: list[int] = []
        for i in range(4):
            blocks: list[nn.Module] = []
            for j in range(arch.blocks[i]):
                block = Bottleneck(
                    arch,
                    in_channels=channels,
                    width=int(_STAGE_WIDTHS[i] * arch.width),
                    stride=2 if i > 0 and j == 0 else 1,
                    drop=build_stochastic_depth(drop_rates[i], purpose=f"stochastic depth of c{i + 2}.{j}"),
                )
                channels = block.out_channels
                blocks.append(block)
            stages.append(Stage(*blocks))
            widths.append(channels)
        self.c2, self.c3, self.c4, self.c5 = stages
        self.widths = (widths[0], widths[1], widths[2], widths[3])
        self.reductions = (1, 1, 2, 4, 8) if arch.stem == "small" else (2, 4, 8, 16, 32)
        self.apply(init_as_released)


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3 spatial, 1x1 expand, excite, drop; added to the shortcut."""

    def __init__(
        self, arch: ResNetArch, *, in_channels: int, width: int, stride: int, drop: nn.Module
    ) -> None:
        super().__init__()
        self.out_channels = _EXPANSION * width
        reduce_stride, spatial_stride = (stride, 1) if arch.stride_in == "reduce" else (1, stride)
        self.reduce = nn.Sequential(
            *_conv_norm(arch, in_channels, width, kernel_size=1, stride=reduce_stride), arch.activation()
        )
        self.spatial = nn.Sequential(
            *_conv_norm(arch, width, width, kernel_size=3, stride=spatial_stride), arch.activation()
        )
        conv, norm = _conv_norm(arch, width, self.out_channels, kernel_size=1)
        if arch.zero_init:
            nn.init.zeros_(norm.weight)
        self.expand = nn.Sequential(conv, norm)
        self.excite = (
            nn.Identity() if arch.se_ratio is None else SqueezeExcite(self.out_channels, ratio=arch.se_ratio)
        )
        self.drop = drop
        self.shortcut = _build_shortcut(arch, in_channels, self.out_channels, stride=stride)
        self.activation = arch.activation()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        residual = self.drop(self.excite(self.expand(self.spatial(self.reduce(x)))))
        return self.activation(self.shortcut(x) + residual)


def _build_stem(arch: ResNetArch, *, in_channels: int) -> tuple[int, nn.Sequential]:
    """The channels and the layers of the stem."""
    half, full = int(32 * arch.width), int(64 * arch.width)
    if arch.stem == "2015":
        layers = [*_conv_norm(arch, in_channels, full, kernel_size=7, stride=2), arch.activation()]
        return full, nn.Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1))
    first_stride = 2 if arch.stem == "released" else 1
    layers = [
        *(*_conv_norm(arch, in_channels, half, kernel_size=3, stride=first_stride), arch.activation()),
        *(*_conv_norm(arch, half, half, kernel_size=3), arch.activation()),
        *(*_conv_norm(arch, half, full, kernel_size=3), arch.activation()),
    ]
    if arch.stem == "released":
        # The paper's text gives the max-pool's stride to c2; the released checkpoints have this convolution.
        layers += [*_conv_norm(arch, full, full, kernel_size=3, stride=2), arch.activation()]
    return full, nn.Sequential(*layers)


def _build_shortcut(arch: ResNetArch, in_channels: int, out_channels: int, *, stride: int) -> nn.Module:
    """The identity if the shape stays; else a 1x1 convolution and a norm, after the pool of ResNet-D."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    conv_stride = stride if arch.shortcut == "strided" else 1
    return nn.Sequential(
        *arch.shortcut_pool(stride=stride),
        *_conv_norm(arch, in_channels, out_channels, kernel_size=1, stride=conv_stride),
    )


def _conv_norm(
    arch: ResNetArch, in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = arch.conv(in_channels, out_channels, kernel_size=kernel_size, stride=stride)
    return conv, arch.norm(out_channels)
