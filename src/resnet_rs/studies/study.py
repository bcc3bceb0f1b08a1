"""`Study` and `Trial` as values. A trial is a few edits of the base of its study."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from resnet_rs import config
from resnet_rs.training.experiment import Experiment

_MAX_TRIALS = 10_000
_LONGEST_NAME = 80


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One experiment of a study, to be run with every seed."""

    label: str
    edits: Mapping[str, Any]
    """What differs from the study's base."""
    baseline: str | None = None
    """Label of the trial that it is compared with, if any."""
    paper: float | None = None
    """Score of the same row in the paper, in percent."""
    at: Mapping[str, float] = field(default_factory=dict[str, float])
    """Its coordinates in a grid, for the figures: width, depth, size, epochs and others."""

    @property
    def folder_name(self) -> str:
        """Its label in lower case, digits and hyphens; one that is long, empty or not ASCII gets a digest."""
        name = re.sub(r"[^a-z0-9.]+", "-", self.label.lower()).strip("-.")
        if self.label.isascii() and 0 < len(name) <= _LONGEST_NAME:
            return name
        digest = hashlib.sha256(self.label.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return f"{name[:_LONGEST_NAME]}-{digest}".strip("-")


@dataclass(frozen=True, kw_only=True)
class Study:
    """Trials on one base."""

    name: str
    title: str
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = ()
    """What a reader must know about the trials."""

    def __post_init__(self) -> None:
        check_num_trials(len(self.trials))
        counts = Counter(trial.folder_name for trial in self.trials)
        repeated = next((trial for trial in self.trials if counts[trial.folder_name] > 1), None)
        if repeated is not None:
            raise ValueError(
                f"two trials have the label {repeated.label!r}, or nearly the same. Give each its own label."
            )
        labels = {trial.label for trial in self.trials}
        if any(not label.strip() for label in labels):
            raise ValueError("every trial needs a label, and one is empty.")
        without = (t for t in self.trials if t.baseline == t.label or t.baseline not in {None, *labels})
        missing = next(without, None)
        if missing is not None:
            raise ValueError(
                f"the baseline of trial {missing.label!r} is {missing.baseline!r}, which is no other trial. "
                f"The trials are: {', '.join(trial.label for trial in self.trials)}."
            )

    def experiments(self, base: Experiment) -> dict[str, Experiment]:
        """The experiment of each trial by its label. Raises `ValueError` for an edit that `base` does not take."""
        made: dict[str, Experiment] = {}
        for trial in self.trials:
            try:
                made[trial.label] = config.edit(base, trial.edits)
            except ValueError as error:
                raise ValueError(f"trial {trial.label!r} of study {self.name!r}: {error}") from None
        return made

    def subset(self, labels: Sequence[str]) -> Study:
        """The study with the trials `labels` only, each with its baseline if that is one of them."""
        kept = tuple(
            replace(trial, baseline=trial.baseline if trial.baseline in labels else None)
            for trial in self.trials
            if trial.label in labels
        )
        return replace(self, trials=kept)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A trial before it is placed in a study: its own edits."""

    label: str
    edits: Mapping[str, Any]
    paper: float | None = None
    baseline: str | None = None
    """Label of the row that it is compared with, in place of the usual one."""


def additive(steps: Sequence[Step]) -> tuple[Trial, ...]:
    """One trial per step, with the edits of all steps so far; its baseline is the step before."""
    trials: list[Trial] = []
    edits: dict[str, Any] = {}
    for step in steps:
        edits = {path: value for path, value in edits.items() if not _is_within(path, step.edits)}
        edits |= step.edits
        baseline = step.baseline or (trials[-1].label if trials else None)
        trials.append(Trial(label=step.label, edits=edits, baseline=baseline, paper=step.paper))
    return tuple(trials)


def _is_within(path: str, edits: Mapping[str, Any]) -> bool:
    """Whether `edits` replace the field at `path`, or a value that contains it."""
    return any(f"{path}.".startswith(f"{whole}.") for whole in edits)


def alternatives(steps: Sequence[Step]) -> tuple[Trial, ...]:
    """One trial per step, with its own edits only; its baseline is the first."""
    first = steps[0].label if steps else None
    return tuple(
        Trial(
            label=s.label,
            edits=s.edits,
            baseline=s.baseline or (None if s.label == first else first),
            paper=s.paper,
        )
        for s in steps
    )


def check_num_trials(num_trials: int) -> None:
    """Refuse no trials, and more than can be run, before they are made."""
    if not 1 <= num_trials <= _MAX_TRIALS:
        raise ValueError(f"a study has 1 to {_MAX_TRIALS:,} trials, got {num_trials:,}.")


def grid(axes: Mapping[str, Sequence[Any]]) -> tuple[Trial, ...]:
    """One trial per combination of values; its baseline is the one before it along the last axis."""
    check_num_trials(math.prod(len(values) for values in axes.values()))
    trials: list[Trial] = []
    last = list(axes.values())[-1] if axes else []
    for values in product(*axes.values()):
        edits = dict(zip(axes, values, strict=True))
        is_first = not values or values[-1] == last[0]
        trials.append(
            Trial(
                label=config.describe(edits),
                edits=edits,
                baseline=None if is_first else trials[-1].label,
                at={path: float(v) for path, v in edits.items() if isinstance(v, int | float)},
            )
        )
    return tuple(trials)
