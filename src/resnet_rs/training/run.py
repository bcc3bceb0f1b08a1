"""A run: train, log, evaluate, save, continue. Everything it makes lies in one folder.

    RUN/experiment.json   what was trained            RUN/log.jsonl     every update and every evaluation
    RUN/run.json          on what data, which seed    RUN/scores.json   scores of the final weights
    RUN/checkpoints/      weights and state           RUN/page.html     all of it to look at

`run` is a generator of events: whoever calls it may show them, ignore them, or stop between two of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_rs import config, storage
from resnet_rs.data.loader import Span, TrainingSpans, cut, load
from resnet_rs.data.sample import Batch
from resnet_rs.data.source import Splits
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.evaluate import Evaluation, evaluate, scores
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.log import Log
from resnet_rs.training.loop import Loop, Update
from resnet_rs.training.recipe import Plan
from resnet_rs.training.state import TrainState, new_state

DEFAULT_MICRO_BATCH = 128
"""Samples that are computed at once. Batch norm sees as many, as the cores of the released runs saw a part each."""

_MAX_EVALUATIONS = 10
_SECONDS_BETWEEN_SAVES = 600.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run, and where. Paths and machines are here, since they are no part of the experiment."""

    experiment: Experiment
    splits: Splits
    folder: Path
    seed: int = 0
    device: Device = field(default_factory=Device.choose)
    micro_batch: int = DEFAULT_MICRO_BATCH
    workers: int = 0
    origin: dict[str, Any] = field(default_factory=dict[str, Any])
    """For `run.json`: the experiment's name, the edits with their reasons, the data and its automatic split."""

    @property
    def plan(self) -> Plan:
        """The recipe in updates."""
        return self.experiment.recipe.plan(len(self.splits.train))

    def identity(self) -> dict[str, Any]:
        """What decides the result beside the experiment, rounding aside; a run continues only under the same."""
        return {
            "seed": self.seed,
            "micro_batch": min(self.micro_batch, self.experiment.recipe.batch_size),
            "precision": self.device.precision,
            "train_digest": self.splits.train.digest(),
            "test_digest": self.splits.test.digest(),
        }


@dataclass(frozen=True, kw_only=True)
class Started:
    """The run begins, or goes on after `step` updates."""

    step: int
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """One update was taken."""

    update: Update
    epoch: float
    images_per_second: float
    data_wait: float
    """Share of the time that was spent waiting for data, since the last evaluation."""
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The test split was scored: a few numbers per model."""

    step: int
    epoch: float
    loss: float
    summaries: dict[str, dict[str, float]]
    images_per_second: float
    data_wait: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is complete; `scores` are those of its final weights."""

    scores: dict[str, Any]
    seconds: float


Event = Started | Progressed | Evaluated | Finished


def run(job: Job) -> Iterator[Event]:
    """Train `job` to its end, from its last checkpoint if its folder has one."""
    _claim_folder(job)
    plan = job.plan
    state = new_state(job.experiment, job.device, seed=job.seed)
    saved = checkpoint.newest(job.folder)
    if saved is not None:
        checkpoint.restore(state, saved)
    yield Started(step=state.step, plan=plan)
    log = Log(job.folder / "log.jsonl", up_to_step=state.step)
    try:
        yield from _train(job, plan, state, log)
    finally:
        log.close()


def _train(job: Job, plan: Plan, state: TrainState, log: Log) -> Iterator[Event]:
    pace = _Pace(seconds_before=log.seconds)
    evaluation: Evaluation | None = None
    evaluation_steps = _evaluation_steps(plan, epochs=job.experiment.recipe.epochs)
    batches = pace.timed(_batches(job, plan, first_step=state.step))
    for update in _loop(job, plan).updates(state, batches):
        epoch = plan.epoch(update.step)
        pace.count(update.num_samples)
        _log_update(log, update, epoch=epoch)
        yield pace.progress(
            update, epoch=epoch, samples_left=(plan.total_steps - update.step) * plan.batch_size
        )
        is_evaluated = update.step in evaluation_steps
        if is_evaluated:
            event, evaluation = _evaluate(job, state, log, pace, epoch=epoch)
            yield event
        if is_evaluated or pace.is_time_to_save():
            _save(job, state)
            log.append("checkpoint", step=state.step, seconds=pace.seconds)
            pace.restart()
    final = scores(evaluation or _score(job, state), job.splits.test)
    storage.write_json(job.folder / "scores.json", final)
    yield Finished(scores=final, seconds=pace.seconds)


def _loop(job: Job, plan: Plan) -> Loop:
    per_update = len(list(cut(0, plan.batch_size, at_most=job.micro_batch)))
    return Loop(
        experiment=job.experiment, plan=plan, device=job.device, seed=job.seed, micro_batches=per_update
    )


def _batches(job: Job, plan: Plan, *, first_step: int) -> Iterator[Batch]:
    def spans() -> Iterator[Span]:
        for step in range(first_step, plan.total_steps):
            yield from cut(step * plan.batch_size, plan.batch_size, at_most=job.micro_batch)

    dataset = TrainingSpans(job.splits.train, job.experiment.data, seed=job.seed)
    return load(spans(), dataset, workers=job.workers)


