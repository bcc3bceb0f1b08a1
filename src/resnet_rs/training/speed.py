"""How fast this machine trains and scores an experiment on given images, measured through the real pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from resnet_rs.data.loader import EvaluationBatches, IndexRange, TrainingBatches, load, split_range
from resnet_rs.data.sample import Batch
from resnet_rs.data.source import Source
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.loop import Loop
from resnet_rs.training.state import new_state

_NUM_WARM_UP, _NUM_TIMED, _MAX_TIMED = 2, 8, 1000
_SECONDS_TIMED = 3.0
_NUM_READ, _NUM_SCORED = 48, 32


class Speed(NamedTuple):
    """Measured speed of training and scoring."""

    images_per_second: float
    """Training speed of all ranks together, including waits for data."""
    seconds_per_scored: float
    """Time to score one test image with all models of a run, on all ranks together."""


def measure_speed(
    experiment: Experiment,
    source: Source,
    *,
    device: Device,
    micro_batch: int,
    workers: int,
    max_seconds: float = 20.0,
) -> float:
    """Images per second of training `experiment` on `source`: whole updates, the wait for data included.

    The network runs two updates first. Then the clock and the `workers` start together, so batches that are read ahead
    are on the clock, too. Each worker delivers at least two batches unless that takes over `max_seconds`. The start of
    the workers counts, so the true speed is a little higher.
    """
    num_samples = min(experiment.recipe.batch_size, micro_batch)
    plan = replace(experiment.recipe.plan(len(source)), batch_size=num_samples, total_steps=_MAX_TIMED)
    ranges = list(split_range(0, num_samples * _MAX_TIMED, at_most=num_samples))
    warm_up, timed = ranges[:_NUM_WARM_UP], ranges[_NUM_WARM_UP:]
    task = experiment.task
    dataset = TrainingBatches(source, experiment.data, collate=task.collate, seed=0, num_views=task.num_views)
    begin = 0.0

    def batches() -> Iterator[Batch]:
        nonlocal begin
        yield from load(warm_up, dataset, workers=0)
        begin = time.monotonic()
        yield from load(timed, dataset, workers=workers)

    loop = Loop(experiment=experiment, plan=plan, device=device, seed=0, micro_batches=1)
    enough = max(_NUM_TIMED, 2 * workers)
    num_timed, seconds = 0, 0.0
    for update in loop.updates(new_state(experiment, device, seed=0), batches()):
        num_timed = update.step - _NUM_WARM_UP
        seconds = time.monotonic() - begin
        is_long = seconds > (_SECONDS_TIMED if workers else 0.0)
        if num_timed >= enough and is_long or num_timed > 2 and seconds > max_seconds:
            break
    return num_samples * num_timed / seconds


@torch.no_grad()
def measure_scoring(experiment: Experiment, source: Source, *, device: Device, workers: int) -> float:
    """Seconds per image of scoring all models of a run on `source`, measured on up to 32 images.

    Reading time is divided by `workers` and added in full, so the estimate is cautious.
    """
    num_samples = min(_NUM_SCORED, len(source))
    dataset = EvaluationBatches(source, experiment.data, collate=experiment.task.collate)
    models = new_state(experiment, device, seed=0).models.values()
    begin = time.monotonic()
    batch = dataset[IndexRange(0, num_samples)]
    reading = (time.monotonic() - begin) / max(1, workers)
    if not len(batch.indices):  # nothing could be read
        return reading / num_samples
    inputs = device.layout(experiment.data.normalize(device.put(batch.inputs)))
    seconds = 0.0
    for _ in range(2):  # the first pass is slower and does not count
        begin = time.monotonic()
        for model in models:
            with device.autocast():
                model.eval()(inputs).float().cpu()
        seconds = time.monotonic() - begin
    return reading / num_samples + seconds / len(batch.indices)


def measure_reading(experiment: Experiment, source: Source) -> float:
    """Seconds per image to read, decode and augment images of `source` in this process."""
    task = experiment.task
    dataset = TrainingBatches(source, experiment.data, collate=task.collate, seed=0, num_views=task.num_views)
    begin = time.monotonic()
    dataset[IndexRange(0, _NUM_READ)]
    return (time.monotonic() - begin) / _NUM_READ
