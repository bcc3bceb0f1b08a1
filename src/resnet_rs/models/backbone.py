"""The interfaces of every network: `Arch` (its shape), `Backbone` (its weights), `Pyramid` (what it sees).

Shapes: `B` batch, `C` channels, `T` frames (only in 3-D networks), `H W` pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


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
