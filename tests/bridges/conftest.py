"""A server, a cache of its own for every test, and no proxies of the environment."""

import os

import pytest
from bridges.servers import Server, running

from resnet_rs.bridges import download


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in (*download.OFFLINE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RESNET_RS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def server():
    yield from running(Server())
