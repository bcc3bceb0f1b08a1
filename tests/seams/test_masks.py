"""A task that the package does not know: a class per pixel."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from seams.conftest import BASE
from shapes import Shapes
from torch import nn
from torch.nn import functional as F

from resnet_rs.config import edit
from resnet_rs.data.sample import Request
from resnet_rs.data.source import Splits
from resnet_rs.data.target import IGNORED
from resnet_rs.report.score import ScoreName
from resnet_rs.tasks.task import Answer, Meter, Task

MEAN_IOU = ScoreName(key="mean_iou", label="mean IoU")


@dataclass(frozen=True)
class MaskAnswer(Answer):
    classes: np.ndarray
    names: tuple

    @property
    def text(self):
        return ", ".join(f"{name} {np.mean(self.classes == i):.0%}" for i, name in enumerate(self.names))

    def to_plain(self):
        return {"classes": self.classes.tolist()}


@dataclass(frozen=True, kw_only=True)
class Segmentation(Task):
    """One class per pixel."""

    num_classes: int = 2

    @property
    def headline(self):
        return MEAN_IOU

    def with_classes(self, classes):
        return replace(self, num_classes=len(classes))

    def build_head(self, widths):
        return DenseHead(widths, num_outputs=self.num_classes)

    def collate(self, targets):
        return torch.from_numpy(np.stack([target.classes for target in targets]))

    def loss(self, prediction, targets, indices):
        return F.cross_entropy(prediction, targets, reduction="none", ignore_index=IGNORED).mean((1, 2))

    def build_meter(self, classes):
        return PixelMeter(len(classes))

    def answers(self, prediction, *, classes, views):
        return [MaskAnswer(mask, classes) for mask in prediction.argmax(1).cpu().numpy()]


class DenseHead(nn.Module):
    """c2 and c4 at the size of c2, and some outputs per pixel. The stem `small` leaves c2 at full size."""

    def __init__(self, widths, *, num_outputs):
        super().__init__()
        self.predict = nn.Conv2d(widths[0] + widths[2], num_outputs, 1)

    def forward(self, pyramid):
        coarse = F.interpolate(pyramid.c4, size=pyramid.c2.shape[-2:], mode="bilinear")
        return self.predict(torch.cat([pyramid.c2, coarse], dim=1))


class PixelMeter(Meter):
    def __init__(self, num_classes):
        self.confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
        self.count = 0

    def update(self, prediction, targets, indices):
        known = targets.cpu().numpy() != IGNORED
        pairs = targets.cpu().numpy() * len(self.confusion) + prediction.argmax(1).cpu().numpy()
        self.confusion += np.bincount(pairs[known], minlength=self.confusion.size).reshape(
            self.confusion.shape
        )
        self.count += len(indices)

    def pack(self):
        return np.append(self.confusion, self.count).tobytes()

    def merge(self, packed):
        *confusion, count = np.frombuffer(packed, dtype=np.int64)
        self.confusion += np.reshape(confusion, self.confusion.shape)
        self.count += int(count)

    def summary(self):
        correct = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - correct
        return {"mean_iou": float((correct / np.maximum(union, 1)).mean())}

    def scores(self, key):
        return {"count": self.count, **self.summary()}


EXPERIMENT = edit(replace(BASE, task=Segmentation()), {"recipe.base_lr": 1.0})
SPLITS = Splits(
    train=Shapes(num_samples=128, size=16, asks="mask"),
    test=Shapes(num_samples=32, size=16, asks="mask", seed=1),
)


def test_a_mask_per_image_is_learned_saved_scored_and_shown(trained):
    result = trained(EXPERIMENT, SPLITS)
    # Background alone gives a quarter of its own overlap, about 0.2.
    assert result.scores["mean_iou"] > 0.35 and result.scores["count"] == 32
    assert result.scores["per_sample"] is None
    assert result.saved.classes == ("background", "disc", "square", "triangle")


def test_masks_follow_the_crop_and_the_flip_of_their_image():
    data = edit(EXPERIMENT.data, {"flip": True})
    for index in range(16):
        sample = SPLITS.train.read(index, Request(1))
        pixels, mask = data.train_input(sample, seed=0, epoch=1, index=index)
        # The background is at most 119 bright and shapes at least 160; resizing blurs their edges alone.
        bright = pixels[0].numpy() > 140
        assert (bright == (mask.classes > 0)).mean() > 0.85


def test_randaugment_on_masks_is_refused():
    data = edit(EXPERIMENT.data, {"randaugment": "RandAugment"})
    with pytest.raises(ValueError, match="cannot be applied to images with Mask"):
        data.train_input(SPLITS.train.read(0, Request(1)), seed=0, epoch=0, index=0)
