"""Power cuts, full disks and every error of every file operation."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.conftest import SCALE, digest, run_to_end, tiny_job, trace
from chaos.faults import FragileDisk, PowerCut, WatchedDisk, failing_disk, fresh

from resnet_rs import storage
from resnet_rs.training import checkpoint
from resnet_rs.training.events import Finished, Saved, SaveFailed
from resnet_rs.training.run import CannotSave, run

ERRORS = [getattr(errno, name) for name in ("EACCES", "EROFS", "ENOSPC", "EIO", "EXDEV", "EDQUOT", "EMFILE")]


def count_operations(folder):
    disk = WatchedDisk()
    run_to_end(tiny_job(folder), disk)
    return disk.count


@pytest.mark.parametrize("part", range(2))
def test_what_was_reported_as_saved_survives_a_power_cut_at_any_file_operation(tmp_path, whole, ledger, part):
    numbers = range(part, count_operations(tmp_path / "count"), 2)
    survived, equal = 0, 0
    for number in numbers:
        place = fresh(tmp_path / "place")
        (place / "disk").mkdir(parents=True)
        disk = FragileDisk(place / "disk", number)
        storage.disk, saved, left = disk, 0, place / "left"
        with pytest.raises(PowerCut):
            for event in run(tiny_job(disk.root / "run")):
                saved = event.step if isinstance(event, Saved) else saved
        storage.disk = storage.Disk()
        disk.leave(left)
        found = checkpoint.recover(left / "run")[0] if (left / "run").exists() else None
        survived += (found.step if found else 0) >= saved
        run_to_end(tiny_job(left / "run"))
        equal += (digest(left / "run"), trace(left / "run")) == whole
    ledger(
        "power cut before every file operation of a run",
        tried=len(numbers),
        survived=survived,
        equal=equal == len(numbers),
    )
    assert survived == equal == len(numbers)


def attempt(job):
    """Run `job`; how many saves have failed, and what it ended with. Whatever is called saved is verified."""
    failed = 0
    try:
        for event in run(job):
            failed += isinstance(event, SaveFailed)
            if isinstance(event, Saved):
                assert checkpoint.read(job.folder).step == event.step
    except OSError as error:
        return failed, error
    return failed, event


@pytest.mark.parametrize("part", range(2))
def test_any_error_of_any_file_operation_is_told_and_costs_nothing(tmp_path, whole, ledger, part):
    """Each operation fails once; over all of them, in turn, with every error, and in a full run with each."""
    cases = [
        (number, code)
        for number in range(part, count_operations(tmp_path / "count"), 2)
        for code in (ERRORS if SCALE > 1 else [ERRORS[number // 2 % len(ERRORS)]])
    ]
    survived, equal = 0, 0
    for number, code in cases:
        folder = fresh(tmp_path / "run")
        storage.disk = failing_disk(code, fails=lambda at, name, number=number: at == number)
        failed, ended = attempt(tiny_job(folder))
        survived += isinstance(ended, Finished) or ended.errno == code
        run_to_end(tiny_job(folder))
        equal += (digest(folder), trace(folder)) == whole
    ledger(
        "each of 7 errors at every file operation of a run",
        tried=len(cases),
        survived=survived,
        equal=equal == len(cases),
    )
    assert survived == equal == len(cases)


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["create", "write", "sync", "rename"])
def test_saves_that_keep_failing_end_the_run_and_leave_the_last_checkpoint(tmp_path, code, name):
    job = tiny_job(tmp_path / "run", save_every=1)
    events, seen = [], []
    with pytest.raises(CannotSave, match=f"3 times in a row, the last after update 4: {os.strerror(code)}"):
        for event in run(job):
            events.append(event)
            if isinstance(event, Saved) and event.step == 1:
                storage.disk = failing_disk(code, fails=lambda at, op: op == name and not seen.append(at))
    assert [event.step for event in events if isinstance(event, SaveFailed)] == [2, 3]
    assert checkpoint.read(job.folder).step == 1
    assert not list(job.folder.rglob(".partial-*"))


def test_a_full_disk_is_refused_at_once_survived_and_explained(tmp_path, ledger):
    """On a real file system of a few checkpoints, that another program fills and empties again."""
    script = [sys.executable, str(Path(__file__).parent / "full_disk.py"), str(tmp_path)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path]),
    }
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", *script],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["preflight_seconds"] < 2
    assert "no space for checkpoints" in said["preflight"] and "are free" in said["preflight"]
    assert "No space left on device" in said["failed"][0] and "MiB are free" in said["failed"][0]
    assert said["last"] == "Finished" and said["verified_while_full"] == 2
    assert "3 times in a row" in said["given_up"] and said["verified_after"] == 2
    assert said["leftovers"] == []
    ledger("a file system that fills up, for a while and for good", tried=3, survived=3)
