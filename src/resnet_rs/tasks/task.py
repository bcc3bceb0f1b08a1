"""The interfaces of every task: `Task` (head, loss, meter, answers), `Meter` (scores), `Answer` (one prediction).

`RowMeter` is a meter for tasks whose scores follow from one row per sample.

A task is one file. The loop, the evaluator, the predictor, the page and the studies see these interfaces alone.

Shapes: `B` samples of a batch.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from resnet_rs.data.sample import Targets
from resnet_rs.data.target import Target
from resnet_rs.data.view import View
from resnet_rs.models.backbone import Backbone, Model
from resnet_rs.report.blocks import Block
from resnet_rs.report.score import Number, PerSample, ScoreName


class Answer(ABC):
    """What a model says of one image, in words and values that a person can use."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The answer in one line."""

    @abstractmethod
    def to_plain(self) -> dict[str, Any]:
        """The whole answer as JSON."""


class Meter(ABC):
    """Collects predictions and turns them into scores.

    A monoid: meters over parts of a data set `merge` into the meter over the whole, in any order, exactly.
    """

    @abstractmethod
    def update(self, prediction: Tensor, targets: Targets, indices: Int[Tensor, " B"]) -> None:
        """Take in the predictions for the samples `indices`."""

    @abstractmethod
    def pack(self) -> bytes:
        """All that it has collected."""

    @abstractmethod
    def merge(self, packed: bytes) -> None:
        """Take in what another meter of the same kind has packed, perhaps in another process."""

    @abstractmethod
    def summary(self) -> dict[str, float]:
        """The few numbers worth a line of the log; the task's headline score is one of them."""

    @abstractmethod
    def scores(self, key: Callable[[int], str]) -> dict[str, Any]:
        """All scores as JSON: numbers with 95 % intervals, and `count`, the number of scored samples.

        `key(index)` is the name of sample `index`.
        """

    def per_sample(self) -> PerSample | None:
        """One value per scored sample whose mean is the headline score; None where the score is no such mean.

        Studies compare two runs sample by sample where there are such values.
        """
        return None


class RowMeter(Meter):
    """One row per scored sample. Scores are computed from the rows in sample order, so merged meters agree exactly."""

    def __init__(self, classes: Sequence[str], row: np.dtype[Any]) -> None:
        """`row` has a field `index`: which sample it is."""
        self.classes = tuple(classes)
        self._parts = [np.empty(0, dtype=row)]

    def add(self, indices: Int[Tensor, " B"], **columns: np.ndarray) -> None:
        """Take in a row for each of the samples `indices`."""
        rows = np.empty(len(indices), dtype=self._parts[0].dtype)
        for name, values in {"index": indices.cpu().numpy(), **columns}.items():
            rows[name] = values
        self._parts.append(rows)

    def pack(self) -> bytes:
        return json.dumps(self.classes).encode() + b"\n" + self.rows.tobytes()

    def merge(self, packed: bytes) -> None:
        classes, _, rows = packed.partition(b"\n")
        if tuple(json.loads(classes)) != self.classes:
            raise ValueError(
                "meters can only be merged over the same classes. Build both with the same class names."
            )
        self._parts.append(np.frombuffer(rows, dtype=self._parts[0].dtype))

    @property
    def rows(self) -> np.ndarray:
        """All rows, ordered by sample."""
        rows = np.concatenate(self._parts)
        return rows[np.argsort(rows["index"], kind="stable")]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What is to be predicted from a pyramid, and what counts as an error."""

    @property
    @abstractmethod
    def headline(self) -> ScoreName:
        """The one score that runs are compared by."""

    @property
    def num_views(self) -> int:
        """Views of each training image in one input. With more than one, predictions have one row per view.

        The target of an image is that of its first view, so targets that belong to places of the image, such as masks
        and boxes, need a single view; several are refused. Evaluation shows one view.
        """
        return 1

    @abstractmethod
    def with_classes(self, classes: tuple[str, ...]) -> Task:
        """This task for data of these classes."""

    @abstractmethod
    def build_head(self, widths: tuple[int, int, int, int]) -> nn.Module:
        """A head with fresh weights, from the pyramid of a backbone with these `widths` to the prediction."""

    def start_head(
        self, trained: Mapping[str, Tensor], *, before: tuple[str, ...], after: tuple[str, ...]
    ) -> Mapping[str, Tensor] | None:
        """The tensors of a head for the classes `after`, taken from the `trained` head for the classes `before`.

        None if the head must be fresh. By default a head is kept only for the same classes.
        """
        return trained if before == after else None

    def build_model(self, backbone: Backbone) -> Model:
        """`backbone` with a fresh head."""
        return Model(backbone, self.build_head(backbone.widths))

    @abstractmethod
    def collate(self, targets: Sequence[Target]) -> Targets:
        """The targets of a batch as tensors whose first dimension is the batch."""

    @abstractmethod
    def loss(self, prediction: Tensor, targets: Targets, indices: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """One loss per sample. The trainer takes their mean, so micro-batches and left-out samples weigh right.

        `prediction` is float32. `indices` are the samples of the source. With several views, the rows of sample i in
        `prediction` are `i * num_views` and the following ones.
        """

    def calibrated(self, prediction: Tensor, targets: Targets) -> Task:
        """This task with probabilities that fit `prediction`, float32 on the CPU, for samples with these `targets`.

        A run calls it with the predictions of its final weights for validation samples. By default nothing changes.
        """
        return self

    @abstractmethod
    def build_meter(self, classes: tuple[str, ...]) -> Meter:
        """An empty meter for data of these classes."""

    @abstractmethod
    def answers(
        self, prediction: Tensor, *, classes: tuple[str, ...], views: Sequence[View]
    ) -> Sequence[Answer]:
        """One answer per row of `prediction` (float32). `views` map places in the input back to the image."""

    def numbers(self, scores: Mapping[str, Any]) -> list[Number]:
        """The scores that are single numbers, the headline first."""
        return [self.headline.number(scores)]

    def lines(self, scores: Mapping[str, Any]) -> Iterator[str]:
        """What the command line prints below the numbers, such as a line per class."""
        return iter(())

    def blocks(self, scores: Mapping[str, Any]) -> list[Block]:
        """Figures, tables and images for the page of a run."""
        return []
