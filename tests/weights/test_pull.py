"""The published weights by name, from a server on this machine that stands for theirs."""

import hashlib
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import timm
import torch

import resnet_rs as rs
from resnet_rs import zoo
from resnet_rs.bridges import download, released
from resnet_rs.bridges import timm as in_timm
from resnet_rs.config import edit
from resnet_rs.models.resnet import ResNetArch
from resnet_rs.training import checkpoint
from resnet_rs.weights import pull

ASSETS = Path(__file__).parents[1] / "assets/foreign"
NAME = "resnet-rs-50-i160"
SMALL = {"arch.blocks": (2, 1, 1, 1), "arch.width": 1 / 32}
IMAGES = torch.from_numpy(np.load(ASSETS / "expected.npz")["images"]).permute(0, 3, 1, 2)
LOGITS = np.load(ASSETS / "expected.npz")["keras"]


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        self.server.asked.append(self.path)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serves a small network under the name of the released one."""
    folder = tmp_path / "served"
    folder.mkdir()
    content = (ASSETS / "keras.h5").read_bytes()
    (folder / f"{NAME}.h5").write_bytes(content)
    for name in ("http_proxy", "HTTP_PROXY", *download.OFFLINE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RESNET_RS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(zoo.EXPERIMENTS, NAME, edit(zoo.EXPERIMENTS[NAME], SMALL))
    monkeypatch.setitem(released.MD5, NAME, hashlib.md5(content).hexdigest())
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    served.asked = []
    monkeypatch.setattr(released, "ADDRESS", f"http://127.0.0.1:{served.server_port}")
    thread = Thread(target=served.serve_forever)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **more):
        raise AssertionError("the network was touched")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


def test_the_weights_are_fetched_once_and_give_the_logits_of_their_source(server, tmp_path):
    done = pull.pull(NAME, tmp_path / "out")
    again = pull.pull(NAME, tmp_path / "again")
    assert len(server.asked) == 1 and done.provenance.origin == again.provenance.origin
    assert done.provenance.origin["url"] == f"{released.ADDRESS}/{NAME}.h5"
    model = checkpoint.read(tmp_path / "out").load_model()
    with torch.no_grad():
        assert np.abs(model(IMAGES).numpy() - LOGITS).max() < 1e-4 * np.abs(LOGITS).max()


def test_the_command_shows_each_tenth_of_the_download_once(server, command, tmp_path):
    done = command("pull", NAME, "--out", tmp_path / "out")
    assert done.returncode == 0 and done.stderr.count("100 % of") == 1
    assert 1 < len(done.stderr.splitlines()) <= 10


def test_a_pretrained_model_has_them_and_a_classifier_of_ones_own_is_fresh(server):
    whole = rs.create_model(NAME, num_classes=10, pretrained=True).eval()
    with torch.no_grad():
        assert np.abs(whole(IMAGES).numpy() - LOGITS).max() < 1e-4 * np.abs(LOGITS).max()
    tuned = rs.create_model(NAME, num_classes=3, pretrained=True).eval()
    assert torch.equal(tuned.backbone(IMAGES).c5, whole.backbone(IMAGES).c5)
    assert tuned(IMAGES).shape == (2, 3) and len(server.asked) == 1
    pyramid = rs.create_model(NAME, pretrained=True, features_only=True).eval()(IMAGES)
    assert torch.equal(pyramid.c5, whole.backbone(IMAGES).c5)


def test_several_that_ask_at_once_get_the_same(server):
    """As the ranks of a run do: one makes the checkpoint, the others wait for it."""
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(pull.pretrained, [NAME] * 4))
    assert len({*folders}) == 1 and len(server.asked) == 1
    assert checkpoint.read(folders[0]).experiment.arch == zoo.experiment(NAME).arch


def test_with_a_path_the_network_is_never_touched(server, no_network, tmp_path):
    from resnet_rs.weights.convert import convert
    from resnet_rs.weights.reading import SourceCheckpoint

    convert(SourceCheckpoint(path=ASSETS / "keras.h5", kind="keras", name=NAME), tmp_path / "out")
    model = rs.create_model(NAME, num_classes=10, pretrained=tmp_path / "out").eval()
    with torch.no_grad():
        assert np.abs(model(IMAGES).numpy() - LOGITS).max() < 1e-4 * np.abs(LOGITS).max()
    with pytest.raises(FileNotFoundError, match="gone is no folder"):
        rs.create_model(NAME, pretrained=str(tmp_path / "gone"))


def test_timm_gets_the_same_file_by_our_name(server, monkeypatch):
    small = ResNetArch(blocks=SMALL["arch.blocks"], width=SMALL["arch.width"])
    monkeypatch.setattr(in_timm, "_arch", lambda depth: small)
    ten = {"num_classes": 10}  # the file stands for one of 1,000
    model = timm.create_model("resnet_rs_50", pretrained=True, pretrained_cfg_overlay=ten).eval()
    again = timm.create_model("resnet_rs_50.i160", pretrained=True, features_only=True).eval()
    assert server.asked == [f"/{NAME}.h5"]
    with torch.no_grad():
        assert np.abs(model(IMAGES).numpy() - LOGITS).max() < 1e-4 * np.abs(LOGITS).max()
        assert torch.equal(again(IMAGES)[-1], model.forward_features(IMAGES))
    grey = timm.create_model("resnet_rs_50", pretrained=True, num_classes=3, in_chans=1)
    assert torch.allclose(
        grey.backbone.stem[0].weight, model.backbone.stem[0].weight.sum(1, keepdim=True), atol=1e-6
    )
    assert "state_dict" not in model.pretrained_cfg and "state_dict" not in again.pretrained_cfg


def test_weights_of_another_network_are_refused_by_name(server, tmp_path):
    pull.pull(NAME, tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"do not fit this network: backbone.* has shape .* in the weights and"
    ):
        rs.create_model("resnet-rs-tiny", in_chans=3, pretrained=tmp_path / "out")
    with pytest.raises(ValueError, match="Give the name, `edits` and `in_chans` of their training"):
        rs.create_model(NAME, in_chans=1, pretrained=tmp_path / "out")


def test_without_a_network_it_is_said_which_file_to_put_where_and_then_it_is_enough(
    server, no_network, tmp_path, monkeypatch, capsys
):
    from resnet_rs.cli import main

    monkeypatch.setenv("RESNET_RS_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["resnet-rs", "pull", NAME, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    place = download.cached_path(released.remote_file(NAME))
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert str(place) in said and f"{released.ADDRESS}/{NAME}.h5" in said
    assert not (tmp_path / "out").exists()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes((ASSETS / "keras.h5").read_bytes())
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and (tmp_path / "out/model.safetensors").is_file()


def test_another_file_under_the_same_name_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setitem(released.MD5, NAME, "0" * 32)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(OSError, match="0" * 32):
        pull.pull(NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["efficientnet-b0", "resnet-rs-tiny"])
def test_an_experiment_without_published_weights_is_refused(name):
    with pytest.raises(ValueError, match=f"no weights of '{name}' are published"):
        released.remote_file(name)


def test_all_released_configurations_have_weights():
    from resnet_rs.paper import RELEASED

    assert set(released.MD5) == set(RELEASED)
