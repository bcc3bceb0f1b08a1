"""The end of a run with validation images: the weights with the best validation score, and a calibrated task.

The choice is a function of the log and of the checkpoints that are saved, so a run that was interrupted ends with the
same weights.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from resnet_rs import storage
from resnet_rs.data.subset import Subset
from resnet_rs.models.backbone import Model
from resnet_rs.report.score import ScoreName
from resnet_rs.training import checkpoint
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import Job
from resnet_rs.training.predictions import predict_all
from resnet_rs.training.provenance import Provenance
from resnet_rs.training.state import TrainState

Evaluations = Sequence[tuple[int, Mapping[str, float]]]
"""The update of each evaluation, and a summary of its scores."""

_MOST_SAMPLES = 5000
"""Validation samples for calibration, which fits a single number. More would only take time and memory."""


class Final(NamedTuple):
    """The result of a run."""

    step: int
    """The update after which these weights were saved."""
    model: Model
    experiment: Experiment
    """Of the run, with a calibrated task."""


def best_steps(evaluations: Evaluations, score: ScoreName) -> list[int]:
    """The updates of all evaluations, that with the best `score` first; of equals the last one first."""
    sign = 1 if score.is_higher_better else -1
    ranked = [(sign * summary.get(score.key, math.nan), step) for step, summary in evaluations]
    return [step for value, step in sorted(ranked, reverse=True) if not math.isnan(value)]


def is_patience_over(evaluations: Evaluations, score: ScoreName, patience: int | None) -> bool:
    """Whether the last `patience` evaluations had no better score than the ones before them."""
    ranked = best_steps(evaluations, score)
    if patience is None or not ranked:
        return False
    values = {step: summary[score.key] for step, summary in evaluations if step in ranked}
    first = min(step for step in ranked if values[step] == values[ranked[0]])
    return sum(step > first for step, _ in evaluations) >= patience


def choose_final(job: Job, state: TrainState, evaluations: Evaluations) -> Final:
    """The weights to use, with a task that is calibrated on validation images; the same on every rank.

    With `recipe.patience` these are the best of the weights that were scored and saved, else the last ones. Raises
    `Interrupted` on all ranks if one of them receives a stop request.
    """
    model, step = copy.deepcopy(next(iter(state.models.values()))), state.step
    if job.experiment.recipe.patience is not None:
        if job.ranks.is_first:
            step = _load_best(job, model, best_steps(evaluations, job.experiment.task.headline)) or step
        step = job.ranks.from_first(step)
        job.ranks.copy_from_first(list(model.state_dict().values()))
    source = job.splits.validation_or_test
    count = min(len(source), _MOST_SAMPLES)
    some = Subset(source=source, indices=tuple(len(source) * i // count for i in range(count)))
    found = predict_all(model, some, job.experiment, machine=job.machine, stop=job.stop)
    task = job.experiment.task.calibrated(found.predictions, found.targets)
    return Final(step=step, model=model, experiment=replace(job.experiment, task=task))


def write_final(job: Job, state: TrainState, final: Final, provenance: Provenance) -> None:
    """Write the final weights into the folder of the run. Valid ones that are there already stay."""
    path = job.folder / checkpoint.FINAL
    try:
        before = checkpoint.read(path)
        if (before.step, before.experiment) == (final.step, final.experiment):
            return
    except (FileNotFoundError, ValueError, storage.Damaged):
        pass  # there are none, or they are damaged
    storage.remove_tree(path)
    provenance = replace(provenance, experiment=final.experiment)
    weights = "ema" if state.ema is not None else "model"
    checkpoint.write(path, final.model.state_dict(), provenance, weights=weights, step=final.step)


def _load_best(job: Job, model: Model, steps: Sequence[int]) -> int | None:
    """Load the first of the checkpoints of `steps` that is valid into `model`; None if none is."""
    for step in steps:
        try:
            saved = checkpoint.read(checkpoint.folder_of(job.folder, step))
        except (FileNotFoundError, storage.Damaged) as error:
            warnings.warn(f"the weights after update {step} cannot be the result: {error}", stacklevel=2)
            continue
        model.load_state_dict(saved.load_model().state_dict())
        return step
    return None
