"""Learning-rate schedules, in updates. A card for each is in `docs/methods/`.

Steps count from 0: update `step` uses `lr(step, ...)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

from resnet_rs.text import refuse_outside


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """The learning rate of every update, given its peak and the length of the run."""

    warmup_epochs: float = 5.0
    """Passes over the data in which the rate grows linearly from 0."""

    def __post_init__(self) -> None:
        if not self.warmup_epochs >= 0:
            raise ValueError(f"warmup_epochs must be 0 or more, got {self.warmup_epochs}.")

    @abstractmethod
    def decay(self, progress: float) -> float:
        """Fraction of the peak rate at `progress` in [0, 1] of the run, without the warm-up."""

    def lr(self, step: int, *, peak_lr: float, total_steps: int, warmup_steps: float) -> float:
        """Learning rate of update `step` of `total_steps`: linear from 0 up to `warmup_steps`, then the decay."""
        if step < warmup_steps:
            return peak_lr * self.decay(warmup_steps / total_steps) * step / warmup_steps
        return peak_lr * self.decay(step / total_steps)


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine from the peak to 0, counted from the first update. The warm-up replaces its start.

    Source: paper, Table 1 and Table 10; formula of the TF2 release (1,560 of 109,200 steps, peak 1.6). The
    TF1 release has no cosine.
    """

    def decay(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class StepDecay(Schedule):
    """The schedule of 2015: the rate is multiplied by `factor` at each milestone.

    Source: TF1 release (`resnet_main.py`: 30, 60 and 80 of 90 epochs); paper, Table 10.
    """

    milestones: tuple[float, ...] = (30 / 90, 60 / 90, 80 / 90)
    """Fractions of the run, increasing, each in (0, 1)."""
    factor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded = (0.0, *self.milestones, 1.0)
        if not all(before < after for before, after in pairwise(bounded)):
            raise ValueError(f"milestones must increase within (0, 1), got {list(self.milestones)}.")
        refuse_outside(self, factor="(0, 1)")

    def decay(self, progress: float) -> float:
        return self.factor ** sum(progress >= milestone for milestone in self.milestones)
