"""Two views of every image and a contrastive loss (SimCLR), scored by the nearest neighbor's label."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from seams.conftest import BASE
from shapes import Shapes
from torch import nn
from torch.nn import functional as F

from resnet_rs.config import edit
from resnet_rs.data.loader import TrainingBatches
from resnet_rs.data.sample import Unreadable
from resnet_rs.data.source import Splits
from resnet_rs.models.randomness import RandomLayer
from resnet_rs.report.score import PerSample, ScoreName
from resnet_rs.tasks.task import Answer, Meter, Task
from resnet_rs.training.device import Device
from resnet_rs.training.loop import Loop
from resnet_rs.training.state import new_state

CPU = Device.choose("cpu")

NEIGHBOR = ScoreName(key="neighbor", label="nearest neighbor")
TEMPERATURE = 0.5


@dataclass(frozen=True)
class Embedding(Answer):
    values: np.ndarray

    @property
    def text(self):
        return f"an embedding of {len(self.values)} numbers"

    def to_plain(self):
        return {"embedding": self.values.tolist()}


@dataclass(frozen=True, kw_only=True)
class Contrastive(Task):
    """NT-Xent: each view must find the other view of its image among all views of the micro-batch."""

    @property
    def headline(self):
        return NEIGHBOR

    @property
    def num_views(self):
        return 2

    def with_classes(self, classes):
        return self

    def build_head(self, widths):
        return Projection(widths[3])

    def collate(self, targets):
        return torch.tensor([target.index for target in targets])

    def loss(self, prediction, targets, indices):
        assert len(prediction) == 2 * len(targets) == 2 * len(indices)
        z = F.normalize(prediction, dim=1)
        alike = z @ z.T / TEMPERATURE
        masked = alike.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
        other = torch.arange(len(z), device=z.device) ^ 1
        return F.cross_entropy(masked, other, reduction="none").view(-1, 2).mean(1)

    def build_meter(self, classes):
        return NeighborMeter()

    def answers(self, prediction, *, classes, views):
        return [Embedding(row) for row in prediction.cpu().numpy()]


class Projection(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, pyramid):
        return self.layers(pyramid.c5.flatten(2).mean(2))


class NeighborMeter(Meter):
    def __init__(self):
        self.rows = {}

    def update(self, prediction, targets, indices):
        rows = torch.cat([targets.cpu().double()[:, None], prediction.cpu().double()], 1)
        self.rows |= dict(zip(indices.tolist(), rows.numpy(), strict=True))

    def pack(self):
        rows = [np.append(index, row) for index, row in sorted(self.rows.items())]
        return np.array(rows, dtype=np.float64).tobytes()

    def merge(self, packed):
        for row in np.frombuffer(packed, dtype=np.float64).reshape(-1, 18) if packed else ():
            self.rows[int(row[0])] = row[1:]

    def _correct(self):
        rows = np.stack([self.rows[i] for i in sorted(self.rows)])
        z = rows[:, 1:] / np.linalg.norm(rows[:, 1:], axis=1, keepdims=True)
        alike = z @ z.T - 2 * np.eye(len(z))
        return (rows[alike.argmax(1), 0] == rows[:, 0]).astype(float)

    def summary(self):
        return {"neighbor": float(self._correct().mean())}

    def scores(self, key):
        return {"count": len(self.rows), **self.summary()}

    def per_sample(self):
        return PerSample.of(sorted(self.rows), self._correct().tolist())


EXPERIMENT = edit(replace(BASE, task=Contrastive()), {"data.flip": True, "recipe.epochs": 4.0})
SPLITS = Splits(train=Shapes(num_samples=96, size=16), test=Shapes(num_samples=48, size=16, seed=1))


@dataclass(frozen=True, kw_only=True)
class Holes(Shapes):
    """Of every eight samples seven cannot be read, so that micro-batches hold one or none."""

    def read(self, index, request):
        if index % 8:
            raise Unreadable(self.key(index), "a hole")
        return super().read(index, request)


def test_two_views_are_learned_from_scored_and_shown(trained):
    result = trained(edit(EXPERIMENT, {"arch.drop_path": 0.1}), SPLITS)
    # A third by chance.
    assert result.scores["neighbor"] > 0.4 and result.scores["count"] == 48


def test_the_network_draws_apart_for_each_view_and_a_lone_sample_is_its_two_views():
    experiment = edit(EXPERIMENT, {"arch.drop_path": 0.5}).with_classes(SPLITS.train.classes)
    source = Holes(num_samples=96, size=16)
    batches = TrainingBatches(source, experiment.data, collate=experiment.task.collate, seed=0, num_views=2)
    lone = next(b for b in (batches[range(i, i + 4)] for i in range(0, 96, 4)) if len(b.indices) == 1)
    state = new_state(experiment, CPU, seed=0)
    drawn = []
    for layer in state.model.modules():
        if isinstance(layer, RandomLayer):
            layer.register_forward_hook(
                lambda layer, inputs, output: drawn.append(layer.draws.flatten().tolist())
            )
    loop = Loop(
        experiment=experiment, timetable=experiment.recipe.timetable(96), device=CPU, seed=0, micro_batches=1
    )
    update = next(loop.updates(state, iter([lone])))
    assert update.num_samples == 1
    assert all(len(pair) == 2 and pair[0] != pair[1] for pair in drawn) and len(drawn) == 4


def test_the_views_of_an_image_are_drawn_apart_and_the_first_is_that_of_a_single_view():
    collate = EXPERIMENT.task.collate
    two = TrainingBatches(SPLITS.train, EXPERIMENT.data, collate=collate, seed=0, num_views=2)[range(0, 8)]
    one = TrainingBatches(SPLITS.train, EXPERIMENT.data, collate=collate, seed=0)[range(0, 8)]
    assert two.inputs.shape == (8, 2, 1, 16, 16)
    assert torch.equal(two.inputs[:, 0], one.inputs) and not torch.equal(two.inputs[:, 1], one.inputs)


def test_masks_cannot_have_several_views():
    source = Shapes(num_samples=8, size=16, asks="mask")
    batches = TrainingBatches(source, BASE.data, collate=list, seed=0, num_views=2)
    with pytest.raises(
        ValueError, match="a target that is the same in all of them, got 'shapes/mask/0/.' with Mask"
    ):
        batches[range(0, 8)]
