"""Work in this process and in others: every piece has an outcome, and a request to stop is obeyed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from resnet_rs.jobs import Cluster, InProcess, Local, Outcome, _in_child, parse
from resnet_rs.processes import Interrupted, Stop, listening, num_cores

RUNNERS = [InProcess(), Local(2)]


def note(payload, num_threads, stop):
    """Write down who did it, with how many threads."""
    order = json.loads(payload)
    Path(order["path"]).write_text(json.dumps([os.getpid(), num_threads]))
    if order.get("fails"):
        raise ValueError("the first line\nand the second")
    if order.get("bug"):
        raise KeyError("lost")


def die(payload, num_threads, stop):
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_stop(payload, num_threads, stop):
    Path(payload).touch()
    while not stop.is_requested:
        time.sleep(0.01)
    Path(payload).write_text("saved")
    raise Interrupted


def orders(folder, count, **more):
    return {str(i): json.dumps({"path": str(folder / str(i)), **more}) for i in range(count)}


@pytest.mark.parametrize("runner", RUNNERS, ids=repr)
def test_every_piece_has_one_outcome(runner, tmp_path):
    found = list(runner.run(note, orders(tmp_path, 5), stop=Stop()))
    assert sorted(found) == [Outcome(str(i), None) for i in range(5)]
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("runner", RUNNERS, ids=repr)
def test_a_piece_that_fails_leaves_the_others_alone(runner, tmp_path):
    payloads = {
        "good": json.dumps({"path": str(tmp_path / "a")}),
        "bad": json.dumps({"path": str(tmp_path / "b"), "fails": True}),
        "odd": json.dumps({"path": str(tmp_path / "c"), "bug": True}),
        "last": json.dumps({"path": str(tmp_path / "d")}),
    }
    found = dict(runner.run(note, payloads, stop=Stop()))
    assert found == {
        "good": None,
        "bad": "the first line and the second",
        "odd": "KeyError: 'lost'",
        "last": None,
    }


def test_workers_are_other_processes_with_their_share_of_the_cores(tmp_path):
    list(Local(2).run(note, orders(tmp_path, 2), stop=Stop()))
    found = [json.loads((tmp_path / str(i)).read_text()) for i in range(2)]
    assert os.getpid() not in {pid for pid, _ in found} and found[0][0] != found[1][0]
    assert {threads for _, threads in found} == {max(1, num_cores() // 2)}


def test_work_runs_where_signals_cannot_be_blocked(tmp_path, monkeypatch):
    """As on Windows."""
    monkeypatch.delattr(signal, "pthread_sigmask")
    (payload,) = orders(tmp_path, 1).values()
    assert _in_child(note, payload, 1) == b""
    assert (tmp_path / "0").exists()


def talk(payload, num_threads, stop):
    raise ValueError("much " * 100_000)


def test_an_error_of_any_length_is_heard():
    ((_, error),) = Local(1).run(talk, {"it": ""}, stop=Stop())
    assert error.startswith("much much") and len(error) < 10_000


def test_ctrl_c_asks_the_children_to_leave_even_while_they_start(tmp_path):
    """A terminal sends it to all of them at once."""
    script = f"""
import signal
from resnet_rs.jobs import Local
from resnet_rs.processes import listening
from test_jobs import wait_for_stop
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    with listening() as stop:
        print("ready", flush=True)
        payloads = {{str(i): {str(tmp_path)!r} + f"/piece-{{i}}" for i in range(2)}}
        print([tuple(outcome) for outcome in Local(2).run(wait_for_stop, payloads, stop=stop)])
"""
    (tmp_path / "run.py").write_text(script)
    for delay in (0.05, 0.4, 3.0):
        with subprocess.Popen(
            [sys.executable, tmp_path / "run.py"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        ) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(delay)
            os.killpg(process.pid, signal.SIGINT)
            try:
                out, error = process.communicate(timeout=60)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        assert (process.returncode, out, error) == (0, "[]\n", "")


def test_a_process_that_is_killed_is_an_outcome():
    assert list(Local(1).run(die, {"it": ""}, stop=Stop())) == [
        ("it", "its process ended with exit code -9 and without a message")
    ]


def test_a_request_to_stop_is_passed_on_and_nothing_new_is_begun(tmp_path):
    payloads = {str(i): str(tmp_path / str(i)) for i in range(4)}
    stop = Stop()

    def ask():
        while not all((tmp_path / str(i)).exists() for i in range(2)):
            time.sleep(0.02)
        stop.reason = "SIGTERM"

    threading.Thread(target=ask, daemon=True).start()
    assert list(Local(2).run(wait_for_stop, payloads, stop=stop)) == []
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["saved", "saved"]


def test_in_this_process_the_same_request_is_heard(tmp_path):
    with listening() as stop:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        assert list(InProcess().run(wait_for_stop, {"a": str(tmp_path / "a")}, stop=stop)) == []
    assert (tmp_path / "a").read_text() == "saved"


def sleep_or_follow(payload, num_threads, stop):
    """Sleep at a path, or end as soon as somebody sleeps there."""
    kind, _, path = payload.partition(" ")
    if kind == "sleep":
        Path(f"{path}.new").write_text(str(os.getpid()))
        os.rename(f"{path}.new", path)
        time.sleep(60)
    while not Path(path).exists():
        time.sleep(0.01)


def test_no_process_is_left_when_nobody_wants_the_rest(tmp_path):
    path = tmp_path / "a"
    running = Local(2).run(sleep_or_follow, {"a": f"sleep {path}", "b": f"follow {path}"}, stop=Stop())
    assert next(running).key == "b"
    pid = int(path.read_text())
    running.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("text", "runner"),
    [
        (None, InProcess()),
        ("local:3", Local(3)),
        ("ray", Cluster()),
        ("ray://10.0.0.1:10001", Cluster("ray://10.0.0.1:10001")),
    ],
)
def test_places_are_typed(text, runner):
    assert parse(text) == runner


def test_a_cluster_without_ray_is_refused_with_the_extra_to_install(monkeypatch):
    monkeypatch.setattr("resnet_rs.text.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"--jobs ray needs ray, which is not installed.*resnet-rs\[cluster\]"
    ):
        parse("ray")


@pytest.mark.parametrize(
    "text", ["local", "local:", "local:0", "local:-1", "slurm", "ray://", "", "local:9999"]
)
def test_places_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"--jobs local:2"):
        parse(text)
