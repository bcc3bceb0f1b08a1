"""A run: train, log, evaluate, save, continue. One folder has all its files.

    RUN/experiment.json   the experiment              RUN/log.jsonl     every update and every evaluation
    RUN/run.json          data and seed               RUN/results.csv   every evaluation, for other programs
    RUN/checkpoints/      weights and state           RUN/scores.json   scores of the final weights
    RUN/start/            pretrained weights          RUN/page.html     a report with figures
    RUN/final/            with validation images: the weights that they chose, and a calibrated task
    RUN/.partial-cache/   decoded images, removed when the run ends

`run` is a generator of events. The caller can show them, ignore them, or stop between two events. A run that was
stopped or killed, even many times, continues to the same weights, scores and log of updates, bit for bit.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import torch

from resnet_rs import storage
from resnet_rs.data.balance import Balanced, sample_weights
from resnet_rs.data.cache import cached
from resnet_rs.data.loader import TrainingBatches, load
from resnet_rs.data.sample import Batch
from resnet_rs.data.source import Source
from resnet_rs.models.backbone import Model
from resnet_rs.models.checkpointing import set_activation_checkpointing
from resnet_rs.processes import Interrupted
from resnet_rs.training import checkpoint
from resnet_rs.training.evaluate import Evaluation, evaluate, gather_unreadable, scores
from resnet_rs.training.events import (
    Evaluated,
    Event,
    Finished,
    Pace,
    Progressed,
    Saved,
    SaveFailed,
    Started,
    Stopped,
)
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.final import best_steps, choose_final, is_patience_over, write_final
from resnet_rs.training.folder import held, refuse_full_disk, resume
from resnet_rs.training.job import Job
from resnet_rs.training.log import Log
from resnet_rs.training.loop import Loop, Update
from resnet_rs.training.provenance import Provenance
from resnet_rs.training.state import TrainState, new_state

CACHE = f"{storage.PARTIAL}cache"
"""Folder of decoded images in a run's folder; as a partial file it is removed when a run begins or continues."""
_MAX_FAILED_SAVES = 3
_MAX_SKIPPED_IN_A_ROW = 3
_SKIPPED_WINDOW = 1000
_MAX_SKIPPED_SHARE = 0.001


class Diverged(ValueError):
    """The loss or gradient of too many updates was not finite."""

    exit_code = 5


class CannotSave(OSError):
    """Checkpoints could not be written several times in a row."""

    exit_code = 4


def run(job: Job) -> Iterator[Event]:
    """Train `job` to its end or until `job.stop`, starting from the last valid checkpoint in its folder.

    Raises `storage.InUse`, `checkpoint.NoneValid`, `CannotSave` and `Diverged`, and `ValueError` if the folder belongs
    to another job.
    """
    with held(job):
        state = new_state(
            job.experiment, job.machine.device, seed=job.seed, start=job.start and job.start.tensors
        )
        if job.machine.activation_checkpointing:
            set_activation_checkpointing(state.model)
        log, notices = resume(job, state)
        with closing(log):
            if job.start is not None and not state.step:
                notices = [f"{job.start.summary}.", *notices]
            job = _with_cache(job)
            pace = Pace(seconds_before=log.seconds)
            training = _Training(job, state, log, pace, saved_step=state.step)
            if job.ranks.is_first and not training.is_trained:
                refuse_full_disk(job, state)
            yield Started(step=state.step, timetable=job.timetable, notices=tuple(notices))
            yield from training.events()


