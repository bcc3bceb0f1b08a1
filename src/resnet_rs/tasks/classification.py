"""Classification: one class per image or clip.

Shapes: `B` samples of a batch, `K` classes, `N` scored samples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from resnet_rs.data import imagenet
from resnet_rs.data.sample import Targets
from resnet_rs.data.target import Label, SoftLabel, Target
from resnet_rs.data.view import View
from resnet_rs.methods.label_smoothing import smooth_labels
from resnet_rs.methods.temperature import fitted_temperature
from resnet_rs.models.backbone import Backbone, Model, StagedBackbone
from resnet_rs.report.blocks import Block
from resnet_rs.report.score import Number, PerSample, ScoreName
from resnet_rs.tasks import classification_report as report
from resnet_rs.tasks.classifier import ClassificationHead, Classifier
from resnet_rs.tasks.task import Answer, Meter, Task

_MAX_CLASSES = 2**24


@dataclass(frozen=True, kw_only=True)
class ClassAnswer(Answer):
    """The probability of each class."""

    probabilities: dict[str, float]
    """Class name -> probability, the likeliest first."""

    @property
    def name(self) -> str:
        """The likeliest class."""
        return next(iter(self.probabilities))

    @property
    def title(self) -> str | None:
        """The likeliest class in words, if its name is a WordNet identifier of ImageNet."""
        return imagenet.title(self.name)

    @property
    def text(self) -> str:
        named = list(self.probabilities.items())[:3]
        return "  ".join(f"{_in_words(name)} {share:.1%}" for name, share in named)

    def to_plain(self) -> dict[str, Any]:
        return {"name": self.name, "title": self.title, "probabilities": self.probabilities}


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Softmax over classes. Defaults: the released ResNet-RS configs up to depth 350 at 256 pixels."""

    num_classes: int = 1000
    """Training sets this to the number of classes in the data."""
    label_smoothing: float = 0.1
    """Share of a label's mass that is spread evenly over all classes, in [0, 1). Soft labels stay as they are."""
    dropout: float = 0.25
    """Drop rate of the pooled features before the classifier, in [0, 1)."""
    temperature: float = 1.0
    """Logits are divided by it before the softmax of an answer or a score, not of the loss. A run with validation
    images sets it at its end."""

    def __post_init__(self) -> None:
        if not 2 <= self.num_classes <= _MAX_CLASSES:
            raise ValueError(f"num_classes must be 2 to {_MAX_CLASSES:,}, got {self.num_classes}.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0 and finite, got {self.temperature}.")

    @property
    def headline(self) -> ScoreName:
        return report.TOP1

    def with_classes(self, classes: tuple[str, ...]) -> Classification:
        return replace(self, num_classes=len(classes))

    def build_head(self, widths: tuple[int, int, int, int]) -> ClassificationHead:
        return ClassificationHead(widths[3], num_classes=self.num_classes, dropout=self.dropout)

    def start_head(
        self, trained: Mapping[str, Tensor], *, before: tuple[str, ...], after: tuple[str, ...]
    ) -> Mapping[str, Tensor] | None:
        """The rows of the classes `after`, by name; None if `before` lacks any of them."""
        if not set(after) <= set(before):
            return None
        rows = [before.index(name) for name in after]
        return {name: tensor[rows].clone() for name, tensor in trained.items()}

    def build_model(self, backbone: Backbone) -> Model:
        if not isinstance(backbone, StagedBackbone):
            return super().build_model(backbone)
        return Classifier(backbone, self.build_head(backbone.widths))

    def collate(self, targets: Sequence[Target]) -> Targets:
        """Class indices [B]. If any target is a soft label: distributions [B, K], with smoothed labels."""
        if all(isinstance(target, Label) for target in targets):
            return torch.tensor([_index(target) for target in targets])
        return torch.stack([self._distribution(target) for target in targets])

    def _distribution(self, target: Target) -> Float[Tensor, " K"]:
        if isinstance(target, SoftLabel):
            if len(target.probabilities) != self.num_classes:
                raise ValueError(
                    f"a soft label must have one probability for each of {self.num_classes} classes, got "
                    f"{len(target.probabilities)}."
                )
            return torch.tensor(target.probabilities, dtype=torch.float32)
        return self._smooth(torch.tensor([_index(target)]))[0]

    def _smooth(self, labels: Int[Tensor, " B"]) -> Float[Tensor, "B K"]:
        return smooth_labels(labels, num_classes=self.num_classes, smoothing=self.label_smoothing)

    def loss(
        self, prediction: Float[Tensor, "B K"], targets: Targets, indices: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        del indices
        targets = _tensor(targets)
        wanted = targets if targets.is_floating_point() else self._smooth(targets)
        return F.cross_entropy(prediction, wanted, reduction="none")

    def build_meter(self, classes: tuple[str, ...]) -> Meter:
        return ClassificationMeter(classes, temperature=self.temperature)

    def calibrated(self, prediction: Float[Tensor, "B K"], targets: Targets) -> Classification:
        return replace(self, temperature=fitted_temperature(prediction, _labels(targets)))

    def answers(
        self, prediction: Float[Tensor, "B K"], *, classes: tuple[str, ...], views: Sequence[View]
    ) -> Sequence[Answer]:
        del views
        shares = (prediction.cpu().double() / self.temperature).softmax(1)
        orders = shares.argsort(dim=1, descending=True, stable=True)
        return [
            ClassAnswer(probabilities={classes[i]: float(row[i]) for i in order.tolist()})
            for row, order in zip(shares, orders, strict=True)
        ]

    def numbers(self, scores: Mapping[str, Any]) -> list[Number]:
        return report.numbers(scores)

    def lines(self, scores: Mapping[str, Any]) -> Iterator[str]:
        if self.temperature != 1:
            yield f"the probabilities are calibrated with a temperature of {self.temperature:g}"
        yield from report.lines(scores)

    def blocks(self, scores: Mapping[str, Any]) -> list[Block]:
        return report.blocks(scores)


class ClassificationMeter(Meter):
    """One row per scored sample. Scores are computed from the rows in sample order, so merged meters agree exactly."""

    def __init__(self, classes: Sequence[str], *, temperature: float = 1.0) -> None:
        self.classes = tuple(classes)
        self._temperature = temperature
        self._rows: list[np.ndarray] = []

    @torch.no_grad()
    def update(self, prediction: Float[Tensor, "B K"], targets: Targets, indices: Int[Tensor, " B"]) -> None:
        # Not every device has float64. On the CPU, the softmax of a row is the same on every machine.
        log_probabilities = (prediction.detach().cpu().double() / self._temperature).log_softmax(1)
        labels = _labels(targets)
        of_label = log_probabilities.gather(1, labels[:, None])
        confidence, predicted = log_probabilities.max(1)
        rows = np.empty(len(labels), dtype=report.ROW)
        rows["index"] = indices.cpu().numpy()
        rows["label"] = labels.numpy()
        rows["predicted"] = predicted.numpy()
        # Among equally likely classes the first ranks first, as in argmax. So ties do not favor the model.
        is_before = torch.arange(log_probabilities.shape[1]) < labels[:, None]
        is_ahead = (log_probabilities > of_label) | (log_probabilities == of_label) & is_before
        rows["rank"] = is_ahead.sum(1).numpy()
        rows["confidence"] = confidence.exp().numpy()
        rows["nll"] = -of_label[:, 0].numpy()
        self._rows.append(rows)

    def pack(self) -> bytes:
        return json.dumps(self.classes).encode() + b"\n" + self.rows.tobytes()

    def merge(self, packed: bytes) -> None:
        classes, _, rows = packed.partition(b"\n")
        if tuple(json.loads(classes)) != self.classes:
            raise ValueError(
                "meters can only be merged over the same classes. Build both with the same class names."
            )
        self._rows.append(np.frombuffer(rows, dtype=report.ROW))

    @property
    def rows(self) -> np.ndarray:
        """All rows, ordered by sample."""
        rows = np.concatenate([np.empty(0, dtype=report.ROW), *self._rows])
        return rows[np.argsort(rows["index"], kind="stable")]

    def summary(self) -> dict[str, float]:
        return report.summary(self.rows)

    def scores(self, key: Callable[[int], str]) -> dict[str, Any]:
        return report.scores(self.rows, self.classes, key)

    def per_sample(self) -> PerSample | None:
        rows = self.rows
        correct = (rows["predicted"] == rows["label"]).astype(np.float64)
        return PerSample.of(rows["index"].tolist(), correct.tolist())


def _index(target: Target) -> int:
    if isinstance(target, Label):
        return target.index
    raise ValueError(
        f"classification needs one class per sample, a Label or a SoftLabel, got {type(target).__name__}. Images with "
        "several labels need a network that was trained on such images."
    )


def _tensor(targets: Targets) -> Tensor:
    if isinstance(targets, Tensor):
        return targets
    raise ValueError("the targets of classification must be one tensor, got a dictionary of tensors.")


def _labels(targets: Targets) -> Int[Tensor, " B"]:
    """Class indices on the CPU; of a distribution the likeliest class."""
    labels = _tensor(targets).cpu()
    return labels.argmax(1) if labels.is_floating_point() else labels


def _in_words(name: str) -> str:
    title = imagenet.title(name)
    return name if title is None else f"{title} ({name})"
