"""Children end with their parent, however early that ends, and answer with bytes or an exit code."""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet_rs.processes import run_in_child

FAULTS = """
import resource
import numpy as np
from resnet_rs.processes import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(1 << 23)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned = faults()
keep_freed_memory()
faults()
print(returned, faults())
"""

WORKERS = """
import os, time
from resnet_rs.data import loader
from resnet_rs.data.pipeline import Data
from shapes import Shapes

parent, begin = os.getpid(), loader._begin_worker

def begin_late(number):
    os.write(1, f"{os.getpid()}\\n".encode())
    while os.getppid() == parent:
        time.sleep(0.01)
    begin(number)

loader._begin_worker = begin_late
data = Data(size=16, mean=(0.5,), std=(0.5,))
batches = loader.EvaluationBatches(Shapes(num_samples=8, size=16), data, collate=list)
for batch in loader.load(loader.split_range(0, 8, at_most=2), batches, workers=2):
    pass
"""


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_forked_workers_end_if_their_parent_is_killed_before_they_can_look_for_it():
    with subprocess.Popen(
        [sys.executable, "-c", WORKERS],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    try:
        deadline = time.monotonic() + 10
        while any(map(is_running, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_running, workers))
    finally:
        for pid in filter(is_running, workers):
            os.kill(pid, signal.SIGKILL)


def reply(text, times):
    return text.encode() * times


def exit_at_once(code):
    os._exit(code)


def test_a_child_answers_with_bytes_of_any_length():
    assert run_in_child(reply, "abc", 100_000) == b"abc" * 100_000


def test_a_child_that_ends_without_an_answer_gives_its_exit_code():
    assert run_in_child(exit_at_once, 3) == 3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can keep freed memory")
def test_freed_memory_is_used_again():
    output = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True).stdout
    returned, kept = map(int, output.split())
    assert 10 * kept < returned
