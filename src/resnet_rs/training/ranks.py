"""`Ranks`: the processes that train one model together. This file knows one process, `group` knows many.

Each rank computes some of the micro-batches of every update and some of the batches of every evaluation. Which ones
follows from their number alone, so all ranks take the same number of steps, and what they add up does not depend on
how many they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from resnet_rs.training.ordered_sum import OrderedSum

T = TypeVar("T")


class Ranks:
    """One process on its own."""

    index: int = 0
    """Number of this rank."""
    count: int = 1
    """Number of ranks."""

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the files and speaks for all."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that are this rank's to compute: a stretch of about one `count`-th."""
        return items[slice(*self.bounds(len(items), self.index))]

    def bounds(self, num_items: int, index: int) -> tuple[int, int]:
        """First item of rank `index`, and the one after its last."""
        return num_items * index // self.count, num_items * (index + 1) // self.count

    def gather(self, content: bytes) -> list[bytes]:
        """What each rank has given, in their order; on every rank."""
        return [content]

    def largest(self, number: int) -> int:
        """The largest of the numbers that the ranks have given; on every rank."""
        return number

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors` by those of the first rank."""

    def total(self, share: OrderedSum, num_leaves: int) -> list[Tensor]:
        """The sum over all ranks' shares of `num_leaves` leaves; the same bits on every rank, for any number of them.

        The leaves of a rank are those of `bounds(num_leaves, index)`.
        """
        del num_leaves
        return share.total()

    def at_step(self, step: int) -> None:
        """Tell those who watch this rank how far it has come."""


ALONE = Ranks()
