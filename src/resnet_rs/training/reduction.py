"""Deterministic reduction: sums the gradients of micro-batches with the same bits for any number of ranks.

Floating-point addition is not associative. The micro-batches 0, ..., n - 1 are therefore added as a binary tree that is
fixed by n alone. A rank that holds the micro-batches first, ..., last adds up the largest whole subtrees among them,
and the subtrees of all ranks are then added in the same tree. So the sum has the same bits for any number of ranks.

Source: ours. An all-reduce adds in an order that depends on the number of ranks, and with some libraries on timing.
"""

from __future__ import annotations

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

    def add(self, first: int, count: int, values: list[Tensor]) -> None:
        """Add the next micro-batch, or the next subtree of another rank. `values` may be changed in place."""
        self.subtrees.append(Subtree(first, count, values))
        while len(self.subtrees) > 1 and _are_siblings(*self.subtrees[-2:]):
            self._add_last_two()

    def total(self) -> list[Tensor]:
        """The sum of all subtrees. If their number is not a power of two, the rest is added from the right."""
        while len(self.subtrees) > 1:
            self._add_last_two()
        return self.subtrees[0].values

    def _add_last_two(self) -> None:
        right, left = self.subtrees.pop(), self.subtrees.pop()
        if left.values:
            # There is no public function that adds many tensors at once.
            torch._foreach_add_(left.values, right.values)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage] - no public name
        self.subtrees.append(Subtree(left.first, left.count + right.count, left.values))


def subtrees(first: int, end: int) -> list[tuple[int, int]]:
    """First micro-batch and size of each subtree of a rank with the micro-batches `first, ..., end - 1`."""
    sums = TreeSum()
    for i in range(first, end):
        sums.add(i, 1, [])
    return [(subtree.first, subtree.count) for subtree in sums.subtrees]


def _are_siblings(left: Subtree, right: Subtree) -> bool:
    return left.count == right.count and left.first % (2 * left.count) == 0
