"""Depth per pixel, in meters, with missing values: a task whose headline is an error, where less is better."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from seams.conftest import BASE
from seams.test_masks import DenseHead
from shapes import Shapes

from resnet_rs.config import edit
from resnet_rs.data.source import Splits
from resnet_rs.report.score import PerSample, ScoreName
from resnet_rs.tasks.task import Answer, Meter, Task

ERROR = ScoreName(key="error", label="mean absolute error (m)", is_share=False, is_higher_better=False)


@dataclass(frozen=True)
class DepthAnswer(Answer):
    meters: np.ndarray

    @property
    def text(self):
        return f"{self.meters.min():.1f} to {self.meters.max():.1f} m"

    def to_plain(self):
        return {"meters": self.meters.tolist()}


@dataclass(frozen=True, kw_only=True)
class DepthTask(Task):
    """Meters per pixel; pixels without a distance count nowhere."""

    @property
    def headline(self):
        return ERROR

    def with_classes(self, classes):
        return self

    def build_head(self, widths):
        return DenseHead(widths, num_outputs=1)

    def collate(self, targets):
        meters = torch.from_numpy(np.stack([target.meters for target in targets]))
        return {"meters": meters.nan_to_num(0.0), "is_known": meters.isfinite()}

    def loss(self, prediction, targets, indices):
        return _errors(prediction, targets)

    def build_meter(self, classes):
        return ErrorMeter()

    def answers(self, prediction, *, classes, views):
        return [DepthAnswer(meters) for meters in prediction[:, 0].cpu().numpy()]


def _errors(prediction, targets):
    off = (prediction[:, 0].float() - targets["meters"]).abs() * targets["is_known"]
    return off.sum((1, 2)) / targets["is_known"].sum((1, 2)).clamp(min=1)


class ErrorMeter(Meter):
    def __init__(self):
        self.errors = {}

    def update(self, prediction, targets, indices):
        on_cpu = {name: tensor.cpu() for name, tensor in targets.items()}
        errors = _errors(prediction.cpu(), on_cpu).double()
        self.errors |= dict(zip(indices.tolist(), errors.tolist(), strict=True))

    def pack(self):
        return np.array(sorted(self.errors.items()), dtype=np.float64).tobytes()

    def merge(self, packed):
        for index, error in np.frombuffer(packed, dtype=np.float64).reshape(-1, 2):
            self.errors[int(index)] = float(error)

    def summary(self):
        return {"error": float(np.mean([self.errors[i] for i in sorted(self.errors)]))}

    def scores(self, key):
        return {"count": len(self.errors), **self.summary()}

    def per_sample(self):
        return PerSample.of(list(self.errors), list(self.errors.values()))


EXPERIMENT = edit(
    replace(BASE, task=DepthTask()), {"recipe.base_lr": 1.5, "data.crop_ratio": 1.0, "data.min_area": 1.0}
)
SPLITS = Splits(
    train=Shapes(num_samples=96, size=16, asks="depth"),
    test=Shapes(num_samples=32, size=16, asks="depth", seed=1),
)


def test_depth_with_missing_values_is_learned_and_compared_by_its_error(trained):
    result = trained(EXPERIMENT, SPLITS)
    # The best constant, 10 m everywhere, is off by about 1.3 m.
    assert result.scores["error"] < 1.2
    assert "Confusion matrix" not in result.page
    assert len(PerSample.from_plain(result.scores["per_sample"]).dense(32)) == 32
