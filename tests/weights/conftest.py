"""A finished run, a network of full size, and the Hub on this machine."""

import json
import shutil

import huggingface_hub.constants
import pytest
from bridges.hub_server import Hub
from weights.sharing import GOLDEN, write

from resnet_rs.zoo import EXPERIMENTS

ABOUT = {
    "name": "resnet-rs-tiny",
    "data": "/home/somebody/secret/my_photos",
    "data_title": "my_photos",
    "num_train": 24,
    "num_test": 12,
    "edits": {},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, as the `train` command leaves it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    shutil.copytree(GOLDEN, folder)
    about = json.loads((folder / "run.json").read_text()) | ABOUT
    (folder / "run.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def fifty(tmp_path_factory):
    return write(tmp_path_factory.mktemp("fifty") / "ours", EXPERIMENTS["resnet-rs-50-i160"], seed=1)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The Hub on this machine: programs find it by their environment, this process by what it would have made of it."""
    with Hub() as server:
        for name, value in server.environment(tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        for name, value in {
            "ENDPOINT": server.root,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HUGGINGFACE_CO_URL_TEMPLATE": server.root + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        yield server
