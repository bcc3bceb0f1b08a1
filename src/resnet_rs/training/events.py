"""The events that a run yields, and `Pace`, which measures the speed that they report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from resnet_rs.data.sample import Batch
from resnet_rs.training.loop import Update
from resnet_rs.training.recipe import Timetable

_SECONDS_BETWEEN_SAVES = 600.0


@dataclass(frozen=True, kw_only=True)
class Started:
    """The run starts, or continues after `step` updates."""

    step: int
    timetable: Timetable
    notices: tuple[str, ...] = ()
    """Notices for the user, such as about a damaged checkpoint or another machine."""


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """One update was taken, or skipped."""

    update: Update
    epoch: float
    images_per_second: float
    data_wait: float
    """Share of the time since the last evaluation that was spent waiting for data."""
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The validation part was scored, or the test part if there is none; `summaries` has a few numbers per model."""

    step: int
    epoch: float
    loss: float
    split: Literal["validation", "test"]
    summaries: dict[str, dict[str, float]]
    images_per_second: float
    data_wait: float
    unreadable: tuple[str, ...] = ()
    """Validation images that could not be scored, each with the reason."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The checkpoint of `step` is on the disk."""

    step: int


@dataclass(frozen=True, kw_only=True)
class SaveFailed:
    """The checkpoint of `step` could not be written. Earlier checkpoints are intact, and training continues."""

    step: int
    reason: str
    in_a_row: int
    """Failed saves since the last successful one."""


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """A signal stopped the run. The state after `step` is on the disk, and the same command continues it."""

    step: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is complete; `scores` are the scores of its final weights."""

    scores: dict[str, Any]
    seconds: float
    is_early: bool = False
    """Whether `recipe.patience` ended the run before its last update."""


Event = Started | Progressed | Evaluated | Saved | SaveFailed | Stopped | Finished


class Pace:
    """Measures images per second and the time spent waiting for data."""

    def __init__(self, *, seconds_before: float) -> None:
        self._begin = time.monotonic() - seconds_before
        self._saved = time.monotonic()
        self.restart()

    def restart(self) -> None:
        """Start a new measurement."""
        self._since = time.monotonic()
        self._waited = 0.0
        self._num_samples = 0

    def count(self, num_samples: int) -> None:
        """Add samples that were trained on."""
        self._num_samples += num_samples

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time spent waiting for each is measured."""
        while True:
            begin = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - begin
            if batch is None:
                return
            yield batch

    def saved(self) -> None:
        """Note an attempt to save."""
        self._saved = time.monotonic()

    def is_time_to_save(self) -> bool:
        """Whether the last attempt to save is more than ten minutes ago."""
        return time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES

    @property
    def seconds(self) -> float:
        """Seconds of training so far; the time between a stop and its continuation does not count."""
        return time.monotonic() - self._begin

    def speed(self) -> dict[str, float]:
        """Samples per second, and the share of the time in which the loop waited, since the last restart."""
        passed = max(1e-9, time.monotonic() - self._since)
        return {"images_per_second": self._num_samples / passed, "data_wait": self._waited / passed}
