"""What pretrained weights decide about the experiment that is fine-tuned from them."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch

from resnet_rs.config import diff, edit
from resnet_rs.data.source import Source
from resnet_rs.models.backbone import ONLY_IN_TRAINING
from resnet_rs.plan.changes import Change
from resnet_rs.plan.rules import CHANNEL_FIELDS
from resnet_rs.text import is_within
from resnet_rs.training.checkpoint import Checkpoint
from resnet_rs.training.experiment import Experiment

START_FIELDS: tuple[str, ...] = ("arch.", "data.mean", "data.std", "data.resampling")
"""What trained weights decide; `arch.` stands for all fields of the arch."""
_NORM_MOMENTUM = 0.1


def adapt_to_start(
    experiment: Experiment, trained: Experiment, *, set_by_user: frozenset[str]
) -> tuple[Experiment, tuple[Change, ...]]:
    """`experiment` for weights that were trained as `trained`, and the changes.

    Normalization and resampling follow the weights, and so does what the shapes of an arch do not tell, such as
    padding. Fields that act only in training stay, except that batch norm keeps the statistics of many batches.
    """
    edits: dict[str, Any] = {"data.resampling": trained.data.resampling}
    if not any(
        is_within(path, set_by_user) for path in CHANNEL_FIELDS
    ):  # a user who sets one decides on both
        edits |= {"data.mean": trained.data.mean, "data.std": trained.data.std}
    if _are_alike(experiment, trained):
        arch = diff(experiment.arch, trained.arch)
        edits |= {f"arch.{name}": value for name, value in arch.items() if name not in ONLY_IN_TRAINING}
    reasons = dict.fromkeys(edits, "the pretrained weights were trained with this value")
    if experiment.arch.needs_ema:
        edits["arch.norm_momentum"] = _NORM_MOMENTUM
        noisy = (
            "with momentum 1 the statistics are those of the last batch, which are too noisy for a short run"
        )
        reasons["arch.norm_momentum"] = noisy
    changes = [
        Change(path=path, before=attrgetter(path)(experiment), after=after, reason=reasons[path])
        for path, after in edits.items()
        if not is_within(path, set_by_user) and attrgetter(path)(experiment) != after
    ]
    return edit(experiment, {change.path: change.after for change in changes}), tuple(changes)


def _are_alike(one: Experiment, other: Experiment) -> bool:
    """Whether two backbones have archs of one type and tensors of the same names and shapes."""
    if type(one.arch) is not type(other.arch):
        return False
    with torch.device("meta"):
        pair = [e.arch.build(in_channels=1).state_dict() for e in (one, other)]
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in pair]
    return shapes[0] == shapes[1]


def seen_images(trained: Checkpoint, source: Source, part: str) -> str:
    """A sentence if images of `source`, the test or validation part, may have trained the weights; else empty."""
    seen = set() if trained.split is None else set(trained.split["train"])
    keys = [source.key(index) for index in range(len(source))] if seen else []
    count = sum(key in seen for key in keys)
    if not count:
        return ""
    return (
        f"{count:,} of {len(keys):,} {part} images have the names of images that the pretrained weights were trained "
        "on. If they are the same images, the scores will be too high."
    )
