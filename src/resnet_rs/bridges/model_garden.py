"""The ResNet-RS of the TF2 Model Garden, which differs from the paper's and is needed only for its weights.

Source: Model Garden (`official/vision/modeling/backbones/resnet.py`), run.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import nn

from resnet_rs.models.layers import SameConv2d
from resnet_rs.models.resnet import ResNetArch


@dataclass(frozen=True, kw_only=True)
class ModelGardenArch(ResNetArch):
    """A ResNet with SiLU, TensorFlow's SAME padding, and an average before the shortcut of c2 too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stem == "2015" or self.shortcut == "strided":
            raise ValueError(
                f"the Model Garden has no weights with stem {self.stem!r} and shortcut {self.shortcut!r}. "
                "Use stem 'released' and shortcut 'pooled'."
            )

    @classmethod
    def like(cls, arch: ResNetArch) -> ModelGardenArch:
        """The Model Garden's variant of `arch`."""
        return cls(**{field.name: getattr(arch, field.name) for field in fields(arch)})

    def conv(self, in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1) -> nn.Conv2d:
        if stride == 1:
            return super().conv(in_channels, out_channels, kernel_size=kernel_size)
        return SameConv2d(in_channels, out_channels, kernel_size, stride=stride, bias=False)

    def activation(self) -> nn.Module:
        return nn.SiLU(inplace=True)

    def shortcut_pool(self, *, stride: int) -> list[nn.Module]:
        if stride > 1:
            return super().shortcut_pool(stride=stride)
        # Repeating the last row and column gives the mean over the pixels inside the map.
        return [nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, stride=1))]
