"""From what a person asks for to a plan: the base made ready for the data, and the trials that can be afforded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnet_rs import config, verbs, zoo
from resnet_rs.fit import measure_speed, refuse_unfit
from resnet_rs.studies import catalog
from resnet_rs.studies.conduct import Plan
from resnet_rs.studies.record import RECORD, Setting, read
from resnet_rs.studies.study import Study
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import DEFAULT_MICRO_BATCH
from resnet_rs.training.machine import Machine

_SLOTS = ("arch", "data", "task", "recipe")
_FEW_UPDATES = 100


@dataclass(frozen=True, kw_only=True)
class Request:
    """A study as it is asked for."""

    study: str | Study
    """A name of the catalog, a .yaml file, or one that is made already."""
    base: str
    edits: Mapping[str, Any]
    """Of the base's fields, and of the study's own settings such as `grid.widths`."""
    data: str
    num_seeds: int = 1
    is_fitted: bool = False
    """Whether the base's recipe is adapted to the data before the trials edit it."""
    minutes: float | None = None
    """Time for all trials and seeds of the first such request; the costliest trials are left out."""
    max_macs: float | None = None
    """Multiply-adds of a picture, above which a trial is left out."""
    device: str | None = None
    micro_batch: int | None = None
    workers: int = 0

    @property
    def limits(self) -> str:
        """Those beyond which trials are left out, as typed."""
        typed = {"--minutes": self.minutes, "--max-macs": self.max_macs}
        return " ".join(f"{name} {value:g}" for name, value in typed.items() if value is not None)

    def __post_init__(self) -> None:
        for name in ("minutes", "max_macs", "num_seeds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}.")


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a trial will be and take."""

    label: str
    edits: Mapping[str, Any]
    macs: int
    updates: int
    minutes: float
    """About, for one seed that has the machine to itself."""


def plan(request: Request, *, folder: Path) -> Plan:
    """The plan for `request`; a study begun in `folder` for the same time leaves out what it left out then."""
    made, machine, prepared = _asked(request)
    return _begun(made, folder) or _affordable(made, request, machine, prepared)


def forecast(request: Request) -> list[Forecast]:
    """What the trials of a new study for `request` are and will take, as measured on the base."""
    made, machine, prepared = _asked(request)
    planned = _affordable(made, request, machine, prepared)
    experiments = planned.study.of(planned.base)
    macs = {label: experiment.count_cost().macs for label, experiment in experiments.items()}
    minutes = _minutes(experiments, macs, planned, machine, prepared)
    return [
        Forecast(
            label=trial.label,
            edits=trial.edits,
            macs=macs[trial.label],
            updates=experiments[trial.label].recipe.plan(planned.setting.num_train).total_steps,
            minutes=minutes[trial.label],
        )
        for trial in planned.study.trials
    ]


def _asked(request: Request) -> tuple[Plan, Machine, verbs.Prepared]:
    """The whole plan for `request`, whatever its limits, and what its costs can be measured with."""
    own = {path: value for path, value in request.edits.items() if path.partition(".")[0] not in _SLOTS}
    typed = {path: value for path, value in request.edits.items() if path not in own}
    machine = Machine(
        device=Device.choose(request.device), micro_batch=request.micro_batch, workers=request.workers
    )
    prepared = verbs.prepare(request.base, typed, data=request.data)
    if request.is_fitted:
        prepared = verbs.fitted(prepared, minutes=None, machine=machine)
    base, splits = prepared.experiment, prepared.splits
    refuse_unfit(base, len(splits.train))
    study = catalog.build(request.study, base, num_samples=len(splits.train), settings=own)
    experiments = study.of(base)  # an edit that the base does not take is refused before anything is run
    fewest = min(e.recipe.plan(len(splits.train)).total_steps for e in experiments.values())
    if fewest < _FEW_UPDATES:
        note = (
            f"The shortest run has {fewest} updates, of which little can be learned: take more epochs, a smaller batch "
            "or more pictures."
        )
        study = replace(study, notes=(*study.notes, note))
    origin = zoo.experiment(request.base).suited_to(splits.train.classes)
    setting = Setting(
        base=request.base,
        edits=config.describe(config.diff(origin, base)),
        experiment=config.to_plain(base),
        data=request.data if request.data == "builtin" else Path(request.data).resolve().name,
        num_train=len(splits.train),
        num_test=len(splits.test),
        train_digest=splits.train.digest(),
        test_digest=splits.test.digest(),
        micro_batch=request.micro_batch,
        limits=request.limits,
    )
    made = Plan(
        study=study,
        setting=setting,
        data=request.data,
        seeds=tuple(range(request.num_seeds)),
        device=request.device,
        micro_batch=request.micro_batch,
        workers=request.workers,
    )
    return made, machine, prepared


def outline() -> dict[str, str]:
    """The studies by name, each in a line."""
    lines = {name: line for name, (line, _) in catalog.STUDIES.items()}
    return {
        **lines,
        "speed": "Tables 3 and 7, Figures 4 and 5: latency and memory of all configurations, here",
    }


def _begun(made: Plan, folder: Path) -> Plan | None:
    """The plan without what was left out in `folder` for the same time, which is not measured anew."""
    if "--minutes" not in made.setting.limits or not (folder / RECORD).is_file():
        return None
    before = read(folder)
    if before.study.name != made.study.name or before.setting.limits != made.setting.limits:
        return None
    left_out = set(before.setting.left_out)
    return _without(made, [trial.label for trial in made.study.trials if trial.label in left_out])


def _affordable(made: Plan, request: Request, machine: Machine, prepared: verbs.Prepared) -> Plan:
    """The plan without the trials beyond the limits of the request."""
    if request.max_macs is None and request.minutes is None:
        return made
    experiments = made.study.of(made.base)
    macs = {label: experiment.count_cost().macs for label, experiment in experiments.items()}
    kept = [label for label in macs if request.max_macs is None or macs[label] <= request.max_macs]
    least = f"the smallest takes {min(macs.values()):,} multiply-adds"
    if request.minutes is not None and kept:
        minutes = _minutes(experiments, macs, made, machine, prepared)
        least = f"the shortest takes about {request.num_seeds * min(minutes[label] for label in kept):.2g} minutes"
        kept = _cheapest(kept, minutes, within=request.minutes / request.num_seeds)
    if not kept:
        raise ValueError(
            f"no trial of {made.study.name!r} is within the limits {request.limits}: {least}. Raise the limit, or "
            "choose a smaller base."
        )
    return _without(made, [label for label in macs if label not in kept])


def _without(made: Plan, left_out: list[str]) -> Plan:
    """The plan without some trials, which says so."""
    if not left_out:
        return made
    labels = [trial.label for trial in made.study.trials]
    study = made.study.among([label for label in labels if label not in left_out])
    note = f"{len(left_out)} of {len(labels)} trials were beyond the limits and left out."
    return replace(
        made,
        study=replace(study, notes=(*study.notes, note)),
        setting=replace(made.setting, left_out=tuple(left_out)),
    )


def _minutes(
    experiments: Mapping[str, Experiment],
    macs: Mapping[str, int],
    made: Plan,
    machine: Machine,
    prepared: verbs.Prepared,
) -> dict[str, float]:
    """About how long each trial takes with one seed: as long per multiply-add as the base, measured here."""
    base = made.base
    rate = measure_speed(
        base,
        prepared.splits.train,
        device=machine.device,
        micro_batch=machine.micro_batch or DEFAULT_MICRO_BATCH,
        workers=machine.workers,
    )
    per_mac = made.setting.num_train / rate / base.count_cost().macs / 60
    return {label: per_mac * macs[label] * e.recipe.epochs for label, e in experiments.items()}


def _cheapest(labels: list[str], minutes: Mapping[str, float], *, within: float) -> list[str]:
    """As many of `labels` as fit into `within` minutes together, the cheapest first; in their own order."""
    kept: set[str] = set()
    total = 0.0
    for label in sorted(labels, key=lambda label: minutes[label]):
        total += minutes[label]
        if total <= within:
            kept.add(label)
    return [label for label in labels if label in kept]
