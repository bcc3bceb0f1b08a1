"""From a request to a plan: the base adapted to the data, and the trials within the limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnet_rs import config, verbs, zoo
from resnet_rs.data import dataset
from resnet_rs.fit import measure_speed, refuse_unfit
from resnet_rs.report.table import duration_text
from resnet_rs.studies import catalog
from resnet_rs.studies.record import RECORD, Context, read
from resnet_rs.studies.run import Plan
from resnet_rs.studies.study import Study
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import DEFAULT_MICRO_BATCH
from resnet_rs.training.machine import Machine

_SLOTS = ("arch", "data", "task", "recipe")
_FEW_UPDATES = 100
_MAX_NAMED = 12


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for."""

    study: str | Study
    """A name of the catalog, a .yaml file, or a `Study`."""
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
    """The most multiply-adds per image of a trial."""
    device: str | None = None
    micro_batch: int | None = None
    workers: int = 0

    @property
    def limits(self) -> str:
        """The limits that leave trials out, as typed."""
        typed = {"--minutes": self.minutes, "--max-macs": self.max_macs}
        return " ".join(f"{name} {value:g}" for name, value in typed.items() if value is not None)

    def __post_init__(self) -> None:
        for name in ("minutes", "max_macs", "num_seeds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}.")


@dataclass(frozen=True, kw_only=True)
class TrialForecast:
    """The cost of a trial."""

    label: str
    edits: Mapping[str, Any]
    macs: int
    updates: int
    minutes: float
    """Estimate for one seed that has the machine to itself."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The cost of a study."""

    trials: tuple[TrialForecast, ...]
    left_out: tuple[str, ...]
    """Labels of the trials beyond the limits."""


def plan(request: Request, *, folder: Path) -> Plan:
    """The plan for `request`. A study that was begun in `folder` with the same `--minutes` keeps its trials."""
    made, machine, resolved = _requested(request)
    return _begun(made, folder) or _affordable(made, request, machine, resolved)


def forecast(request: Request) -> Forecast:
    """The cost of a new study for `request`, as measured on the base."""
    made, machine, resolved = _requested(request)
    planned = _affordable(made, request, machine, resolved)
    experiments = planned.study.experiments(planned.base)
    macs = {label: experiment.count_cost().macs for label, experiment in experiments.items()}
    minutes = _minutes(experiments, macs, planned, machine, resolved)
    trials = (
        TrialForecast(
            label=trial.label,
            edits=trial.edits,
            macs=macs[trial.label],
            updates=experiments[trial.label].recipe.plan(planned.context.num_train).total_steps,
            minutes=minutes[trial.label],
        )
        for trial in planned.study.trials
    )
    return Forecast(trials=tuple(trials), left_out=planned.context.left_out)


def _requested(request: Request) -> tuple[Plan, Machine, verbs.ResolvedExperiment]:
    """The plan for `request` with all its trials, and what is needed to measure their cost."""
    own = {path: value for path, value in request.edits.items() if path.partition(".")[0] not in _SLOTS}
    typed = {path: value for path, value in request.edits.items() if path not in own}
    machine = Machine(
        device=Device.choose(request.device), micro_batch=request.micro_batch, workers=request.workers
    )
    resolved = verbs.resolve(request.base, typed, data=request.data)
    if request.is_adapted:
        resolved = verbs.adapted(resolved, minutes=None, machine=machine)
    base, splits = resolved.experiment, resolved.splits
    study = catalog.build(request.study, base, num_samples=len(splits.train), settings=own)
    experiments = study.experiments(base)  # refuses edits that the base does not take
    refuse_unfit(base, len(splits.train))
    fewest = min(e.recipe.plan(len(splits.train)).total_steps for e in experiments.values())
    if fewest < _FEW_UPDATES:
        note = (
            f"The shortest run has {fewest} updates, too few to learn much. Use more epochs, a smaller batch or more "
            "images."
        )
        study = replace(study, notes=(*study.notes, note))
    origin = zoo.experiment(request.base).with_classes(splits.train.classes)
    context = Context(
        base=request.base,
        edits=config.describe(config.diff(origin, base)),
        experiment=config.to_plain(base),
        score=base.task.headline,
        data=dataset.find(request.data).title,
        num_train=len(splits.train),
        num_test=len(splits.test),
        train_digest=splits.train.digest(),
        test_digest=splits.test.digest(),
        micro_batch=request.micro_batch,
        limits=request.limits,
    )
    made = Plan(
        study=study,
        context=context,
        data=request.data,
        seeds=tuple(range(request.num_seeds)),
        device=request.device,
        micro_batch=request.micro_batch,
        workers=request.workers,
    )
    return made, machine, resolved