@dataclass
class _Training:
    """The state of an active run."""

    job: Job
    state: TrainState
    log: Log
    pace: Pace
    saved_step: int
    """The step of the last successful save, or the step at which this process started."""
    num_failed: int = 0
    evaluation: Evaluation | None = None

    @property
    def is_trained(self) -> bool:
        """Whether the last update was made."""
        recipe, score = self.job.experiment.recipe, self.job.experiment.task.headline
        is_over = is_patience_over(self.log.evaluations, score, recipe.patience)
        return is_over or self.state.step == self.job.timetable.total_steps

    def events(self) -> Iterator[Event]:
        with suppress(Interrupted):
            yield from self._train()
        while self.state.step > self.saved_step:
            yield self._save()
        end = self._end()
        self.log.commit()
        yield end

    def _train(self) -> Iterator[Event]:
        """Update, evaluate and save until the last update or a stop request."""
        steps = _evaluation_steps(self.job)
        # The first pass comes before any update, for a run that was killed before its evaluation.
        for event in chain([None], self._updates()):
            if event is not None:
                yield event
            step = self.state.step
            if step > self.saved_step and (step in steps or self._is_time_to_save()):
                yield self._save()
            if step in steps and self.log.evaluated_at < step:
                yield self._evaluate()

    def _updates(self) -> Iterator[Progressed]:
        if self.is_trained:
            return
        job, timetable = self.job, self.job.timetable
        weights = None
        if job.experiment.recipe.class_balance == "loss":
            weights = job.machine.device.put(torch.from_numpy(sample_weights(job.splits.train)))
        loop = Loop(
            experiment=job.experiment,
            timetable=timetable,
            device=job.machine.device,
            seed=job.seed,
            micro_batches=len(job.ranges(0)),
            ranks=job.ranks,
            stop=job.stop,
            weights=weights,
        )
        batches = self.pace.timed(_batches(job, first_step=self.state.step))
        for update in loop.updates(self.state, batches):
            update = self._logged(update)
            job.ranks.at_step(update.step)
            self.pace.count(update.num_samples)
            speed = self.pace.speed()
            num_left = (timetable.total_steps - update.step) * timetable.batch_size
            yield Progressed(
                update=update,
                epoch=timetable.epoch(update.step),
                seconds_left=num_left / max(1e-9, speed["images_per_second"]),
                **speed,
            )
            if self.is_trained:
                return

    def _logged(self, update: Update) -> Update:
        """Log the update; returns it with the unreadable samples of all ranks."""
        if update.num_unreadable:
            update = replace(update, unreadable=gather_unreadable(update.unreadable, self.job.ranks))
            for error in update.unreadable:
                self.log.append("unreadable", step=update.step, key=error.key, reason=error.reason)
        if update.is_skipped:
            self._log_skipped(update)
        else:
            self.log.append(
                "update",
                step=update.step,
                epoch=self.job.timetable.epoch(update.step),
                lr=update.lr,
                loss=update.loss,
                gradient_norm=update.gradient_norm,
                num_samples=update.num_samples,
            )
        return update

    def _log_skipped(self, update: Update) -> None:
        """Log the samples of an update that was not finite. Raises `Diverged` if there are too many such updates."""
        source = self.job.splits.train
        gathered = self.job.ranks.gather_values([source.key(index) for index in update.suspects])
        keys = [key for mine in gathered for key in mine]
        self.log.append("skipped", step=update.step, is_loss_finite=math.isfinite(update.loss), keys=keys)
        recent = (*self.state.skipped, update.step)
        self.state.skipped = tuple(step for step in recent if step > update.step - _SKIPPED_WINDOW)
        last = tuple(range(update.step - _MAX_SKIPPED_IN_A_ROW + 1, update.step + 1))
        is_window_full = update.step >= _SKIPPED_WINDOW
        is_too_often = is_window_full and len(self.state.skipped) > _MAX_SKIPPED_SHARE * _SKIPPED_WINDOW
        if self.state.skipped[-_MAX_SKIPPED_IN_A_ROW:] == last or is_too_often:
            self.log.commit()
            steps, log = ", ".join(map(str, self.state.skipped)), self.job.folder / "log.jsonl"
            raise Diverged(
                f"the loss or the gradient of updates {steps} was not finite, so the run was stopped. Its last "
                f"checkpoint is from before these updates. {log} lists their samples. "
                "Lower recipe.base_lr, increase recipe.schedule.warmup_epochs, or check the data for extreme values."
            )

    def _is_time_to_save(self) -> bool:
        if self.job.save_every is not None:
            return self.state.step % self.job.save_every == 0
        return bool(self.job.ranks.largest(self.pace.is_time_to_save()))

    def _save(self) -> Saved | SaveFailed:
        """Save on the first rank; the outcome is the same on all ranks. Raises `CannotSave` after too many failures."""
        step, reason = self.state.step, ""
        if self.job.ranks.is_first:
            try:
                self.log.commit()
                checkpoint.save(self.job.folder, self.state, _provenance(self.job), best=self._best_step())
                self.log.append("checkpoint", step=step, seconds=self.pace.seconds)
            except OSError as error:
                reason = _save_error(error, self.job, self.state)
        self.pace.saved()
        reason = self.job.ranks.from_first(reason)
        if not reason:
            self.saved_step, self.num_failed = step, 0
            return Saved(step=step)
        self.num_failed += 1
        if self.num_failed >= _MAX_FAILED_SAVES:
            raise CannotSave(
                f"checkpoints could not be saved {self.num_failed} times in a row, the last after update {step}: "
                f"{reason}. The last saved checkpoint is intact. Free some space or repair the folder; then the same "
                "command continues."
            )
        return SaveFailed(step=step, reason=reason, in_a_row=self.num_failed)

    def _best_step(self) -> int | None:
        """The update whose checkpoint may become the result; None if the last weights will."""
        job = self.job
        steps = best_steps(self.log.evaluations, job.experiment.task.headline)
        return steps[0] if steps and job.experiment.recipe.patience is not None else None

    def _evaluate(self) -> Evaluated:
        """Score the validation or test part and log the result. Raises `Interrupted` on a stop request."""
        speed = self.pace.speed()
        self.evaluation = None  # if this one is interrupted, an earlier one must not be taken for it
        self.evaluation = self._score(self.state.models, self.job.splits.validation_or_test)
        unreadable = () if self.job.splits.validation is None else self.evaluation.unreadable
        event = Evaluated(
            step=self.state.step,
            epoch=self.job.timetable.epoch(self.state.step),
            loss=self.log.mean_loss(),
            split="test" if self.job.splits.validation is None else "validation",
            summaries={name: meter.summary() for name, meter in self.evaluation.meters.items()},
            unreadable=tuple(map(str, unreadable)),
            **speed,
        )
        self.log.append("evaluation", seconds=self.pace.seconds, **asdict(event))
        self.pace.restart()
        return event

    def _end(self) -> Finished | Stopped:
        """The last event: `Finished` with the final scores, or `Stopped` if a stop is requested before them."""
        try:
            if not self.is_trained:
                raise Interrupted
            found = self._final_scores()
        except Interrupted:
            reasons = self.job.ranks.gather_values(self.job.stop.reason)
            return Stopped(step=self.state.step, reason=next(filter(None, reasons), ""))
        if self.job.ranks.is_first:
            with suppress(OSError):  # files that stay only take space
                storage.remove_tree(self.job.folder / CACHE)
            storage.write_json(self.job.folder / "scores.json", found)
        is_early = self.state.step < self.job.timetable.total_steps
        return Finished(scores=found, seconds=self.pace.seconds, is_early=is_early)

    def _final_scores(self) -> dict[str, Any]:
        """The scores of the final weights on the test part. Raises `Interrupted` on a stop request."""
        job, test = self.job, self.job.splits.test
        if job.splits.validation is None:
            evaluation = self.evaluation or self._score(self.state.models, test)
            return scores(evaluation, test, job.experiment.task)
        final = choose_final(job, self.state, self.log.evaluations)
        if job.ranks.is_first:
            write_final(job, self.state, final, _provenance(job))
        name = next(iter(self.state.models))
        evaluation = self._score({name: final.model}, test, experiment=final.experiment)
        return {**scores(evaluation, test, final.experiment.task), "step": final.step}

    def _score(
        self, models: Mapping[str, Model], source: Source, *, experiment: Experiment | None = None
    ) -> Evaluation:
        job = self.job
        return evaluate(models, source, experiment or job.experiment, machine=job.machine, stop=job.stop)


