"""SIGTERM, SIGINT and SIGUSR1 at every phase of a run, on one process or two: saved, left alike, continued exactly."""

import os
import random
import signal
import time

import pytest
import torch
from chaos.conftest import SCALE, digest, run_to_end, tiny_job, trace
from chaos.faults import fresh, in_child, in_ranks, wait

from resnet_rs import storage
from resnet_rs.data import loader
from resnet_rs.processes import SIGNALS, listening
from resnet_rs.tasks.classification import Classification
from resnet_rs.training import checkpoint
from resnet_rs.training.events import Finished, Stopped
from resnet_rs.training.loop import Loop
from resnet_rs.training.machine import Machine
from resnet_rs.training.ranks import ALONE
from resnet_rs.training.run import run

PLACES = {
    "loader": (loader.TrainingBatches, "__getitem__"),
    "forward": (Classification, "loss"),
    "backward": (torch.Tensor, "backward"),
    "optimizer": (Loop, "_move"),
    "save": (storage.Disk, "rename"),
    "evaluation": (loader.EvaluationBatches, "__getitem__"),
}


PHASES = (*PLACES, "between")


def stopping_at(phase, number, count):
    """Make the code of `phase` send signal `number` to its own process, the `count`-th time it is reached."""
    reached = [0]

    def send():
        reached[0] += 1
        if reached[0] == count:
            os.kill(os.getpid(), number)

    if phase in PLACES:
        owner, name = PLACES[phase]
        original = getattr(owner, name)

        def sending(*arguments, **named):
            send()
            return original(*arguments, **named)

        setattr(owner, name, sending)
    return send if phase == "between" else nothing


def nothing(): ...


def run_signalled(ranks, folder, phase, number, count, signalled):
    """A child: run, get the signal, leave with the step in the exit status, 100 if the run had ended by then."""
    send = stopping_at(phase, number, count) if ranks.index in signalled else nothing
    with listening() as stop:
        last = None
        for event in run(tiny_job(folder, machine=Machine(device=CPU, ranks=ranks), stop=stop)):
            last = event
            send()
    if isinstance(last, Stopped):
        assert last.reason == number.name
        return last.step
    assert isinstance(last, Finished)
    return 100


def exit_with(*arguments):
    raise SystemExit(run_signalled(*arguments))


CPU = tiny_job(None).machine.device


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_at_any_phase_saves_and_leaves(tmp_path, whole, ledger, number):
    rng, survived, tried = random.Random(number), 0, 0
    for phase in PHASES * 3 * SCALE:
        folder = fresh(tmp_path / "run")
        begin = time.monotonic()
        step = wait(in_child(exit_with, ALONE, folder, phase, number, rng.randint(1, 3), {0}))
        assert time.monotonic() - begin < 10
        if step < 100:
            assert step == 0 or checkpoint.read(folder).step == step
            assert wait(in_child(run_to_end, tiny_job(folder))) == 0
        survived += (digest(folder), trace(folder)) == whole
        tried += 1
    ledger(
        f"signals at {len(PHASES)} phases, one process",
        tried=tried,
        survived=survived,
        redo=0,
        equal=survived == tried,
    )
    assert survived == tried


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("signalled", [{0}, {1}, {0, 1}], ids=["first", "second", "both"])
def test_two_ranks_leave_at_the_same_step(tmp_path, whole, ledger, number, signalled):
    rng, survived, tried = random.Random(number), 0, 0
    for phase in PHASES * SCALE:
        folder = fresh(tmp_path / "run")
        begin = time.monotonic()
        # Only the first rank saves, so only there can a signal come during a save.
        on = signalled if phase != "save" else {0}
        steps = in_ranks(2, run_signalled, folder, phase, number, rng.randint(1, 2), on)
        assert steps[0] == steps[1], "the ranks left at different steps"
        assert time.monotonic() - begin < 20
        if steps[0] < 100:
            assert steps[0] == 0 or checkpoint.read(folder).step == steps[0]
            assert wait(in_child(run_to_end, tiny_job(folder))) == 0
        survived += (digest(folder), trace(folder)) == whole
        tried += 1
    ledger(
        f"signals at {len(PHASES)} phases, two ranks",
        tried=tried,
        survived=survived,
        redo=0,
        equal=survived == tried,
    )
    assert survived == tried


def wait_forever():
    """A run whose main thread is inside of something that does not end, and has been asked to stop once."""
    with listening():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def test_a_second_signal_ends_the_process_within_a_second():
    begin = time.monotonic()
    assert wait(in_child(wait_forever)) == 128 + signal.SIGTERM
    assert time.monotonic() - begin < 2.5
