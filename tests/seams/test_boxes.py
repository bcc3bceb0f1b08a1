"""A toy one-stage detector: a class and a box per cell of c3, several boxes per image, answers in image pixels."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from seams.conftest import BASE
from shapes import Shapes
from torch import nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_iou

from resnet_rs.config import edit
from resnet_rs.data.sample import Request, Sample
from resnet_rs.data.source import Splits
from resnet_rs.data.target import Boxes
from resnet_rs.deploy.predictor import Predictor
from resnet_rs.report.score import PerSample, ScoreName
from resnet_rs.tasks.task import Answer, Meter, Task
from resnet_rs.training.device import Device

FOUND = ScoreName(key="found", label="objects found")
NO_BOX = -1


@dataclass(frozen=True)
class BoxAnswer(Answer):
    corners: np.ndarray
    names: tuple

    @property
    def text(self):
        return ", ".join(self.names) or "nothing"

    def to_plain(self):
        return {"names": list(self.names), "corners": self.corners.tolist()}


@dataclass(frozen=True, kw_only=True)
class Detection(Task):
    """Every cell whose center lies in a box predicts its class and the distances to its four sides."""

    num_classes: int = 2
    size: int = 16

    @property
    def headline(self):
        return FOUND

    def with_classes(self, classes):
        return replace(self, num_classes=len(classes))

    def build_head(self, widths):
        return DetectionHead(widths[1], num_classes=self.num_classes)

    def collate(self, targets):
        """Corners [B, N, 4] and labels [B, N], where N is the largest number of boxes; no box has the label -1."""
        most = max(1, *(len(target.labels) for target in targets))
        corners = torch.zeros(len(targets), most, 4)
        labels = torch.full((len(targets), most), NO_BOX)
        for i, target in enumerate(targets):
            corners[i, : len(target.labels)] = torch.from_numpy(target.corners)
            labels[i, : len(target.labels)] = torch.from_numpy(target.labels)
        return {"corners": corners, "labels": labels}

    def loss(self, prediction, targets, indices):
        centers = self._centers(prediction)
        left_top, right_bottom = targets["corners"][:, None].split(2, dim=-1)
        sides = torch.cat([centers[:, None] - left_top, right_bottom - centers[:, None]], -1)  # [B, M, N, 4]
        is_inside = (sides.amin(-1) > 0) & (targets["labels"] != NO_BOX)[:, None]
        which = is_inside.float().argmax(-1)  # the first box that holds the cell
        has_box = is_inside.any(-1)
        wanted = torch.where(has_box, targets["labels"].gather(1, which) + 1, 0)
        classes, distances = prediction[..., :-4], prediction[..., -4:]
        per_cell = F.cross_entropy(classes.transpose(1, 2), wanted, reduction="none")
        near = sides.gather(2, which[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        off = (distances - near).abs().mean(-1) * has_box / self.size
        return per_cell.mean(1) + 4 * off.sum(1) / has_box.sum(1).clamp(min=1)

    def _centers(self, prediction):
        side = round(prediction.shape[1] ** 0.5)
        at = (torch.arange(side, device=prediction.device) + 0.5) * self.size / side
        return torch.stack([at.repeat(side), at.repeat_interleave(side)], -1)

    def boxes(self, prediction):
        """Corners, labels and scores of each row, after non-maximum suppression."""
        centers, found = self._centers(prediction), []
        for row in prediction.float():
            shares, labels = row[:, :-4].softmax(-1)[:, 1:].max(-1)
            corners = torch.cat([centers - row[:, -4:-2], centers + row[:, -2:]], -1)
            kept = shares > 0.5
            corners, labels, shares = corners[kept], labels[kept], shares[kept]
            best = batched_nms(corners, shares, labels, 0.3)
            found.append((corners[best], labels[best]))
        return found

    def build_meter(self, classes):
        return FoundMeter(self)

    def answers(self, prediction, *, classes, views):
        answers = []
        for (corners, labels), view in zip(self.boxes(prediction.cpu()), views, strict=True):
            parts = [view.image_points(corners[:, i : i + 2].double().numpy()) for i in (0, 2)]
            names = tuple(classes[i] for i in labels.tolist())
            answers.append(BoxAnswer(np.concatenate(parts, 1), names))
        return answers


class DetectionHead(nn.Module):
    def __init__(self, width, *, num_classes):
        super().__init__()
        self.predict = nn.Sequential(
            nn.Conv2d(width, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, num_classes + 5, 1)
        )

    def forward(self, pyramid):
        return self.predict(pyramid.c3).flatten(2).transpose(1, 2)


class FoundMeter(Meter):
    """Share of the objects of each image that a box of their class overlaps by half."""

    def __init__(self, task):
        self.task, self.found = task, {}

    def update(self, prediction, targets, indices):
        wanted = zip(targets["corners"], targets["labels"], strict=True)
        for index, (corners, labels), (true, names) in zip(
            indices.tolist(), self.task.boxes(prediction.cpu()), wanted, strict=True
        ):
            true, names = true[names != NO_BOX], names[names != NO_BOX]
            overlaps = box_iou(true, corners) * (names[:, None] == labels)
            hits = (overlaps > 0.5).any(1) if len(corners) else torch.zeros(len(true), dtype=torch.bool)
            self.found[index] = float(hits.float().mean()) if len(true) else 1.0

    def pack(self):
        return np.array(sorted(self.found.items()), dtype=np.float64).tobytes()

    def merge(self, packed):
        for index, share in np.frombuffer(packed, dtype=np.float64).reshape(-1, 2):
            self.found[int(index)] = float(share)

    def summary(self):
        return {"found": float(np.mean([self.found[i] for i in sorted(self.found)]))}

    def scores(self, key):
        return {"count": len(self.found), **self.summary()}

    def per_sample(self):
        return PerSample.of(list(self.found), list(self.found.values()))


EXPERIMENT = edit(
    replace(BASE, task=Detection()),
    {"data.flip": True, "data.crop_ratio": 1.0, "recipe.epochs": 8.0, "recipe.base_lr": 2.0},
)
SPLITS = Splits(
    train=Shapes(num_samples=192, size=16, asks="boxes"),
    test=Shapes(num_samples=32, size=16, asks="boxes", seed=1),
)


def test_boxes_are_learned_through_the_unchanged_loop_and_found_in_image_pixels(trained):
    result = trained(EXPERIMENT, SPLITS)
    assert result.scores["found"] > 0.3
    # The predictor maps boxes back to the image: found in the image twice as large, they are twice as far apart.
    predictor = Predictor(result.saved, device=Device.choose("cpu"))
    samples = [SPLITS.test.read(i, Request(1)) for i in range(len(SPLITS.test))]
    small = predictor.predict([sample.input for sample in samples])
    large = predictor.predict([sample.input.repeat(2, 0).repeat(2, 1) for sample in samples])
    pairs = [(a.answer, b.answer) for a, b in zip(small, large, strict=True) if a.answer.names]
    same = [np.allclose(2 * a.corners, b.corners, atol=1.0) for a, b in pairs if a.names == b.names]
    assert len(pairs) > 10 and np.mean(same) > 0.8


def test_boxes_follow_their_image_into_a_random_view():
    data = edit(EXPERIMENT.data, {"min_area": 0.3})
    for index in range(24):
        sample = SPLITS.train.read(index, Request(1))
        # One shape alone, so that what is bright is what the box holds.
        if len(sample.target.labels) > 1:
            continue
        pixels, target = data.train_input(sample, seed=0, epoch=1, index=index)
        rows, columns = np.nonzero(pixels[0].numpy() > 140)
        if not len(rows):
            assert not len(target.labels) or np.ptp(target.corners[0]) < 4
            continue
        around = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        np.testing.assert_allclose(target.corners[0], around, atol=2)


def test_a_sample_without_boxes_is_collated():
    nothing = Boxes(np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64))
    sample = Sample(np.zeros((16, 16, 1), dtype=np.uint8), nothing, "empty")
    _, target = EXPERIMENT.data.test_input(sample)
    assert EXPERIMENT.task.collate([target])["labels"].tolist() == [[NO_BOX]]
