"""`Recipe`: the training settings; `Timetable`: its epochs and rates in updates, for a number of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnet_rs.methods.fine_tuning import FineTuning
from resnet_rs.methods.schedule import Cosine, Schedule
from resnet_rs.text import refuse_outside


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Training settings. Defaults: ResNet-RS (paper, Table 10; released configs)."""

    epochs: float = 350.0
    """Passes over the training source."""
    batch_size: int = 4096
    """Samples per update, summed over all ranks and micro-batches."""
    base_lr: float = 0.1
    """Learning rate per 256 samples; the peak is `base_lr * batch_size / 256`."""
    schedule: Schedule = Cosine()
    """Learning-rate schedule: `Cosine` or `StepDecay`."""
    momentum: float = 0.9
    """Momentum of SGD, in [0, 1)."""
    nesterov: bool = True
    """Nesterov's momentum, as in the TF1 release; the paper does not say."""
    weight_decay: float = 4e-5
    """Coupled L2 on all weights except the scale and offset of batch norm."""
    ema_decay: float | None = 0.9999
    """Decay of the EMA of weights and statistics, after its ramp; none trains without EMA."""
    fine_tuning: FineTuning = FineTuning()
    """Which layers learn, and how fast, when a run begins with trained weights (`--from`)."""
    validation: float = 0.0
    """Share of the training samples that is held out for early stopping and calibration, in [0, 1); 0 is none."""
    patience: int | None = None
    """Early stopping: end after this many evaluations in a row without a new best validation score, and keep the best
    weights. None trains to the end and keeps the last weights."""
    class_balance: Literal["none", "sampling", "loss"] = "none"
    """For imbalanced classes: `sampling` draws every class equally often; `loss` multiplies the loss of each sample by
    the mean class size over the size of its class."""

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise ValueError(
                f"epochs must be above 0, got {self.epochs}. To only evaluate, use `resnet-rs evaluate`."
            )
        if not 2 <= self.batch_size <= 2**24:
            raise ValueError(
                f"batch_size must be 2 (batch norm needs two samples) to {2**24:,}, got {self.batch_size}."
            )
        refuse_outside(self, base_lr="(0, inf)", weight_decay="[0, inf)")
        refuse_outside(self, momentum="[0, 1)", ema_decay="(0, 1) or none", validation="[0, 1)")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be 1 evaluation or more, or none, got {self.patience}.")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0, got 0. Set recipe.nesterov=false as well.")
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"the warm-up of {self.schedule.warmup_epochs} epochs must end before the run of {self.epochs}. "
                "Set recipe.schedule.warmup_epochs as well."
            )

    @property
    def peak_lr(self) -> float:
        """Learning rate after the warm-up."""
        return self.base_lr * self.batch_size / 256

    def timetable(self, num_samples: int) -> Timetable:
        """This recipe in updates over `num_samples` samples."""
        steps_per_epoch = num_samples / self.batch_size
        return Timetable(
            num_samples=num_samples,
            batch_size=self.batch_size,
            total_steps=max(1, round(self.epochs * steps_per_epoch)),
            warmup_steps=self.schedule.warmup_epochs * steps_per_epoch,
            peak_lr=self.peak_lr,
            schedule=self.schedule,
        )


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """A recipe in updates. Update `step` takes the global sample indices from `step * batch_size` on, across epochs."""

    num_samples: int
    batch_size: int
    total_steps: int
    warmup_steps: float
    peak_lr: float
    schedule: Schedule

    def lr(self, step: int) -> float:
        """Learning rate of update `step`, counted from 0."""
        return self.schedule.lr(
            step, peak_lr=self.peak_lr, total_steps=self.total_steps, warmup_steps=self.warmup_steps
        )

    def epoch(self, step: int) -> float:
        """Number of passes over the data after `step` updates."""
        return step * self.batch_size / self.num_samples