def outline() -> dict[str, str]:
    """The studies by name, each with its line of help."""
    lines = {name: line for name, (line, _) in catalog.STUDIES.items()}
    return {
        **lines,
        "speed": "Tables 3 and 7, Figures 4 and 5: latency and memory of all configurations, here",
    }


def _begun(made: Plan, folder: Path) -> Plan | None:
    """The plan with the trials of the study in `folder`, if it was begun with the same `--minutes`."""
    if "--minutes" not in made.context.limits or not (folder / RECORD).is_file():
        return None
    before = read(folder)
    if before.study.name != made.study.name or before.context.limits != made.context.limits:
        return None
    left_out = set(before.context.left_out)
    return _without(made, [trial.label for trial in made.study.trials if trial.label in left_out])


def _affordable(made: Plan, request: Request, machine: Machine, resolved: verbs.ResolvedExperiment) -> Plan:
    """The plan with the trials within the limits of the request."""
    if request.max_macs is None and request.minutes is None:
        return made
    experiments = made.study.experiments(made.base)
    macs = {label: experiment.count_cost().macs for label, experiment in experiments.items()}
    kept = [label for label in macs if request.max_macs is None or macs[label] <= request.max_macs]
    least = f"the smallest takes {min(macs.values()):,} multiply-adds"
    if request.minutes is not None and kept:
        minutes = _minutes(experiments, macs, made, machine, resolved)
        least = f"the shortest takes about {duration_text(request.num_seeds * min(minutes[label] for label in kept))}"
        kept = _cheapest(kept, minutes, within=request.minutes / request.num_seeds)
    if not kept:
        raise ValueError(
            f"no trial of {made.study.name!r} is within the limits {request.limits}: {least}. Raise the limit, or "
            "choose a smaller base."
        )
    return _without(made, [label for label in macs if label not in kept])


def _without(made: Plan, left_out: list[str]) -> Plan:
    """The plan without some trials, with a note that names them."""
    if not left_out:
        return made
    labels = [trial.label for trial in made.study.trials]
    study = made.study.subset([label for label in labels if label not in left_out])
    named = ", ".join(left_out[:_MAX_NAMED]) + (", ..." if len(left_out) > _MAX_NAMED else "")
    note = f"{len(left_out)} of {len(labels)} trials are beyond {made.context.limits} and left out: {named}."
    return replace(
        made,
        study=replace(study, notes=(*study.notes, note)),
        context=replace(made.context, left_out=tuple(left_out)),
    )


def _minutes(
    experiments: Mapping[str, Experiment],
    macs: Mapping[str, int],
    made: Plan,
    machine: Machine,
    resolved: verbs.ResolvedExperiment,
) -> dict[str, float]:
    """Estimated duration of each trial with one seed: the time per multiply-add is that of the base, measured here."""
    base = made.base
    rate = measure_speed(
        base,
        resolved.splits.train,
        device=machine.device,
        micro_batch=machine.micro_batch or DEFAULT_MICRO_BATCH,
        workers=machine.workers,
    )
    per_mac = made.context.num_train / rate / base.count_cost().macs / 60
    return {label: per_mac * macs[label] * e.recipe.epochs for label, e in experiments.items()}


def _cheapest(labels: list[str], minutes: Mapping[str, float], *, within: float) -> list[str]:
    """The cheapest of `labels` that fit into `within` minutes together, in their own order."""
    kept: set[str] = set()
    total = 0.0
    for label in sorted(labels, key=lambda label: minutes[label]):
        total += minutes[label]
        if total <= within:
            kept.add(label)
    return [label for label in labels if label in kept]
