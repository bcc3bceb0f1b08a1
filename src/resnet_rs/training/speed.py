"""How fast this machine trains and scores an experiment on given images, measured through the real pipeline."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from resnet_rs.data.cache import cached
from resnet_rs.data.loader import EvaluationBatches, TrainingBatches, load, split_range, useful_workers
from resnet_rs.data.sample import Batch
from resnet_rs.data.source import Source
from resnet_rs.training.device import Device
from resnet_rs.training.evaluate import batch_size
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.loop import Loop
from resnet_rs.training.state import new_state

_NUM_WARM_UP, _NUM_TIMED, _MAX_TIMED = 2, 8, 1000
_SECONDS_TIMED = 2.5
_SECONDS_SLOW = 10.0
"""If the updates to warm up take longer than this, they are the measurement."""
_SHARE_LEFT_OUT = 0.25
"""Share of the timed updates that do not count, because the first ones are slower."""
_MIN_PASSES, _SECONDS_SCORED = 2, 0.3


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
    workers: int | None,
    max_seconds: float = 20.0,
) -> tuple[float, float]:
    """Images per second of training `experiment` on decoded images of `source`, and seconds to decode an image.

    Two batches are read twice. The difference is the time to decode them, because decoded images are kept, as in a run.
    Then the network trains on these batches: two updates to warm up, then timed updates with `workers` that have
    started (None: as many as a run would find useful). The first quarter of the timed updates is left out. Waits for
    data count.
    """
    num_samples = min(experiment.recipe.batch_size, micro_batch)
    timetable = replace(
        experiment.recipe.timetable(len(source)), batch_size=num_samples, total_steps=_MAX_TIMED
    )
    ranges = list(split_range(0, num_samples * _NUM_WARM_UP, at_most=num_samples))
    task, ends = experiment.task, list[float]()
    with tempfile.TemporaryDirectory() as folder:
        kept = cached(source, Path(folder))
        dataset = TrainingBatches(
            kept, experiment.data, collate=task.collate, seed=0, num_views=task.num_views
        )
        first, again = (_seconds(dataset, ranges) for _ in range(2))
        decoding = max(0.0, first - again) / (num_samples * _NUM_WARM_UP)

        def batches() -> Iterator[Batch]:
            yield from load(ranges, dataset, workers=0)
            yield from load(islice(cycle(ranges), _MAX_TIMED), dataset, workers=workers)

        loop = Loop(experiment=experiment, timetable=timetable, device=device, seed=0, micro_batches=1)
        updates = loop.updates(new_state(experiment, device, seed=0), batches())
        warm_up = list[float]()
        for _ in ranges:
            begin = time.monotonic()
            next(updates)
            warm_up.append(time.monotonic() - begin)
            if sum(warm_up) > max(_SECONDS_SLOW, max_seconds):
                return num_samples * len(warm_up) / sum(warm_up), decoding / max(1, workers or 0)
        if workers is None:  # as a run chooses in its first epoch
            workers = useful_workers(first / len(ranges), warm_up[-1] - again / len(ranges))
        if workers:
            next(updates)  # waits for the start of the workers
        enough, begin = max(_NUM_TIMED, 4 * workers), time.monotonic()
        for _ in updates:
            ends.append(time.monotonic() - begin)
            is_long = ends[-1] > min(_SECONDS_TIMED, max_seconds / 2)
            if len(ends) >= enough and is_long or len(ends) > 2 and ends[-1] > max_seconds:
                break
    left_out = int(_SHARE_LEFT_OUT * len(ends))
    timed = ends[-1] - (ends[left_out - 1] if left_out else 0.0)
    return num_samples * (len(ends) - left_out) / timed, decoding / max(1, workers)


@torch.no_grad()
def measure_scoring(experiment: Experiment, source: Source, *, device: Device, workers: int | None) -> float:
    """Seconds per image of scoring all models of a run on decoded images of `source`, measured on one batch.

    Reading time is divided by `workers` (None: as many as a run would find useful) and added in full, so the estimate
    is cautious.
    """
    images = [range(min(batch_size(device), len(source)))]
    with tempfile.TemporaryDirectory() as folder:
        dataset = EvaluationBatches(
            cached(source, Path(folder)), experiment.data, collate=experiment.task.collate
        )
        batch = dataset[images[0]]
        reading = _seconds(dataset, images) / len(images[0])
    if not len(batch.indices):  # nothing could be read
        return reading
    inputs = device.layout(experiment.data.normalize(device.put(batch.inputs)))
    models = new_state(experiment, device, seed=0).models.values()
    passes = list[float]()
    while len(passes) < _MIN_PASSES or sum(passes) < _SECONDS_SCORED:
        begin = time.monotonic()
        for model in models:
            with device.autocast():
                model.eval()(inputs).float().cpu()
        passes.append(time.monotonic() - begin)
    computing = median(passes[1:]) / len(batch.indices)  # the first pass is slower
    workers = useful_workers(reading, computing) if workers is None else workers
    return reading / max(1, workers) + computing


def _seconds(dataset: TrainingBatches | EvaluationBatches, ranges: list[range]) -> float:
    """Time to read, decode and augment the images of `ranges` in this process."""
    begin = time.monotonic()
    for indices in ranges:
        dataset[indices]
    return time.monotonic() - begin
