"""The folder of a run: one process at a time, one experiment for good, and room for its checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from resnet_rs import config, storage
from resnet_rs.training import checkpoint
from resnet_rs.training.job import Job
from resnet_rs.training.state import TrainState

_MIB = 1 << 20


@contextmanager
def held(job: Job) -> Generator[None]:
    """Hold the folder of `job` within the block; refuse one that is in use or holds anything else.

    The first rank does that; the others wait for it, and all see that they were given the same job.
    """
    _refuse_more_ranks_than_micro_batches(job)
    if not job.ranks.is_first:
        _refuse_different_jobs(job)
        yield
        return
    _refuse_foreign_folder(job.folder)
    storage.make_folders(job.folder)
    with storage.locked(job.folder):
        _take(job)
        _refuse_different_jobs(job)
        yield


def refuse_full_disk(job: Job, state: TrainState) -> None:
    """Refuse to start where there is no room for two checkpoints, or, of a run that has some, for the next one."""
    num_missing = 1 if checkpoint.has_any(job.folder) else 2
    needed, free = num_missing * checkpoint.num_bytes(state), shutil.disk_usage(job.folder).free
    if free < needed:
        raise ValueError(
            f"no space left for checkpoints in {job.folder}: {num_missing} must fit, which take "
            f"{needed / _MIB:,.1f} MiB, {free / _MIB:,.1f} MiB are free. Make room, or choose a folder on another disk "
            "for `--out`."
        )


def _take(job: Job) -> None:
    """Make the folder this job's own, or see that it is already."""
    path = job.folder / "experiment.json"
    if path.is_file():
        _refuse_other_run(job)
        return
    storage.write_json(
        job.folder / "run.json", {**job.identity(), **job.origin, "environment": job.environment()}
    )
    storage.write_json(path, config.to_plain(job.experiment))


def _refuse_foreign_folder(folder: Path) -> None:
    # A run that was killed while it took its folder leaves `run.json`.
    if not (folder / "experiment.json").is_file() and not storage.is_vacant(folder, but=("run.json",)):
        raise ValueError(f"{folder} is not empty and holds no run. Choose a new folder for `--out`.")


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


def _refuse_more_ranks_than_micro_batches(job: Job) -> None:
    num_parts = len(job.spans(0))
    if job.ranks.count > num_parts:
        batch_size = job.experiment.recipe.batch_size
        raise ValueError(
            f"{job.ranks.count} ranks cannot share an update of {num_parts} micro-batches ({batch_size} samples, "
            f"{job.micro_batch} at once at most). Launch {num_parts} at most, or begin with a smaller `--micro-batch`."
        )


def _refuse_different_jobs(job: Job) -> None:
    """See that all ranks are about to do the same."""
    mine = {"experiment": config.to_plain(job.experiment), **job.identity(), "save_every": job.save_every}
    jobs = [json.loads(text) for text in job.ranks.gather(json.dumps(mine).encode())]
    for i, other in enumerate(jobs):
        odd = [name for name in mine if other[name] != jobs[0][name]]
        if odd:
            raise ValueError(
                f"rank {i} was given another {odd[0]} than rank 0. Launch every rank with the same command and data."
            )
