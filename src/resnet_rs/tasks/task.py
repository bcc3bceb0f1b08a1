"""The interfaces of every task: `Task` (head, loss, meter) and `Meter` (what was scored)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn


class Meter(ABC):
    """Collects predictions and turns them into scores.

    A monoid: meters over parts of a data set `merge` into the meter over the whole, whatever the order,
    exactly.
    """

    @abstractmethod
    def update(self, prediction: Tensor, targets: Tensor, indices: Int[Tensor, " B"]) -> None:
        """Take in the predictions for the samples `indices`."""

    @abstractmethod
    def pack(self) -> bytes:
        """All that it has collected."""

    @abstractmethod
    def merge(self, packed: bytes) -> None:
        """Take in all that another meter of the same kind has packed, perhaps in another process."""

    @abstractmethod
    def summary(self) -> dict[str, float]:
        """The few numbers worth a line of the log."""

    @abstractmethod
    def scores(self) -> dict[str, Any]:
        """All scores, as JSON: the numbers with 95 % intervals, and `count`, how many samples were scored."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What is to be predicted from a pyramid, and what counts as an error."""

    @abstractmethod
    def suited_to(self, classes: tuple[str, ...]) -> Task:
        """This task for data of these classes."""

    @abstractmethod
    def build_head(self, widths: tuple[int, int, int, int]) -> nn.Module:
        """A head with fresh weights, from the pyramid of a backbone with these `widths` to the prediction."""

    @abstractmethod
    def loss(self, prediction: Tensor, targets: Tensor) -> Float[Tensor, " B"]:
        """One loss per sample. The trainer takes their mean, so micro-batches and left-out samples weigh right."""

    @abstractmethod
    def build_meter(self, classes: tuple[str, ...]) -> Meter:
        """An empty meter for data of these classes."""


def headline(summary: Mapping[str, float]) -> str:
    """A summary as a few words, such as `top1 0.901  nll 0.312`."""
    return "  ".join(f"{name} {value:.3f}" for name, value in summary.items())
