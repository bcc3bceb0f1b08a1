"""Scores of ImageNet classifiers on later test sets, whose labels differ from ImageNet's 1,000 classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from resnet_rs.data import imagenet
from resnet_rs.data.source import Source
from resnet_rs.models.backbone import Model
from resnet_rs.tasks.classification import ClassificationMeter
from resnet_rs.tasks.classification_report import share_with_interval
from resnet_rs.tasks.classifier import ClassificationHead
from resnet_rs.tasks.task import Meter


def keep_classes(model: Model, indices: Sequence[int]) -> None:
    """Remove all classes but those at `indices` from the last layer of a classifier."""
    head = model.head
    if not isinstance(head, ClassificationHead) or not isinstance(head.classifier, nn.Linear):
        raise ValueError("only a classifier has classes to choose from.")
    layer = head.classifier
    layer.weight = nn.Parameter(layer.weight.detach()[list(indices)])
    layer.bias = nn.Parameter(layer.bias.detach()[list(indices)])


def real_scores(meter: Meter, source: Source) -> dict[str, Any]:
    """The share of predictions that are right by ReaL's labels, with its 95 % interval.

    Images without a label of ReaL are left out; `real_without` counts them.
    """
    if not isinstance(meter, ClassificationMeter):
        raise ValueError("ReaL's labels are for classifiers alone.")
    keys = [source.key(int(i)) for i in meter.rows["index"]]
    correct = imagenet.reassess(keys, meter.rows["predicted"])
    count = len(correct)
    if not count:
        raise ValueError("none of these images has a label of ReaL.")
    share = share_with_interval("real", int(correct.sum()), count)
    return {**share, "real_count": count, "real_without": len(keys) - count}


def real_line(scores: Mapping[str, Any]) -> str:
    """The scores of `real_scores` in one line."""
    bounds = f"{scores['real_low']:.1%} to {scores['real_high']:.1%}"
    return (
        f"ReaL: {scores['real']:.1%} ({bounds}) of {scores['real_count']:,} images; "
        f"{scores['real_without']:,} images have no label of ReaL"
    )
