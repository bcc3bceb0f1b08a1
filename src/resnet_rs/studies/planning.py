"""From the options of a user to a study that can be run: the base adapted to the data, the trials within the limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from resnet_rs import config, verbs
from resnet_rs.data import dataset
from resnet_rs.plan.rules import refuse_unfit
from resnet_rs.report.table import duration_text
from resnet_rs.studies import catalog
from resnet_rs.studies.record import RECORD, Context, read
from resnet_rs.studies.study import Study
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import DEFAULT_MICRO_BATCH
from resnet_rs.training.machine import Machine
from resnet_rs.training.speed import measure_speed

_SLOTS = ("arch", "data", "task", "recipe")
_FEW_UPDATES = 100
_MAX_NAMED = 12


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user asks for."""

    study: str | Study
    base: str
    edits: Mapping[str, Any]
    """Edits of the base, and settings of the study such as `grid.widths`."""
    data: str
    num_seeds: int = 1
    is_adapted: bool = False
    """Whether the base's recipe is adapted to the data before the trials edit it."""
    minutes: float | None = None
    """Time for all trials and seeds; the costliest trials are left out. A study that was begun keeps its trials."""
    max_macs: float | None = None
    device: str | None = None
    micro_batch: int | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("minutes", "max_macs", "num_seeds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}.")

    @property
    def limits(self) -> str:
        """The limits that leave trials out, as typed."""
        typed = {"--minutes": self.minutes, "--max-macs": self.max_macs}
        return " ".join(f"{name} {value:g}" for name, value in typed.items() if value is not None)


