"""Labeled images and images with the soft labels of a teacher, mixed at a fixed ratio in every batch."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from seams.conftest import BASE
from shapes import Shapes

from resnet_rs.config import edit
from resnet_rs.data.loader import TrainingBatches
from resnet_rs.data.source import Order, Source, Splits
from resnet_rs.data.target import Label, SoftLabel


@dataclass(frozen=True, kw_only=True)
class SoftShapes(Shapes):
    """Shapes with what a teacher says of them: mostly right, and never sure."""

    def read(self, index, request):
        sample = super().read(index, request)
        shares = np.full(3, 0.1, dtype=np.float32)
        shares[sample.target.index] = 0.8
        return sample._replace(target=SoftLabel(shares))


@dataclass(frozen=True, kw_only=True)
class Mixture(Source):
    """Of every `1 + ratio` samples the first is labeled, and the others are pseudo-labeled."""

    labeled: Source
    pseudo: Source
    ratio: int

    @property
    def classes(self):
        return self.labeled.classes

    def __len__(self):
        return len(self.labeled) + len(self.pseudo)

    def key(self, index):
        first = len(self.labeled)
        return self.labeled.key(index) if index < first else f"pseudo/{self.pseudo.key(index - first)}"

    def read(self, index, request):
        first = len(self.labeled)
        source, place = (self.labeled, index) if index < first else (self.pseudo, index - first)
        return source.read(place, request)._replace(key=self.key(index))

    def digest(self):
        return f"{self.labeled.digest()} {self.pseudo.digest()} {self.ratio}"

    def order(self, first, count, *, seed):
        places = np.arange(first, first + count)
        is_labeled = places % (1 + self.ratio) == 0
        num_labeled = -(-places // (1 + self.ratio))  # before each place
        samples, passes = (np.empty(count, dtype=np.int64) for _ in range(2))
        for chosen, source, offset, of_kind in (
            (is_labeled, self.labeled, 0, num_labeled),
            (~is_labeled, self.pseudo, len(self.labeled), places - num_labeled),
        ):
            for i in np.flatnonzero(chosen):
                order = source.order(int(of_kind[i]), 1, seed=seed)
                samples[i], passes[i] = offset + order.samples[0], order.passes[0]
        return Order(samples, passes)


MIXTURE = Mixture(
    labeled=Shapes(num_samples=24, size=16), pseudo=SoftShapes(num_samples=96, size=16, seed=2), ratio=3
)
EXPERIMENT = edit(BASE, {"recipe.base_lr": 0.4})


def test_a_mixture_is_learned_at_its_ratio_and_scored_on_labels(trained):
    result = trained(EXPERIMENT, Splits(train=MIXTURE, test=Shapes(num_samples=48, size=16, seed=1)))
    assert result.scores["top1"] > 0.5


def test_another_ratio_is_another_source():
    assert replace(MIXTURE, ratio=7).digest() != MIXTURE.digest()


def test_every_batch_holds_the_ratio_and_a_label_is_smoothed_as_in_a_batch_of_labels():
    task = EXPERIMENT.with_classes(MIXTURE.classes).task
    batches = TrainingBatches(MIXTURE, EXPERIMENT.data, collate=task.collate, seed=0)
    for first in (0, 16, 1600):
        batch = batches[range(first, first + 16)]
        assert (batch.indices < 24).sum() == 4
        assert batch.targets.shape == (16, 3) and torch.allclose(batch.targets.sum(1), torch.ones(16))
    logits, indices = torch.randn(2, 3), torch.arange(2)
    soft = SoftLabel(np.array([0.2, 0.3, 0.5], dtype=np.float32))
    alone = task.loss(logits[:1], task.collate([Label(1)]), indices[:1])
    mixed = task.loss(logits, task.collate([Label(1), soft]), indices)
    torch.testing.assert_close(mixed[:1], alone)
    expected = -(torch.tensor([0.2, 0.3, 0.5]) * logits[1].log_softmax(0)).sum()
    torch.testing.assert_close(mixed[1], expected)
