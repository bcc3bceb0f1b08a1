"""Which rows of a table a student trains on, and how often each comes.

Source: Xie et al. 2020, arXiv:1911.04252, section 2: keep confident images, take the most confident ones of each class,
and repeat those of classes that have too few. Ties are broken by a hash of the key, so the order of rows does not
matter.

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


def copies(
    selection: Selection,
    *,
    labels: Int[np.ndarray, " N"],
    confidences: Float[np.ndarray, " N"],
    entropies: Float[np.ndarray, " N"],
    hashes: UInt64[np.ndarray, " N"],
    left_out: Bool[np.ndarray, " N"],
) -> Int[np.ndarray, " N"]:
    """How often each row is taken, 0 for those that are not. Rows that are `left_out` never are."""
    allowed = ~left_out & (confidences >= selection.min_confidence)
    if selection.max_entropy is not None:
        allowed &= entropies <= selection.max_entropy
    rows = np.flatnonzero(allowed)
    order = rows[np.lexsort((hashes[rows], -confidences[rows], labels[rows]))]
    sorted_labels = labels[order]
    counts = np.bincount(sorted_labels) if len(order) else np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]) if len(order) else counts
    ranks = np.arange(len(order)) - starts[sorted_labels]
    most = selection.per_class if selection.per_class is not None else int(counts.max(initial=0))
    found = np.zeros(len(labels), dtype=np.int64)
    found[order] = ranks < most
    if selection.balance:
        # Of a class with 3 rows and 7 wanted, the most confident row comes three times and the others twice.
        have = np.minimum(counts, most)[sorted_labels]
        repeated = most // have + (ranks < most % have)
        found[order] = np.where(ranks < most, repeated, 0)
    return found
