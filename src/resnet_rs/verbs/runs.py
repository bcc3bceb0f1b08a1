"""`ResolvedExperiment`: an experiment for a data set. `resolve` makes it from what a user typed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from resnet_rs import config, storage, zoo
from resnet_rs.data import dataset
from resnet_rs.data.balance import refuse_unknown_classes
from resnet_rs.data.dataset import DataSet, Split
from resnet_rs.data.source import Splits
from resnet_rs.data.subset import with_validation
from resnet_rs.data.survey import Images, classes_without, measure_images
from resnet_rs.models.backbone import ONLY_IN_TRAINING
from resnet_rs.plan.changes import Change
from resnet_rs.plan.options import Selection
from resnet_rs.plan.rules import CHANNEL_FIELDS, adapt_channels, losses
from resnet_rs.tasks.classification_multi_label import MultiLabel, task_for
from resnet_rs.text import is_within, listed
from resnet_rs.training.checkpoint import Checkpoint
from resnet_rs.training.device import Precision
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import MAX_EVALUATIONS
from resnet_rs.training.machine import Machine
from resnet_rs.training.ranks import Ranks
from resnet_rs.verbs.models import different_shapes, opened

_ADAPTED_FIRST = (*CHANNEL_FIELDS, "arch.", "data.resampling")
"""Fields that follow colors and pretrained weights, before a plan; `arch.` stands for all fields of the arch."""
_NORM_MOMENTUM = 0.1


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
    reasons: tuple[str, ...] = ()
    """Why this experiment and this start, where the user named none."""
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
    precision: Precision | None = None
    """Precision that a trial chose, or that the run began with; None leaves that of the device."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on lost color and resolution, several labels, untested classes, and images seen in pretraining."""
        if self.images is None:
            return ()
        return (*losses(self.experiment, self.images), *_about(self))


def resolve(
    name: str,
    edits: Mapping[str, Any],
    *,
    data: str | DataSet,
    start: str | None = None,
    run_folder: Path | None = None,
    machine: Machine | None = None,
) -> ResolvedExperiment:
    """The experiment `name` with `edits`, adapted to the classes and the colors of `data`.

    `start` are pretrained weights to begin with, named as for `evaluate`. The experiment is then adapted to them too. A
    run in `run_folder` keeps its split and its changes.
    """
    machine = machine or Machine()
    chosen = data if isinstance(data, DataSet) else dataset.find(data, max_pixels=machine.max_pixels)
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
        precision=None if stored is None else stored.get("precision"),
    )
    if stored is None:
        return _with_channels(resolved if start is None else _with_start(resolved, opened(start)))
    _refuse_other_start(stored, start)
    return with_changes(resolved, (c for c in recorded_changes(stored) if c.path.startswith(_ADAPTED_FIRST)))


def _about(resolved: ResolvedExperiment) -> Iterator[str]:
    splits, trained = resolved.splits, resolved.trained
    if isinstance(resolved.experiment.task, MultiLabel):
        yield "some images have several labels, so each class is predicted by itself (multi-label)."
    missing = classes_without(splits.test)
    if missing:
        yield (
            f"{len(missing):,} of {len(splits.train.classes):,} classes have no test images: {listed(missing)}. They "
            "are trained, but the scores say nothing about them."
        )
    seen = set(trained.split["train"]) if trained is not None and trained.split is not None else set()
    for part, source in (("test", splits.test), ("validation", splits.validation)):
        keys = [source.key(i) for i in range(len(source))] if seen and source is not None else []
        count = sum(key in seen for key in keys)
        if count:
            yield (
                f"{count:,} of {len(keys):,} {part} images have the names of images that the pretrained weights were "
                "trained on. If they are the same images, the scores will be too high."
            )


def _with_start(resolved: ResolvedExperiment, trained: Checkpoint) -> ResolvedExperiment:
    """`resolved` for pretrained weights.

    Normalization and resampling follow the weights, and so does what the shapes of an arch do not tell, such as
    padding. Fields that act only in training stay, except that batch norm keeps the statistics of many batches.
    """
    experiment, known, fixed = resolved.experiment, trained.experiment, resolved.set_by_user
    edits: dict[str, Any] = {"data.resampling": known.data.resampling}
    if not any(is_within(path, fixed) for path in CHANNEL_FIELDS):  # a user who sets one decides on both
        edits |= {"data.mean": known.data.mean, "data.std": known.data.std}
    if _are_alike(experiment, known):
        arch = config.diff(experiment.arch, known.arch)
        edits |= {f"arch.{name}": value for name, value in arch.items() if name not in ONLY_IN_TRAINING}
    reasons = dict.fromkeys(edits, "the pretrained weights were trained with this value")
    if experiment.arch.needs_ema:
        edits["arch.norm_momentum"] = _NORM_MOMENTUM
        reasons["arch.norm_momentum"] = (
            "with momentum 1 the statistics are those of the last batch, which are too noisy for a short run"
        )
    changes = [
        Change(path=path, before=attrgetter(path)(experiment), after=after, reason=reasons[path])
        for path, after in edits.items()
        if not is_within(path, fixed) and attrgetter(path)(experiment) != after
    ]
    adapted = config.edit(experiment, {change.path: change.after for change in changes})
    return replace(resolved, experiment=adapted, changes=tuple(changes), trained=trained)


def _are_alike(one: Experiment, other: Experiment) -> bool:
    """Whether two backbones have archs of one type and tensors of the same names and shapes."""
    with torch.device("meta"):
        pair = [e.arch.build(in_channels=1).state_dict() for e in (one, other)]
    return type(one.arch) is type(other.arch) and not different_shapes(*pair)


def _refuse_other_start(stored: Mapping[str, Any], start: str | None) -> None:
    known = stored.get("start_from")
    before = None if known is None else known["name"]
    names = [None if name is None else os.path.normpath(name) for name in (before, start)]
    if names[0] != names[1]:
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


def recorded_changes(stored: Mapping[str, Any]) -> tuple[Change, ...]:
    """The changes that a run made when it began, of its record."""
    return tuple(Change(**change) for change in stored["changes"])


def with_changes(resolved: ResolvedExperiment, changes: Iterable[Change]) -> ResolvedExperiment:
    """`resolved` with changes that a run made when it began, except in fields that the user sets now."""
    changes = tuple(changes)
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
    return ranks.from_first(found)


def recorded_split(data: DataSet, stored: Mapping[str, Any] | None) -> dict[str, list[str]] | None:
    """The automatic split that a run recorded, if its data is `data`."""
    return stored["split"] if stored is not None and stored["data"] == data.name else None
