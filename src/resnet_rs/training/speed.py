"""How fast this machine trains and scores an experiment on given images, measured through the real pipeline."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import torch

from resnet_rs.data.cache import cached
from resnet_rs.data.loader import EvaluationBatches, IndexRange, TrainingBatches, load, split_range
from resnet_rs.data.sample import Batch
from resnet_rs.data.source import Source
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.loop import Loop
from resnet_rs.training.state import new_state

_NUM_WARM_UP, _NUM_TIMED, _MAX_TIMED = 2, 8, 1000
_SECONDS_TIMED = 2.5
_SHARE_LEFT_OUT = 0.25
"""Share of the timed updates that do not count, because the first ones are slower."""
_NUM_SCORED = (32, 128)
"""Images that are scored at once; the second number only where the first is fast."""
_SECONDS_SCORED = 0.3


class Speed(NamedTuple):
    """Measured speed of training and scoring, on all ranks together."""

    images_per_second: float
    """Training speed, including waits for data that is decoded already."""
    seconds_per_scored: float
    """Time to score one test image with all models of a run, if it is decoded already."""
    seconds_to_decode: float = 0.0
    """Time to decode one image, which a run does once."""

    @property
    def first_pass(self) -> float:
        """Seconds per image in the first epoch, which decodes it."""
        return 1 / self.images_per_second + self.seconds_to_decode


def measure_speed(
    experiment: Experiment,
    source: Source,
    *,
    device: Device,
    micro_batch: int,
    workers: int,
    max_seconds: float = 20.0,
) -> tuple[float, float]:
    """Images per second of training `experiment` on decoded images of `source`, and seconds to decode an image.

    Two batches of images are decoded and kept, as in a run. The network trains on them, first for two updates. Then the
    clock and the `workers` start together. Of the timed updates the first quarter does not count. The others include
    the wait for batches, so neither a batch that was read ahead nor the start of the workers changes the figure much.
    """
    num_samples = min(experiment.recipe.batch_size, micro_batch)
    timetable = replace(
        experiment.recipe.timetable(len(source)), batch_size=num_samples, total_steps=_MAX_TIMED
    )
    ranges = list(split_range(0, num_samples * _NUM_WARM_UP, at_most=num_samples))
    task, enough, ends = experiment.task, max(_NUM_TIMED, 4 * workers), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        kept = cached(source, Path(folder))
        dataset = TrainingBatches(
            kept, experiment.data, collate=task.collate, seed=0, num_views=task.num_views
        )
        first, again = (_seconds(dataset, ranges) for _ in range(2))
        begin = 0.0

        def batches() -> Iterator[Batch]:
            nonlocal begin
            yield from load(ranges, dataset, workers=0)
            begin = time.monotonic()
            yield from load(islice(cycle(ranges), _MAX_TIMED), dataset, workers=workers)

        loop = Loop(experiment=experiment, timetable=timetable, device=device, seed=0, micro_batches=1)
        for _ in loop.updates(new_state(experiment, device, seed=0), batches()):
            if not begin:
                continue
            ends.append(time.monotonic() - begin)
            is_long = ends[-1] > min(_SECONDS_TIMED, max_seconds / 2)
            if len(ends) >= enough and is_long or len(ends) > 2 and ends[-1] > max_seconds:
                break
    left_out = int(_SHARE_LEFT_OUT * len(ends))
    timed = ends[-1] - (ends[left_out - 1] if left_out else 0.0)
    decoding = max(0.0, first - again) / (num_samples * _NUM_WARM_UP * max(1, workers))
    return num_samples * (len(ends) - left_out) / timed, decoding


@torch.no_grad()
def measure_scoring(experiment: Experiment, source: Source, *, device: Device, workers: int) -> float:
    """Seconds per image of scoring all models of a run on decoded images of `source`, measured on up to 128 images.

    Reading time is divided by `workers` and added in full, so the estimate is cautious.
    """
    models = new_state(experiment, device, seed=0).models.values()
    cost = 0.0
    with tempfile.TemporaryDirectory() as folder:
        kept = cached(source, Path(folder))
        dataset = EvaluationBatches(kept, experiment.data, collate=experiment.task.collate)
        for most in _NUM_SCORED:
            num_samples = min(most, len(source))
            images = [IndexRange(0, num_samples)]
            _seconds(dataset, images)
            reading = _seconds(dataset, images) / max(1, workers)
            batch = dataset[images[0]]
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
            cost = reading / num_samples + seconds / len(batch.indices)
            if seconds > _SECONDS_SCORED or num_samples < most:
                break
    return cost


def _seconds(dataset: TrainingBatches | EvaluationBatches, ranges: list[IndexRange]) -> float:
    """Time to read, decode and augment the images of `ranges` in this process."""
    begin = time.monotonic()
    for index_range in ranges:
        dataset[index_range]
    return time.monotonic() - begin
