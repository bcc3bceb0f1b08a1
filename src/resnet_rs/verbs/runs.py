"""`ResolvedExperiment`: an experiment for a data set. `resolve` makes it from what a user typed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnet_rs import config, storage, zoo
from resnet_rs.data import dataset
from resnet_rs.data.balance import refuse_unknown_classes
from resnet_rs.data.dataset import DataSet, Split
from resnet_rs.data.source import Splits
from resnet_rs.data.subset import with_validation
from resnet_rs.data.survey import Images, classes_without, measure_images
from resnet_rs.plan.changes import Change
from resnet_rs.plan.options import Selection
from resnet_rs.plan.rules import CHANNEL_FIELDS, adapt_channels, losses
from resnet_rs.tasks.classification_multi_label import MultiLabel, task_for
from resnet_rs.text import listed
from resnet_rs.training.checkpoint import Checkpoint
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import MAX_EVALUATIONS
from resnet_rs.training.machine import Machine
from resnet_rs.training.ranks import Ranks
from resnet_rs.verbs.models import opened
from resnet_rs.verbs.pretrained import START_FIELDS, adapt_to_start, seen_images


@dataclass(frozen=True, kw_only=True)
class ResolvedExperiment:
    """An experiment for a data set: with its classes, and with its colors unless the user set the channels."""

    name: str
    """Name of the experiment in the zoo on which it is based."""
    experiment: Experiment
    splits: Splits
    data: DataSet
    set_by_user: frozenset[str] = frozenset()
    """Fields that the user set. Nothing else changes them."""
    is_adapted: bool = False
    """Whether the recipe was adapted to the data, as `--fit` does."""
    minutes: float | None = None
    """The time budget."""
    num_evaluations: int = MAX_EVALUATIONS
    """How often the test split is scored during the run."""
    selection: Selection | None = None
    """What was measured for the limits; None without limits, and for a run that continues."""
    changes: tuple[Change, ...] = ()
    """Changes that the user did not ask for by name, with their reasons."""
    images: Images | None = None
    """What the training images are like; None for a run that continues, whose changes are known."""
    stored: Mapping[str, Any] | None = None
    """The record of the run that continues; None for a new run."""
    start: str | None = None
    """Pretrained weights that the run begins with, as the user named them."""
    trained: Checkpoint | None = None
    """The same, read; None for a run that continues."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on lost color and resolution, several labels, untested classes, and images seen in pretraining."""
        if self.images is None:
            return ()
        parts = {"test": self.splits.test, "validation": self.splits.validation}
        seen = (
            seen_images(self.trained, source, part)
            for part, source in parts.items()
            if self.trained is not None and source is not None
        )
        of_data = _about(self.splits, multi_label=isinstance(self.experiment.task, MultiLabel))
        return (*losses(self.experiment, self.images), *of_data, *filter(None, seen))


def resolve(
    name: str,
    edits: Mapping[str, Any],
    *,
    data: str,
    start: str | None = None,
    run_folder: Path | None = None,
    machine: Machine | None = None,
) -> ResolvedExperiment:
    """The experiment `name` with `edits`, adapted to the classes and the colors of `data`.

    `start` are pretrained weights to begin with, named as for `evaluate`. The experiment is then adapted to them too. A
    run in `run_folder` keeps its split and its changes.
    """
    machine = machine or Machine()
    chosen = dataset.find(data, max_pixels=machine.max_pixels)
    stored = None if run_folder is None else stored_run(run_folder, machine.ranks)
    experiment = zoo.experiment(name, edits)
    splits = open_splits(chosen, experiment, split=recorded_split(chosen, stored))
    classes = splits.train.classes
    adapted_to_classes = config.edit(base_experiment(name, splits), edits).with_classes(classes)
    fields = {path: value for path, value in edits.items() if "." in path}
    undone = config.diff(adapted_to_classes, config.edit(adapted_to_classes, fields))
    if undone:
        raise ValueError(
            f"the data has {len(classes)} classes, which contradicts {config.describe(undone)}. Leave that edit out."
        )
    if adapted_to_classes.recipe.class_balance != "none":
        refuse_unknown_classes(splits.train)
    resolved = ResolvedExperiment(
        name=name,
        experiment=adapted_to_classes,
        splits=splits,
        data=chosen,
        set_by_user=frozenset(edits),
        stored=stored,
        start=start,
    )
    if stored is None:
        return _with_channels(resolved if start is None else _with_start(resolved, opened(start)))
    _refuse_other_start(stored, start)
    adapted_first = (*CHANNEL_FIELDS, *START_FIELDS)
    return with_changes(resolved, [c for c in stored["changes"] if c["path"].startswith(adapted_first)])


