"""A long run costs no more memory, descriptors, threads or shared memory at its end than at its begin."""

import os
from pathlib import Path

import numpy as np
from chaos.conftest import TINY, tiny_job
from chaos.faults import in_child, shared_memory, wait

from resnet_rs.config import edit
from resnet_rs.training.events import Progressed
from resnet_rs.training.run import run

NUM_STEPS = 10_000
WARM_UP = NUM_STEPS // 5


def measured():
    """Resident MiB, open descriptors, threads and shared-memory objects of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
        len(shared_memory()),
    )


def soak(folder):
    """Take many small updates, and measure this process after every hundredth."""
    edits = {"recipe.epochs": NUM_STEPS * 4 / 48, "recipe.batch_size": 4, "arch.width": 0.0625}
    rows = []
    for event in run(tiny_job(folder, experiment=edit(TINY, edits), save_every=500)):
        if isinstance(event, Progressed) and event.update.step % 100 == 0:
            rows.append((event.update.step, *measured()))
    np.save(folder / "measured.npy", np.array(rows))


def test_ten_thousand_steps_leak_nothing(tmp_path, ledger):
    assert wait(in_child(soak, tmp_path / "run"), seconds=500) == 0
    rows = np.load(tmp_path / "run/measured.npy")
    assert rows[-1, 0] == NUM_STEPS
    steady = rows[rows[:, 0] > WARM_UP]
    slope = np.polyfit(steady[:, 0] / 1000, steady[:, 1], 1)[0]
    ledger(f"{NUM_STEPS:,} updates: {slope:+.3f} MiB per 1,000 updates", tried=1, survived=1)
    assert slope <= 1.0
    for column in (2, 3, 4):
        assert len(set(steady[:, column])) == 1, steady[:, column]
