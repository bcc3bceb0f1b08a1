"""`Job`: an experiment, its data, a folder, and the machine that runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from resnet_rs.data.loader import split_range
from resnet_rs.data.source import Splits
from resnet_rs.processes import Stop
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.machine import Machine
from resnet_rs.training.ranks import Ranks
from resnet_rs.training.recipe import Timetable
from resnet_rs.training.start import Start

DEFAULT_MICRO_BATCH = 128
"""Largest default of samples per forward pass. In the released runs each core also had a part of the batch."""

MAX_EVALUATIONS = 10
"""Default of the evaluations during a run."""

_MIN_MICRO_BATCH = 16
"""Smallest default for several ranks. The statistics of batch norm over fewer samples are too noisy."""

SMALLEST_IN_BFLOAT16 = 17
"""Image size from which no strided convolution gets a feature map of one pixel. For a 3x3 kernel of stride 2 over one
pixel the gradient of oneDNN in bfloat16 reads uninitialized memory."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """An experiment with its data, folder and machine, which are not part of the experiment."""

    experiment: Experiment
    splits: Splits
    folder: Path
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    micro_batch: int = DEFAULT_MICRO_BATCH
    start: Start | None = None
    """Pretrained weights to begin with; None trains from scratch."""
    save_every: int | None = None
    """Updates between two checkpoints; None saves at every evaluation and every ten minutes."""
    num_evaluations: int = MAX_EVALUATIONS
    """Most evaluations during the run, evenly spaced; the last one comes at the end."""
    stop: Stop = field(default_factory=Stop)
    """The request to stop; see `processes.listening`."""
    origin: dict[str, Any] = field(default_factory=dict[str, Any])
    """For `run.json`: the name of the experiment, the edits with their reasons, the data and its automatic split."""

    def __post_init__(self) -> None:
        recipe = self.experiment.recipe
        if self.start is None and recipe.fine_tuning.needs_start:
            raise ValueError(
                f"recipe.fine_tuning.{recipe.fine_tuning.needs_start} needs pretrained weights, and none are given. "
                "Add --from WEIGHTS, or remove the edit."
            )
        if recipe.patience is not None and self.splits.validation is None:
            raise ValueError(
                f"recipe.patience={recipe.patience} needs validation images, and there are none. Add "
                "recipe.validation=0.1, or a folder 'val' beside 'train' and 'test'."
            )
        device, size = self.machine.device, self.experiment.data.size
        if device.name == "cpu" and device.precision == "bfloat16" and size < SMALLEST_IN_BFLOAT16:
            raise ValueError(
                f"bfloat16 on CPUs gives wrong gradients for images below {SMALLEST_IN_BFLOAT16} pixels, got "
                f"data.size={size}. Use --precision float32 in a new folder, continue on a GPU, or use larger images."
            )

    @cached_property
    def timetable(self) -> Timetable:
        """The recipe in updates, for this training split."""
        return self.experiment.recipe.timetable(len(self.splits.train))

    @property
    def ranks(self) -> Ranks:
        """The processes that run the job together."""
        return self.machine.ranks

    def ranges(self, step: int) -> list[range]:
        """The micro-batches of update `step + 1`, on all ranks."""
        batch_size = self.experiment.recipe.batch_size
        return list(split_range(step * batch_size, batch_size, at_most=self.micro_batch))

    def identity(self) -> dict[str, Any]:
        """The settings that determine the result, except the experiment; a run continues only if they are equal."""
        validation = self.splits.validation
        return {
            "seed": self.seed,
            "micro_batch": min(self.micro_batch, self.experiment.recipe.batch_size),
            "precision": self.machine.device.precision,
            "start": None if self.start is None else self.start.sha256,
            "train_digest": self.splits.train.digest(),
            "test_digest": self.splits.test.digest(),
            **({} if validation is None else {"validation_digest": validation.digest()}),
        }

    def environment(self) -> dict[str, str]:
        """The environment that the last bits of the result depend on, and the number of ranks, which has no effect."""
        return {**self.machine.device.describe(), "ranks": str(self.machine.ranks.count)}


def usual_micro_batch(batch_size: int, *, num_ranks: int) -> int:
    """The default micro-batch of a new run: up to 128 samples, and at least one micro-batch for every rank.

    Raises `ValueError` if several ranks would have micro-batches of fewer than 16 samples.
    """
    largest, smallest = _micro_batches(batch_size, num_ranks)
    if num_ranks > 1 and smallest < _MIN_MICRO_BATCH:
        fewer = range(num_ranks - 1, 1, -1)
        fit = (n for n in fewer if _micro_batches(batch_size, n)[1] >= _MIN_MICRO_BATCH)
        # Equal micro-batches for all ranks always fit.
        enough = num_ranks * max(_MIN_MICRO_BATCH, -(-batch_size // num_ranks))
        raise ValueError(
            f"{num_ranks} ranks cannot share a batch of {batch_size} samples: batch norm would see {smallest} samples "
            f"at a time and needs {_MIN_MICRO_BATCH}. The largest number of ranks for this batch is {next(fit, 1)}. "
            f"Start that many, use recipe.batch_size={enough}, or choose a --micro-batch yourself."
        )
    return max(2, largest)


def _micro_batches(batch_size: int, num_ranks: int) -> tuple[int, int]:
    """Samples of the largest and of the smallest micro-batch, if every rank gets at least one."""
    largest = min(DEFAULT_MICRO_BATCH, -(-batch_size // num_ranks))
    if -(-batch_size // largest) < num_ranks:
        largest = max(1, batch_size // num_ranks)
    return largest, batch_size // -(-batch_size // largest)