def _about(splits: Splits, *, multi_label: bool) -> Iterator[str]:
    if multi_label:
        yield "some images have several labels, so each class is predicted by itself (multi-label)."
    missing = classes_without(splits.test)
    if missing:
        yield (
            f"{len(missing):,} of {len(splits.train.classes):,} classes have no test images: {listed(missing)}. They "
            "are trained, but the scores say nothing about them."
        )


def _with_start(resolved: ResolvedExperiment, trained: Checkpoint) -> ResolvedExperiment:
    chosen, changes = adapt_to_start(
        resolved.experiment, trained.experiment, set_by_user=resolved.set_by_user
    )
    return replace(resolved, experiment=chosen, changes=changes, trained=trained)


def _refuse_other_start(stored: Mapping[str, Any], start: str | None) -> None:
    known = stored.get("start_from")
    before = None if known is None else known["name"]
    if before is None or start is None or os.path.normpath(before) != os.path.normpath(start):
        if before == start:
            return
        first, now = ("without --from" if name is None else f"with --from {name}" for name in (before, start))
        raise ValueError(
            f"the run in this folder was started {first}, and this command is {now}. Repeat the first command to "
            "continue that run, or use a new folder for `--out`."
        )


def _with_channels(resolved: ResolvedExperiment) -> ResolvedExperiment:
    channels = 3 if resolved.experiment.data.channels == 1 else resolved.experiment.data.channels
    images = measure_images(resolved.splits.train, channels=channels)
    chosen, changes = adapt_channels(resolved.experiment, images, set_by_user=resolved.set_by_user)
    return replace(resolved, experiment=chosen, changes=(*resolved.changes, *changes), images=images)


def with_changes(resolved: ResolvedExperiment, stored: list[dict[str, Any]]) -> ResolvedExperiment:
    """`resolved` with changes that a run made when it began, except in fields that the user sets now."""
    changes = tuple(Change(**change) for change in stored)
    edits = {change.path: change.after for change in changes if change.path not in resolved.set_by_user}
    return replace(resolved, experiment=config.edit(resolved.experiment, edits), changes=changes)


def base_experiment(name: str, splits: Splits) -> Experiment:
    """The experiment `name` of the zoo, multi-label where the images have several classes each."""
    base = zoo.experiment(name)
    return replace(base, task=task_for(base.task, splits.train))


def open_splits(data: DataSet, experiment: Experiment, *, split: Split | None) -> Splits:
    """The parts of `data`, with the validation part that the recipe takes from the training images."""
    splits, share = data.open(split=split), experiment.recipe.validation
    return with_validation(splits, share) if share else splits


def stored_run(run_folder: Path, ranks: Ranks) -> dict[str, Any] | None:
    """The record of the run in `run_folder`, if there is one. Only the first rank reads it."""
    found = None
    if ranks.is_first and (run_folder / "experiment.json").is_file():
        needs = ("data", "split", "micro_batch", "changes", "is_adapted", "minutes")
        found = storage.read_json(run_folder / "run.json", needs=needs)
    return json.loads(ranks.gather(json.dumps(found).encode())[0])


def recorded_split(data: DataSet, stored: Mapping[str, Any] | None) -> dict[str, list[str]] | None:
    """The automatic split that a run recorded, if its data is `data`."""
    return stored["split"] if stored is not None and stored["data"] == data.name else None
