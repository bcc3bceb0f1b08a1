"""`TrainState`: everything that changes during training."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnet_rs.methods.fine_tuning import FineTuning, part_of
from resnet_rs.methods.weight_decay import decayed_and_free
from resnet_rs.models.backbone import Model
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.recipe import Recipe

_MOMENTUM = "momentum_buffer"


@dataclass
class TrainState:
    """Model, EMA weights, optimizer, and the number of updates."""

    model: Model
    ema: Model | None
    """EMA of weights and statistics; None if the recipe has no `ema_decay`."""
    optimizer: torch.optim.SGD
    step: int = 0
    skipped: tuple[int, ...] = ()
    """Recent updates that were skipped because they were not finite."""
    held: tuple[nn.Module, ...] = ()
    """Modules that stay in evaluation mode during training: frozen stages, and batch norms with fixed statistics."""
    pulls: tuple[tuple[nn.Parameter, Tensor], ...] = ()
    """Parameters that weight decay pulls to a start value, and the start values."""

    def train(self) -> None:
        """Put the model into training mode, except for the modules that are `held`."""
        self.model.train()
        for module in self.held:
            module.eval()

    @property
    def models(self) -> dict[str, Model]:
        """The models by name; the first one is for evaluation and deployment."""
        return {"ema": self.ema, "model": self.model} if self.ema else {"model": self.model}

    def momenta(self) -> dict[str, Tensor]:
        """The optimizer's momentum by parameter name; empty before the first update."""
        slots = self.optimizer.state
        named = self.model.named_parameters()
        return {name: slots[p][_MOMENTUM] for name, p in named if _MOMENTUM in slots[p]}

    def set_momenta(self, momenta: dict[str, Tensor]) -> None:
        """Set the momentum to a value of `momenta()`."""
        for name, parameter in self.model.named_parameters():
            if name in momenta:
                # The momentum has the memory layout of its parameter, so a resumed run adds in the same order.
                self.optimizer.state[parameter][_MOMENTUM] = torch.empty_like(parameter).copy_(momenta[name])


class Statistics:
    """The running statistics of all batch norms in training mode, during one update; frozen norms are ignored.

    Every micro-batch starts from the statistics at the start of the update. `take` removes the result, which is summed
    elsewhere. Other buffers that change in training are not handled; no module in this package has any.
    """

    def __init__(self, model: Model) -> None:
        norms = [module for module in model.modules() if module.training and has_statistics(module)]
        self._values = [norm.get_buffer(name) for norm in norms for name in ("running_mean", "running_var")]
        self._counters = [norm.get_buffer("num_batches_tracked") for norm in norms]
        self._none = next(model.parameters()).new_empty(0)
        self._before = self._read()
        # The views are made once, because splitting into hundreds of small tensors in every step is slow.
        self._flat = self._before.clone()
        self._views = list(self._flat.split([len(value) for value in self._values])) if norms else []

    def begin(self) -> None:
        """Store the current statistics."""
        self._before = self._read()

    def take(self) -> Tensor:
        """The statistics after a micro-batch, as one vector; resets the norms to those of `begin`."""
        left = self._read()
        self._write(self._before, counted=-1)
        return left

    def nothing(self) -> Tensor:
        """The contribution of a micro-batch without samples: zeros."""
        return torch.zeros_like(self._before)

    def accept(self, values: Tensor) -> None:
        """Set the statistics to `values` and count one batch."""
        self._write(values, counted=1)

    def _read(self) -> Tensor:
        return torch.cat(self._values or [self._none])

    @torch.no_grad()
    def _write(self, values: Tensor, *, counted: int) -> None:
        self._flat.copy_(values)
        if self._views:
            torch._foreach_copy_(self._values, self._views)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage] - no public name
            torch._foreach_add_(self._counters, counted)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage] - no public name


def has_statistics(module: nn.Module) -> bool:
    """Whether a module is a batch norm with running statistics."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    return all(isinstance(getattr(module, name, None), Tensor) for name in names)


def new_state(
    experiment: Experiment, device: Device, *, seed: int, start: Mapping[str, Tensor] | None = None
) -> TrainState:
    """The state before the first update: fresh weights, or the state dict `start`."""
    model = experiment.build_model(seed=seed)
    if start is not None:
        model.load_state_dict(start)
    device.place(model)
    ema: Model | None = None
    if experiment.recipe.ema_decay is not None:
        ema = copy.deepcopy(model).requires_grad_(False).eval()
    tuning = experiment.recipe.fine_tuning
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not tuning.is_frozen(part_of(name)))
    held = tuple(module for name, module in model.named_modules() if name and _is_held(tuning, name, module))
    decayed, _ = decayed_and_free(model)
    pulls = dict[str, tuple[nn.Parameter, Tensor]]()
    if tuning.decay_towards == "start" and start is not None:
        pulls = {
            name: (parameter, torch.empty_like(parameter, requires_grad=False).copy_(start[name]))
            for name, parameter in decayed.items()
            if parameter.requires_grad and part_of(name) != "head"
        }
    optimizer = _build_optimizer(model, experiment.recipe, decayed=decayed.keys() - pulls.keys())
    return TrainState(model=model, ema=ema, optimizer=optimizer, held=held, pulls=tuple(pulls.values()))


def _is_held(tuning: FineTuning, name: str, module: nn.Module) -> bool:
    has_fixed_statistics = tuning.batch_norm == "start" and has_statistics(module)
    return has_fixed_statistics or (name != "backbone" and tuning.is_frozen(part_of(name)))


def _build_optimizer(model: Model, recipe: Recipe, *, decayed: Collection[str]) -> torch.optim.SGD:
    """SGD with a group for each pair of learning rate and weight decay."""
    groups = defaultdict[tuple[float, float], list[nn.Parameter]](list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = recipe.fine_tuning.lr_factor(part_of(name))
            groups[factor, recipe.weight_decay if name in decayed else 0.0].append(parameter)
    return torch.optim.SGD(
        [
            {"params": parameters, "lr_factor": factor, "weight_decay": weight_decay}
            for (factor, weight_decay), parameters in groups.items()
        ],
        lr=0.0,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=True,
    )
