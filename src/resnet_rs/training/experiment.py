"""`Experiment`: arch, data, task and recipe. Every section of the paper changes one or two of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from torch import Tensor

from resnet_rs import draws
from resnet_rs.data.pipeline import Data
from resnet_rs.models.backbone import Arch, Model
from resnet_rs.models.cost import Cost, count_cost, shapes_only
from resnet_rs.tasks.task import Task
from resnet_rs.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Architecture, data, task and recipe: compared by value, stored as JSON with the weights."""

    arch: Arch
    data: Data
    task: Task
    recipe: Recipe

    def __post_init__(self) -> None:
        if self.arch.needs_ema and self.recipe.ema_decay is None:
            raise ValueError(
                "with norm_momentum 1 the running statistics are those of the last batch, so they need the EMA of "
                "recipe.ema_decay, which is none. Set arch.norm_momentum=0.1 as well, or keep an ema_decay."
            )

    def with_classes(self, classes: tuple[str, ...]) -> Experiment:
        """This experiment for data of these classes."""
        return replace(self, task=self.task.with_classes(classes))

    def build_model(self, *, seed: int = 0) -> Model:
        """A model with fresh weights, the same for the same `seed` on every device."""
        with draws.initial(seed):
            model = self.task.build_model(self.arch.build(in_channels=self.data.channels))
        model.experiment = self
        return model

    def expected_tensors(self) -> dict[str, Tensor]:
        """The state dict of the network on the meta device: names, shapes and types."""
        return _shapes(self.arch, self.task, self.data.channels).state_dict()

    def count_cost(self) -> Cost:
        """Parameters, multiply-adds and activations for one image of `data.size`, or for a clip of `data.frames`."""
        data = self.data
        frames = () if data.frames is None else (data.frames.count,)
        return _cost(self.arch, self.task, (data.channels, *frames, data.size, data.size))


@lru_cache(maxsize=4096)
def _cost(arch: Arch, task: Task, shape: tuple[int, ...]) -> Cost:
    return count_cost(_shapes(arch, task, shape[0]), shape)


@lru_cache(maxsize=4)
def _shapes(arch: Arch, task: Task, in_channels: int) -> Model:
    """The network on the meta device; cached, because the zoo has some networks at several sizes."""
    with shapes_only():
        return task.build_model(arch.build(in_channels=in_channels))