def _with_cache(job: Job) -> Job:
    """`job` with its decoded images kept in the run's folder, for the ranks that can see this folder."""
    folder, splits = job.folder / CACHE, job.splits
    parts = {"train": splits.train, "test": splits.test, "validation": splits.validation}

    def caches() -> dict[str, Source]:
        return {name: cached(part, folder / name) for name, part in parts.items() if part is not None}

    kept = caches() if job.ranks.is_first else {}
    job.ranks.gather(b"")  # the folders exist now
    if not job.ranks.is_first and folder.is_dir():
        kept = caches()
    return replace(job, splits=replace(splits, **kept))


def _batches(job: Job, *, first_step: int) -> Iterator[Batch]:
    """This rank's micro-batches."""
    steps, train = range(first_step, job.timetable.total_steps), job.splits.train
    if job.experiment.recipe.class_balance == "sampling":
        train = Balanced(source=train)
    ranges = (indices for step in steps for indices in job.ranks.share(job.ranges(step)))
    return load(
        ranges,
        TrainingBatches(
            train,
            job.experiment.data,
            collate=job.experiment.task.collate,
            seed=job.seed,
            num_views=job.experiment.task.num_views,
        ),
        workers=job.machine.workers,
    )


def _provenance(job: Job) -> Provenance:
    return Provenance(
        experiment=job.experiment,
        classes=job.splits.train.classes,
        seed=job.seed,
        split=job.origin.get("split"),
        origin={} if job.start is None else job.start.provenance.origin,
        environment=job.environment(),
    )


def _save_error(error: OSError, job: Job, state: TrainState) -> str:
    """The reason why a save failed, with the needed and the free space."""
    mib = 1 << 20
    message = os.strerror(error.errno) if error.errno else str(error)
    needed, free = checkpoint.num_bytes(state) / mib, "an unknown number of"
    with suppress(OSError):  # the folder itself may be broken
        free = f"{shutil.disk_usage(job.folder).free / mib:,.1f}"
    place = error.filename or job.folder / "checkpoints"
    return f"{message}: {place} (a checkpoint takes about {needed:,.1f} MiB, {free} MiB are free)"


def _evaluation_steps(job: Job) -> frozenset[int]:
    """The updates after which weights are scored: evenly spaced, at most one per epoch, the last one included."""
    total_steps, epochs = job.timetable.total_steps, job.experiment.recipe.epochs
    count = min(job.num_evaluations, max(1, int(epochs)), total_steps)
    return frozenset(round(total_steps * (i + 1) / count) for i in range(count))
