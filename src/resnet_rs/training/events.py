"""The events that a run yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from resnet_rs.training.loop import Update
from resnet_rs.training.recipe import Timetable


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
