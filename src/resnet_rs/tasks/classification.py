"""Classification: one class per image or clip.

Shapes: `B` samples of a batch, `K` classes, `N` scored samples.
"""

from __future__ import annotations

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
from resnet_rs.tasks.task import Answer, Meter, RowMeter, Task
from resnet_rs.text import refuse_outside

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
        refuse_outside(self, label_smoothing="[0, 1)", dropout="[0, 1)", temperature="(0, 1000]")

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
        targets = one_tensor(targets)
        wanted = targets if targets.is_floating_point() else self._smooth(targets)
        return F.cross_entropy(prediction, wanted, reduction="none")

    def build_meter(self, classes: tuple[str, ...]) -> Meter:
        return ClassificationMeter(classes, temperature=self.temperature)

    def calibrated(self, prediction: Float[Tensor, "B K"], targets: Targets) -> Classification:
        return replace(self, temperature=fitted_temperature(prediction, _labels(targets)))

    def answers(
        self, prediction: Float[Tensor, "B K"], *, classes: tuple[str, ...], views: Sequence[View]
    ) -> Sequence[Answer]:
        shares = (prediction.cpu().double() / self.temperature).softmax(1)
        return [ClassAnswer(probabilities=found) for found in by_class(shares, classes)]

    def numbers(self, scores: Mapping[str, Any]) -> list[Number]:
        return report.numbers(scores)

    def lines(self, scores: Mapping[str, Any]) -> Iterator[str]:
        if self.temperature != 1:
            yield f"the probabilities are calibrated with a temperature of {self.temperature:g}"
        yield from self.class_lines(scores)

    def class_lines(self, scores: Mapping[str, Any]) -> Iterator[str]:
        """What the command line prints of each class."""
        return report.lines(scores)

    def blocks(self, scores: Mapping[str, Any]) -> list[Block]:
        return report.blocks(scores)


class ClassificationMeter(RowMeter):
    """The true and the predicted class of every sample, and how likely they were."""

    def __init__(self, classes: Sequence[str], *, temperature: float = 1.0) -> None:
        super().__init__(classes, report.ROW)
        self._temperature = temperature

    @torch.no_grad()
    def update(self, prediction: Float[Tensor, "B K"], targets: Targets, indices: Int[Tensor, " B"]) -> None:
        # Not every device has float64. On the CPU, the softmax of a row is the same on every machine.
        log_probabilities = (prediction.detach().cpu().double() / self._temperature).log_softmax(1)
        labels = _labels(targets)
        of_label = log_probabilities.gather(1, labels[:, None])
        confidence, predicted = log_probabilities.max(1)
        # Among equally likely classes the first ranks first, as in argmax. So ties do not favor the model.
        is_before = torch.arange(log_probabilities.shape[1]) < labels[:, None]
        is_ahead = (log_probabilities > of_label) | (log_probabilities == of_label) & is_before
        self.add(
            indices,
            label=labels.numpy(),
            predicted=predicted.numpy(),
            rank=is_ahead.sum(1).numpy(),
            confidence=confidence.exp().numpy(),
            nll=-of_label[:, 0].numpy(),
        )

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


def one_tensor(targets: Targets) -> Tensor:
    """The targets of a classification. Raises `ValueError` for several tensors."""
    if isinstance(targets, Tensor):
        return targets
    raise ValueError("the targets of classification must be one tensor, got a dictionary of tensors.")


def by_class(shares: Float[Tensor, "B K"], classes: Sequence[str]) -> Iterator[dict[str, float]]:
    """Each row of probabilities by the names of the classes, the likeliest first."""
    orders: list[list[int]] = shares.argsort(dim=1, descending=True, stable=True).tolist()
    for row, order in zip(shares, orders, strict=True):
        yield {classes[i]: float(row[i]) for i in order}


def _labels(targets: Targets) -> Int[Tensor, " B"]:
    """Class indices on the CPU; of a distribution the likeliest class."""
    labels = one_tensor(targets).cpu()
    return labels.argmax(1) if labels.is_floating_point() else labels


def _in_words(name: str) -> str:
    title = imagenet.title(name)
    return name if title is None else f"{title} ({name})"
