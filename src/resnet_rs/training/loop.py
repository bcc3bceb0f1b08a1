"""The loop: one optimizer step per batch, yielded to whoever called.

A batch is cut into micro-batches, which the ranks share. Each of them gives a *leaf*: its gradients, the batch-norm
statistics that it would leave, and a few counts. The update is the sum of all leaves in an order that their number
alone decides (`ordered_sum`), so neither the ranks nor an interruption can change it.

An update with a value that is no finite number is taken back: weights, momentum, statistics and average stay as they
were, bit for bit, on all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from resnet_rs import draws
from resnet_rs.data.sample import Batch, Unreadable
from resnet_rs.methods.ema import ramped_decay, update_average
from resnet_rs.processes import Stop
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.ordered_sum import Node, OrderedSum
from resnet_rs.training.ranks import ALONE, Ranks
from resnet_rs.training.recipe import Plan
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
    """Euclidean norm of the gradient, before samples that could not be read are made up for."""
    num_unreadable: int
    """Samples that could not be read, on all ranks."""
    unreadable: tuple[Unreadable, ...]
    """Those of this rank."""
    suspects: tuple[int, ...]
    """If the update was not finite: this rank's samples in the micro-batches that made it so."""
    is_skipped: bool
    """Whether it was not finite, so that everything was left as it was."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """All that an update needs and does not change."""

    experiment: Experiment
    plan: Plan
    device: Device
    seed: int
    micro_batches: int
    """Batches that are summed up before each update, on all ranks."""
    ranks: Ranks = ALONE
    stop: Stop = field(default_factory=Stop)

    def updates(self, state: TrainState, batches: Iterator[Batch]) -> Iterator[Update]:
        """Take one optimizer step per `micro_batches` batches, of which `batches` yields this rank's, and yield it.

        Ends with the plan, or earlier, after the same update on all ranks, when any of them is asked to stop.
        """
        state.model.train()
        statistics = Statistics(state.model)
        while state.step < self.plan.total_steps:
            update = self._update(state, statistics, batches)
            if update is None:
                return
            yield update

    def _update(self, state: TrainState, statistics: Statistics, batches: Iterator[Batch]) -> Update | None:
        """Take one update; if a rank was asked to stop meanwhile, change nothing and return none."""
        state.model.train()
        state.optimizer.zero_grad(set_to_none=True)
        statistics.begin()
        share, parts = OrderedSum(), list[_Part]()
        for i in range(*self.ranks.bounds(self.micro_batches, self.ranks.index)):
            part, leaf = self._part(state, statistics, batches)
            share.add(Node(i, 1, leaf))
            parts.append(part)
        total = self.ranks.total(share, self.micro_batches)
        update = self._judged(state, total, parts)
        if update is not None:
            state.step = update.step
            if not update.is_skipped:
                self._apply(state, statistics, total, num_samples=update.num_samples)
        return update

    def _part(
        self, state: TrainState, statistics: Statistics, batches: Iterator[Batch]
    ) -> tuple[_Part, list[Tensor]]:
        """Compute the next micro-batch; its leaf is zero where there is nothing to compute."""
        batch = None if self.stop.is_requested else next(batches)
        parameters = _trained(state)
        if batch is None or not len(batch.indices):
            leaf = [torch.zeros_like(p) for p in parameters]
            leaf.append(statistics.nothing())
            leaf.append(_counts(parameters[0].new_zeros(2), batch, is_stopped=batch is None))
            return _Part(batch, parameters[0].new_zeros(())), leaf
        loss = self._backward(state, batch)
        leaf = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        left = statistics.take()
        # Times zero, statistics that are finite add nothing, and others no finite number.
        check = get_total_norm(leaf) + loss + 0 * left.sum()
        leaf += [left, _counts(torch.stack([loss, check]), batch)]
        state.optimizer.zero_grad(set_to_none=True)
        return _Part(batch, check), leaf

    def _backward(self, state: TrainState, batch: Batch) -> Tensor:
        """Make the gradient of `batch`'s share of the whole batch's mean loss; the sum of its losses."""
        # Batch norm cannot train on one value per channel, so a sample that is left alone counts twice, half each time.
        repeats = 2 if len(batch.indices) == 1 else 1
        inputs, targets, positions = (
            self.device.put(torch.cat([values] * repeats))
            for values in (batch.inputs, batch.targets, batch.positions)
        )
        inputs = self.device.layout(self.experiment.data.normalize(inputs))
        with draws.keyed(self.seed, positions), self.device.autocast():
            prediction = state.model(inputs)
        loss = self.experiment.task.loss(prediction, targets).sum() / repeats
        (loss / self.plan.batch_size).backward()
        return loss.detach()

    def _judged(self, state: TrainState, total: list[Tensor], parts: list[_Part]) -> Update | None:
        """What the summed leaves say of this update; none if a rank was asked to stop."""
        norm = get_total_norm(total[:-2])
        loss, check, num_samples, _, num_unreadable, num_stopped, norm = [*total[-1].tolist(), norm.item()]
        if num_stopped:
            return None
        unreadable = tuple(error for part in parts if part.batch for error in part.batch.unreadable)
        if not num_samples:
            first = f"; the first: {unreadable[0]}" if unreadable else ""
            raise ValueError(f"no sample of update {state.step + 1} could be read{first}.")
        is_finite = math.isfinite(check) and math.isfinite(norm)
        return Update(
            step=state.step + 1,
            lr=self.plan.lr(state.step),
            loss=loss / num_samples,
            num_samples=int(num_samples),
            gradient_norm=norm,
            num_unreadable=int(num_unreadable),
            unreadable=unreadable,
            suspects=() if is_finite else _suspects(parts),
            is_skipped=not is_finite,
        )

    def _apply(
        self, state: TrainState, statistics: Statistics, total: list[Tensor], *, num_samples: int
    ) -> None:
        """Move weights along the mean gradient, statistics to their mean over micro-batches, then the average."""
        factor = self.plan.batch_size / num_samples
        for parameter, gradient in zip(_trained(state), total[:-2], strict=True):
            parameter.grad = gradient if factor == 1 else gradient.mul_(factor)
        for group in state.optimizer.param_groups:
            group["lr"] = self.plan.lr(state.step - 1)
        state.optimizer.step()
        statistics.accept(total[-2] / total[-1][_NUM_PARTS])
        decay = self.experiment.recipe.ema_decay
        if decay is not None and state.average is not None:
            now = ramped_decay(state.step - 1, decay=decay)
            update_average(state.average.state_dict(), state.model.state_dict(), decay=now)


class _Part(NamedTuple):
    """A micro-batch of this rank."""

    batch: Batch | None
    check: Tensor
    """Finite if its loss, gradient and statistics are."""


_NUM_PARTS = 3
"""Place of the number of micro-batches that hold samples, in the counts of a leaf."""


def _counts(values: Tensor, batch: Batch | None, *, is_stopped: bool = False) -> Tensor:
    """The last entry of a leaf: loss, check, samples, micro-batches with samples, unreadable samples, ranks to stop."""
    num_samples = 0 if batch is None else len(batch.indices)
    num_unreadable = 0 if batch is None else len(batch.unreadable)
    numbers = (num_samples, num_samples > 0, num_unreadable, is_stopped)
    return torch.cat([values, values.new_tensor([float(number) for number in numbers])])


def _suspects(parts: list[_Part]) -> tuple[int, ...]:
    """Samples of the micro-batches that were not finite; batch norm has mixed them, so they cannot be told apart."""
    return tuple(
        int(index)
        for part in parts
        if part.batch is not None and not math.isfinite(part.check.item())
        for index in part.batch.indices
    )


def _trained(state: TrainState) -> list[nn.Parameter]:
    return [parameter for parameter in state.model.parameters() if parameter.requires_grad]
