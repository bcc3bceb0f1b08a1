"""The folder of a run: it belongs to one process at a time and to one experiment, and a run resumes from it."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from resnet_rs import config, storage
from resnet_rs.training import checkpoint, start
from resnet_rs.training.checkpoint import Checkpoint, NoneValid
from resnet_rs.training.job import Job
from resnet_rs.training.log import Log, read_log
from resnet_rs.training.state import TrainState

_MIB = 1 << 20
_NO_MATTER = {"ranks", "python", "system"}
"""Parts of the environment that do not affect the result."""


@contextmanager
def held(job: Job) -> Generator[None]:
    """Lock the folder of `job` within the block. Raises `ValueError` if it is in use or belongs to something else.

    Only the first rank uses the folder. All ranks check that they have the same job. If the block fails before the
    first update, the files and folders that were made for the run are removed.
    """
    _refuse_more_ranks_than_micro_batches(job)
    if not job.ranks.is_first:
        _refuse_different_jobs(job)
        yield
        return
    folder = job.folder
    is_new = not (folder / "experiment.json").is_file()
    # A run that was killed before its first update may leave only these.
    if is_new and not storage.is_vacant(folder, but=("run.json", *start.leftover(folder))):
        raise ValueError(f"{folder} is not empty and contains no run. Choose a new folder for `--out`.")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        storage.make_folders(folder)
        with storage.locked(folder), _removed_on_error(folder):
            _take(job)
            _refuse_different_jobs(job)
            yield
    except Exception:
        with suppress(OSError):  # a folder that is not empty stays
            for made in missing:
                storage.disk.remove_folder(made)
        raise


def refuse_full_disk(job: Job, state: TrainState) -> None:
    """Raise `ValueError` if the disk has no space for the checkpoints of a run.

    These are two, or one more if the run already has some; with validation images also the best one and the final one.
    """
    num_missing = 1 if checkpoint.folders(job.folder) else 2
    num_missing += (job.splits.validation is not None) + (job.experiment.recipe.patience is not None)
    needed, free = num_missing * checkpoint.num_bytes(state), shutil.disk_usage(job.folder).free
    if free < needed:
        raise ValueError(
            f"no space for checkpoints in {job.folder}: {num_missing} of them need {needed / _MIB:,.1f} MiB, and "
            f"{free / _MIB:,.1f} MiB are free. Free some space, or choose a folder on another disk for `--out`."
        )


def _take(job: Job) -> None:
    """Write the files that make the folder this job's own, or check those that are there."""
    path = job.folder / "experiment.json"
    if path.is_file():
        _refuse_other_run(job)
        return
    start.remove(job.folder)
    if job.start is not None:
        start.write(job.folder, job.start)
    storage.write_json(
        job.folder / "run.json", {**job.identity(), **job.origin, "environment": job.environment()}
    )
    storage.write_json(path, config.to_plain(job.experiment))


@contextmanager
def _removed_on_error(folder: Path) -> Generator[None]:
    """Remove the files of a new run if the block fails before the first update or checkpoint."""
    is_new = not (folder / "experiment.json").is_file()
    try:
        yield
    except Exception:
        log = folder / "log.jsonl"
        if is_new and not checkpoint.folders(folder) and not (log.is_file() and log.stat().st_size):
            for path in (folder / "experiment.json", folder / "run.json", log, folder / storage.LOCK):
                with suppress(OSError):
                    storage.disk.remove(path)
            with suppress(OSError):
                start.remove(folder)
                storage.remove_leftovers(folder)
        raise


def _refuse_other_run(job: Job) -> None:
    stored = config.from_plain(storage.read_json(job.folder / "experiment.json"))
    changes = config.describe(config.diff(stored, job.experiment))
    if changes:
        raise ValueError(
            f"{job.folder} contains a run of another experiment; this one would change: {changes}. "
            "Use a new folder for `--out`, or undo these edits to continue that run."
        )
    before, now = storage.read_json(job.folder / "run.json"), job.identity()
    name = next((name for name in now if before.get(name) != now[name]), None)
    if name is None:
        return
    if name.endswith("_digest"):
        raise ValueError(
            f"the {name.removesuffix('_digest')} images of this data, or their labels, are others than when the "
            f"run in {job.folder} began. Restore them to continue that run, or use a new folder for `--out`."
        )
    raise ValueError(
        f"{job.folder} contains a run with another {name}: {before.get(name)}, now {now[name]}. "
        "Use a new folder for `--out`, or the same settings and data to continue that run."
    )


def _refuse_more_ranks_than_micro_batches(job: Job) -> None:
    num_parts = len(job.ranges(0))
    if job.ranks.count > num_parts:
        batch_size = job.experiment.recipe.batch_size
        raise ValueError(
            f"{job.ranks.count} ranks cannot share an update of {num_parts} micro-batches ({batch_size} samples, up to "
            f"{job.micro_batch} each). Start at most {num_parts} ranks, or start a new run with a smaller "
            "`--micro-batch`."
        )


def _refuse_different_jobs(job: Job) -> None:
    """Raise `ValueError` if the ranks have different jobs."""
    mine = {"experiment": config.to_plain(job.experiment), **job.identity(), "save_every": job.save_every}
    mine["num_evaluations"] = job.num_evaluations
    first, *others = job.ranks.gather_values(mine)
    for i, other in enumerate(others, start=1):
        different = [name for name in mine if other[name] != first[name]]
        if different:
            raise ValueError(
                f"rank {i} has another {different[0]} than rank 0. Start every rank with the same command and data."
            )


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
                raise storage.Damaged(
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
    state.step, skipped, evaluations, names = job.ranks.from_first(known)
    state.skipped = tuple(skipped)
    log.evaluations = [(step, summary) for step, summary in evaluations]
    if not job.ranks.is_first:
        parameters = dict(state.model.named_parameters())
        state.set_momenta({name: torch.zeros_like(parameters[name]) for name in names})
    momenta = state.momenta()
    weights = [tensor for model in state.models.values() for tensor in model.state_dict().values()]
    pulls = [start for _, start in state.pulls]
    job.ranks.copy_from_first([*weights, *(momenta[name] for name in names), *pulls])
