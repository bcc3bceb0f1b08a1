"""SIGKILL anywhere: between any two file operations, and at random times of a real command."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from chaos.conftest import SCALE, digest, run_to_end, tiny_job, trace
from chaos.faults import WatchedDisk, fresh, in_child, killing_disk, shared_memory, wait

from resnet_rs.training import checkpoint
from resnet_rs.training.log import read_log


def reported(folder):
    """The last step whose checkpoint the log calls saved."""
    steps = [line["step"] for line in read_log(folder / "log.jsonl") if line["kind"] == "checkpoint"]
    return max(steps, default=0)


@pytest.mark.parametrize("is_after", [False, True], ids=lambda after: "after" if after else "before")
@pytest.mark.parametrize("part", range(2))
def test_a_kill_at_any_file_operation_of_a_run_costs_nothing(tmp_path, whole, ledger, is_after, part):
    disk = WatchedDisk()
    run_to_end(tiny_job(tmp_path / "count"), disk)
    survived, redo = 0, 0
    numbers = range(part, disk.count, 2)
    for number in numbers:
        folder = fresh(tmp_path / "run")
        pid = in_child(run_to_end, tiny_job(folder), killing_disk(number, is_after=is_after))
        assert wait(pid) == -signal.SIGKILL
        saved, last = reported(folder), len(trace(folder)[0])
        if saved:
            assert checkpoint.read(folder).step >= saved
        assert wait(in_child(run_to_end, tiny_job(folder))) == 0
        survived += (digest(folder), trace(folder)) == whole
        redo = max(redo, last - saved)
        assert not [path for path in folder.rglob(".partial-*")], "something was left behind"
    ledger(
        f"SIGKILL {'after' if is_after else 'before'} every file operation of a run",
        tried=len(numbers),
        survived=survived,
        redo=redo,
        equal=survived == len(numbers),
    )
    assert survived == len(numbers)


NUM_KILLS = 50
COMMAND = [
    *(
        "train",
        "resnet-rs-tiny",
        "--data",
        "builtin",
        "--save-every",
        "5",
        "--workers",
        "2",
        "--micro-batch",
        "8",
    ),
    *("recipe.epochs=1", "recipe.batch_size=16", "recipe.schedule.warmup_epochs=0.1", "recipe.ema_decay=0.9"),
    *("arch.width=0.125", "arch.drop_path=0.2", "task.dropout=0.25", "data.size=16"),
    'data.randaugment={"type": "resnet_rs.methods.randaugment.RandAugment", "magnitude": 10.0}',
]


def start(out):
    """The command of a person, in a process group of its own, with a folder of its own for temporary files."""
    script = [sys.executable, "-m", "resnet_rs", *COMMAND, "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(out.parent / "temporary")}
    return subprocess.Popen(
        script, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def test_fifty_kills_of_a_real_command_at_random_times_change_nothing(tmp_path, ledger):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with start(tmp_path / "whole") as process:
        assert process.wait(300) == 0, process.stderr.read().decode()
    rng = random.Random(7)
    shared_before = shared_memory()
    folder, kills, redo, traces = tmp_path / "cut", 0, 0, []
    while kills < NUM_KILLS * SCALE:
        with start(folder) as process:
            # Mostly some updates after the last known one, now and then while it is still starting.
            before = len(trace(folder)[0]) if folder.exists() else 0
            if rng.random() < 0.85:
                patience = time.monotonic() + 30
                while len(trace(folder)[0]) <= before and time.monotonic() < patience:
                    time.sleep(0.02)
                time.sleep(rng.uniform(0, 0.12))
            else:
                time.sleep(rng.uniform(0, 2.5))
            assert process.poll() is None, process.stderr.read().decode()
            os.killpg(process.pid, signal.SIGKILL)
        kills += 1
        last = trace(folder)[0]
        # The checkpoint counts, not its line in the log: a kill may fall between the two.
        redo = max(redo, len(last) - (checkpoint.read(folder).step if checkpoint.folders(folder) else 0))
        traces.append(last)
    with start(folder) as process:
        assert process.wait(300) == 0, process.stderr.read().decode()
    equal = (digest(folder), trace(folder)) == (digest(tmp_path / "whole"), trace(tmp_path / "whole"))
    final = trace(folder)[0]
    # What was logged before a kill is what the final run says too: no loss was ever another.
    prefixes = sum(last == final[: len(last)] for last in traces)
    ledger(
        "SIGKILL of the process group of a real command",
        tried=kills,
        survived=prefixes,
        redo=redo,
        equal=equal,
    )
    assert equal and prefixes == kills
    assert redo <= 5 + 1, "more than one save interval was lost"
    time.sleep(1)
    assert shared_memory() <= shared_before, "shared memory was left behind"
    assert not list(temporary.iterdir()), "temporary files were left behind"
