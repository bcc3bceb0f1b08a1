"""Scores of models on a source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from resnet_rs.config import to_plain
from resnet_rs.data.loader import EvaluationBatches, load, split_range
from resnet_rs.data.pipeline import Data
from resnet_rs.data.sample import Batch, Unreadable
from resnet_rs.data.source import Source
from resnet_rs.models.backbone import Model
from resnet_rs.processes import Interrupted, Stop
from resnet_rs.tasks.task import Meter, Task
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.machine import Machine
from resnet_rs.training.ranks import Ranks

_BATCH_SIZE, _BATCH_SIZE_ON_CPUS = 128, 32
"""On CPUs a batch of 128 took up to twice the time per image (`docs/LOG.md`)."""
_ROUNDS_BETWEEN_LOOKS = 4


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A meter per model, and the samples that could not be scored."""

    meters: Mapping[str, Meter]
    unreadable: tuple[Unreadable, ...]


@torch.no_grad()
def evaluate(  # noqa: PLR0913 - what is scored, and how
    models: Mapping[str, Model],
    source: Source,
    experiment: Experiment,
    *,
    machine: Machine,
    stop: Stop | None = None,
    part: range | None = None,
    build_meter: Callable[[tuple[str, ...]], Meter] | None = None,
) -> Evaluation:
    """Score each of `models` on the samples of `source`, in evaluation mode; unreadable samples are listed.

    `part` are the samples to score; None takes all. `build_meter` makes a meter for class names; None takes the task's.
    The ranks share the batches, and all get the whole evaluation. Raises `ValueError` if no sample could be scored, and
    `Interrupted` on all ranks if one of them receives a stop request.
    """
    data, device, ranks = experiment.data, machine.device, machine.ranks
    new_meter = build_meter or experiment.task.build_meter
    meters = {name: new_meter(source.classes) for name in models}
    unreadable: list[Unreadable] = []
    for model in models.values():
        model.eval()
    part = range(len(source)) if part is None else part
    ranges = list(split_range(part.start, len(part), at_most=batch_size(device)))
    dataset = EvaluationBatches(source, data, collate=experiment.task.collate)
    batches = load(ranks.share(ranges), dataset, workers=machine.workers)
    # The number of rounds is the same on every rank, so that all of them take part in `largest`.
    for i in range(-(-len(ranges) // ranks.count)):
        if i % _ROUNDS_BETWEEN_LOOKS == 0 and ranks.largest(stop is not None and stop.is_requested):
            raise Interrupted
        batch = next(batches, None)
        if batch is not None:
            unreadable += batch.unreadable
            _update_meters(meters, models, batch, data, device)
    if ranks.count > 1:
        meters = {
            name: _over_ranks(meter, new_meter(source.classes), ranks) for name, meter in meters.items()
        }
    everywhere = gather_unreadable(unreadable, ranks)
    if len(everywhere) == len(part):
        first = next(iter(everywhere), "the data is empty")
        raise ValueError(
            f"none of {len(part)} samples could be scored; the first: {first}. Repair the files."
        )
    return Evaluation(meters=meters, unreadable=everywhere)


def _over_ranks(mine: Meter, whole: Meter, ranks: Ranks) -> Meter:
    """`whole`, which is empty, with what the meters of all ranks have collected."""
    for packed in ranks.gather(mine.pack()):
        whole.merge(packed)
    return whole


def batch_size(device: Device) -> int:
    """Images that are scored at once on `device`."""
    return _BATCH_SIZE_ON_CPUS if device.name == "cpu" else _BATCH_SIZE


def _update_meters(
    meters: Mapping[str, Meter], models: Mapping[str, Model], batch: Batch, data: Data, device: Device
) -> None:
    if not len(batch.indices):
        return
    inputs = device.layout(data.normalize(device.put(batch.inputs)))
    for name, model in models.items():
        with device.autocast():
            prediction = model(inputs)
        meters[name].update(prediction.float(), batch.targets, batch.indices)


def gather_unreadable(mine: Iterable[Unreadable], ranks: Ranks) -> tuple[Unreadable, ...]:
    """The unreadable samples of all ranks."""
    gathered = ranks.gather_values([(error.key, error.reason) for error in mine])
    return tuple(Unreadable(*error) for errors in gathered for error in errors)


def scores(evaluation: Evaluation, source: Source, task: Task) -> dict[str, Any]:
    """Scores of the first model as JSON: those of its meter, its values per sample, and the unreadable samples."""
    name, meter = next(iter(evaluation.meters.items()))
    missing = {error.key for error in evaluation.unreadable}
    places = {source.key(i): i for i in range(len(source)) if source.key(i) in missing} if missing else {}
    per_sample = meter.per_sample()
    return {
        "task": to_plain(task),
        "headline": task.headline.key,
        **meter.scores(source.key),
        "per_sample": None if per_sample is None else per_sample.to_plain(),
        "weights": name,
        "summaries": {name: meter.summary() for name, meter in evaluation.meters.items()},
        "unreadable": [
            {"key": error.key, "index": places.get(error.key), "reason": error.reason}
            for error in evaluation.unreadable
        ],
    }
