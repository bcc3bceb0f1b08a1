"""The end of a run with validation images: which weights are the result, and how sure they may sound.

The choice is a function of the log alone, so a run that was interrupted ends with the same weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from resnet_rs import config, storage
from resnet_rs.data.loader import EvaluationBatches, load, split_range
from resnet_rs.data.sample import Targets
from resnet_rs.data.source import Source
from resnet_rs.models.backbone import Model
from resnet_rs.report.score import ScoreName
from resnet_rs.training import checkpoint
from resnet_rs.training.evaluate import batch_size
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import Job
from resnet_rs.training.machine import Machine
from resnet_rs.training.provenance import Provenance
from resnet_rs.training.state import TrainState

Evaluations = Sequence[tuple[int, dict[str, float]]]
"""The update of each evaluation, and a summary of its scores."""

_MOST_SAMPLES = 5000
"""Validation samples for calibration, which fits a single number. More would only take time and memory."""


@dataclass(frozen=True, kw_only=True)
class Final:
    """The result of a run."""

    step: int
    """The update after which these weights were saved."""
    model: Model
    experiment: Experiment
    """The experiment of the run with a calibrated task."""


def best_step(evaluations: Evaluations, score: ScoreName) -> int | None:
    """The update of the evaluation with the best `score`, the last one of equals; None without evaluations."""
    sign = 1 if score.is_higher_better else -1
    ranked = [(sign * summary[score.key], step) for step, summary in evaluations if score.key in summary]
    return max(ranked)[1] if ranked else None


def is_patience_over(evaluations: Evaluations, score: ScoreName, patience: int | None) -> bool:
    """Whether the last `patience` evaluations were all worse than the best one before them."""
    best = best_step(evaluations, score)
    return patience is not None and sum(step > (best or 0) for step, _ in evaluations) >= patience


def choose_final(job: Job, state: TrainState, evaluations: Evaluations) -> Final:
    """The weights that the validation images speak for, with a calibrated task; the same on every rank.

    With `recipe.patience` these are the best weights that are saved, else the last ones. The first rank reads and
    computes, and the others get the result.
    """
    name, model = next(iter(state.models.items()))
    model, step, task = copy.deepcopy(model), state.step, job.experiment.task
    if job.ranks.is_first:
        best = best_step(evaluations, task.headline)
        if job.experiment.recipe.patience is not None and best is not None:
            step = _load(job, model, best, name) or step
        prediction, targets = _predicted(model, job.splits.during, job.experiment, machine=job.machine)
        task = task.calibrated(prediction, targets)
    told = job.ranks.gather(json.dumps([step, config.to_plain(task)]).encode())[0]
    step, plain = json.loads(told)
    job.ranks.copy_from_first(list(model.state_dict().values()))
    experiment = replace(job.experiment, task=config.from_plain(plain))
    return Final(step=step, model=model, experiment=experiment)


def write_final(job: Job, state: TrainState, final: Final, provenance: Provenance) -> None:
    """Write the final weights into the folder of the run, in place of those of an attempt that was interrupted."""
    path = job.folder / checkpoint.FINAL
    storage.remove_tree(path)
    provenance = replace(provenance, experiment=final.experiment)
    weights = "ema" if state.ema is not None else "model"
    checkpoint.write(path, final.model.state_dict(), provenance, weights=weights, step=final.step)


def _load(job: Job, model: Model, step: int, name: str) -> int | None:
    """Load the weights `name` of the checkpoint of update `step` into `model`; None if there is no valid one."""
    path = checkpoint.folder_of(job.folder, step)
    try:
        saved = checkpoint.read(path)
    except (FileNotFoundError, storage.Damaged):
        return None
    model.load_state_dict(saved.load_model().state_dict())
    return step


@torch.no_grad()
def _predicted(
    model: Model, source: Source, experiment: Experiment, *, machine: Machine
) -> tuple[Tensor, Targets]:
    """Predictions for up to 5,000 samples, taken evenly from `source`, and their targets."""
    device, task = machine.device, experiment.task
    model.eval()
    dataset = EvaluationBatches(source, experiment.data, collate=task.collate)
    ranges = list(split_range(0, len(source), at_most=batch_size(device)))
    most = max(1, _MOST_SAMPLES // batch_size(device))
    chosen = [ranges[len(ranges) * i // most] for i in range(most)] if len(ranges) > most else ranges
    predictions, targets = list[Tensor](), list[Targets]()
    for batch in load(chosen, dataset, workers=machine.workers):
        if len(batch.indices):
            inputs = device.layout(experiment.data.normalize(device.put(batch.inputs)))
            with device.autocast():
                predictions.append(model(inputs).float().cpu())
            targets.append(batch.targets)
    return torch.cat(predictions), _joined(targets)


def _joined(parts: Sequence[Targets]) -> Targets:
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) == len(parts):
        return torch.cat(tensors)
    named = [part for part in parts if not isinstance(part, Tensor)]
    return {name: torch.cat([part[name] for part in named]) for name in named[0]}