@dataclass(frozen=True, kw_only=True)
class ResolvedStudy:
    """A study with everything that a run of it needs."""

    study: Study
    context: Context
    options: Options

    @property
    def base(self) -> Experiment:
        """The experiment that the trials edit."""
        return config.from_plain(self.context.experiment, kinds=(Experiment,))

    @property
    def seeds(self) -> range:
        """The seeds of each trial."""
        return range(self.options.num_seeds)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a trial costs."""

    macs: int
    updates: int
    minutes: float
    """Estimate for one seed that has the machine to itself, without evaluations; NaN if speed was not measured."""


def resolve(options: Options, *, folder: Path) -> ResolvedStudy:
    """The study for `options`. One that was begun in `folder` with the same `--minutes` keeps its trials."""
    whole, images_per_second = _whole(options)
    if options.minutes is not None:
        return _begun(whole, folder) or _within_limits(whole, _costs(whole, images_per_second()))
    return _within_limits(whole, _costs(whole, math.nan)) if options.limits else whole


def forecast(options: Options) -> tuple[ResolvedStudy, dict[str, Cost]]:
    """A new study for `options`, and the cost of each of its trials by label, as measured on the base."""
    whole, images_per_second = _whole(options)
    costs = _costs(whole, images_per_second())
    return _within_limits(whole, costs), costs


def _whole(options: Options) -> tuple[ResolvedStudy, Callable[[], float]]:
    """The study with all its trials, and a function that measures images per second of training its base."""
    own = {path: value for path, value in options.edits.items() if path.partition(".")[0] not in _SLOTS}
    typed = {path: value for path, value in options.edits.items() if path not in own}
    machine = Machine(
        device=Device.choose(options.device), micro_batch=options.micro_batch, workers=options.workers
    )
    resolved = verbs.resolve(options.base, typed, data=options.data)
    if options.is_adapted:
        resolved = verbs.plan_experiment(resolved, verbs.Limits(), machine=machine)
    base, train, test = resolved.experiment, resolved.splits.train, resolved.splits.test
    study = catalog.build(options.study, base, num_samples=len(train), settings=own).with_plain_edits()
    experiments = study.experiments(base)  # refuses edits that the base does not take
    refuse_unfit(base, len(train))
    if len({experiment.recipe.validation for experiment in experiments.values()}) > 1:
        raise ValueError(
            "the trials of a study learn from the same images, and recipe.validation differs between them. Set it for "
            "the whole study."
        )
    zoo_base = verbs.base_experiment(options.base, resolved.splits)
    fewest = min(e.recipe.timetable(len(train)).total_steps for e in experiments.values())
    if fewest < _FEW_UPDATES:
        study = study.with_note(
            f"The shortest run has {fewest} updates, too few to learn much. Use more epochs, a smaller batch or more "
            "images."
        )
    context = Context(
        base=options.base,
        edits=config.describe(config.diff(zoo_base.with_classes(train.classes), base)),
        experiment=config.to_plain(base),
        score=base.task.headline,
        data=dataset.find(options.data).title,
        num_train=len(train),
        num_test=len(test),
        train_digest=train.digest(),
        test_digest=test.digest(),
        micro_batch=options.micro_batch,
        limits=options.limits,
    )

    def images_per_second() -> float:
        micro_batch = options.micro_batch or DEFAULT_MICRO_BATCH
        device, workers = machine.device, options.workers
        return measure_speed(base, train, device=device, micro_batch=micro_batch, workers=workers)[0]

    return ResolvedStudy(study=study, context=context, options=options), images_per_second


def _begun(whole: ResolvedStudy, folder: Path) -> ResolvedStudy | None:
    """The study with the trials that it has in `folder`, if it was begun there with the same limits."""
    if (folder / RECORD).is_file():
        before = read(folder)
        if (before.study.name, before.context.limits) == (whole.study.name, whole.context.limits):
            return _without(whole, before.context.left_out)
    return None


def _costs(whole: ResolvedStudy, speed: float) -> dict[str, Cost]:
    """The cost of each trial, if a multiply-add takes as long as in the base, trained at `speed` images per second."""
    num_train, base = whole.context.num_train, whole.base
    minutes_per_mac = num_train / speed / base.count_cost().macs / 60
    costs: dict[str, Cost] = {}
    for label, experiment in whole.study.experiments(base).items():
        macs, recipe = experiment.count_cost().macs, experiment.recipe
        minutes = minutes_per_mac * macs * recipe.epochs
        costs[label] = Cost(macs=macs, updates=recipe.timetable(num_train).total_steps, minutes=minutes)
    return costs


def _within_limits(whole: ResolvedStudy, costs: Mapping[str, Cost]) -> ResolvedStudy:
    """The study with the trials within its limits: under a time limit the cheapest ones that together fit into it."""
    options = whole.options
    kept = [label for label, c in costs.items() if options.max_macs is None or c.macs <= options.max_macs]
    least = f"the smallest takes {min(cost.macs for cost in costs.values()):,} multiply-adds"
    if options.minutes is not None and kept:
        minutes = {label: options.num_seeds * costs[label].minutes for label in kept}
        cheapest = sorted(minutes, key=minutes.__getitem__)
        least = f"the shortest takes about {duration_text(minutes[cheapest[0]])}"
        totals = accumulate(minutes[label] for label in cheapest)
        kept = [label for label, total in zip(cheapest, totals, strict=True) if total <= options.minutes]
    if not kept:
        raise ValueError(
            f"no trial of {whole.study.name!r} is within the limits {options.limits}: {least}. Raise the limit, or "
            "choose a smaller base."
        )
    return _without(whole, set(costs) - set(kept))


def _without(whole: ResolvedStudy, unwanted: Collection[str]) -> ResolvedStudy:
    """The study without some trials, with a note that names them."""
    labels = [trial.label for trial in whole.study.trials]
    left_out = tuple(label for label in labels if label in unwanted)
    if not left_out:
        return whole
    named = ", ".join(left_out[:_MAX_NAMED]) + (", ..." if len(left_out) > _MAX_NAMED else "")
    note = f"{len(left_out)} of {len(labels)} trials are beyond {whole.options.limits} and left out: {named}."
    study = whole.study.without(left_out).with_note(note)
    return replace(whole, study=study, context=replace(whole.context, left_out=left_out))
