"""`Job`: an experiment, its data, a folder, and the machines to run it on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_rs.data.loader import Span, cut
from resnet_rs.data.source import Splits
from resnet_rs.processes import Stop
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.machine import Machine
from resnet_rs.training.ranks import Ranks
from resnet_rs.training.recipe import Plan

DEFAULT_MICRO_BATCH = 128
"""Samples that are computed at once. Batch norm sees as many, as the cores of the released runs saw a part each."""

_SMALLEST_IN_BFLOAT16 = 17
"""Pixels from which on no strided convolution of a network sees a map of one pixel."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run, and where. Paths and machines are here, since they are no part of the experiment."""

    experiment: Experiment
    splits: Splits
    folder: Path
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    micro_batch: int = DEFAULT_MICRO_BATCH
    save_every: int | None = None
    """Updates between two checkpoints; by default there is one at every evaluation, and every ten minutes."""
    stop: Stop = field(default_factory=Stop)
    """Where signals ask the run to leave; see `processes.listening`."""
    origin: dict[str, Any] = field(default_factory=dict[str, Any])
    """For `run.json`: the experiment's name, the edits with their reasons, the data and its automatic split."""

    def __post_init__(self) -> None:
        device, size = self.machine.device, self.experiment.data.size
        if device.name == "cpu" and device.precision == "bfloat16" and size < _SMALLEST_IN_BFLOAT16:
            # oneDNN's gradient of a 3x3 kernel of stride 2 over one pixel reads memory that nobody has written.
            raise ValueError(
                f"bfloat16 on processors has wrong gradients below {_SMALLEST_IN_BFLOAT16} pixels, got data.size="
                f"{size}. Leave --precision out, or make the pictures larger."
            )

    @property
    def plan(self) -> Plan:
        """The recipe in updates."""
        return self.experiment.recipe.plan(len(self.splits.train))

    @property
    def ranks(self) -> Ranks:
        """The processes that run it together."""
        return self.machine.ranks

    def spans(self, step: int) -> list[Span]:
        """The micro-batches of the update after `step` others, on all ranks."""
        batch_size = self.experiment.recipe.batch_size
        return list(cut(step * batch_size, batch_size, at_most=self.micro_batch))

    def identity(self) -> dict[str, Any]:
        """What decides the result beside the experiment, rounding aside; a run continues only under the same."""
        return {
            "seed": self.seed,
            "micro_batch": min(self.micro_batch, self.experiment.recipe.batch_size),
            "precision": self.machine.device.precision,
            "train_digest": self.splits.train.digest(),
            "test_digest": self.splits.test.digest(),
        }

    def environment(self) -> dict[str, str]:
        """What the last bits of the result depend on, and the number of ranks, on which they do not."""
        return {**self.machine.device.describe(), "ranks": str(self.machine.ranks.count)}
