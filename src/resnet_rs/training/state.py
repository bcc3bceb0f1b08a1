"""`TrainState`: all that changes while a model is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
    skipped: tuple[int, ...] = ()
    """The last updates that were taken back because they were not finite."""

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


class Statistics:
    """The running statistics of the batch norms in training mode, in one update; frozen norms are left alone.

    Every micro-batch starts from those of the update's begin; what it leaves is taken off and summed up elsewhere.
    Other buffers that a module changes while training are not seen: no module of ours has any.
    """

    def __init__(self, model: Model) -> None:
        norms = [module for module in model.modules() if module.training and _has_statistics(module)]
        self._values = [norm.get_buffer(name) for norm in norms for name in ("running_mean", "running_var")]
        self._counters = [norm.get_buffer("num_batches_tracked") for norm in norms]
        self._none = next(model.parameters()).new_empty(0)
        self._before = self._read()
        # Written through views that are made once: hundreds of small tensors are slow to cut anew in every step.
        self._flat = self._before.clone()
        self._views = list(self._flat.split([len(value) for value in self._values])) if norms else []

    def begin(self) -> None:
        """Keep what the norms hold now."""
        self._before = self._read()

    def take(self) -> Tensor:
        """What a micro-batch has left, as one vector; the norms hold again what they held at the begin."""
        left = self._read()
        self._write(self._before, counted=-1)
        return left

    def nothing(self) -> Tensor:
        """What a micro-batch without samples leaves: zeros, which add nothing to a sum."""
        return torch.zeros_like(self._before)

    def accept(self, values: Tensor) -> None:
        """Let the norms hold `values`, one batch further."""
        self._write(values, counted=1)

    def _read(self) -> Tensor:
        return torch.cat(self._values or [self._none])

    @torch.no_grad()
    def _write(self, values: Tensor, *, counted: int) -> None:
        self._flat.copy_(values)
        if self._views:
            torch._foreach_copy_(self._values, self._views)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage] - no public name
            torch._foreach_add_(self._counters, counted)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage] - no public name


def _has_statistics(module: nn.Module) -> bool:
    names = ("running_mean", "running_var", "num_batches_tracked")
    return all(isinstance(getattr(module, name, None), Tensor) for name in names)


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
