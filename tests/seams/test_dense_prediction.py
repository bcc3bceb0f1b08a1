"""A task that the package does not know, a mask per picture, goes through the unchanged loop, loader and evaluator."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resnet_rs import config
from resnet_rs.config import edit
from resnet_rs.data.shapes import Shapes
from resnet_rs.data.source import Splits
from resnet_rs.tasks.task import Meter, Task
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.evaluate import evaluate
from resnet_rs.training.events import Finished
from resnet_rs.training.job import Job
from resnet_rs.training.machine import Machine
from resnet_rs.training.page import write_page
from resnet_rs.training.run import run
from resnet_rs.zoo import EXPERIMENTS


@dataclass(frozen=True, kw_only=True)
class Segmentation(Task):
    """One class per pixel."""

    num_classes: int = 2

    def suited_to(self, classes):
        return replace(self, num_classes=len(classes))

    def build_head(self, widths):
        return DenseHead(widths, num_classes=self.num_classes)

    def loss(self, prediction, targets):
        return F.cross_entropy(prediction, targets, reduction="none").mean((1, 2))

    def build_meter(self, classes):
        return PixelMeter(classes)


class DenseHead(nn.Module):
    """c2 and c4, brought to the size of c2, and one class per pixel. The stem `small` leaves c2 at full size."""

    def __init__(self, widths, *, num_classes):
        super().__init__()
        self.classify = nn.Conv2d(widths[0] + widths[2], num_classes, 1)

    def forward(self, pyramid):
        coarse = F.interpolate(pyramid.c4, size=pyramid.c2.shape[-2:], mode="bilinear")
        return self.classify(torch.cat([pyramid.c2, coarse], dim=1))


class PixelMeter(Meter):
    def __init__(self, classes):
        self.num_classes = len(classes)
        self.confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
        self.count = 0

    def update(self, prediction, targets, indices):
        pairs = targets.cpu().numpy() * self.num_classes + prediction.argmax(1).cpu().numpy()
        flat = np.bincount(pairs.ravel(), minlength=self.num_classes**2)
        self.confusion += flat.reshape(self.num_classes, -1)
        self.count += len(indices)

    def pack(self):
        return np.append(self.confusion, self.count).tobytes()

    def merge(self, packed):
        *confusion, count = np.frombuffer(packed, dtype=np.int64)
        self.confusion += np.reshape(confusion, self.confusion.shape)
        self.count += int(count)

    def summary(self):
        hits = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        return {"mean_iou": float((hits / np.maximum(union, 1)).mean())}

    def scores(self):
        return {"count": self.count, **self.summary()}


@pytest.fixture
def trusted(monkeypatch):
    monkeypatch.setattr(config, "TRUSTED_PACKAGES", [*config.TRUSTED_PACKAGES, __name__.partition(".")[0]])


@pytest.fixture
def job(tmp_path, trusted):
    base = EXPERIMENTS["resnet-rs-tiny"]
    experiment = edit(
        replace(base, task=Segmentation()),
        {
            "arch.stem": "small",
            "data.size": 16,
            "recipe.batch_size": 16,
            "recipe.ema_decay": 0.9,
            "recipe.epochs": 6.0,
            "recipe.base_lr": 1.0,
        },
    )
    splits = Splits(
        train=Shapes(num_samples=128, size=16, asks="mask"),
        test=Shapes(num_samples=32, size=16, asks="mask", seed=1),
    )
    device = Device.choose("cpu")
    origin = {"name": "dense", "edits": {}, "changes": [], "data": "shapes", "num_test": 32}
    return Job(
        experiment=experiment.suited_to(splits.train.classes),
        splits=splits,
        folder=tmp_path / "run",
        machine=Machine(device=device),
        origin=origin,
    )


def test_a_mask_per_picture_is_learned_saved_scored_and_shown(job):
    scores = [event for event in run(job) if isinstance(event, Finished)][0].scores
    # Ground alone gives a quarter of its own overlap, about 0.2.
    assert scores["mean_iou"] > 0.35
    assert scores["count"] == 32

    saved = checkpoint.read(job.folder)
    assert saved.classes == ("ground", "disc", "square", "triangle")
    again = evaluate(
        {"average": saved.load_model()},
        job.splits.test,
        saved.experiment,
        machine=job.machine,
    )
    assert again.meters["average"].scores()["mean_iou"] == scores["mean_iou"]
    assert write_page(job.folder, job.splits).stat().st_size > 10_000


def test_masks_follow_the_crop_and_the_flip_of_their_picture(job):
    data = job.experiment.data
    for index in range(16):
        sample = job.splits.train.read(index, channels=1)
        pixels, mask = data.train_input(sample, seed=0, epoch=1, index=index)
        # The ground is at most 119 bright and shapes at least 160; resizing blurs only their edges.
        bright = pixels[0] > 140
        assert (bright == (mask > 0)).float().mean() > 0.85


def test_randaugment_on_masks_is_refused(job):
    experiment = edit(job.experiment, {"data.randaugment": "RandAugment"})
    with pytest.raises(ValueError, match="cannot be applied to a mask"):
        list(run(replace(job, experiment=experiment)))
