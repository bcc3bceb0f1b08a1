"""Making an experiment ready for a data set, and training it: prepare, fitted, training, train."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from resnet_rs import config, storage, zoo
from resnet_rs.data.folders import automatic_split
from resnet_rs.data.opening import open_data
from resnet_rs.data.source import Source, Splits
from resnet_rs.fit import Change, fit, measure_speed, refuse_unfit
from resnet_rs.processes import Stop, listening
from resnet_rs.training.events import Event, Finished, Stopped
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import DEFAULT_MICRO_BATCH, Job
from resnet_rs.training.machine import Machine
from resnet_rs.training.page import write_page
from resnet_rs.training.ranks import ALONE, Ranks
from resnet_rs.training.run import run
from resnet_rs.verbs.models import experiment


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An experiment made ready for a data set."""

    name: str
    """Of the experiment of the zoo that it was made from."""
    experiment: Experiment
    splits: Splits
    data: str
    """As typed: `builtin`, or a folder."""
    typed: frozenset[str] = frozenset()
    """Fields that a person has set; nothing else may change them."""
    is_fitted: bool = False
    minutes: float | None = None
    """The time budget of the fit."""
    changes: tuple[Change, ...] = ()
    """What the fit changed, with its reasons."""


def prepare(
    name: str, edits: Mapping[str, Any], *, data: str, run_folder: Path | None = None, ranks: Ranks = ALONE
) -> Prepared:
    """The experiment `name` with `edits` for the classes of `data`; the split of a run in `run_folder` is kept."""
    splits = open_data(data, split=recorded_split(data, stored_run(run_folder, ranks)))
    suited = experiment(name, edits).suited_to(splits.train.classes)
    lost = config.diff(suited, config.edit(suited, {path: v for path, v in edits.items() if "." in path}))
    if lost:
        raise ValueError(
            f"the data has {len(splits.train.classes)} classes, which contradicts {config.describe(lost)}. "
            "Leave that edit out."
        )
    return Prepared(name=name, experiment=suited, splits=splits, data=data, typed=frozenset(edits))


def fitted(
    prepared: Prepared, *, minutes: float | None, machine: Machine, run_folder: Path | None = None
) -> Prepared:
    """`prepared` with a recipe that suits its data and, if given, a time budget.

    A run that has begun in `run_folder` keeps the fit it began with: speed is measured once, so that the same command
    continues the same run.
    """
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes must be above 0, got {minutes}.")
    stored = stored_run(run_folder, machine.ranks)
    if stored is not None:
        return _fitted_before(prepared, minutes, stored, run_folder)
    chosen, changes = fit(
        prepared.experiment,
        prepared.splits.train,
        minutes=minutes,
        speed=partial(_speed, source=prepared.splits.train, machine=machine),
        typed=prepared.typed,
    )
    return replace(prepared, experiment=chosen, changes=tuple(changes), is_fitted=True, minutes=minutes)


def _speed(chosen: Experiment, *, source: Source, machine: Machine) -> float:
    """Pictures per second that all ranks reach together, measured side by side; the same number on each of them."""
    mine = measure_speed(
        chosen,
        source,
        device=machine.device,
        micro_batch=machine.micro_batch or DEFAULT_MICRO_BATCH,
        workers=machine.workers,
    )
    return sum(float(text) for text in machine.ranks.gather(repr(mine).encode()))


def _fitted_before(
    prepared: Prepared, minutes: float | None, stored: Mapping[str, Any], run_folder: Path | None
) -> Prepared:
    if not stored["is_fitted"] or stored["minutes"] != minutes:
        before = "without --fit" if not stored["is_fitted"] else f"with --minutes {stored['minutes']}"
        raise ValueError(
            f"{run_folder} holds a run that began {before}, now --minutes {minutes}. "
            "Use a new folder for `--out`, or the same command to continue that run."
        )
    changes = tuple(Change(**change) for change in stored["changes"])
    edits = {change.path: change.after for change in changes if change.path not in prepared.typed}
    chosen = config.edit(prepared.experiment, edits)
    return replace(prepared, experiment=chosen, changes=changes, is_fitted=True, minutes=minutes)


