"""The chaos suite: real processes, real kills, real full disks; and a table of what was tried at the end."""

import hashlib
import json
from collections import defaultdict

import pytest
import torch
import training.conftest
from sampling import IS_FULL
from shapes import Shapes

from resnet_rs import storage
from resnet_rs.config import edit
from resnet_rs.data.source import Splits
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.job import Job
from resnet_rs.training.log import read_log
from resnet_rs.training.machine import Machine
from resnet_rs.training.run import run

torch.set_num_threads(1)
SCALE = 10 if IS_FULL else 1
"""How many times more often a fault is tried in a full-size run, where that is not fixed."""

TINY = edit(training.conftest.TINY, {"recipe.epochs": 2.0})
"""Every method of the recipe on, in six updates of four micro-batches."""


def tiny_job(folder, **changes):
    """Six updates, a checkpoint after every second, an evaluation after every third."""
    fields = {
        "experiment": TINY,
        "splits": Splits(train=Shapes(num_samples=48, size=16), test=Shapes(num_samples=12, size=16, seed=1)),
        "folder": folder,
        "machine": Machine(device=Device.choose("cpu")),
        "micro_batch": 4,
        "save_every": 2,
    }
    return Job(**{**fields, **changes})


def run_to_end(job, disk=None):
    """Run `job` in this process, through `disk`; its last event."""
    storage.disk = disk or storage.Disk()
    last = None
    for event in run(job):
        last = event
    return last


def trace(folder):
    """Step, learning rate and loss of every update, as hexadecimal floats; and the steps that were scored."""
    lines = read_log(folder / "log.jsonl")
    updates = [
        (line["step"], line["lr"].hex(), line["loss"].hex()) for line in lines if line["kind"] == "update"
    ]
    return updates, [
        (line["step"], json.dumps(line["summaries"])) for line in lines if line["kind"] == "evaluation"
    ]


def digest(folder):
    """SHA-256 over weights, average and momentum of the newest checkpoint, its step, and the final scores."""
    found = checkpoint.read(folder)
    total = hashlib.sha256(str(found.step).encode())
    for file in sorted(found.path.glob("*.safetensors")):
        total.update(file.read_bytes())
    total.update((folder / "scores.json").read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Digest and trace of the run that nobody has disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_to_end(tiny_job(folder))
    return digest(folder), trace(folder)


@pytest.fixture
def ledger(record_property):
    """Put a line into the table: fault, times tried, survived, worst redo (updates), whether the result was equal."""

    def enter(fault, *, tried, survived, redo=None, equal=None):
        record_property("chaos", json.dumps([fault, tried, survived, redo, equal]))

    return enter


@pytest.fixture(autouse=True)
def real_disk():
    yield
    storage.disk = storage.Disk()


def pytest_terminal_summary(terminalreporter):
    rows = defaultdict(list)
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "chaos" and report.when == "call":
                    fault, *numbers = json.loads(value)
                    rows[fault].append(numbers)
    terminalreporter.write_line("")
    terminalreporter.write_line(f"{'fault':<66} {'tried':>7} {'survived':>8} {'redo':>5}  equal")
    for fault, entries in sorted(rows.items()):
        tried, survived = (sum(entry[i] for entry in entries) for i in (0, 1))
        redos = [entry[2] for entry in entries if entry[2] is not None]
        equals = [entry[3] for entry in entries if entry[3] is not None]
        equal = "" if not equals else "yes" if all(equals) else "NO"
        terminalreporter.write_line(
            f"{fault:<66} {tried:>7,} {survived:>8,} {max(redos) if redos else '':>5}  {equal}"
        )
