"""Sums whose order does not depend on who adds: equal to the last bit for any number of ranks.

Floating-point addition is not associative, so the leaves 0, ..., n - 1 are added as a binary tree that is fixed by n
alone. A rank that holds the leaves first, ..., last adds up the largest whole subtrees among them; whoever puts the
subtrees of all ranks together goes on where they stopped.

Source: ours. An all-reduce adds in an order that depends on the number of ranks, and with some libraries on timing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Node:
    """The sum of the leaves `first, ..., first + count - 1`, a whole subtree."""

    first: int
    count: int
    values: list[Tensor]


class OrderedSum:
    """Takes nodes from left to right and adds up what is complete. It keeps what it is given, and adds in place."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def add(self, node: Node) -> None:
        """Take in the next node: a leaf, or a subtree that another rank has added up."""
        self.nodes.append(node)
        while len(self.nodes) > 1 and _are_siblings(*self.nodes[-2:]):
            right, left = self.nodes.pop(), self.nodes.pop()
            self.nodes.append(Node(left.first, left.count + right.count, _added(left, right)))

    def total(self) -> list[Tensor]:
        """The sum of all leaves; where their number is no power of two, the rest is added from the right."""
        while len(self.nodes) > 1:
            right, left = self.nodes.pop(), self.nodes.pop()
            self.nodes.append(Node(left.first, left.count + right.count, _added(left, right)))
        return self.nodes[0].values


def subtrees(first: int, end: int) -> list[tuple[int, int]]:
    """First leaf and count of the nodes that a rank with the leaves `first, ..., end - 1` is left with."""
    sums = OrderedSum()
    for leaf in range(first, end):
        sums.add(Node(leaf, 1, []))
    return [(node.first, node.count) for node in sums.nodes]


def _are_siblings(left: Node, right: Node) -> bool:
    return left.count == right.count and left.first % (2 * left.count) == 0


def _added(left: Node, right: Node) -> list[Tensor]:
    if left.values:
        # The one way to add many tensors at once.
        torch._foreach_add_(left.values, right.values)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage] - no public name
    return left.values
