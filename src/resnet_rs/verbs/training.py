"""The training of a resolved experiment: `training` yields its events, `train` does everything in one call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resnet_rs import config, zoo
from resnet_rs.plan.rules import refuse_unfit
from resnet_rs.processes import Stop, listening
from resnet_rs.training import start as starting
from resnet_rs.training.curves import with_results
from resnet_rs.training.events import Event, Finished, Stopped
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import Job, usual_micro_batch
from resnet_rs.training.machine import Machine
from resnet_rs.training.page import write_page
from resnet_rs.training.ranks import Ranks
from resnet_rs.training.run import run
from resnet_rs.training.start import Start
from resnet_rs.verbs.choice import Choice
from resnet_rs.verbs.plans import Limits, plan_choice
from resnet_rs.verbs.precision import machine_for
from resnet_rs.verbs.runs import ResolvedExperiment, base_experiment


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
    machine = machine_for(resolved, machine or Machine())
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be 1 update or more, got {save_every}.")
    refuse_unfit(resolved.experiment, len(resolved.splits.train))
    start = _start(resolved, out=out, seed=seed, ranks=machine.ranks)
    micro_batch = machine.micro_batch or (resolved.stored or {}).get("micro_batch")
    if micro_batch is None:
        batch_size = resolved.experiment.recipe.batch_size
        micro_batch = usual_micro_batch(batch_size, num_ranks=machine.ranks.count)
    job = Job(
        experiment=resolved.experiment,
        splits=resolved.splits,
        folder=out,
        seed=seed,
        start=start,
        machine=machine,
        micro_batch=micro_batch,
        save_every=save_every,
        num_evaluations=resolved.num_evaluations,
        stop=stop or Stop(),
        origin={**_origin(resolved, start), "max_pixels": machine.max_pixels},
    )
    if not machine.ranks.is_first:
        yield from run(job)
        return
    for event in with_results(run(job), out):
        if isinstance(event, Finished):
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
    limits = Limits(minutes=minutes, begun=time.monotonic())
    machine, out = machine or Machine(), Path(out)
    name = chosen if isinstance(chosen, str) else zoo.nearest(chosen)
    edits = {} if isinstance(chosen, str) else config.diff(zoo.experiment(name), chosen)
    choice = Choice(name, None if start is None else str(start))
    resolved = plan_choice(
        choice, edits, limits if limits.has_any else None, data=data, machine=machine, run_folder=out
    )
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
    base, validation = base_experiment(resolved.name, resolved.splits), resolved.splits.validation
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
        "num_validation": 0 if validation is None else len(validation),
        "classes": list(resolved.splits.train.classes),
        "split": resolved.data.automatic_split(resolved.splits),
        "start_from": None if start is None else {"name": resolved.start, "summary": start.summary},
    }
