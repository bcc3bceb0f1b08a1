"""`Ranks`: the processes that train one model together. This file is for one process, `group` for several.

Each rank computes a part of the micro-batches of every update and a part of the batches of every evaluation. The parts
depend only on the number of ranks. So all ranks take the same number of steps.

Floating-point addition is not associative. The gradients of the micro-batches 0, ..., n - 1 are therefore added as a
binary tree that is fixed by n alone. A rank that holds the micro-batches first, ..., last adds up the largest whole
subtrees among them, and the subtrees of all ranks are then added in the same tree. So the sum has the same bits for any
number of ranks.

Source: ours. An all-reduce adds in an order that depends on the number of ranks, and with some libraries on timing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


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


class Ranks:
    """One process that trains alone."""

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the files and prints the messages."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that this rank computes: a contiguous part of about `len(items) / count`."""
        return items[slice(*self.bounds(len(items), self.index))]

    def bounds(self, num_items: int, index: int) -> tuple[int, int]:
        """Start and end of the items of rank `index`; the end is exclusive."""
        return num_items * index // self.count, num_items * (index + 1) // self.count

    def gather(self, content: bytes) -> list[bytes]:
        """The `content` of every rank, in rank order; the same list on every rank."""
        return [content]

    def gather_values(self, value: Any) -> list[Any]:  # noqa: ANN401 - any JSON value
        """The `value` of every rank, in rank order, as JSON gives it back; the same list on every rank."""
        return [json.loads(text) for text in self.gather(json.dumps(value).encode())]

    def from_first(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """The `value` of the first rank, as JSON gives it back."""
        return self.gather_values(value)[0]

    def largest(self, number: int) -> int:
        """The largest `number` of all ranks; the same on every rank."""
        return max(self.gather_values(int(number)))

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors` with the tensors of the first rank."""

    def total(self, mine: Iterable[MicroBatchGradient], num_micro_batches: int) -> MicroBatchGradient:
        """The sum over the micro-batches of all ranks: the same bits on every rank, for any number of ranks.

        `mine` are those of this rank, in the order of the range that `bounds` gives. Each is added as soon as it is
        computed, and its tensors may be changed in place.
        """
        tree = TreeSum()
        for i, gradient in enumerate(mine, start=self.bounds(num_micro_batches, self.index)[0]):
            tree.add(i, 1, [*gradient.gradients, gradient.statistics, gradient.counts])
        *gradients, statistics, counts = self._over_ranks(tree, num_micro_batches)
        return MicroBatchGradient(gradients, statistics, counts)

    def at_step(self, step: int) -> None:
        """Report to the other ranks that this one has taken `step` updates."""

    def _over_ranks(self, tree: TreeSum, num_micro_batches: int) -> list[Tensor]:
        """The sum of the `tree` of this rank and those of the others."""
        del num_micro_batches
        return tree.total()


ALONE = Ranks()
