"""Classification: one class per picture or clip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_rs.methods.label_smoothing import smooth_labels
from resnet_rs.models.backbone import Pyramid
from resnet_rs.models.layers import Dropout
from resnet_rs.report.statistics import (
    bootstrap_interval,
    expected_calibration_error,
    reliability_bins,
    wilson_interval,
)
from resnet_rs.tasks.task import Meter, Task

_INIT_STD = 0.01
_MAX_CLASSES = 2**24
_NUM_WORST = 24


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Softmax over classes. Defaults: the released ResNet-RS configs up to depth 350 at 256 pixels."""

    num_classes: int = 1000
    """Training sets this to the number of classes in the data."""
    label_smoothing: float = 0.1
    """Share of the target that is spread evenly over all classes, in [0, 1)."""
    dropout: float = 0.25
    """Drop rate of the pooled features before the classifier, in [0, 1)."""

    def __post_init__(self) -> None:
        if not 2 <= self.num_classes <= _MAX_CLASSES:
            raise ValueError(f"num_classes must be 2 to {_MAX_CLASSES:,}, got {self.num_classes}.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")

    def suited_to(self, classes: tuple[str, ...]) -> Classification:
        return replace(self, num_classes=len(classes))

    def build_head(self, widths: tuple[int, int, int, int]) -> ClassificationHead:
        return ClassificationHead(widths[3], num_classes=self.num_classes, dropout=self.dropout)

    def loss(self, prediction: Float[Tensor, "B K"], targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        smooth = smooth_labels(targets, num_classes=self.num_classes, smoothing=self.label_smoothing)
        return F.cross_entropy(prediction.float(), smooth, reduction="none")

    def build_meter(self, classes: tuple[str, ...]) -> ClassificationMeter:
        return ClassificationMeter(classes)


class ClassificationHead(nn.Module):
    """Global average over c5, dropout, a linear layer with bias. Source: TF1 release; kernel N(0, 0.01)."""

    def __init__(self, in_channels: int, *, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout, purpose="dropout of the classifier") if dropout > 0 else nn.Identity()
        self.classifier: nn.Module = build_classifier(in_channels, num_classes)

    def forward(self, pyramid: Pyramid) -> Float[Tensor, "B K"]:
        return self.classifier(self.dropout(self.pool(pyramid.c5)))

    def pool(self, c5: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C"]:
        """The mean of every channel."""
        return c5.flatten(2).mean(2)


def build_classifier(in_channels: int, num_classes: int) -> nn.Linear:
    """A fresh linear layer with bias. Source: as above."""
    layer = nn.Linear(in_channels, num_classes)
    nn.init.normal_(layer.weight, std=_INIT_STD)
    nn.init.zeros_(layer.bias)
    return layer


class ClassificationMeter(Meter):
    """One row per scored sample; every score is computed from the rows in the order of the samples, so it is exact."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._rows: list[np.ndarray] = []

    _ROW = np.dtype(
        [
            ("index", np.int64),
            ("label", np.int64),
            ("predicted", np.int64),
            ("rank", np.int64),  # how many classes were thought more likely than the true one
            ("confidence", np.float64),  # probability of the predicted class
            ("probability", np.float64),  # probability of the true class
            ("nll", np.float64),
        ]
    )

    @torch.no_grad()
    def update(
        self, prediction: Float[Tensor, "B K"], targets: Int[Tensor, " B"], indices: Int[Tensor, " B"]
    ) -> None:
        # float64 cannot be had on every device; the softmax of a row is the same wherever it is taken on the CPU.
        log_probabilities = prediction.detach().cpu().double().log_softmax(1)
        labels = targets.cpu()
        of_label = log_probabilities.gather(1, labels[:, None])
        confidence, predicted = log_probabilities.max(1)
        rows = np.empty(len(labels), dtype=self._ROW)
        rows["index"] = indices.cpu().numpy()
        rows["label"] = labels.numpy()
        rows["predicted"] = predicted.numpy()
        # Of equally likely classes the first comes first, as in the argmax, so ties are not counted for the model.
        is_before = torch.arange(log_probabilities.shape[1]) < labels[:, None]
        is_ahead = (log_probabilities > of_label) | (log_probabilities == of_label) & is_before
        rows["rank"] = is_ahead.sum(1).numpy()
        rows["confidence"] = confidence.exp().numpy()
        rows["probability"] = of_label[:, 0].exp().numpy()
        rows["nll"] = -of_label[:, 0].numpy()
        self._rows.append(rows)

    def pack(self) -> bytes:
        return json.dumps(self.classes).encode() + b"\n" + self.rows.tobytes()

    def merge(self, packed: bytes) -> None:
        classes, _, rows = packed.partition(b"\n")
        if tuple(json.loads(classes)) != self.classes:
            raise ValueError("only meters over the same classes can be merged.")
        self._rows.append(np.frombuffer(rows, dtype=self._ROW))

    @property
    def rows(self) -> np.ndarray:
        """All rows, ordered by sample."""
        rows = np.concatenate([np.empty(0, dtype=self._ROW), *self._rows])
        return rows[np.argsort(rows["index"], kind="stable")]

    def summary(self) -> dict[str, float]:
        rows = self.rows
        return {"top1": _mean(rows["predicted"] == rows["label"]), "nll": _mean(rows["nll"])}

    def scores(self) -> dict[str, Any]:
        """Scores in [0, 1] with 95 % intervals: Wilson's for shares, the bootstrap over pictures for the rest."""
        rows = self.rows
        hit, top5 = rows["predicted"] == rows["label"], rows["rank"] < 5
        confidence = rows["confidence"]

        def calibration_error(chosen: np.ndarray) -> float:
            return expected_calibration_error(confidence[chosen], hit[chosen])

        ece = bootstrap_interval(calibration_error, len(rows))

        def mean_nll(chosen: np.ndarray) -> float:
            return _mean(rows["nll"][chosen])

        nll = bootstrap_interval(mean_nll, len(rows))
        return {
            "count": len(rows),
            **_share("top1", hit),
            **_share("top5", top5),
            "ece": expected_calibration_error(confidence, hit),
            "ece_low": ece.low,
            "ece_high": ece.high,
            "nll": _mean(rows["nll"]),
            "nll_low": nll.low,
            "nll_high": nll.high,
            "classes": [self._class_scores(rows, i) for i in range(len(self.classes))],
            "confusion": self.confusion(rows).tolist(),
            "reliability": [bin._asdict() for bin in reliability_bins(confidence, hit)],
            "worst": self._worst(rows),
            # Their places in the source, so that two models can be compared picture by picture.
            "missed": rows["index"][~hit].tolist(),
        }

    def confusion(self, rows: np.ndarray) -> Int[np.ndarray, "K K"]:
        """How often class i (row) was taken for class j (column)."""
        num_classes = len(self.classes)
        flat = np.bincount(rows["label"] * num_classes + rows["predicted"], minlength=num_classes**2)
        return flat.reshape(num_classes, num_classes)

    def _class_scores(self, rows: np.ndarray, label: int) -> dict[str, Any]:
        is_label, is_predicted = rows["label"] == label, rows["predicted"] == label
        hits = is_label & is_predicted
        return {
            "name": self.classes[label],
            "count": int(is_label.sum()),
            **_share("recall", hits[is_label]),
            **_share("precision", hits[is_predicted]),
        }

    def _worst(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """The mistakes that the model was surest of."""
        wrong = rows[rows["predicted"] != rows["label"]]
        order = np.argsort(wrong["probability"], kind="stable")[:_NUM_WORST]
        return [
            {
                "index": int(row["index"]),
                "truth": self.classes[row["label"]],
                "predicted": self.classes[row["predicted"]],
                "confidence": float(row["confidence"]),
            }
            for row in wrong[order]
        ]


def _share(name: str, hits: np.ndarray) -> dict[str, float | None]:
    """A share with its interval; of nothing, none."""
    if len(hits) == 0:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    interval = wilson_interval(int(hits.sum()), len(hits))
    return {name: float(hits.mean()), f"{name}_low": interval.low, f"{name}_high": interval.high}


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
