"""A folder belongs to one run and one process at a time; a run goes on only as what it began."""

import multiprocessing
import os
import re
import signal
import time

import pytest
from shapes import Shapes

from resnet_rs import storage
from resnet_rs.config import edit
from resnet_rs.data.source import Splits
from resnet_rs.training import folder as run_folder
from resnet_rs.training.events import Started
from resnet_rs.training.run import run

FORK = multiprocessing.get_context("fork")


def hold(folder, is_held):
    with storage.locked(folder):
        is_held.set()
        time.sleep(60)


def test_a_second_process_is_refused_at_once_and_told_who_holds_the_folder(job):
    list(run(job()))
    is_held = FORK.Event()
    other = FORK.Process(target=hold, args=(job().folder, is_held))
    other.start()
    assert is_held.wait(30)
    begin = time.monotonic()
    with pytest.raises(
        storage.InUse, match=rf"is in use by process {other.pid} on {re.escape(os.uname().nodename)}\."
    ):
        list(run(job()))
    assert time.monotonic() - begin < 1
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert isinstance(next(iter(run(job()))), Started)


CHANGES = {
    "recipe.base_lr": 0.2,
    "recipe.batch_size": 32,
    "recipe.momentum": 0.8,
    "recipe.ema_decay": 0.5,
    "data.size": 24,
    "arch.blocks": (2, 1, 1, 1),
    "task.num_classes": 4,
}


@pytest.mark.parametrize("path", CHANGES)
def test_a_changed_setting_is_refused_with_its_difference_and_nothing_is_written(job, tiny, path):
    next(iter(run(job())))
    before = {file: file.read_bytes() for file in job().folder.rglob("*") if file.is_file()}
    begin = time.monotonic()
    with pytest.raises(ValueError, match=re.escape(f"this one would change: {path}=")):
        list(run(job(experiment=edit(tiny, {path: CHANGES[path]}))))
    assert time.monotonic() - begin < 2
    del before[job().folder / "lock"]
    assert all(file.read_bytes() == content for file, content in before.items())


def test_other_data_is_refused_and_harmless_settings_pass(job):
    next(iter(run(job())))
    other = Splits(train=Shapes(num_samples=64, size=16), test=Shapes(num_samples=39, size=16, seed=1))
    with pytest.raises(ValueError, match="the test images of this data, or their labels, are others"):
        list(run(job(splits=other)))
    assert isinstance(next(iter(run(job(workers=1, save_every=3)))), Started)


def test_a_disk_with_too_little_space_is_refused_and_nothing_is_left_behind(job, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        ValueError,
        match=r"no space for checkpoints in .*: 2 of them need \d\.\d MiB, and 0\.0 MiB are free",
    ):
        list(run(job("new/run")))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_existed_before_a_refused_run_is_empty_again(job, monkeypatch):
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
    job().folder.mkdir()
    with pytest.raises(ValueError, match="no space for checkpoints"):
        list(run(job()))
    assert not list(job().folder.iterdir())


def test_an_error_in_a_run_that_began_earlier_removes_nothing(job, monkeypatch):
    next(iter(run(job())))
    before = {file for file in job().folder.rglob("*") if file.name != "log.jsonl"}
    monkeypatch.setattr("resnet_rs.training.run.resume", broken)
    with pytest.raises(RuntimeError, match="broken"):
        list(run(job()))
    assert before <= set(job().folder.rglob("*"))


def broken(*arguments):
    raise RuntimeError("broken")


def test_another_environment_is_noticed(job, monkeypatch):
    list(run(job()))
    described = {**job().environment(), "threads": "99"}
    monkeypatch.setattr(type(job()), "environment", lambda self: described)
    (notice,) = next(iter(run(job()))).notices
    assert re.fullmatch(
        r"the environment has changed \(threads \d+ -> 99\), so the last bits may differ\.", notice
    )


def test_a_log_that_lacks_updates_is_noticed(job):
    list(run(job()))
    (job().folder / "log.jsonl").write_text("")
    assert "log.jsonl lacks 12 of 12 updates" in next(iter(run(job()))).notices[0]
