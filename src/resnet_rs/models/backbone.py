"""The interfaces of every network: `Arch` (its shape), `Backbone` (its weights), `Pyramid` (what it sees).

Shapes: `B` batch, `C` channels, `T` frames (only in 3-D networks), `H W` pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resnet_rs.models.layers import recomputed


class Pyramid(NamedTuple):
    """Feature maps at 1/4, 1/8, 1/16 and 1/32 of the picture (of a small picture: as its stem says)."""

    c2: Float[Tensor, "B C2 ..."]
    c3: Float[Tensor, "B C3 ..."]
    c4: Float[Tensor, "B C4 ..."]
    c5: Float[Tensor, "B C5 ..."]


class Backbone(nn.Module, ABC):
    """A network from normalized pictures to their `Pyramid`."""

    widths: tuple[int, int, int, int]
    """Channels of c2, c3, c4 and c5."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "B C ..."]) -> Pyramid: ...


class StagedBackbone(Backbone):
    """A backbone that is a stem and four stages, one after the other."""

    stem: nn.Sequential
    c2: nn.Sequential
    c3: nn.Sequential
    c4: nn.Sequential
    c5: nn.Sequential
    num_early: int
    """Layers of the stem that make its early map: the last one of more pixels than c2, or the stem's last."""
    early_width: int
    """Channels of the early map."""
    reductions: tuple[int, int, int, int, int]
    """Pixels of the picture per side for one of the early map, c2, c3, c4 and c5."""
    recomputes: bool = False
    """While training, compute what is inside a block again in the backward pass instead of keeping it; not in
    compiled code, which decides that itself."""

    def forward(self, images: Float[Tensor, "B C ..."]) -> Pyramid:
        c2 = self.through("c2", self.stem(images))
        c3 = self.through("c3", c2)
        c4 = self.through("c4", c3)
        return Pyramid(c2, c3, c4, self.through("c5", c4))

    def maps(self, images: Float[Tensor, "B C ..."]) -> Iterator[Float[Tensor, "B D ..."]]:
        """The early map of the stem, c2, c3, c4 and c5, each computed when it is asked for."""
        x = self.stem[: self.num_early](images)
        yield x
        x = self.stem[self.num_early :](x)
        for stage in ("c2", "c3", "c4", "c5"):
            x = self.through(stage, x)
            yield x

    def through(self, stage: str, x: Float[Tensor, "B C ..."]) -> Float[Tensor, "B D ..."]:
        """What the stage of this name makes of the map before it."""
        blocks: nn.Module = self.get_submodule(stage)
        if (
            not (self.recomputes and self.training and torch.is_grad_enabled())
            or torch.compiler.is_compiling()
        ):
            return blocks(x)
        for block in blocks.children():
            x = recomputed(block, x)
        return x


@dataclass(frozen=True, kw_only=True)
class Arch(ABC):
    """The shape of a backbone: a value that can be compared, stored and edited."""

    @property
    def needs_average(self) -> bool:
        """Whether its running statistics mean nothing until they are averaged (`recipe.ema_decay`)."""
        return False

    @abstractmethod
    def build(self, *, in_channels: int) -> Backbone:
        """A backbone with fresh random weights for pictures of `in_channels` channels."""


class Model(nn.Module):
    """A backbone and the head that turns its pyramid into a prediction."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Float[Tensor, "B C ..."]) -> Tensor:
        return self.head(self.backbone(images))
