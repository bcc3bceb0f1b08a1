"""Laws of every task, those of the package and those that only the tests know."""

import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from seams.test_boxes import Detection
from seams.test_depth import DepthTask
from seams.test_masks import Segmentation
from seams.test_two_views import Contrastive
from shapes import Shapes

from resnet_rs import config
from resnet_rs.data.sample import Request
from resnet_rs.models.backbone import Pyramid
from resnet_rs.report.score import PerSample
from resnet_rs.tasks.classification import Classification
from resnet_rs.tasks.classification_multi_label import MultiLabel
from resnet_rs.tasks.task import Task

WIDTHS = (8, 8, 16, 16)
SIZE, COUNT = 16, 24


class Case(NamedTuple):
    task: Task
    asks: str


CASES = {
    "classification": Case(Classification(), "shape"),
    "multi-label": Case(MultiLabel(), "shapes"),
    "segmentation": Case(Segmentation(), "mask"),
    "depth": Case(DepthTask(), "depth"),
    "detection": Case(Detection(), "boxes"),
    "contrastive": Case(Contrastive(), "shape"),
}


def test_every_task_of_the_package_is_here():
    kinds = list(Task.__subclasses__())
    for kind in kinds:  # which grows meanwhile
        kinds += kind.__subclasses__()
    ours = {kind for kind in kinds if kind.__module__.startswith("resnet_rs.")}
    assert ours <= {type(case.task) for case in CASES.values()}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    return request.param


class Scored:
    """Random pyramids of drawn shapes through a fresh head."""

    def __init__(self, case):
        self.source = Shapes(num_samples=COUNT, size=SIZE, asks=case.asks)
        self.task = case.task.with_classes(self.source.classes)
        torch.manual_seed(0)
        maps = [
            torch.randn(COUNT, width, side, side) for width, side in zip(WIDTHS, (16, 8, 4, 2), strict=True)
        ]
        self.pyramid = Pyramid(*maps)
        self.head = self.task.build_head(WIDTHS).eval()
        with torch.no_grad():
            self.prediction = self.head(self.pyramid)
        self.targets = [self.source.read(i, Request(1)).target for i in range(COUNT)]

    def meter(self, indices):
        meter = self.task.build_meter(self.source.classes)
        if len(indices):
            targets = self.task.collate([self.targets[i] for i in indices])
            meter.update(self.prediction[list(indices)], targets, torch.tensor(indices))
        return meter


@pytest.mark.parametrize("seed", range(2))
def test_meters_over_parts_merge_into_the_meter_over_the_whole_in_any_order(case, seed):
    scored = Scored(case)
    whole = scored.meter(list(range(COUNT)))
    order = np.random.default_rng(seed).permutation(COUNT).tolist()
    merged = scored.task.build_meter(scored.source.classes)
    for part in (order[5:6], order[:5], order[6:6], order[6:]):
        merged.merge(scored.meter(part).pack())
    key = scored.source.key
    assert merged.scores(key) == whole.scores(key) and merged.per_sample() == whole.per_sample()


def test_scores_are_json_and_hold_the_headline_which_is_the_mean_per_sample(case):
    scored = Scored(case)
    meter, name = scored.meter(list(range(COUNT))), scored.task.headline
    scores = json.loads(json.dumps(meter.scores(scored.source.key), allow_nan=False))
    assert scores["count"] == COUNT
    assert scores[name.key] == meter.summary()[name.key] == scored.task.numbers(scores)[0].value
    assert name.text(scores[name.key])
    per_sample = meter.per_sample()
    if per_sample is not None:
        assert per_sample.dense(COUNT).mean() == pytest.approx(scores[name.key], abs=1e-12)
        assert PerSample.from_plain(json.loads(json.dumps(per_sample.to_plain()))) == per_sample
    assert isinstance(list(scored.task.lines(scores)), list)


def test_blocks_have_titles_of_their_own(case):
    scored = Scored(case)
    scores = scored.meter(list(range(COUNT))).scores(scored.source.key)
    titles = [block.title for block in scored.task.blocks(scores)]
    assert len(set(titles)) == len(titles)
    assert scored.task.blocks({}) == []


def test_collated_targets_begin_with_the_batch_and_give_one_loss_per_sample(case):
    scored = Scored(case)
    task, views = scored.task, scored.task.num_views
    targets = task.collate(scored.targets)
    for tensor in targets.values() if isinstance(targets, dict) else [targets]:
        assert len(tensor) == COUNT
    prediction = scored.prediction.repeat_interleave(views, 0).clone().requires_grad_()
    losses = task.loss(prediction, targets, torch.arange(COUNT))
    assert losses.shape == (COUNT,) and torch.isfinite(losses).all()
    losses.sum().backward()
    assert torch.isfinite(prediction.grad).all() and prediction.grad.abs().sum() > 0


def test_every_answer_has_a_line_and_json(case):
    scored = Scored(case)
    from resnet_rs.data.view import center_view

    views = [center_view(SIZE, SIZE, size=SIZE, crop_ratio=1.0)] * COUNT
    answers = scored.task.answers(scored.prediction, classes=scored.source.classes, views=views)
    assert len(answers) == COUNT
    for answer in answers:
        assert answer.text and "\n" not in answer.text
        json.dumps(answer.to_plain(), allow_nan=False)


def test_a_task_survives_json_and_classes_twice(case, monkeypatch):
    monkeypatch.setattr(config, "TRUSTED_PACKAGES", [*config.TRUSTED_PACKAGES, "seams"])
    task = case.task.with_classes(("a", "b", "c"))
    assert config.from_plain(json.loads(json.dumps(config.to_plain(task)))) == task
    assert task.with_classes(("a", "b", "c")) == task
