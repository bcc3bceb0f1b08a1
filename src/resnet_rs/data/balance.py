"""Imbalanced classes: `Balanced` draws every class equally often, `sample_weights` weighs the losses instead."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Int64

from resnet_rs import draws
from resnet_rs.data.source import Order, Source, WrappedSource
from resnet_rs.data.target import Label


@dataclass(frozen=True, kw_only=True)
class Balanced(WrappedSource):
    """`source` in an order in which every class comes equally often.

    The classes follow each other in random order, all of them before any comes again. The samples of a class also
    follow each other in random order, all of them before any comes again. So samples of small classes come more
    often, each time with other crops.
    """

    def order(self, first: int, count: int, *, seed: int) -> Order:
        num_groups = len(self._groups)
        rounds = np.arange(first, first + count) // num_groups
        groups = draws.sample_ids(first, count, size=num_groups, seed=seed)
        samples, passes = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        for number in np.unique(groups).tolist():
            of_class, here = self._groups[number], np.flatnonzero(groups == number)
            passes[here], places = np.divmod(rounds[here], len(of_class))
            for one in np.unique(passes[here]).tolist():
                of_pass = passes[here] == one
                key = draws.key(seed, "order of a class", number, one)
                chosen = draws.permute(places[of_pass], size=len(of_class), key=key)
                samples[here[of_pass]] = of_class[chosen]
        return Order(samples, passes)

    def digest(self) -> str:
        return hashlib.sha256(f"balanced {self.source.digest()}".encode()).hexdigest()

    @cached_property
    def _groups(self) -> list[Int64[np.ndarray, " n"]]:
        """The samples of each class that has any."""
        labels = _labels(self.source)
        return [np.flatnonzero(labels == number) for number in np.unique(labels)]


def sample_weights(source: Source) -> Float32[np.ndarray, " N"]:
    """A factor for the loss of each sample: the mean class size over the size of its class. The mean factor is 1."""
    labels = _labels(source)
    counts = np.bincount(labels)
    return (len(labels) / ((counts > 0).sum() * counts[labels])).astype(np.float32)


def refuse_unknown_classes(source: Source) -> None:
    """Raise `ValueError` if the first sample shows that the classes of `source` cannot be balanced."""
    _label(source, 0)


def _labels(source: Source) -> Int64[np.ndarray, " N"]:
    return np.fromiter((_label(source, i) for i in range(len(source))), dtype=np.int64, count=len(source))


def _label(source: Source, index: int) -> int:
    """The class of a sample."""
    target = source.target(index)
    if isinstance(target, Label):
        return target.index
    raise ValueError(
        f"classes can be balanced only if every sample has one known class, unlike {source.key(index)!r} (multi-label "
        "data cannot be balanced). Leave recipe.class_balance out."
    )
