"""Deterministic reduction: sums the gradients of micro-batches with the same bits for any number of ranks.

Floating-point addition is not associative. `TreeReduction` adds the micro-batches 0, ..., n - 1 as a binary tree that
is fixed by n alone. A rank that holds the micro-batches first, ..., last adds up the largest whole subtrees among them,
and the subtrees of all ranks are then added in the same tree. So the sum has the same bits for any number of ranks.

Source: ours. An all-reduce adds in an order that depends on the number of ranks, and with some libraries on timing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class MicroBatchGradient(NamedTuple):
    """What a micro-batch adds to an update, or the sum of several."""

    gradients: list[Tensor]
    """One per trained parameter."""
    statistics: Tensor
    """The running statistics of all batch norms after the micro-batch, as one vector."""
    counts: Tensor
    """Loss, numbers of samples and the like, which are summed along."""


class Reduction(ABC):
    """Sums the micro-batches of one update, on all ranks."""

    @abstractmethod
    def add(self, gradient: MicroBatchGradient) -> None:
        """Take in the next micro-batch of this rank. Its tensors may be changed in place."""

    @abstractmethod
    def total(self) -> MicroBatchGradient:
        """The sum over all micro-batches of all ranks; the same on every rank."""


@dataclass(frozen=True)
class Subtree:
    """The sum of the micro-batches `first, ..., first + count - 1`."""

    first: int
    count: int
    values: list[Tensor]


class TreeSum:
    """Receives subtrees from left to right and adds siblings, in place."""

    def __init__(self) -> None:
        self.subtrees: list[Subtree] = []

    def add(self, subtree: Subtree) -> None:
        """Add the next micro-batch, or the next subtree of another rank."""
        self.subtrees.append(subtree)
        while len(self.subtrees) > 1 and _are_siblings(*self.subtrees[-2:]):
            self._add_last_two()

    def total(self) -> list[Tensor]:
        """The sum of all subtrees. If their number is not a power of two, the rest is added from the right."""
        while len(self.subtrees) > 1:
            self._add_last_two()
        return self.subtrees[0].values

    def _add_last_two(self) -> None:
        right, left = self.subtrees.pop(), self.subtrees.pop()
        self.subtrees.append(Subtree(left.first, left.count + right.count, _added(left, right)))


class TreeReduction(Reduction):
    """Sums the micro-batches from number `first` on as a `TreeSum`; `over_ranks` sums over all ranks."""

    def __init__(self, first: int, over_ranks: Callable[[TreeSum], list[Tensor]]) -> None:
        self._next = first
        self._sum = TreeSum()
        self._over_ranks = over_ranks

    def add(self, gradient: MicroBatchGradient) -> None:
        tensors = [*gradient.gradients, gradient.statistics, gradient.counts]
        self._sum.add(Subtree(self._next, 1, tensors))
        self._next += 1

    def total(self) -> MicroBatchGradient:
        *gradients, statistics, counts = self._over_ranks(self._sum)
        return MicroBatchGradient(gradients, statistics, counts)


def subtrees(first: int, end: int) -> list[tuple[int, int]]:
    """First micro-batch and size of each subtree of a rank with the micro-batches `first, ..., end - 1`."""
    sums = TreeSum()
    for i in range(first, end):
        sums.add(Subtree(i, 1, []))
    return [(subtree.first, subtree.count) for subtree in sums.subtrees]


def _are_siblings(left: Subtree, right: Subtree) -> bool:
    return left.count == right.count and left.first % (2 * left.count) == 0


def _added(left: Subtree, right: Subtree) -> list[Tensor]:
    if left.values:
        # There is no public function that adds many tensors at once.
        torch._foreach_add_(left.values, right.values)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage] - no public name
    return left.values
