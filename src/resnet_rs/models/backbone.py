"""The interfaces of every network: `Arch` (its shape), `Backbone` (its weights), `Pyramid` (its feature maps).

Shapes: `B` batch, `C` channels, `T` frames (only in 3-D networks), `H W` pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from resnet_rs.models.checkpointing import Stage

ONLY_IN_TRAINING = ("drop_path", "norm_momentum", "zero_init")
"""Fields of an arch that do not matter to trained weights."""


class Pyramid(NamedTuple):
    """Feature maps at 1/4, 1/8, 1/16 and 1/32 of the image; a stem for small images has larger ones."""

    c2: Float[Tensor, "B C2 ..."]
    c3: Float[Tensor, "B C3 ..."]
    c4: Float[Tensor, "B C4 ..."]
    c5: Float[Tensor, "B C5 ..."]


class Backbone(nn.Module, ABC):
    """A network from normalized images to their `Pyramid`."""

    widths: tuple[int, int, int, int]
    """Channels of c2, c3, c4 and c5."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "B C ..."]) -> Pyramid: ...


class StagedBackbone(Backbone):
    """A stem and four stages, one after the other."""

    stem: nn.Sequential
    c2: Stage
    c3: Stage
    c4: Stage
    c5: Stage
    stem_layer: int
    """Index of the stem's layer whose output is the *stem map*: the last map with more pixels than c2, or the last."""
    stem_width: int
    """Channels of the stem map."""
    reductions: tuple[int, int, int, int, int]
    """Image pixels per pixel of the stem map, c2, c3, c4 and c5, along each side."""

    def forward(self, images: Float[Tensor, "B C ..."]) -> Pyramid:
        c2 = self.c2(self.stem(images))
        c3 = self.c3(c2)
        c4 = self.c4(c3)
        return Pyramid(c2, c3, c4, self.c5(c4))


@dataclass(frozen=True, kw_only=True)
class Arch(ABC):
    """The shape of a backbone: a value that can be compared, stored and edited."""

    @property
    def needs_ema(self) -> bool:
        """Whether evaluation needs EMA weights (`recipe.ema_decay`), as its statistics are those of the last batch."""
        return False

    @abstractmethod
    def build(self, *, in_channels: int) -> Backbone:
        """A backbone with fresh random weights for images of `in_channels` channels."""


class Model(nn.Module):
    """A backbone and the head that turns its pyramid into a prediction."""

    experiment: object = None
    """The `Experiment` that the model was built for, if there is one."""
    origin: Mapping[str, str] = {}
    """Where its initial weights came from."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Float[Tensor, "B C ..."]) -> Tensor:
        return self.head(self.backbone(images))
