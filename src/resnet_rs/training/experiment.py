"""`Experiment`: arch, data, task and recipe. Every section of the paper changes one or two of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from resnet_rs import draws
from resnet_rs.data.pipeline import Data
from resnet_rs.models.backbone import Arch, Model
from resnet_rs.models.cost import Cost, count_cost
from resnet_rs.tasks.task import Task
from resnet_rs.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is trained, on what, for what, and how: compared by value, stored as JSON beside the weights."""

    arch: Arch
    data: Data
    task: Task
    recipe: Recipe

    def __post_init__(self) -> None:
        if self.arch.needs_average and self.recipe.ema_decay is None:
            raise ValueError(
                "with norm_momentum 1 the running statistics are those of the last batch, so they need the average of "
                "recipe.ema_decay, which is none. Set arch.norm_momentum=0.1 as well, or keep an ema_decay."
            )

    def suited_to(self, classes: tuple[str, ...]) -> Experiment:
        """This experiment for data of these classes."""
        return replace(self, task=self.task.suited_to(classes))

    def build_model(self, *, seed: int = 0) -> Model:
        """A model with fresh weights, the same for the same `seed` on every device."""
        with draws.initial(seed):
            backbone = self.arch.build(in_channels=self.data.channels)
            return Model(backbone, self.task.build_head(backbone.widths))

    def count_cost(self, *, frames: int | None = None) -> Cost:
        """Parameters, multiply-adds and activations for one input of `data.size` (a clip has `frames`)."""
        space = (self.data.size, self.data.size)
        shape = (self.data.channels, *(() if frames is None else (frames,)), *space)
        return _cost(self.arch, self.task, shape)


@lru_cache(maxsize=4096)
def _cost(arch: Arch, task: Task, shape: tuple[int, ...]) -> Cost:
    import torch

    with torch.device("meta"):
        backbone = arch.build(in_channels=shape[0])
        model = Model(backbone, task.build_head(backbone.widths))
    return count_cost(model, shape)
