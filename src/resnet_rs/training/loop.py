"""The loop: one optimizer step per batch, yielded to whoever called.

A batch is split into micro-batches, which the ranks share. The update is the sum of their `MicroBatchGradient` in a
fixed order (`ranks`), so neither the number of ranks nor an interruption can change it. An update with NaN or infinity
in it is skipped: weights, momentum, statistics and EMA weights stay as they were, bit for bit, on all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from resnet_rs.data.sample import Batch, Unreadable, map_targets
from resnet_rs.methods.ema import ramped_decay, update_ema
from resnet_rs.models.randomness import ModelRng
from resnet_rs.processes import Stop
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.ranks import ALONE, MicroBatchGradient, Ranks
from resnet_rs.training.recipe import Timetable
from resnet_rs.training.state import Statistics, TrainState


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one update did."""

    step: int
    """Updates so far, this one included."""
    lr: float
    loss: float
    """Mean over the samples that could be read."""
    num_samples: int
    """Samples that were read, on all ranks."""
    gradient_norm: float
    """Euclidean norm of the gradient, before it is scaled up for unreadable samples."""
    num_unreadable: int
    """Samples that could not be read, on all ranks."""
    unreadable: tuple[Unreadable, ...]
    """The ones of this rank."""
    suspects: tuple[int, ...]
    """If the update was not finite: this rank's samples in the micro-batches that made it so."""
    is_skipped: bool
    """Whether it was not finite, so that nothing was changed."""


Forward = Callable[[Tensor], Tensor]
"""The forward pass of a model: the model itself, or a compiled form of it."""


class _Work(NamedTuple):
    """What the updates of one run share."""

    state: TrainState
    statistics: Statistics
    rng: ModelRng
    forward: Forward


