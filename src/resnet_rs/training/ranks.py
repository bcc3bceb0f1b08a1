"""`Ranks`: the processes that train one model together. This file is for one process, `group` for several.

Each rank computes a part of the micro-batches of every update and a part of the batches of every evaluation. The parts
depend only on the number of ranks. So all ranks take the same number of steps, and the result does not depend on how
many ranks there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from resnet_rs.training.reduction import MicroBatchGradient, TreeSum

T = TypeVar("T")


class Ranks:
    """One process that trains alone."""

    index: int = 0
    """Number of this rank."""
    count: int = 1
    """Number of ranks."""

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

    def largest(self, number: int) -> int:
        """The largest `number` of all ranks; the same on every rank."""
        return number

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
