"""Multi-label classification: any number of classes per image.

Shapes: `B` samples of a batch, `K` classes, `N` scored samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from resnet_rs.data.sample import Targets
from resnet_rs.data.source import Source
from resnet_rs.data.target import Label, Labels, Target
from resnet_rs.data.view import View
from resnet_rs.methods.temperature import fitted_sigmoid_temperature
from resnet_rs.report.blocks import Block, Gallery, Listing, Tile
from resnet_rs.report.score import Number, ScoreName
from resnet_rs.report.statistics import UNKNOWN, average_precision, mean_average_precision
from resnet_rs.tasks import classification_report as report
from resnet_rs.tasks.classification import Classification, by_class, one_tensor
from resnet_rs.tasks.task import Answer, Meter, RowMeter, Task

_MEAN_AP = ScoreName(key="mean_ap", label="mean average precision")
_NUMBERS = (
    _MEAN_AP,
    ScoreName(key="exact", label="exact match of all classes"),
    ScoreName(key="loss", label="binary cross-entropy", is_share=False, is_higher_better=False),
)
_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class LabelsAnswer(Answer):
    """The probability of each class by itself."""

    probabilities: dict[str, float]
    """Class name -> probability, the likeliest first. They do not sum to 1."""

    @property
    def names(self) -> list[str]:
        """The classes with a probability of 0.5 or more."""
        return [name for name, share in self.probabilities.items() if share >= _THRESHOLD]

    @property
    def text(self) -> str:
        return (
            "  ".join(f"{name} {self.probabilities[name]:.1%}" for name in self.names)
            or "none of the classes"
        )

    def to_plain(self) -> dict[str, Any]:
        return {"names": self.names, "probabilities": self.probabilities}


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Classification):
    """A sigmoid per class, with the head of a classifier.

    The loss is the binary cross-entropy, summed over the classes, so that the gradient of a logit is `p - y` as with
    softmax. Source: ours; the paper has one class per image.
    """

    @property
    def headline(self) -> ScoreName:
        return _MEAN_AP

    def collate(self, targets: Sequence[Target]) -> Targets:
        """1 for each class that is present, else 0: float32 [B, K]."""
        found = torch.zeros(len(targets), self.num_classes)
        for row, target in zip(found, targets, strict=True):
            if not isinstance(target, Label | Labels):
                raise ValueError(
                    f"multi-label classification needs Label or Labels per sample, got a {type(target).__name__}."
                )
            row[list(target.class_indices)] = 1
        return found

    def loss(
        self, prediction: Float[Tensor, "B K"], targets: Targets, indices: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        wanted = one_tensor(targets) * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(prediction, wanted, reduction="none").sum(1)

    def calibrated(self, prediction: Float[Tensor, "B K"], targets: Targets) -> MultiLabel:
        return replace(self, temperature=fitted_sigmoid_temperature(prediction, one_tensor(targets)))

    def build_meter(self, classes: tuple[str, ...]) -> Meter:
        return _MultiLabelMeter(classes, temperature=self.temperature)

    def answers(
        self, prediction: Float[Tensor, "B K"], *, classes: tuple[str, ...], views: Sequence[View]
    ) -> Sequence[Answer]:
        shares = (prediction.cpu().double() / self.temperature).sigmoid()
        return [LabelsAnswer(probabilities=found) for found in by_class(shares, classes)]

    def numbers(self, scores: Mapping[str, Any]) -> list[Number]:
        return [name.number(scores) for name in _NUMBERS]

    def class_lines(self, scores: Mapping[str, Any]) -> Iterator[str]:
        for item in scores["classes"][: report.NUM_CLASSES_PRINTED]:
            if item["ap"] is not None:
                found = f"average precision {item['ap']:>6.1%}, precision {_text(item['precision'])}"
                yield f"  {item['name']:<24} {found}, recall {_text(item['recall'])} of {item['count']:,}"

    def blocks(self, scores: Mapping[str, Any]) -> list[Block]:
        classes = sorted(
            scores.get("classes") or [], key=lambda c: (c["ap"] is None, c["ap"] or 0.0, c["name"])
        )
        rows = [
            (c["name"], f"{c['count']:,}", *(_text(c[key]) for key in ("ap", "precision", "recall")))
            for c in classes
        ]
        head = ("class", "images", "average precision", "precision", "recall")
        tiles = [
            Tile(index=t["index"], key=t["key"], lines=(f"{t['name']} {t['probability']:.1%}", t["truth"]))
            for t in scores.get("worst") or []
        ]
        found: list[Block] = []
        if rows:
            found.append(Listing(title=f"All {len(rows):,} classes", head=head, rows=rows))
        if tiles:
            note = "Classes that are missed or wrongly predicted, the most confident first. Look for wrong labels here."
            found.append(Gallery(title="Worst mistakes", tiles=tiles, note=note))
        return found


def task_for(task: Task, source: Source) -> Task:
    """The task for the targets of `source`: `task`, or the multi-label form of a classification.

    It has no label smoothing, so that its probabilities are not moved towards 0.5. That is ours.
    """
    if type(task) is not Classification or not len(source):
        return task
    if not isinstance(source.target(0), Labels):
        return task
    return MultiLabel(num_classes=task.num_classes, dropout=task.dropout, label_smoothing=0.0)


class _MultiLabelMeter(RowMeter):
    """The logits and labels of every scored sample."""

    def __init__(self, classes: Sequence[str], *, temperature: float) -> None:
        size = len(classes)
        super().__init__(
            classes, np.dtype([("index", np.int64), ("logits", np.float32, size), ("labels", np.bool_, size)])
        )
        self._temperature = temperature

    @torch.no_grad()
    def update(self, prediction: Float[Tensor, "B K"], targets: Targets, indices: Int[Tensor, " B"]) -> None:
        logits = (prediction.detach().cpu() / self._temperature).numpy()
        self.add(indices, logits=logits, labels=one_tensor(targets).cpu().numpy() > _THRESHOLD)

    def summary(self) -> dict[str, float]:
        logits, labels = self._values()
        precisions = [average_precision(logits[:, i], labels[:, i]) for i in range(len(self.classes))]
        found = [value for value in precisions if value is not None]
        return {"mean_ap": report.mean(np.array(found)), "loss": report.mean(_losses(logits, labels))}

    def scores(self, key: Callable[[int], str]) -> dict[str, Any]:
        indices, (logits, labels) = self.rows["index"], self._values()
        exact = ((logits >= 0) == labels).all(axis=1)
        return {
            "count": len(indices),
            **report.interval_fields("mean_ap", mean_average_precision(logits, labels) or UNKNOWN),
            **report.share_with_interval("exact", int(exact.sum()), len(indices)),
            **report.interval_fields("loss", report.mean_loss(_losses(logits, labels))),
            "classes": [
                _class_scores(name, logits[:, i], labels[:, i]) for i, name in enumerate(self.classes)
            ],
            "worst": self._worst(indices, logits, labels, key),
        }

    def _worst(
        self,
        indices: Int[np.ndarray, " N"],
        logits: Float64[np.ndarray, "N K"],
        labels: Bool[np.ndarray, "N K"],
        key: Callable[[int], str],
    ) -> list[dict[str, Any]]:
        """The surest mistakes, at most one per image."""
        if not logits.size:
            return []
        wrongness = np.where(labels, -logits, logits)
        worst = wrongness.argmax(axis=1)
        sure = wrongness[np.arange(len(worst)), worst]
        order = [i for i in np.argsort(-sure, kind="stable")[: report.NUM_WORST].tolist() if sure[i] > 0]
        return [
            {
                "index": int(indices[i]),
                "key": key(int(indices[i])),
                "name": self.classes[worst[i]],
                "probability": float(1 / (1 + np.exp(-logits[i, worst[i]]))),
                "truth": "present" if labels[i, worst[i]] else "absent",
            }
            for i in order
        ]

    def _values(self) -> tuple[Float64[np.ndarray, "N K"], Bool[np.ndarray, "N K"]]:
        rows = self.rows
        return rows["logits"].astype(np.float64), rows["labels"]


def _losses(logits: Float64[np.ndarray, "N K"], labels: Bool[np.ndarray, "N K"]) -> Float64[np.ndarray, " N"]:
    """Binary cross-entropy, summed over the classes."""
    return (np.logaddexp(0, logits) - np.where(labels, logits, 0)).sum(axis=1)


def _class_scores(
    name: str, logits: Float64[np.ndarray, " N"], labels: Bool[np.ndarray, " N"]
) -> dict[str, Any]:
    found, hits = int((logits >= 0).sum()), int(((logits >= 0) & labels).sum())
    return {
        "name": name,
        "count": int(labels.sum()),
        "ap": average_precision(logits, labels),
        "precision": hits / found if found else None,
        "recall": hits / int(labels.sum()) if labels.any() else None,
    }


def _text(share: float | None) -> str:
    return "undefined" if share is None else f"{share:.1%}"
