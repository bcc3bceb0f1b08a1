"""The loop: one optimizer step per batch. It yields and never calls back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from resnet_rs import draws
from resnet_rs.data.sample import Batch, Unreadable, join
from resnet_rs.methods.ema import ramped_decay, update_average
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.recipe import Plan
from resnet_rs.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one update did."""

    step: int
    """Updates taken so far, this one included."""
    lr: float
    loss: Tensor
    """Mean over the samples that could be read; a scalar on the device, so that reading it is the caller's choice."""
    num_samples: int
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True, kw_only=True)
class Loop:
    """All that an update needs and does not change."""

    experiment: Experiment
    plan: Plan
    device: Device
    seed: int
    micro_batches: int
    """Batches that are summed up before each update."""

    def updates(self, state: TrainState, batches: Iterator[Batch]) -> Iterator[Update]:
        """Take one optimizer step per `micro_batches` batches, to the end of the plan, and yield what it did."""
        while state.step < self.plan.total_steps:
            yield self._update(state, list(islice(batches, self.micro_batches)))

    def _update(self, state: TrainState, parts: list[Batch]) -> Update:
        lr = self.plan.lr(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        state.model.train()
        state.optimizer.zero_grad(set_to_none=True)
        losses = [self._backward(state, part) for part in _without_singles(parts)]
        num_samples = sum(len(part.indices) for part in parts)
        unreadable = tuple(error for part in parts for error in part.unreadable)
        if not losses:
            raise ValueError(f"no sample of update {state.step} could be read; the first: {unreadable[0]}.")
        _rescale_gradients(state, self.plan.batch_size / num_samples)
        state.optimizer.step()
        self._move_average(state)
        state.step += 1
        loss = torch.stack(losses).sum() / num_samples
        return Update(step=state.step, lr=lr, loss=loss, num_samples=num_samples, unreadable=unreadable)

    def _backward(self, state: TrainState, batch: Batch) -> Tensor:
        """Add the gradient of `batch`'s share of the whole batch's mean loss; the sum of its losses."""
        inputs = self.device.layout(self.experiment.data.normalize(self.device.put(batch.inputs)))
        with draws.keyed(self.seed, self.device.put(batch.positions)), self.device.autocast():
            prediction = state.model(inputs)
        loss = self.experiment.task.loss(prediction, self.device.put(batch.targets)).sum()
        (loss / self.plan.batch_size).backward()
        return loss.detach()

    def _move_average(self, state: TrainState) -> None:
        decay = self.experiment.recipe.ema_decay
        if decay is not None and state.average is not None:
            now = ramped_decay(state.step, decay=decay)
            update_average(state.average.state_dict(), state.model.state_dict(), decay=now)


def _without_singles(parts: list[Batch]) -> list[Batch]:
    """`parts` that hold samples; one that is left with a single sample joins another, for batch norm needs two."""
    parts = [part for part in parts if len(part.indices)]
    singles = [part for part in parts if len(part.indices) == 1]
    others = [part for part in parts if len(part.indices) > 1]
    if singles:
        others = [join([*singles, *others[:1]]), *others[1:]]
    return others


def _rescale_gradients(state: TrainState, factor: float) -> None:
    """Make the gradient the mean over the samples that could be read."""
    if factor != 1:
        for parameter in state.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