def _score(job: Job, state: TrainState) -> Evaluation:
    return evaluate(
        state.models,
        job.splits.test,
        data=job.experiment.data,
        task=job.experiment.task,
        device=job.device,
        workers=job.workers,
    )


def _evaluate(
    job: Job, state: TrainState, log: Log, pace: _Pace, *, epoch: float
) -> tuple[Evaluated, Evaluation]:
    """Score the test split and write it to the log."""
    speed = {"images_per_second": pace.images_per_second, "data_wait": pace.data_wait}
    evaluation = _score(job, state)
    event = Evaluated(
        step=state.step,
        epoch=epoch,
        loss=log.mean_loss(),
        summaries={name: meter.summary() for name, meter in evaluation.meters.items()},
        **speed,
    )
    line = {"epoch": epoch, "loss": event.loss, "summaries": event.summaries, **speed}
    log.append("evaluation", step=state.step, seconds=pace.seconds, **line)
    return event, evaluation


def _log_update(log: Log, update: Update, *, epoch: float) -> None:
    """Write the update down; refuse to go on from one whose loss is no number."""
    loss = update.loss.item()
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss of update {update.step} is {loss}, so the run was stopped; its last checkpoint is from before. "
            "Lower recipe.base_lr, lengthen recipe.schedule.warmup_epochs, or look for odd values in the data."
        )
    for error in update.unreadable:
        log.append("unreadable", step=update.step, key=error.key, reason=error.reason)
    log.append(
        "update", step=update.step, epoch=epoch, lr=update.lr, loss=loss, num_samples=update.num_samples
    )


def _save(job: Job, state: TrainState) -> None:
    provenance = checkpoint.Provenance(
        experiment=job.experiment,
        classes=job.splits.train.classes,
        seed=job.seed,
        split=job.origin.get("split"),
    )
    checkpoint.save(job.folder, state, provenance)


def _claim_folder(job: Job) -> None:
    """Make the folder this job's own, or see that it is already; refuse one that holds anything else."""
    path = job.folder / "experiment.json"
    if path.is_file():
        _refuse_other_run(job)
        return
    if job.folder.exists() and any(not _is_ours(file) for file in job.folder.iterdir()):
        raise ValueError(f"{job.folder} is not empty and holds no run. Choose a new folder for `--out`.")
    job.folder.mkdir(parents=True, exist_ok=True)
    storage.write_json(
        job.folder / "run.json", {**job.identity(), **job.origin, "environment": job.device.describe()}
    )
    storage.write_json(path, config.to_plain(job.experiment))


def _is_ours(file: Path) -> bool:
    """Whether a file can be left over from a run that was killed while it claimed its folder."""
    return file.name == "run.json" or file.name.startswith(storage.PARTIAL)


def _refuse_other_run(job: Job) -> None:
    stored = config.from_plain(storage.read_json(job.folder / "experiment.json"))
    changes = config.describe(config.diff(stored, job.experiment))
    if changes:
        raise ValueError(
            f"{job.folder} holds a run of another experiment; this one would change: {changes}. "
            "Use a new folder for `--out`, or take these edits back to continue that run."
        )
    before, now = storage.read_json(job.folder / "run.json"), job.identity()
    for name, value in now.items():
        if before.get(name) != value:
            raise ValueError(
                f"{job.folder} holds a run with another {name}: {before.get(name)}, now {value}. "
                "Use a new folder for `--out`, or the same settings and data to continue that run."
            )


def _evaluation_steps(plan: Plan, *, epochs: float) -> frozenset[int]:
    """After every epoch, or, in long runs, at as many even distances as are worth looking at; always at the end."""
    count = min(_MAX_EVALUATIONS, max(1, int(epochs)), plan.total_steps)
    return frozenset(round(plan.total_steps * (i + 1) / count) for i in range(count))


class _Pace:
    """How fast training goes since the last evaluation or save: images per second and the share of waiting."""

    def __init__(self, *, seconds_before: float) -> None:
        self._begin = time.monotonic() - seconds_before
        self.restart()

    def restart(self) -> None:
        """Begin to measure anew."""
        self._since = time.monotonic()
        self._waited = 0.0
        self._num_samples = 0

    def count(self, num_samples: int) -> None:
        """Take note of samples that were trained on."""
        self._num_samples += num_samples

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """`batches`, while the time that they let us wait is measured."""
        while True:
            begin = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - begin
            if batch is None:
                return
            yield batch

    def progress(self, update: Update, *, epoch: float, samples_left: int) -> Progressed:
        """`update` as an event."""
        return Progressed(
            update=update,
            epoch=epoch,
            images_per_second=self.images_per_second,
            data_wait=self.data_wait,
            seconds_left=samples_left / max(1e-9, self.images_per_second),
        )

    def is_time_to_save(self) -> bool:
        """Whether more work would be lost by a crash now than a user would forgive."""
        return time.monotonic() - self._since > _SECONDS_BETWEEN_SAVES

    @property
    def seconds(self) -> float:
        """Since the run began; the time between a stop and its continuation is left out."""
        return time.monotonic() - self._begin

    @property
    def images_per_second(self) -> float:
        """Samples trained on per second."""
        return self._num_samples / max(1e-9, time.monotonic() - self._since)

    @property
    def data_wait(self) -> float:
        """Share of the time in which the loop had no batch to work on."""
        return self._waited / max(1e-9, time.monotonic() - self._since)
