"""`Study` and `Trial` as values. A trial is a few edits of the base of its study."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from resnet_rs import config
from resnet_rs.text import is_within
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
    """Its coordinates in the grid of the scaling study: width, depth, size and epochs."""

    @property
    def folder_name(self) -> str:
        """Its label in lower case, digits and hyphens; one that is long, empty or not ASCII gets a digest."""
        name = re.sub(r"[^a-z0-9.]+", "-", self.label.lower()).strip("-.")
        if self.label.isascii() and 0 < len(name) <= _LONGEST_NAME:
            return name
        digest = hashlib.sha256(self.label.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return f"{name[:_LONGEST_NAME]}-{digest}".strip("-")

    def run_folder(self, seed: int) -> str:
        """The folder of the run with `seed`, within the folder of the study."""
        return f"trials/{self.folder_name}/seed-{seed}"


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
        labels = [trial.label for trial in self.trials]
        known = {None, *labels}
        for trial in self.trials:
            if counts[trial.folder_name] > 1:
                raise ValueError(
                    f"two trials have the label {trial.label!r}, or nearly the same. Give each its own label."
                )
            if not trial.label.strip():
                raise ValueError("every trial needs a label, and one is empty.")
            if trial.baseline == trial.label or trial.baseline not in known:
                raise ValueError(
                    f"the baseline of trial {trial.label!r} is {trial.baseline!r}, which is no other trial. "
                    f"The trials are: {', '.join(labels)}."
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

    def with_plain_edits(self) -> Study:
        """The study as its record gives it back: the values of its edits are JSON."""
        trials = (
            replace(trial, edits={path: config.to_plain(value) for path, value in trial.edits.items()})
            for trial in self.trials
        )
        return replace(self, trials=tuple(trials))

    def with_note(self, note: str) -> Study:
        """The study with one note more."""
        return replace(self, notes=(*self.notes, note))

    def without(self, labels: Collection[str]) -> Study:
        """The study without the trials `labels`; a trial whose baseline is one of them has none."""
        kept = (trial for trial in self.trials if trial.label not in labels)
        return replace(
            self, trials=tuple(replace(t, baseline=None) if t.baseline in labels else t for t in kept)
        )


def additive(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Each trial with the edits of all trials so far. Its baseline is the trial before, unless it names another."""
    made: list[Trial] = []
    edits: dict[str, Any] = {}
    for trial in trials:
        kept = {path: value for path, value in edits.items() if not is_within(path, trial.edits)}
        edits = {**kept, **trial.edits}
        baseline = trial.baseline or (made[-1].label if made else None)
        made.append(replace(trial, edits=edits, baseline=baseline))
    return tuple(made)


def alternatives(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Each trial with its own edits alone. Its baseline is the first trial, unless it names another."""
    return (
        *trials[:1],
        *(replace(trial, baseline=trial.baseline or trials[0].label) for trial in trials[1:]),
    )


def check_num_trials(num_trials: int) -> None:
    """Refuse a study without trials, or with too many of them, before they are made."""
    if not 1 <= num_trials <= _MAX_TRIALS:
        raise ValueError(f"a study has 1 to {_MAX_TRIALS:,} trials, got {num_trials:,}.")


def grid(axes: Mapping[str, Sequence[Any]]) -> tuple[Trial, ...]:
    """One trial per combination of values. Its baseline is the one before it along the last axis."""
    lengths = [1, *(len(values) for values in axes.values())]
    check_num_trials(math.prod(lengths))
    trials: list[Trial] = []
    for i, values in enumerate(product(*axes.values())):
        edits = dict(zip(axes, values, strict=True))
        baseline = trials[-1].label if i % lengths[-1] else None
        trials.append(Trial(label=config.describe(edits), edits=edits, baseline=baseline))
    return tuple(trials)
