"""Several ranks: the same bits for any number of them, through kills, hangs and errors of any of them."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from chaos.conftest import SCALE, TINY, digest, run_to_end, tiny_job, trace
from chaos.faults import fresh, in_child, in_ranks, shared_memory, start_ranks, wait
from safetensors.torch import load_file
from shapes import Shapes

from resnet_rs.config import edit
from resnet_rs.data.sample import Request
from resnet_rs.data.source import Splits
from resnet_rs.tasks.classification import Classification
from resnet_rs.training import checkpoint, start
from resnet_rs.training.evaluate import evaluate
from resnet_rs.training.events import Progressed
from resnet_rs.training.log import read_log
from resnet_rs.training.machine import Machine
from resnet_rs.training.run import run
from resnet_rs.training.state import Statistics, new_state

CPU = tiny_job(None).machine.device


def run_as_rank(ranks, folder, splits=None, stop_at=None):
    """The tiny run on this rank; its process is killed after update `stop_at`."""
    machine = Machine(device=CPU, ranks=ranks)
    job = tiny_job(folder, machine=machine, **({} if splits is None else {"splits": splits}))
    for event in run(job):
        if isinstance(event, Progressed) and event.update.step == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_any_number_of_ranks_gives_the_same_bits(tmp_path, whole, ledger, count):
    assert in_ranks(count, run_as_rank, tmp_path / "run") == [0] * count
    equal = (digest(tmp_path / "run"), trace(tmp_path / "run")) == whole
    ledger(f"{count} ranks in place of one", tried=1, survived=1, equal=equal)
    assert equal


def fine_tune(ranks, folder, trained):
    """A run on this rank that begins with the weights of the run `trained`, with frozen stages and a pull to them."""
    edits = {"frozen": "c2", "decay_towards": "start", "stage_lr_decay": 0.5}
    tuned = edit(TINY, {f"recipe.fine_tuning.{name}": value for name, value in edits.items()})
    classes = tiny_job(None).splits.train.classes
    first = start.begin(checkpoint.read(trained), tuned, classes=classes, name="trained", seed=0)
    list(run(tiny_job(folder, experiment=tuned, start=first, machine=Machine(device=CPU, ranks=ranks))))


def test_fine_tuning_gives_the_same_bits_on_two_ranks(tmp_path, ledger):
    run_to_end(tiny_job(tmp_path / "trained"))
    for count in (1, 2):
        assert in_ranks(count, fine_tune, tmp_path / str(count), tmp_path / "trained") == [0] * count
    one, two = ((digest(tmp_path / name), trace(tmp_path / name)) for name in ("1", "2"))
    ledger("fine-tuning on 2 ranks in place of one", tried=1, survived=1, equal=one == two)
    assert one == two


def choose(ranks, folder):
    """A run on this rank whose validation images choose the weights."""
    recipe = {"recipe.patience": 2, "recipe.class_balance": "loss"}
    whole = tiny_job(None).splits
    train = KnownShapes(num_samples=len(whole.train), size=16)
    splits = Splits(train=train, test=whole.test, validation=Shapes(num_samples=70, size=16, seed=3))
    machine = Machine(device=CPU, ranks=ranks)
    list(run(tiny_job(folder, experiment=edit(TINY, recipe), splits=splits, machine=machine)))


class KnownShapes(Shapes):
    """Shapes whose classes are known without reading, as those of folders."""

    def target(self, index):
        return self.read(index, Request(1)).target


def test_validation_images_choose_the_same_weights_on_two_ranks(tmp_path, ledger):
    for count in (1, 2):
        assert in_ranks(count, choose, tmp_path / str(count)) == [0] * count
    found = [
        {
            path.name: path.read_bytes()
            for path in [*(tmp_path / name / "final").glob("*.safetensors"), tmp_path / name / "scores.json"]
        }
        for name in ("1", "2")
    ]
    ledger(
        "early stopping and calibration on 2 ranks in place of one",
        tried=1,
        survived=1,
        equal=found[0] == found[1],
    )
    assert len(found[0]) == 2 and found[0] == found[1]


def test_a_run_may_go_on_with_another_number_of_ranks(tmp_path, whole, ledger):
    """Killed with two ranks, with one, with three; ended with two."""
    folder = tmp_path / "run"
    for count, stop_at in ((2, 3), (1, 4), (3, 5)):
        pids, store = start_ranks(count, run_as_rank, folder, None, stop_at)
        # All ranks reach the step together; the first is killed, and what is left of the others leaves by itself.
        statuses = [wait(pid) for pid in pids]
        assert statuses[0] == -signal.SIGKILL and 0 not in statuses
        del store
    assert in_ranks(2, run_as_rank, folder) == [0, 0]
    equal = (digest(folder), trace(folder)) == whole
    ledger("kills at 2, 1 and 3 ranks, end at 2", tried=3, survived=3, equal=equal)
    assert equal


@pytest.mark.parametrize("num_test", [1, 2, 7, 101])
def test_evaluation_counts_every_sample_once_for_any_number_of_ranks(tmp_path, ledger, num_test):
    splits = Splits(train=Shapes(num_samples=48, size=16), test=Shapes(num_samples=num_test, size=16, seed=1))
    found = {}
    for count in (1, 2, 3, 4):
        assert in_ranks(count, score, splits, tmp_path / str(count)) == [0] * count
        rows = [(tmp_path / f"{count}-{index}.npy").read_bytes() for index in range(count)]
        assert len(set(rows)) == 1, "the ranks have different evaluations"
        found[count] = rows[0]
    assert len(set(found.values())) == 1
    assert np.load(tmp_path / "1-0.npy")["index"].tolist() == list(range(num_test))
    ledger("exact evaluation of 1, 2, 7, 101 samples on 1-4 ranks", tried=4, survived=4, equal=True)


def score(ranks, splits, path):
    """Score fresh weights and write down the row of every sample, batches of two so that all ranks have some."""
    from resnet_rs.training import evaluate as module

    module._BATCH_SIZE_ON_CPUS = 2
    job = tiny_job(None, splits=splits)
    models = new_state(job.experiment, CPU, seed=0).models
    result = evaluate(models, splits.test, job.experiment, machine=Machine(device=CPU, ranks=ranks))
    np.save(f"{path}-{ranks.index}.npy", result.meters["ema"].rows)


def hold_statistics(ranks, folder):
    """Train a little, and write down the statistics of this rank."""
    job = tiny_job(folder, machine=Machine(device=CPU, ranks=ranks))
    states = []
    from resnet_rs.training import run as module

    original = module.new_state
    module.new_state = lambda *a, **k: states.append(original(*a, **k)) or states[-1]
    list(run(job))
    states[0].model.train()
    values = Statistics(states[0].model)._read().numpy().tobytes()
    (folder.parent / f"statistics-{ranks.index}").write_bytes(values)


def test_batch_norm_statistics_are_equal_on_all_ranks(tmp_path):
    assert in_ranks(3, hold_statistics, tmp_path / "run") == [0, 0, 0]
    held = {(tmp_path / f"statistics-{index}").read_bytes() for index in range(3)}
    assert len(held) == 1
    saved = checkpoint.read(tmp_path / "run")
    model = saved.experiment.build_model()
    model.load_state_dict(load_file(saved.path / "model.safetensors"))
    assert Statistics(model.train())._read().numpy().tobytes() in held


def spoil_on_second(ranks, folder):
    """The loss of update 3 is infinite in the last micro-batch alone, which the second rank computes."""
    original, calls = Classification.loss, []

    def loss(self, prediction, targets, indices):
        result = original(self, prediction, targets, indices)
        calls.append(torch.is_grad_enabled())
        return result + float("inf") if ranks.index == 1 and sum(calls) == 6 else result

    Classification.loss = loss
    run_as_rank(ranks, folder)


def test_an_update_that_is_not_finite_on_one_rank_is_taken_back_on_all(tmp_path, ledger):
    """Both ranks go on alike, and one process that goes on from there ends as they do."""
    assert in_ranks(2, spoil_on_second, tmp_path / "run") == [0, 0]
    lines = read_log(tmp_path / "run/log.jsonl")
    (skipped,) = [line for line in lines if line["kind"] == "skipped"]
    assert skipped["step"] == 3 and len(skipped["keys"]) == 4
    assert checkpoint.read(tmp_path / "run").skipped == (3,)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(tmp_path / "again/checkpoints/step-00000006")
    run_to_end(tiny_job(tmp_path / "again"))
    equal = digest(tmp_path / "again") == digest(tmp_path / "run")
    ledger("an infinite loss on one of two ranks", tried=1, survived=1, equal=equal)
    assert equal


def test_uneven_data_cannot_hang_the_ranks(tmp_path, ledger):
    """101 samples, three ranks, four micro-batches: step counts follow from the timetable alone."""
    splits = Splits(train=Shapes(num_samples=101, size=16), test=Shapes(num_samples=7, size=16, seed=1))
    times = 3 if SCALE == 1 else 100
    for _ in range(times):
        folder = fresh(tmp_path / "run")
        assert in_ranks(3, run_as_rank, folder, splits) == [0, 0, 0]
        assert len(trace(folder)[0]) == 13
    ledger("101 samples on 3 ranks", tried=times, survived=times)


TRAIN = [
    *("train", "resnet-rs-tiny", "--data", "builtin", "--save-every", "5", "--micro-batch", "8"),
    *("recipe.epochs=1", "recipe.batch_size=32", "recipe.schedule.warmup_epochs=0.1", "recipe.ema_decay=0.9"),
    *("arch.width=0.125", "arch.drop_path=0.2", "task.dropout=0.25", "data.size=16"),
]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path]),
}
MODULE = ["-m", "resnet_rs"]


@contextmanager
def launched(out, *, program=MODULE, restarts=0, count=2, train=TRAIN, environment=ENVIRONMENT):
    """torchrun with `count` ranks; whatever is left of it is killed in the end."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--nproc-per-node", str(count), "--max-restarts", str(restarts), "--monitor-interval", "0.2"]
    command = [*torchrun, *options, *program, *train, "--out", str(out)]
    with open(f"{out}.txt", "w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        ranks = []
        try:
            yield process
        except BaseException as error:
            error.add_note(Path(f"{out}.txt").read_text()[-5000:])
            raise
        finally:
            ranks = children(process.pid).values()
            for pid in [process.pid, *ranks]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            process.wait()


def children(launcher):
    """Process ids of the ranks of a launcher, by rank."""
    found = {}
    for tasks in Path(f"/proc/{launcher}/task").glob("*/children"):
        for pid in map(int, tasks.read_text().split()):
            try:
                entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ranks = [int(entry[5:]) for entry in entries if entry.startswith(b"RANK=")]
            found |= {rank: pid for rank in ranks}
    return found


def steps(folder):
    return len([line for line in read_log(folder / "log.jsonl") if line["kind"] == "update"])


def wait_for(condition, *, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def command_whole(tmp_path_factory):
    """What one process makes of the command."""
    out = tmp_path_factory.mktemp("command") / "whole"
    subprocess.run(
        [sys.executable, *MODULE, *TRAIN, "--out", str(out)], env=ENVIRONMENT, check=True, capture_output=True
    )
    return digest(out), trace(out)


def test_killed_ranks_are_restarted_and_the_result_is_that_of_one_process(tmp_path, command_whole, ledger):
    rng, folder, kills, slowest, redo = random.Random(5), tmp_path / "run", 20 * SCALE, 0.0, 0
    with launched(folder, restarts=kills) as process:
        for i in range(kills):
            before = steps(folder) if folder.exists() else 0
            wait_for(lambda before=before: folder.exists() and steps(folder) > before)
            time.sleep(rng.uniform(0, 0.05))
            assert process.poll() is None, "the run has ended before it could be killed often enough"
            os.kill(children(process.pid)[i % 2], signal.SIGKILL)
            begin = time.monotonic()
            seen = checkpoint.read(folder).step if list(folder.glob("checkpoints/step-*")) else 0
            wait_for(lambda: len(children(process.pid)) == 2)
            slowest = max(slowest, time.monotonic() - begin)
            redo = max(redo, steps(folder) - seen)
        assert process.wait(120) == 0, Path(f"{folder}.txt").read_text()[-3000:]
    equal = (digest(folder), trace(folder)) == command_whole
    ledger("SIGKILL of a rank under torchrun", tried=kills, survived=kills, redo=redo, equal=equal)
    assert equal and slowest < 20 and redo <= 6


@pytest.mark.parametrize("way", ["segfault", "exit", "raise"])
def test_however_a_rank_dies_it_is_restarted_and_the_result_is_equal(tmp_path, command_whole, ledger, way):
    program = [str(Path(__file__).parent / "broken_rank.py"), "forward"]
    environment = {**ENVIRONMENT, "BREAK_ONCE": str(tmp_path / f"broken.{way}")}
    folder = tmp_path / "run"
    with launched(folder, program=program, restarts=1, environment=environment) as process:
        assert process.wait(120) == 0
    assert (tmp_path / f"broken.{way}").exists(), "nothing has broken"
    equal = (digest(folder), trace(folder)) == command_whole
    ledger("a rank ends by SIGSEGV, by _exit or by an error", tried=1, survived=1, equal=equal)
    assert equal


def test_one_failure_too_many_ends_the_job(tmp_path):
    with launched(tmp_path / "run", restarts=1) as process:
        for _ in range(2):
            wait_for(lambda: steps(tmp_path / "run") > 3 and len(children(process.pid)) == 2)
            pid = children(process.pid)[1]
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: children(process.pid).get(1) != pid)
        assert process.wait(60) != 0


@pytest.mark.parametrize("place", ["loader", "reading", "forward", "save"])
def test_the_first_error_is_the_one_shown(tmp_path, ledger, place):
    program = [str(Path(__file__).parent / "broken_rank.py"), place]
    with launched(tmp_path / "run", program=program) as process:
        assert process.wait(60) != 0
    said = Path(f"{tmp_path / 'run'}.txt").read_text()
    assert f"RuntimeError: broken in the {place}" in said
    assert "stopped because rank" in said and "Connection closed" not in said
    cause = said[said.index("Root Cause") :]
    assert f"broken in the {place}" in cause
    if place == "reading":
        assert "at sample 'builtin/train/" in said
    ledger("an error in loader, reading, forward or save of a rank is shown first", tried=1, survived=1)


def test_a_hung_rank_is_reported_and_the_job_restarted(tmp_path, command_whole, ledger):
    folder = tmp_path / "run"
    with launched(folder, restarts=2) as process:
        wait_for(lambda: folder.exists() and steps(folder) > 20)
        os.kill(children(process.pid)[1], signal.SIGSTOP)
        begin = time.monotonic()
        wait_for(lambda: "has not heard from rank 1" in Path(f"{folder}.txt").read_text(), seconds=60)
        said = time.monotonic() - begin
        assert process.wait(200) == 0
    text = Path(f"{folder}.txt").read_text()
    assert "its last known update is" in text and 'File "' in text
    equal = (digest(folder), trace(folder)) == command_whole
    ledger(f"a rank hung by SIGSTOP, reported after {said:.0f} s", tried=1, survived=1, equal=equal)
    assert equal


def test_nothing_is_left_behind_when_the_launcher_is_killed(tmp_path, ledger):
    folder, shared = tmp_path / "run", shared_memory()
    with launched(folder, train=[*TRAIN, "--workers", "1"]) as process:
        wait_for(lambda: folder.exists() and steps(folder) > 3)
        ranks = list(children(process.pid).values())
        workers = [pid for rank in ranks for pid in children_of(rank)]
        assert len(ranks) == 2 and len(workers) == 2
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: not any(is_alive(pid) for pid in [*ranks, *workers]), seconds=10)
    assert shared_memory() <= shared
    # The lock is free at once: the same command goes on.
    assert wait(in_child(refused_or_not, folder)) == 0
    ledger("SIGKILL of the launcher: ranks, workers, shared memory gone", tried=1, survived=1)


def refused_or_not(folder):
    from resnet_rs import storage

    with storage.locked(folder):
        pass


def children_of(pid):
    return [
        int(p) for tasks in Path(f"/proc/{pid}/task").glob("*/children") for p in tasks.read_text().split()
    ]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_ranks_with_different_jobs_are_refused(tmp_path, capfd):
    assert in_ranks(2, run_another_seed, tmp_path / "run") == [1, 1]
    said = capfd.readouterr().err
    assert said.count("ValueError: rank 1 has another seed than rank 0") == 2


def run_another_seed(ranks, folder):
    run_to_end(tiny_job(folder, machine=Machine(device=CPU, ranks=ranks), seed=ranks.index))


def test_more_ranks_than_micro_batches_are_refused(tmp_path):
    fewer = ["recipe.batch_size=16" if word == "recipe.batch_size=32" else word for word in TRAIN]
    with launched(tmp_path / "run", count=3, train=fewer) as process:
        assert process.wait(60) != 0
    said = Path(f"{tmp_path / 'run'}.txt").read_text()
    assert "3 ranks cannot share an update of 2 micro-batches (16 samples, up to 8 each)" in said
    assert not (tmp_path / "run").exists()
