"""Which rows of a table a student trains on, and how often each comes.

Source: Xie et al. 2020, arXiv:1911.04252, section 2, for keeping confident images, a limit for each class, and repeated
images of classes that have too few. Ours: the entropy, which images are repeated first, and that ties are broken by a
hash of the key, so that the order of rows does not matter.

Shapes: `N` rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from resnet_rs.text import refuse_outside


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rules, in the order in which they apply."""

    min_confidence: float = 0.0
    """Least probability of the likeliest class."""
    max_entropy: float | None = None
    """Most entropy of all probabilities, in nats; None has no limit."""
    per_class: int | None = None
    """Most rows of each class, the most confident ones; None takes all."""
    balance: bool = False
    """Whether the rows of small classes come several times, until each class has as many as `per_class`, or else as the
    largest one."""

    def __post_init__(self) -> None:
        refuse_outside(
            self, min_confidence="[0, 1]", max_entropy="[0, inf) or none", per_class="[1, inf) or none"
        )

    def is_sure(
        self, confidences: Float[np.ndarray, " N"], entropies: Float[np.ndarray, " N"]
    ) -> Bool[np.ndarray, " N"]:
        """Whether each row is confident enough."""
        is_low = True if self.max_entropy is None else entropies <= self.max_entropy
        return (confidences >= self.min_confidence) & is_low


def copies(
    selection: Selection,
    *,
    labels: Int[np.ndarray, " N"],
    confidences: Float[np.ndarray, " N"],
    hashes: UInt64[np.ndarray, " N"],
    allowed: Bool[np.ndarray, " N"],
) -> Int[np.ndarray, " N"]:
    """How often each row is taken, of those that are `allowed`; 0 for the others. `hashes` are those of the keys."""
    rows = np.flatnonzero(allowed)
    order = rows[np.lexsort((hashes[rows], -confidences[rows], labels[rows]))]
    found = np.zeros(len(labels), dtype=np.int64)
    if not len(order):
        return found
    counts = np.bincount(labels[order])
    starts = np.cumsum(counts) - counts
    ranks = np.arange(len(order)) - starts[labels[order]]
    most = int(counts.max()) if selection.per_class is None else selection.per_class
    found[order] = ranks < most
    if selection.balance:
        # Of a class with 3 rows and 7 wanted, the most confident row comes three times and the others twice.
        have = np.minimum(counts, most)[labels[order]]
        found[order] = np.where(ranks < most, most // have + (ranks < most % have), 0)
    return found
