"""Damage after the fact: every flipped bit and every cut is found, and what is needed is never deleted."""

import os
import random
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from chaos.conftest import SCALE, TINY, digest, run_to_end, tiny_job, trace
from chaos.faults import OWN, failing_disk
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resnet_rs import storage
from resnet_rs.training import checkpoint
from resnet_rs.training.provenance import Provenance

ERRNO = 28


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    run_to_end(tiny_job(folder))
    return folder


def flip(file, rng):
    content = bytearray(file.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def cut(file, rng):
    os.truncate(file, rng.randrange(file.stat().st_size))


@pytest.mark.parametrize(("damage", "times"), [(flip, 300), (cut, 100)])
def test_damage_to_the_newest_checkpoint_is_found_and_the_one_before_is_used(trained, ledger, damage, times):
    rng = random.Random(3)
    newest = checkpoint.read(trained).path
    files = sorted(newest.iterdir())
    found = 0
    for _ in range(times * SCALE):
        # Larger files are hit more often, but every file is hit.
        file = rng.choice(files) if rng.random() < 0.3 else max(files, key=lambda f: f.stat().st_size)
        content = file.read_bytes()
        damage(file, rng)
        with pytest.warns(UserWarning, match=f"{file.name}|{newest.name}") as warned:
            found += checkpoint.read(trained).step == 4 and "step-00000004 is used" in str(warned[0].message)
        file.write_bytes(content)
    assert checkpoint.read(trained).step == 6
    ledger(f"{damage.__name__} in the newest checkpoint", tried=times * SCALE, survived=found)
    assert found == times * SCALE


def missing(newest, other):
    (newest / "model.safetensors").unlink()


def swapped(newest, other):
    shutil.copy(other / "model.safetensors", newest / "model.safetensors")


def exchanged(newest, other):
    shutil.rmtree(newest)
    shutil.copytree(other, newest)


def doctored(newest, other):
    text = (newest / "manifest.json").read_text()
    (newest / "manifest.json").write_text(text.replace('"bytes": ', '"bytes": 1'))


def a_folder_for_a_file(newest, other):
    (newest / "model.safetensors").unlink()
    (newest / "model.safetensors").mkdir()


def a_file_for_the_folder(newest, other):
    shutil.rmtree(newest)
    newest.write_text("nothing")


def empty(newest, other):
    (newest / "ema.safetensors").write_bytes(b"")


KINDS = [missing, swapped, exchanged, doctored, a_folder_for_a_file, a_file_for_the_folder, empty]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(trained, tmp_path, whole, ledger, kind):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    newest = checkpoint.read(folder).path
    kind(newest, newest.with_name("step-00000004"))
    run_to_end(tiny_job(folder))
    equal = (digest(folder), trace(folder)) == whole
    ledger(
        "a file of the newest checkpoint missing, swapped, doctored, empty", tried=1, survived=1, equal=equal
    )
    assert equal


@dataclass
class Small:
    """A state that is quick to save."""

    step: int = 0
    skipped: tuple = ()
    models: dict = field(default_factory=lambda: {"model": torch.nn.Linear(1, 1)})

    def momenta(self):
        return {}


PROVENANCE = Provenance(experiment=TINY, classes=("disc", "square", "triangle"), seed=0)


class Retention(RuleBasedStateMachine):
    """Saving, crashing, damaging and resuming in any order; the clock of the files may go backwards."""

    def __init__(self):
        super().__init__()
        # In memory where there is such a place: what is asked here is order, and flushing to a disk takes long.
        memory = Path("/dev/shm")
        self.run = Path(tempfile.mkdtemp(prefix=OWN, dir=memory if memory.is_dir() else None))
        self.state = Small(step=990)
        self.valid = set()
        self.damaged = set()

    def _paths(self):
        return {path: path for path in (self.run / "checkpoints").glob("step-*")}

    def _valid_steps(self):
        return {int(p.name.removeprefix("step-")) for p in self._paths() if checkpoint._is_valid(p)}

    @rule(steps=st.integers(1, 9100))
    def save(self, steps):
        self.state.step += steps
        checkpoint.save(self.run, self.state, PROVENANCE)
        assert checkpoint.read(self.run).step == self.state.step

    @rule(operation=st.integers(0, 25))
    def fail_to_save(self, operation):
        before = self._valid_steps()
        self.state.step += 1
        storage.disk = failing_disk(ERRNO, fails=lambda number, name: number == operation)
        try:
            checkpoint.save(self.run, self.state, PROVENANCE)
        except OSError:
            assert before <= self._valid_steps(), "a failed save has cost a checkpoint"
        finally:
            storage.disk = storage.Disk()

    @precondition(lambda self: self._paths())
    @rule(data=st.data())
    def damage(self, data):
        path = data.draw(st.sampled_from(sorted(self._paths())))
        file = path / "model.safetensors"
        if file.exists():
            file.write_bytes(file.read_bytes()[:-1])
            self.damaged.add(int(path.name.removeprefix("step-")))

    @precondition(lambda self: self._paths())
    @rule(data=st.data(), seconds=st.integers(0, 2**31))
    def set_clock(self, data, seconds):
        os.utime(data.draw(st.sampled_from(sorted(self._paths()))), (seconds, seconds))

    @rule()
    def resume(self):
        valid = self._valid_steps()
        try:
            found, _ = checkpoint.recover(self.run)
        except checkpoint.NoneValid:
            assert not valid
            shutil.rmtree(self.run / "checkpoints")
            return
        assert (found.step if found else None) == max(valid, default=None)
        if found:
            self.state.step = found.step

    @invariant()
    def nothing_needed_is_gone(self):
        valid = self._valid_steps()
        for step in self.valid - valid - self.damaged:
            assert len([newer for newer in valid if newer > step]) >= 2, "a checkpoint was deleted too early"
        self.valid, self.damaged = valid, set()

    def teardown(self):
        shutil.rmtree(self.run, ignore_errors=True)


def test_retention_never_deletes_what_is_needed(ledger):
    sequences = 1000 * SCALE
    Retention.TestCase.settings = settings(
        max_examples=sequences,
        stateful_step_count=12,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    Retention.TestCase("runTest").runTest()
    ledger("random sequences of save, crash, damage, clock, resume", tried=sequences, survived=sequences)


def test_the_newest_checkpoint_is_complete_at_every_moment(tmp_path, ledger):
    state, failures, looks, is_over = Small(), [], [0], threading.Event()

    def look():
        while not is_over.is_set():
            try:
                if (tmp_path / "checkpoints/step-00000001").exists() or looks[0]:
                    checkpoint.read(tmp_path)
                    looks[0] += 1
            except Exception as error:
                failures.append(error)

    poller = threading.Thread(target=look)
    poller.start()
    for _ in range(200):
        state.step += 1
        checkpoint.save(tmp_path, state, PROVENANCE)
    is_over.set()
    poller.join()
    ledger(
        "reads of the newest checkpoint during 200 saves", tried=looks[0], survived=looks[0] - len(failures)
    )
    assert looks[0] > 100 and not failures, failures[:3]
