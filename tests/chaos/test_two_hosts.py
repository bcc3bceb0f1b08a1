"""Two machines: network namespaces with addresses of their own, joined by a cable that can be cut."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from chaos.conftest import digest, trace
from chaos.test_ranks import ENVIRONMENT, MODULE, TRAIN, steps, wait_for

HOSTS = {"rs-a": "10.77.0.1", "rs-b": "10.77.0.2"}


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


@pytest.fixture(scope="module")
def hosts():
    """Two network namespaces and a cable between them."""
    if ip("netns", "add", "rs-a").returncode != 0:
        pytest.skip("network namespaces need the privilege to make them, which this machine does not give")
    ip("netns", "add", "rs-b")
    ip(
        "link",
        "add",
        "rs-cable-a",
        "netns",
        "rs-a",
        "type",
        "veth",
        "peer",
        "name",
        "rs-cable-b",
        "netns",
        "rs-b",
    )
    for host, address in HOSTS.items():
        cable = f"rs-cable-{host[-1]}"
        ip("-n", host, "addr", "add", f"{address}/24", "dev", cable)
        ip("-n", host, "link", "set", cable, "up")
        ip("-n", host, "link", "set", "lo", "up")
    yield
    for host in HOSTS:
        ip("netns", "del", host)


@contextmanager
def cut_off():
    """The cable is cut within the block."""
    ip("-n", "rs-b", "link", "set", "rs-cable-b", "down")
    try:
        yield
    finally:
        ip("-n", "rs-b", "link", "set", "rs-cable-b", "up")


@contextmanager
def launched(out, *, restarts=0):
    """The same command on both hosts; the first holds the folder, the second reads none of it."""
    processes = []
    for index, (host, address) in enumerate(HOSTS.items()):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        meeting = [
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            f"{HOSTS['rs-a']}:29477",
            "--rdzv-id",
            out.name,
        ]
        # Both namespaces have the name of this machine, so each must be told whether it is the meeting place.
        more = [
            "--rdzv-conf",
            f"is_host={1 - index}",
            "--local-addr",
            address,
            "--max-restarts",
            str(restarts),
        ]
        folder = out if index == 0 else out.parent / f"{out.name}-elsewhere"
        command = [*torchrun, *meeting, *more, *MODULE, *TRAIN, "--out", str(folder)]
        environment = {**ENVIRONMENT, "GLOO_SOCKET_IFNAME": f"rs-cable-{host[-1]}"}
        with open(f"{out}-{host}.txt", "a") as log:
            processes.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", host, *command],
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process makes of the command."""
    out = tmp_path_factory.mktemp("one") / "whole"
    subprocess.run(
        [sys.executable, *MODULE, *TRAIN, "--out", str(out)], env=ENVIRONMENT, check=True, capture_output=True
    )
    return digest(out), trace(out)


def test_two_hosts_give_the_result_of_one_and_a_short_cut_is_waited_out(tmp_path, hosts, one, ledger):
    out = tmp_path / "short"
    with launched(out) as processes:
        wait_for(lambda: out.exists() and steps(out) > 20)
        with cut_off():
            time.sleep(5)
        assert [process.wait(120) for process in processes] == [0, 0], texts(out)
    equal = (digest(out), trace(out)) == one
    ledger("two hosts, cut off from each other for 5 s", tried=1, survived=1, equal=equal)
    assert equal and not (tmp_path / "short-elsewhere").exists()


def test_after_a_long_cut_both_hosts_leave_and_the_same_commands_go_on(tmp_path, hosts, one, ledger):
    out = tmp_path / "long"
    with launched(out) as processes:
        wait_for(lambda: out.exists() and steps(out) > 20)
        with cut_off():
            begin = time.monotonic()
            wait_for(lambda: "has not heard from rank" in texts(out), seconds=60)
            said = time.monotonic() - begin
            wait_for(lambda: processes[0].poll() is not None, seconds=120)
    with launched(out) as processes:
        assert [process.wait(120) for process in processes] == [0, 0], texts(out)
    equal = (digest(out), trace(out)) == one
    ledger(f"two hosts, cut off for good, reported after {said:.0f} s", tried=1, survived=1, equal=equal)
    assert equal


def texts(out):
    return "".join(Path(f"{out}-{host}.txt").read_text() for host in HOSTS)
