"""`TrainState`: all that changes while a model is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_rs.methods.weight_decay import decayed_and_free
from resnet_rs.models.backbone import Model
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.recipe import Recipe

_MOMENTUM = "momentum_buffer"


@dataclass
class TrainState:
    """Model, average, optimizer, and the number of updates taken."""

    model: Model
    average: Model | None
    """The average of weights and statistics; none if the recipe has none."""
    optimizer: torch.optim.SGD
    step: int = 0

    @property
    def models(self) -> dict[str, Model]:
        """The models by name; the first is the one to use."""
        return {"average": self.average, "model": self.model} if self.average else {"model": self.model}

    def momenta(self) -> dict[str, Tensor]:
        """The optimizer's momentum by parameter name; empty before the first update."""
        slots = self.optimizer.state
        named = self.model.named_parameters()
        return {name: slots[p][_MOMENTUM] for name, p in named if _MOMENTUM in slots[p]}

    def set_momenta(self, momenta: dict[str, Tensor]) -> None:
        """Put back what `momenta` gave."""
        for name, parameter in self.model.named_parameters():
            if name in momenta:
                # The layout of the momentum is the parameter's own, so that a resumed run adds in the same order.
                self.optimizer.state[parameter][_MOMENTUM] = torch.empty_like(parameter).copy_(momenta[name])


def new_state(experiment: Experiment, device: Device, *, seed: int) -> TrainState:
    """The state before the first update."""
    model = experiment.build_model(seed=seed)
    device.place(model)
    average: Model | None = None
    if experiment.recipe.ema_decay is not None:
        average = experiment.build_model(seed=seed)
        device.place(average).requires_grad_(False).eval()
    return TrainState(model=model, average=average, optimizer=_build_optimizer(model, experiment.recipe))


def _build_optimizer(model: Model, recipe: Recipe) -> torch.optim.SGD:
    decayed, free = decayed_and_free(model)
    return torch.optim.SGD(
        [
            {"params": list(decayed.values()), "weight_decay": recipe.weight_decay},
            {"params": list(free.values()), "weight_decay": 0.0},
        ],
        lr=0.0,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=True,
    )