@dataclass(frozen=True, kw_only=True)
class Loop:
    """All that an update needs and does not change."""

    experiment: Experiment
    timetable: Timetable
    device: Device
    seed: int
    micro_batches: int
    """Batches that are summed up before each update, on all ranks."""
    ranks: Ranks = ALONE
    stop: Stop = field(default_factory=Stop)
    weights: Tensor | None = None
    """A factor for the loss of each sample of the source, on the device; None weighs all alike."""

    def updates(
        self, state: TrainState, batches: Iterator[Batch], *, forward: Forward | None = None
    ) -> Iterator[Update]:
        """Take one optimizer step per `micro_batches` batches, of which `batches` yields this rank's, and yield it.

        `forward` computes `state.model`; None is the model itself. Ends after `timetable.total_steps` updates, or
        earlier, after the same update on all ranks, when any rank is asked to stop.
        """
        state.train()
        rng = ModelRng(state.model, seed=self.seed)
        work = _Work(state, Statistics(state.model), rng, state.model if forward is None else forward)
        while state.step < self.timetable.total_steps:
            update = self._update(work, batches)
            if update is None:
                return
            yield update

    def _update(self, work: _Work, batches: Iterator[Batch]) -> Update | None:
        """Take one update. If a rank was asked to stop meanwhile, change nothing and return None."""
        state, statistics = work.state, work.statistics
        state.train()
        state.optimizer.zero_grad(set_to_none=True)
        statistics.begin()
        parts = list[_Part]()
        mine = range(*self.ranks.bounds(self.micro_batches, self.ranks.index))
        gradients = (self._micro_batch(work, batches, parts) for _ in mine)
        total = self.ranks.total(gradients, self.micro_batches)
        # One transfer from the device for all numbers.
        *values, norm = torch.cat([total.counts, get_total_norm(total.gradients)[None]]).tolist()
        sums = _Counts(*values)
        update = self._checked(state, sums, norm, parts)
        if update is not None:
            state.step = update.step
            if not update.is_skipped:
                self._move(state, total.gradients, factor=self.timetable.batch_size / sums.num_samples)
                statistics.accept(total.statistics / sums.num_micro_batches)
                decay = self.experiment.recipe.ema_decay
                if decay is not None and state.ema is not None:
                    now = ramped_decay(state.step - 1, decay=decay)
                    update_ema(state.ema.state_dict(), state.model.state_dict(), decay=now)
        return update

    def _micro_batch(self, work: _Work, batches: Iterator[Batch], parts: list[_Part]) -> MicroBatchGradient:
        """Compute the next micro-batch and append it to `parts`; without a sample its gradient is zero."""
        state, statistics = work.state, work.statistics
        batch = None if self.stop.is_requested else next(batches)
        parameters = _trained(state)
        if batch is None or not len(batch.indices):
            loss, after = parameters[0].new_zeros(()), statistics.nothing()
        else:
            loss, after = self._backward(work, batch), statistics.take()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        # Zero times a finite statistic is zero; zero times NaN or infinity is NaN, which the check then carries.
        check = get_total_norm(gradients) + loss + 0 * after.sum()
        state.optimizer.zero_grad(set_to_none=True)
        parts.append(_Part(batch, check))
        return MicroBatchGradient(gradients, after, _counts(loss, check, batch))

    def _backward(self, work: _Work, batch: Batch) -> Tensor:
        """Compute the gradient of `batch`'s share of the whole batch's mean loss. Returns the sum of its losses."""
        task, device = self.experiment.task, self.device
        inputs, targets, indices, global_indices = (
            map_targets(device.put, part)
            for part in (batch.inputs, batch.targets, batch.indices, batch.global_indices)
        )
        # Batch norm cannot train on one value per channel, so a single sample is computed twice and counts half each.
        repeats = 2 if len(indices) * task.num_views == 1 else 1
        if repeats > 1:
            inputs, targets, indices, global_indices = (
                map_targets(_twice, part) for part in (inputs, targets, indices, global_indices)
            )
        if task.num_views > 1:
            inputs = inputs.flatten(0, 1)
            views = torch.arange(task.num_views, device=global_indices.device)
            global_indices = (global_indices[:, None] * task.num_views + views).flatten()
        inputs = device.layout(self.experiment.data.normalize(inputs))
        with work.rng.scope(global_indices), device.autocast():
            prediction = work.forward(inputs).float()
        losses = task.loss(prediction, targets, indices)
        if self.weights is not None:
            losses = losses * self.weights[indices]
        loss = losses.sum() / repeats
        (loss / self.timetable.batch_size).backward()
        return loss.detach()

    def _checked(self, state: TrainState, counts: _Counts, norm: float, parts: list[_Part]) -> Update | None:
        """What the update would be; None if a rank was asked to stop."""
        if counts.num_stopped:
            return None
        unreadable = tuple(error for part in parts if part.batch for error in part.batch.unreadable)
        if not counts.num_samples:
            first = f"; the first: {unreadable[0]}" if unreadable else ""
            raise ValueError(f"no sample of update {state.step + 1} could be read{first}.")
        is_finite = math.isfinite(counts.check) and math.isfinite(norm)
        suspects = list[int]()
        # Batch norm mixes the samples of a micro-batch, so the culprit is not known.
        for part in () if is_finite else parts:
            if part.batch is not None and not math.isfinite(part.check.item()):
                suspects += part.batch.indices.tolist()
        return Update(
            step=state.step + 1,
            lr=self.timetable.lr(state.step),
            loss=counts.loss / counts.num_samples,
            num_samples=int(counts.num_samples),
            gradient_norm=norm,
            num_unreadable=int(counts.num_unreadable),
            unreadable=unreadable,
            suspects=tuple(suspects),
            is_skipped=not is_finite,
        )

    def _move(self, state: TrainState, gradients: list[Tensor], *, factor: float) -> None:
        """Move the weights along `factor * gradients`."""
        for parameter, gradient in zip(_trained(state), gradients, strict=True):
            parameter.grad = gradient if factor == 1 else gradient.mul_(factor)
        for parameter, start in state.pulls:
            if parameter.grad is not None:
                away = parameter.detach() - start
                parameter.grad.add_(away, alpha=self.experiment.recipe.weight_decay)
        for group in state.optimizer.param_groups:
            group["lr"] = self.timetable.lr(state.step - 1) * group["lr_factor"]
        state.optimizer.step()


class _Counts(NamedTuple):
    """The numbers that are summed along with the gradients."""

    loss: float
    """Sum over samples."""
    check: float
    """Finite if loss, gradients and statistics of all micro-batches are."""
    num_samples: float
    num_micro_batches: float
    """Micro-batches with samples."""
    num_unreadable: float
    num_stopped: float
    """Micro-batches that were left out because their rank was asked to stop."""


class _Part(NamedTuple):
    """A micro-batch of this rank."""

    batch: Batch | None
    check: Tensor
    """Finite if its loss, gradient and statistics are."""


def _counts(loss: Tensor, check: Tensor, batch: Batch | None) -> Tensor:
    """The counts of one micro-batch; None stands for one that was left out."""
    num_samples = 0 if batch is None else len(batch.indices)
    num_unreadable = 0 if batch is None else len(batch.unreadable)
    numbers = (num_samples, num_samples > 0, num_unreadable, batch is None)
    return torch.cat([torch.stack([loss, check]), loss.new_tensor([float(number) for number in numbers])])


def _twice(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor])


def _trained(state: TrainState) -> list[nn.Parameter]:
    return [parameter for parameter in state.model.parameters() if parameter.requires_grad]
