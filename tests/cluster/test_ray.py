"""A real Ray cluster on this machine, of two nodes, of which one is killed in the middle."""

import gc
import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from studies.conftest import STEPS, options

from resnet_rs.jobs import Cluster, InProcess
from resnet_rs.processes import Interrupted, Stop
from resnet_rs.studies.planning import resolve
from resnet_rs.studies.run import run
from resnet_rs.studies.study import Study, additive

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is an extra, which is not installed")
pytestmark = pytest.mark.filterwarnings("default")  # Ray's own


def note(payload, num_threads, stop):
    """Write down on which node and how often it was begun; the first time, take long."""
    import ray

    order = json.loads(payload)
    folder = Path(order["folder"])
    begun = len(list(folder.glob(f"{order['key']}.begun-[0-9]")))
    node = ray.get_runtime_context().get_node_id()
    begin = folder / f"{order['key']}.begun-{begun}"
    begin.with_suffix(".new").write_text(f"{node} {os.getpid()}")
    begin.with_suffix(".new").rename(begin)
    if order.get("fails"):
        raise ValueError("it cannot be done")
    deadline = time.monotonic() + 60
    while begun == 0 and not (folder / "go on").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    (folder / f"{order['key']}.done").write_text(json.dumps([node, num_threads]))


@pytest.fixture
def tidied():
    """Ray leaves open files for the collector, which would warn in whatever test it next runs in."""
    yield
    gc.collect()


@pytest.fixture
def two_nodes(tidied, monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster, second
    cluster.shutdown()


def test_every_piece_is_done_when_a_node_dies_in_the_middle(two_nodes, tmp_path):
    cluster, second = two_nodes
    keys = ["a", "b", "c", "d"]
    payloads = {key: json.dumps({"folder": str(tmp_path), "key": key}) for key in keys}
    payloads["odd"] = json.dumps({"folder": str(tmp_path), "key": "odd", "fails": True})
    outcomes = Cluster(cluster.address).run(note, payloads, stop=Stop())

    lost = []

    def kill():
        """Kill the second node as soon as something is under way there; nothing may end before that is dead."""
        while not (
            begun := [p for p in tmp_path.glob("*.begun-0") if p.read_text().startswith(second.node_id)]
        ):
            time.sleep(0.05)
        worker = int(begun[0].read_text().split()[1])
        cluster.remove_node(second, allow_graceful=False)
        while Path(f"/proc/{worker}").exists():
            time.sleep(0.05)
        lost.append(begun[0].name.partition(".")[0])
        (tmp_path / "go on").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    found = dict(outcomes)
    killer.join()
    assert found == {"a": None, "b": None, "c": None, "d": None, "odd": "it cannot be done"}
    assert (tmp_path / f"{lost[0]}.begun-1").exists(), "what the lost node had begun was begun again"
    done = {key: json.loads((tmp_path / f"{key}.done").read_text()) for key in keys}
    assert all(node != second.node_id and threads == 1 for node, threads in done.values())


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Two trials, long enough to be interrupted, and what they give when nothing happens."""
    asked = options(tmp_path_factory.mktemp("images"))
    asked = replace(asked, edits={**asked.edits, "recipe.epochs": "60"}, num_seeds=1)
    made = resolve(asked, folder=tmp_path_factory.mktemp("nothing"))
    made = replace(made, study=Study(name="tiny", title="A tiny study", trials=additive(STEPS)))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = list(run(made, tmp_path_factory.mktemp("here"), InProcess(), stop=Stop()))
    torch.set_num_threads(before)
    return made, essence(expected)


def essence(results):
    return sorted((r.label, r.seed, r.error, r.score, r.per_sample.indices, r.curve) for r in results)


def when_two_are_under_way(folder, act):
    """Do `act` in a thread as soon as two runs have begun; the runs that had not ended then are put in the list."""
    unfinished = []

    def wait():
        while len(begun := list(folder.glob("trials/*/*/log.jsonl"))) < 2:
            time.sleep(0.02)
        unfinished.extend(path for path in begun if not (path.parent / "scores.json").exists())
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread, unfinished


def test_a_study_has_the_same_results_when_a_node_dies_while_it_trains(two_nodes, trainings, tmp_path):
    cluster, second = two_nodes
    made, expected = trainings
    killer, unfinished = when_two_are_under_way(
        tmp_path, lambda: cluster.remove_node(second, allow_graceful=False)
    )
    results = list(run(made, tmp_path, Cluster(cluster.address), stop=Stop()))
    killer.join()
    assert len(unfinished) == 2
    assert essence(results) == expected


def patient(payload, num_threads, stop):
    """Wait to be asked to stop, save and leave; what has been saved is finished at once."""
    folder, key = (json.loads(payload)[name] for name in ("folder", "key"))
    saved = Path(folder) / f"{key}.saved"
    if saved.exists():
        saved.rename(saved.with_suffix(".done"))
        return
    (Path(folder) / f"{key}.{os.getpid()}.begun").touch()
    deadline = time.monotonic() + 60
    while not stop.is_requested and time.monotonic() < deadline:
        time.sleep(0.02)
    saved.write_text(stop.reason)
    raise Interrupted


def when_begun(folder, count, act):
    """Do `act` in a thread as soon as so many pieces have begun, with their marks."""

    def wait():
        while len(begun := list(folder.glob("*.begun"))) < count:
            time.sleep(0.02)
        act(begun)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_work_that_is_asked_to_go_is_continued(two_nodes, tmp_path):
    """As a node that must go asks it, by a SIGTERM to each of its workers."""
    payloads = {key: json.dumps({"folder": str(tmp_path), "key": key}) for key in "ab"}

    def end(begun):
        for mark in begun:
            os.kill(int(mark.name.split(".")[1]), signal.SIGTERM)

    asker = when_begun(tmp_path, 2, end)
    outcomes = dict(Cluster(two_nodes[0].address).run(patient, payloads, stop=Stop()))
    asker.join()
    assert outcomes == {"a": None, "b": None}
    assert {(tmp_path / f"{key}.done").read_text() for key in "ab"} == {"SIGTERM"}


def test_work_under_way_may_save_when_its_cluster_is_asked_to_stop(two_nodes, tmp_path):
    payloads = {key: json.dumps({"folder": str(tmp_path), "key": key}) for key in "abcd"}
    stop = Stop()
    asker = when_begun(tmp_path, 2, lambda begun: setattr(stop, "reason", "SIGTERM"))
    assert list(Cluster(two_nodes[0].address).run(patient, payloads, stop=stop)) == []
    asker.join()
    begun = {mark.name[0] for mark in tmp_path.glob("*.begun")}
    assert len(begun) == 2, "nothing new is begun"
    assert {path.stem: path.read_text() for path in tmp_path.glob("*.saved")} == dict.fromkeys(
        begun, "SIGINT"
    )


def test_what_no_node_has_room_for_is_refused(two_nodes):
    cluster, _ = two_nodes
    with pytest.raises(
        ValueError, match="a trial needs 100 cores and 2 GPUs on one node; the cluster's nodes have: 1"
    ):
        list(Cluster(cluster.address).run(note, {}, stop=Stop(), cores=100, gpus=2))
