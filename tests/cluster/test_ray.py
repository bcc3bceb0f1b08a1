"""A real Ray cluster on this machine, of two nodes, of which one is killed in the middle."""

import gc
import json
import os
import threading
import time
from pathlib import Path

import pytest

from resnet_rs.jobs import Cluster
from resnet_rs.processes import Stop

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is an extra, which is not installed")
pytestmark = pytest.mark.filterwarnings("default")  # Ray's own


def note(payload, share, stop):
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
    (folder / f"{order['key']}.done").write_text(json.dumps([node, share.num_threads]))


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
