"""An experiment for a data set, and its training: resolve, adapted, training, train."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from resnet_rs import config, storage, zoo
from resnet_rs.data import dataset
from resnet_rs.data.dataset import DataSet
from resnet_rs.data.source import Splits
from resnet_rs.fit import (
    CHANNEL_FIELDS,
    Budget,
    Change,
    Images,
    adapt_channels,
    fit,
    losses,
    measure_images,
    refuse_unfit,
)
from resnet_rs.processes import Stop, listening
from resnet_rs.training import start as starting
from resnet_rs.training.checkpoint import Checkpoint
from resnet_rs.training.events import Event, Finished, Stopped
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import DEFAULT_MICRO_BATCH, MAX_EVALUATIONS, Job, usual_micro_batch
from resnet_rs.training.machine import Machine
from resnet_rs.training.page import write_page
from resnet_rs.training.ranks import Ranks
from resnet_rs.training.run import run
from resnet_rs.training.speed import Speed, measure_scoring, measure_speed
from resnet_rs.training.start import Start
from resnet_rs.verbs.models import opened
from resnet_rs.verbs.pretrained import START_FIELDS, adapt_to_start, seen_test_images

_SHARE_FOR_MEASURING = 0.02


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
        """A sentence for each loss of color or resolution, and for test images that the pretrained weights may know."""
        if self.images is None:
            return ()
        seen = "" if self.trained is None else seen_test_images(self.trained, self.splits.test)
        return (*losses(self.experiment, self.images), *([seen] if seen else []))


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
    splits = chosen.open(split=recorded_split(chosen, stored))
    classes = splits.train.classes
    adapted_to_classes = zoo.experiment(name, edits).with_classes(classes)
    fields = {path: value for path, value in edits.items() if "." in path}
    undone = config.diff(adapted_to_classes, config.edit(adapted_to_classes, fields))
    if undone:
        raise ValueError(
            f"the data has {len(classes)} classes, which contradicts {config.describe(undone)}. Leave that edit out."
        )
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
    return _with_changes(resolved, [c for c in stored["changes"] if c["path"].startswith(adapted_first)])


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


def _with_changes(resolved: ResolvedExperiment, stored: list[dict[str, Any]]) -> ResolvedExperiment:
    """`resolved` with changes that a run made when it began, except in fields that the user sets now."""
    changes = tuple(Change(**change) for change in stored)
    edits = {change.path: change.after for change in changes if change.path not in resolved.set_by_user}
    return replace(resolved, experiment=config.edit(resolved.experiment, edits), changes=changes)


def adapted(
    resolved: ResolvedExperiment, *, minutes: float | None, machine: Machine, begun: float | None = None
) -> ResolvedExperiment:
    """`resolved` with a recipe adapted to its data and, if given, to a time budget.

    The budget counts from `begun`, a value of `time.monotonic()`, by default from this call. A run that continues keeps
    its changes. So speed is measured once, and the same command continues the same run.
    """
    if minutes is not None and not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be above 0 and finite, got {minutes}.")
    if resolved.stored is not None:
        _refuse_other_budget(resolved.stored, minutes)
        known = _with_changes(resolved, resolved.stored["changes"])
        count = int(resolved.stored.get("num_evaluations", MAX_EVALUATIONS))
        return replace(known, is_adapted=True, minutes=minutes, num_evaluations=count)
    splits, budget = resolved.splits, None
    if minutes is not None:
        begun = time.monotonic() if begun is None else begun
        # A measurement takes a small share of the time, because several may be needed.
        max_seconds = min(20.0, _SHARE_FOR_MEASURING * 60 * minutes)
        speed = partial(_speed, splits=splits, machine=machine, max_seconds=max_seconds)
        passed = partial(_passed, begun, ranks=machine.ranks)
        budget = Budget(minutes=minutes, num_test=len(splits.test), passed=passed, speed=speed)
    chosen, changes, num_evaluations = fit(
        resolved.experiment,
        splits.train,
        budget=budget,
        set_by_user=resolved.set_by_user,
        images=resolved.images,
        is_head_new=_is_head_new(resolved),
    )
    changes = (*resolved.changes, *changes)
    return replace(
        resolved,
        experiment=chosen,
        changes=changes,
        is_adapted=True,
        minutes=minutes,
        num_evaluations=num_evaluations,
    )


def _is_head_new(resolved: ResolvedExperiment) -> bool | None:
    """Whether the head is newly initialized; None for training from scratch."""
    if resolved.trained is None:
        return None
    task, classes = resolved.experiment.task, resolved.splits.train.classes
    is_same_task = type(task) is type(resolved.trained.experiment.task)
    return not is_same_task or task.start_head({}, before=resolved.trained.classes, after=classes) is None


def _speed(chosen: Experiment, *, splits: Splits, machine: Machine, max_seconds: float) -> Speed:
    """The speed of all ranks together, measured at the same time. Every rank gets the same numbers."""
    training = measure_speed(
        chosen,
        splits.train,
        device=machine.device,
        micro_batch=machine.micro_batch or DEFAULT_MICRO_BATCH,
        workers=machine.workers,
        max_seconds=max_seconds,
    )
    scoring = measure_scoring(chosen, splits.test, device=machine.device, workers=machine.workers)
    texts = machine.ranks.gather(json.dumps([training, scoring]).encode())
    measured = [json.loads(text) for text in texts]
    slowest = max(scoring for _, scoring in measured)
    return Speed(sum(training for training, _ in measured), slowest / machine.ranks.count)


def _passed(begun: float, *, ranks: Ranks) -> float:
    """Seconds since `begun` on the first rank, so that all ranks plan the same run."""
    return float(ranks.gather(repr(time.monotonic() - begun).encode())[0])


def _refuse_other_budget(stored: Mapping[str, Any], minutes: float | None) -> None:
    if not stored["is_adapted"] or stored["minutes"] != minutes:
        before = _budget(stored["minutes"]) if stored["is_adapted"] else "neither --fit nor --minutes"
        raise ValueError(
            f"the run in this folder began with {before}, now {_budget(minutes)}. "
            "Use a new folder for `--out`, or the same command to continue that run."
        )


def _budget(minutes: float | None) -> str:
    return "--fit" if minutes is None else f"--minutes {minutes:g}"


def training(
    resolved: ResolvedExperiment,
    *,
    out: Path,
    seed: int = 0,
    machine: Machine | None = None,
    save_every: int | None = None,
    stop: Stop | None = None,
) -> Iterator[Event]:
    """Events of a run that begins or continues in the folder `out`, the `run_folder` of `resolve`.

    A checkpoint is saved every `save_every` updates, by default at every evaluation and every ten minutes.
    """
    machine = machine or Machine()
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be 1 update or more, got {save_every}.")
    refuse_unfit(resolved.experiment, len(resolved.splits.train))
    start = _start(resolved, out=out, seed=seed, ranks=machine.ranks)
    job = Job(
        experiment=resolved.experiment,
        splits=resolved.splits,
        folder=out,
        seed=seed,
        start=start,
        machine=machine,
        micro_batch=machine.micro_batch or _usual_micro_batch(resolved, machine.ranks),
        save_every=save_every,
        num_evaluations=resolved.num_evaluations,
        stop=stop or Stop(),
        origin={**_origin(resolved, start), "max_pixels": machine.max_pixels},
    )
    for event in run(job):
        if isinstance(event, Finished) and machine.ranks.is_first:
            write_page(out, resolved.splits)
        yield event


def train(  # noqa: PLR0913 - the options of one command
    chosen: str | Experiment,
    *,
    data: str,
    out: str | Path,
    start: str | Path | None = None,
    seed: int = 0,
    minutes: float | None = None,
    machine: Machine | None = None,
) -> dict[str, Any]:
    """Train in the folder `out`, or continue the run there; the scores of the final weights.

    `start` are pretrained weights, as in `train --from`; None trains from scratch. `minutes` is the time for the whole
    call; the recipe is adapted to it as with `--minutes`. Fields in which an `Experiment` differs from the zoo stay as
    they are. `training` yields the events of a run. Ctrl-C saves and raises `KeyboardInterrupt`; the same call
    continues.
    """
    begun = time.monotonic()
    machine, out = machine or Machine(), Path(out)
    name = chosen if isinstance(chosen, str) else zoo.nearest(chosen)
    edits = {} if isinstance(chosen, str) else config.diff(zoo.experiment(name), chosen)
    resolved = resolve(
        name, edits, data=data, start=None if start is None else str(start), run_folder=out, machine=machine
    )
    if minutes is not None:
        resolved = adapted(resolved, minutes=minutes, machine=machine, begun=begun)
    scores: dict[str, Any] = {}
    with listening() as stop:
        for event in training(resolved, out=out, seed=seed, machine=machine, stop=stop):
            if isinstance(event, Stopped):
                raise KeyboardInterrupt(
                    f"stopped and saved after update {event.step}; the same call continues."
                )
            if isinstance(event, Finished):
                scores = event.scores
    return scores


def _usual_micro_batch(resolved: ResolvedExperiment, ranks: Ranks) -> int:
    """Samples that a run computes at once. A new run computes up to 128, so that every rank has some."""
    if resolved.stored is not None:
        return int(resolved.stored["micro_batch"])
    return usual_micro_batch(resolved.experiment.recipe.batch_size, num_ranks=ranks.count)


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


def _start(resolved: ResolvedExperiment, *, out: Path, seed: int, ranks: Ranks) -> Start | None:
    """The weights that the run begins with. A run that continues has its own copy, which only the first rank reads."""
    if resolved.start is None:
        return None
    if resolved.trained is not None:
        classes = resolved.splits.train.classes
        return starting.begin(
            resolved.trained, resolved.experiment, classes=classes, name=resolved.start, seed=seed
        )
    stored = resolved.stored or {}
    summary = stored["start_from"]["summary"]
    if ranks.is_first:
        return starting.read(out, summary=summary)
    return starting.awaited(resolved.experiment, sha256=stored["start"], summary=summary)


def _origin(resolved: ResolvedExperiment, start: Start | None) -> dict[str, Any]:
    """What `run.json` says about the experiment, its changes and its data."""
    base = zoo.experiment(resolved.name)
    there, back = config.diff(base, resolved.experiment), config.diff(resolved.experiment, base)
    return {
        "name": resolved.name,
        "edits": {path: [config.to_plain(back[path]), config.to_plain(there[path])] for path in there},
        "is_adapted": resolved.is_adapted,
        "minutes": resolved.minutes,
        "num_evaluations": resolved.num_evaluations,
        "changes": [asdict(change) for change in resolved.changes],
        "data": resolved.data.name,
        "data_title": resolved.data.title,
        "num_train": len(resolved.splits.train),
        "num_test": len(resolved.splits.test),
        "classes": list(resolved.splits.train.classes),
        "split": resolved.data.automatic_split(resolved.splits),
        "start_from": None if start is None else {"name": resolved.start, "summary": start.summary},
    }
