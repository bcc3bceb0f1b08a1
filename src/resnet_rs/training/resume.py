"""Resumes a run on all ranks from the last valid checkpoint of the first rank."""

from __future__ import annotations

import torch

from resnet_rs.storage import Damaged
from resnet_rs.training import checkpoint
from resnet_rs.training.checkpoint import Checkpoint, NoneValid
from resnet_rs.training.job import Job
from resnet_rs.training.log import Log, read_log
from resnet_rs.training.state import TrainState

_NO_MATTER = {"ranks", "python", "system"}
"""Parts of the environment that do not affect the result."""


def resume(job: Job, state: TrainState) -> tuple[Log, list[str]]:
    """Load the last valid checkpoint, if there is one, into `state`; the log up to it, and notices for the user.

    Only the first rank reads files, so the other ranks need no access to its disk. Raises `checkpoint.NoneValid` if
    checkpoints were saved and none is valid: the run does not start again from the beginning.
    """
    log, notices = Log(None, up_to_step=0), list[str]()
    if job.ranks.is_first:
        path = job.folder / "log.jsonl"
        saved, notices = checkpoint.recover(job.folder)
        if saved is not None:
            if (saved.experiment, saved.seed) != (job.experiment, job.seed):
                raise Damaged(
                    f"{saved.path} belongs to another run than {job.folder / 'experiment.json'}. "
                    "Restore its own checkpoints."
                )
            checkpoint.restore(state, saved)
            notices += _differences(saved, job)
        elif num_saved := sum(line["kind"] == "checkpoint" for line in read_log(path)):
            raise NoneValid(
                f"{job.folder} has no checkpoint, but its log lists {num_saved}. Restore one from a backup, or start a "
                "new run in another folder."
            )
        log = Log(path, up_to_step=state.step)
        if log.num_updates < state.step:
            notices.append(f"{path} lacks {state.step - log.num_updates} of {state.step} updates.")
    if job.ranks.count > 1:
        _copy_to_all(job, state, log)
    return log, notices


def _differences(saved: Checkpoint, job: Job) -> list[str]:
    """A notice if the environment differs in a way that may change the last bits of the result."""
    now = job.environment()
    changed = [
        f"{name} {before} -> {now.get(name)}"
        for name, before in saved.environment.items()
        if name not in _NO_MATTER and now.get(name) != before
    ]
    if not changed:
        return []
    return [f"the environment has changed ({', '.join(changed)}), so the last bits may differ."]


def _copy_to_all(job: Job, state: TrainState, log: Log) -> None:
    """Copy the state of the first rank to all ranks."""
    known = (state.step, state.skipped, log.evaluations, sorted(state.momenta()))
    state.step, skipped, evaluations, names = job.ranks.gather_values(known)[0]
    state.skipped = tuple(skipped)
    log.evaluations = [(step, summary) for step, summary in evaluations]
    if not job.ranks.is_first:
        parameters = dict(state.model.named_parameters())
        state.set_momenta({name: torch.zeros_like(parameters[name]) for name in names})
    momenta = state.momenta()
    weights = [tensor for model in state.models.values() for tensor in model.state_dict().values()]
    pulls = [start for _, start in state.pulls]
    job.ranks.copy_from_first([*weights, *(momenta[name] for name in names), *pulls])
