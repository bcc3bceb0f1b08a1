"""`Study` and `Trial`: a base and what is tried on it, as values. A trial is a handful of edits."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    versus: str | None = None
    """Label of the trial that it is compared with; None compares it with none."""
    paper: float | None = None
    """Top-1 in percent of the same row in the paper."""
    at: Mapping[str, float] = field(default_factory=dict[str, float])
    """Its place in a grid, for the figures: width, depth, size, epochs and the like."""

    @property
    def folder_name(self) -> str:
        """Its label in small letters, digits and hyphens; a foreign, empty or long one with a digest."""
        name = re.sub(r"[^a-z0-9.]+", "-", self.label.lower()).strip("-.")
        if self.label.isascii() and 0 < len(name) <= _LONGEST_NAME:
            return name
        digest = hashlib.sha256(self.label.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return f"{name[:_LONGEST_NAME]}-{digest}".strip("-")


@dataclass(frozen=True, kw_only=True)
class Study:
    """Trials that belong together."""

    name: str
    title: str
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = ()
    """What a reader must know of how the trials were made from the base."""

    def __post_init__(self) -> None:
        refuse_odd_number(len(self.trials))
        counts = Counter(trial.folder_name for trial in self.trials)
        double = next((trial for trial in self.trials if counts[trial.folder_name] > 1), None)
        if double is not None:
            raise ValueError(
                f"two trials are called {double.label!r}, or nearly so. Give each a label of its own."
            )
        labels = {trial.label for trial in self.trials}
        if any(not label.strip() for label in labels):
            raise ValueError("every trial must have a label, and one is empty.")
        odd = (t for t in self.trials if t.versus == t.label or t.versus not in {None, *labels})
        lost = next(odd, None)
        if lost is not None:
            raise ValueError(
                f"trial {lost.label!r} is compared with {lost.versus!r}, which is no other trial. "
                f"The trials are: {', '.join(trial.label for trial in self.trials)}."
            )

    def of(self, base: Experiment) -> dict[str, Experiment]:
        """The experiment of each trial by its label; an edit that `base` does not take is refused with its trial."""
        made: dict[str, Experiment] = {}
        for trial in self.trials:
            try:
                made[trial.label] = config.edit(base, trial.edits)
            except ValueError as error:
                raise ValueError(f"trial {trial.label!r} of study {self.name!r}: {error}") from None
        return made

    def among(self, labels: Sequence[str]) -> Study:
        """The trials called `labels` alone, each compared with another only where that is among them."""
        kept = tuple(
            Trial(
                label=trial.label,
                edits=trial.edits,
                versus=trial.versus if trial.versus in labels else None,
                paper=trial.paper,
                at=trial.at,
            )
            for trial in self.trials
            if trial.label in labels
        )
        return Study(name=self.name, title=self.title, trials=kept, notes=self.notes)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A row of an additive study: what it adds to the rows above it."""

    label: str
    edits: Mapping[str, Any]
    paper: float | None = None
    versus: str | None = None
    """Label of the row that it is compared with, if that is another than usual."""


def additive(steps: Sequence[Step]) -> tuple[Trial, ...]:
    """One trial per step, each with the edits of all steps so far, compared with the step before."""
    trials: list[Trial] = []
    edits: dict[str, Any] = {}
    for step in steps:
        edits = {path: value for path, value in edits.items() if not _is_within(path, step.edits)}
        edits |= step.edits
        versus = step.versus or (trials[-1].label if trials else None)
        trials.append(Trial(label=step.label, edits=edits, versus=versus, paper=step.paper))
    return tuple(trials)


def _is_within(path: str, edits: Mapping[str, Any]) -> bool:
    """Whether `edits` set anew what `path` names, itself or a whole of which it is a part."""
    return any(f"{path}.".startswith(f"{whole}.") for whole in edits)


def alternatives(steps: Sequence[Step]) -> tuple[Trial, ...]:
    """One trial per step with its own edits alone, each compared with the first."""
    first = steps[0].label if steps else None
    return tuple(
        Trial(
            label=s.label,
            edits=s.edits,
            versus=s.versus or (None if s.label == first else first),
            paper=s.paper,
        )
        for s in steps
    )


def refuse_odd_number(num_trials: int) -> None:
    """Refuse more trials than anybody can run, before they are made, and none at all."""
    if not 1 <= num_trials <= _MAX_TRIALS:
        raise ValueError(f"a study has 1 to {_MAX_TRIALS:,} trials, got {num_trials:,}.")


def grid(axes: Mapping[str, Sequence[Any]]) -> tuple[Trial, ...]:
    """One trial per combination of values, each compared with the one before along the last axis."""
    refuse_odd_number(math.prod(len(values) for values in axes.values()))
    trials: list[Trial] = []
    last = list(axes.values())[-1] if axes else []
    for values in product(*axes.values()):
        edits = dict(zip(axes, values, strict=True))
        is_first = not values or values[-1] == last[0]
        trials.append(
            Trial(
                label=config.describe(edits),
                edits=edits,
                versus=None if is_first else trials[-1].label,
                at={path: float(v) for path, v in edits.items() if isinstance(v, int | float)},
            )
        )
    return tuple(trials)
