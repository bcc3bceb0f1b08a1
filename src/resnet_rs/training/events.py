"""What happens in a run, as the values that it yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resnet_rs.training.loop import Update
from resnet_rs.training.recipe import Plan


@dataclass(frozen=True, kw_only=True)
class Started:
    """The run begins, or goes on after `step` updates."""

    step: int
    plan: Plan
    notices: tuple[str, ...] = ()
    """What is otherwise than one would think: a damaged checkpoint, another machine."""


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """One update was taken, or taken back."""

    update: Update
    epoch: float
    images_per_second: float
    data_wait: float
    """Share of the time that was spent waiting for data, since the last evaluation."""
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The test split was scored: a few numbers per model."""

    step: int
    epoch: float
    loss: float
    summaries: dict[str, dict[str, float]]
    images_per_second: float
    data_wait: float


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The checkpoint of `step` is on the disk."""

    step: int


@dataclass(frozen=True, kw_only=True)
class SaveFailed:
    """The checkpoint of `step` could not be written; those before it are as they were, and training goes on."""

    step: int
    reason: str
    in_a_row: int
    """How many saves have failed since the last that did not."""


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """Somebody asked the run to leave, and the state after `step` is on the disk: the same command continues it."""

    step: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is complete; `scores` are those of its final weights."""

    scores: dict[str, Any]
    seconds: float


Event = Started | Progressed | Evaluated | Saved | SaveFailed | Stopped | Finished
