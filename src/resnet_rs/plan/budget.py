"""`Budget`: the time for a whole command and other limits, and how long a run may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import MAX_EVALUATIONS
from resnet_rs.training.speed import Speed

_SHARE_FOR_SCORING = 0.15
"""Fraction of a time budget for all evaluations and checkpoints, unless one alone takes more."""
_UNMEASURED_SECONDS = 4.0
"""Seconds for what is not measured: the start of Python before the command, the page, the end."""
_PLANNED_SHARE = 0.95
"""Fraction of the time that a plan uses, because speed varies."""
_BYTES_PER_PARAMETER = 12
"""A checkpoint has weights, EMA weights and momentum in float32."""
_BYTES_PER_SECOND = 150e6
"""Approximate speed of writing and flushing a checkpoint to a disk."""


class RunLength(NamedTuple):
    """How long a run is."""

    epochs: float
    num_evaluations: int
    seconds: float
    """Expected time of the whole command."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The time for a whole command: start, measurements, training, scoring, saving and the page."""

    minutes: float
    num_scored: int
    """Images that every evaluation scores: the validation part, else the test part."""
    num_scored_at_end: int = 0
    """Images that are scored once more at the end: with a validation part, both parts."""
    elapsed: Callable[[], float]
    """Seconds since the command began; the same on every rank."""
    speed: Callable[[Experiment], Speed]
    """Measures an experiment on this machine."""
    exceeded: Callable[[Experiment], tuple[str, ...]] = lambda _: ()
    """A message for each limit of inference time and memory that an experiment exceeds on this machine."""

    def length(
        self, experiment: Experiment, num_samples: int, speed: Speed, *, most_epochs: float
    ) -> RunLength:
        """The longest run that fits, at least one update and at most `most_epochs`."""
        around = self.elapsed() + _UNMEASURED_SECONDS
        left = _PLANNED_SHARE * 60 * self.minutes - around
        saving = experiment.count_cost().params * _BYTES_PER_PARAMETER / _BYTES_PER_SECOND
        evaluation = self.num_scored * speed.seconds_per_scored + saving
        at_end = self.num_scored_at_end * (speed.seconds_per_scored + speed.seconds_to_decode)
        left -= at_end
        count = max(1, int(min(MAX_EVALUATIONS, _SHARE_FOR_SCORING * left / max(1e-9, evaluation))))
        scoring = count * evaluation + self.num_scored * speed.seconds_to_decode
        first, later = num_samples * speed.first_pass, num_samples / speed.images_per_second
        training = left - scoring
        epochs = training / first if training < first else 1 + (training - first) / later
        one_update = experiment.recipe.batch_size / num_samples
        epochs = min(most_epochs, max(one_update, float(f"{epochs:.3g}")))
        training = first * min(1.0, epochs) + later * max(0.0, epochs - 1)
        return RunLength(epochs, count, around + scoring + training + at_end)
