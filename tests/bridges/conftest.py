"""A server, a cache of its own for every test, and nothing of the environment's network."""

import os
from functools import partial

import pytest
from bridges.servers import Server, running

from resnet_rs import storage
from resnet_rs.bridges import download
from resnet_rs.bridges.download import Patience


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in (*download.OFFLINE, "XDG_CACHE_HOME", "SSL_CERT_FILE", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RESNET_RS_CACHE", str(tmp_path / "cache"))
    yield
    storage.disk = storage.Disk()


@pytest.fixture
def server():
    yield from running(Server())


@pytest.fixture
def waits():
    return []


@pytest.fixture
def fetch(waits):
    """`fetch` that waits in no time, and notes how long it would have waited."""
    return partial(download.fetch, patience=Patience(sleep=waits.append, timeout_seconds=5.0))
