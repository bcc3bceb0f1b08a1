"""Scores of models on a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from resnet_rs.data.loader import EvaluationSpans, cut, load
from resnet_rs.data.pipeline import Data
from resnet_rs.data.sample import Unreadable
from resnet_rs.data.source import Source
from resnet_rs.models.backbone import Model
from resnet_rs.tasks.task import Meter, Task
from resnet_rs.training.device import Device

_BATCH_SIZE = 128


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A meter per model, and the samples that could not be scored."""

    meters: Mapping[str, Meter]
    unreadable: tuple[Unreadable, ...]


@torch.no_grad()
def evaluate(
    models: Mapping[str, Model], source: Source, *, data: Data, task: Task, device: Device, workers: int
) -> Evaluation:
    """Show every sample of `source` once to each of `models`, in evaluation mode.

    Unreadable ones are listed, not replaced.
    """
    meters = {name: task.build_meter(source.classes) for name in models}
    unreadable: list[Unreadable] = []
    for model in models.values():
        model.eval()
    for batch in load(
        cut(0, len(source), at_most=_BATCH_SIZE), EvaluationSpans(source, data), workers=workers
    ):
        unreadable += batch.unreadable
        if not len(batch.indices):
            continue
        inputs = device.layout(data.normalize(device.put(batch.inputs)))
        for name, model in models.items():
            with device.autocast():
                prediction = model(inputs)
            meters[name].update(prediction.float(), batch.targets, batch.indices)
    return Evaluation(meters=meters, unreadable=tuple(unreadable))


def scores(evaluation: Evaluation, source: Source) -> dict[str, Any]:
    """Scores of the first model, as JSON, with the keys of the samples they name and those that could not be scored."""
    name, meter = next(iter(evaluation.meters.items()))
    found = meter.scores()
    if not found["count"]:
        first = evaluation.unreadable[0] if evaluation.unreadable else "the data is empty"
        raise ValueError(f"none of {len(source)} samples could be scored; the first: {first}.")
    worst = [{**item, "key": source.key(item["index"])} for item in found.get("worst", [])]
    return {
        **found,
        **({"worst": worst} if worst else {}),
        "weights": name,
        "summaries": {name: meter.summary() for name, meter in evaluation.meters.items()},
        "unreadable": [{"key": error.key, "reason": error.reason} for error in evaluation.unreadable],
    }