def training(
    prepared: Prepared,
    *,
    out: Path,
    seed: int = 0,
    machine: Machine | None = None,
    save_every: int | None = None,
    stop: Stop | None = None,
) -> Iterator[Event]:
    """Train, or continue to train, in the folder `out`; yields what happens.

    A checkpoint is saved every `save_every` updates; by default at every evaluation, and every ten minutes.
    """
    machine = machine or Machine()
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be 1 update or more, got {save_every}.")
    refuse_unfit(prepared.experiment, len(prepared.splits.train))
    job = Job(
        experiment=prepared.experiment,
        splits=prepared.splits,
        folder=out,
        seed=seed,
        machine=machine,
        micro_batch=machine.micro_batch or _usual_micro_batch(prepared, out, machine.ranks),
        save_every=save_every,
        stop=stop or Stop(),
        origin=_origin(prepared),
    )
    for event in run(job):
        if isinstance(event, Finished) and machine.ranks.is_first:
            write_page(out, prepared.splits)
        yield event


def train(
    chosen: str | Experiment,
    *,
    data: str,
    out: str | Path,
    seed: int = 0,
    minutes: float | None = None,
    machine: Machine | None = None,
) -> dict[str, Any]:
    """Train an experiment, or continue to, in the folder `out`; the scores of its final weights.

    With `minutes` the recipe is fitted to the data and to that time, as `resnet-rs train --fit --minutes` does; the
    fields in which an `Experiment` differs from the zoo stay as they are. For what happens meanwhile, see `training`.
    Interrupted (Ctrl-C), it saves and raises `KeyboardInterrupt`; the same call continues.
    """
    machine, out = machine or Machine(), Path(out)
    name = chosen if isinstance(chosen, str) else zoo.nearest(chosen)
    edits = {} if isinstance(chosen, str) else config.diff(zoo.experiment(name), chosen)
    prepared = prepare(name, edits, data=data, run_folder=out)
    if minutes is not None:
        prepared = fitted(prepared, minutes=minutes, machine=machine, run_folder=out)
    scores: dict[str, Any] = {}
    with listening() as stop:
        for event in training(prepared, out=out, seed=seed, machine=machine, stop=stop):
            if isinstance(event, Stopped):
                raise KeyboardInterrupt(
                    f"stopped and saved after update {event.step}; the same call continues."
                )
            if isinstance(event, Finished):
                scores = event.scores
    return scores


def _usual_micro_batch(prepared: Prepared, out: Path, ranks: Ranks) -> int:
    """As many samples as the run in `out` computes at once; of a new run, up to 128, so that every rank has some."""
    stored = stored_run(out, ranks)
    if stored is not None:
        return int(stored["micro_batch"])
    return max(2, min(DEFAULT_MICRO_BATCH, prepared.experiment.recipe.batch_size // ranks.count))


def stored_run(run_folder: Path | None, ranks: Ranks) -> dict[str, Any] | None:
    """What the run in `run_folder` has written down of itself, if there is one. Only the first rank reads it."""
    if run_folder is None:
        return None
    found = None
    if ranks.is_first and (run_folder / "experiment.json").is_file():
        needs = ("data", "split", "micro_batch", "changes", "is_fitted", "minutes")
        found = storage.read_json(run_folder / "run.json", needs=needs)
    return json.loads(ranks.gather(json.dumps(found).encode())[0])


def recorded_split(data: str, stored: Mapping[str, Any] | None) -> dict[str, list[str]] | None:
    """The automatic split that a run has written down, if it was one of the data set `data`."""
    if data == "builtin" or stored is None:
        return None
    return stored["split"] if stored["data"] == str(Path(data).resolve()) else None


def _origin(prepared: Prepared) -> dict[str, Any]:
    """What the run's folder says of where its experiment comes from."""
    base = zoo.experiment(prepared.name)
    there, back = config.diff(base, prepared.experiment), config.diff(prepared.experiment, base)
    is_builtin = prepared.data == "builtin"
    return {
        "name": prepared.name,
        "edits": {path: [config.to_plain(back[path]), config.to_plain(there[path])] for path in there},
        "is_fitted": prepared.is_fitted,
        "minutes": prepared.minutes,
        "changes": [asdict(change) for change in prepared.changes],
        "data": "builtin" if is_builtin else str(Path(prepared.data).resolve()),
        "num_train": len(prepared.splits.train),
        "num_test": len(prepared.splits.test),
        "classes": list(prepared.splits.train.classes),
        "split": None if is_builtin else automatic_split(prepared.splits),
    }
