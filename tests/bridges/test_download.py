"""A file arrives whole and right, or not at all, and its cache works without a network."""

import gc
import os
import socket
import time
from types import SimpleNamespace

import pytest
from bridges.servers import CONTENT, MD5, SHA256

from resnet_rs import storage
from resnet_rs.bridges import download
from resnet_rs.bridges.download import NotFetched, RemoteFile, cached_path, fetch

# pooch leaves the connection of a refused request to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
URL = "https://example.org/weights.pth"
OTHER = bytes(len(CONTENT))


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that would have been waited."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    yield seconds
    gc.collect()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    for name in ("create_connection", "getaddrinfo", "socket"):
        monkeypatch.setattr(socket, name, refuse)


def names(path):
    return [file.name for file in path.parent.iterdir() if file.name != storage.LOCK]


@pytest.mark.parametrize(("algorithm", "digest"), [("sha256", SHA256), ("md5", MD5)])
def test_a_file_arrives_whole_and_is_downloaded_once(server, algorithm, digest):
    seen, remote = [], RemoteFile(server.url, algorithm, digest)
    bar = SimpleNamespace(total=0, update=seen.append, reset=lambda: None, close=lambda: None)
    path = fetch(remote, progress=bar)
    assert path == cached_path(remote) == fetch(remote)
    assert path.read_bytes() == CONTENT and names(path) == ["weights.pth"]
    assert bar.total == seen[-1] == len(CONTENT) and len(seen) > 2
    assert server.requests == ["/a/weights.pth"]


@pytest.mark.parametrize("bad", [503, CONTENT[:100_000], OTHER], ids=["busy", "cut", "other content"])
def test_a_bad_answer_is_asked_for_again(server, waits, bad):
    server.script = [bad, bad]
    assert fetch(RemoteFile(server.url, "sha256", SHA256)).read_bytes() == CONTENT
    assert len(server.requests) == 3 and waits == [1, 2]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (503, "503 Server Error"),
        (404, "404 Client Error"),
        (CONTENT[:100_000], "IncompleteRead"),
        (OTHER, f"expected sha256:{SHA256} but got"),
    ],
    ids=["busy", "gone", "cut", "other content"],
)
def test_bad_answers_alone_leave_nothing_and_tell_where_to_put_the_file(server, bad, message):
    server.script = 9 * [bad]
    remote = RemoteFile(server.url, "sha256", SHA256)
    with pytest.raises(NotFetched, match=message) as caught:
        fetch(remote)
    assert str(caught.value).startswith(f"cannot fetch {server.url}: ")
    assert str(caught.value).endswith(f". Download it elsewhere and put it at {cached_path(remote)}.")
    assert names(cached_path(remote)) == [] and len(server.requests) == 4


def test_without_a_connection_the_place_is_told():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        remote = RemoteFile(f"http://127.0.0.1:{closed.getsockname()[1]}/weights.pth", "sha256", SHA256)
        with pytest.raises(NotFetched, match="Connection refused") as caught:
            fetch(remote)
    assert str(cached_path(remote)) in str(caught.value)


@pytest.mark.parametrize("name", download.OFFLINE)
def test_offline_only_the_right_file_in_the_cache_is_used(monkeypatch, no_network, name):
    monkeypatch.setenv(name, "1")
    remote = RemoteFile(URL, "sha256", SHA256)
    path = cached_path(remote)
    by_hand = f"Download it elsewhere and put it at {path}."
    with pytest.raises(NotFetched) as caught:
        fetch(remote)
    assert str(caught.value) == f"cannot fetch {URL}: {name} is set. {by_hand}"
    path.parent.mkdir(parents=True)
    path.write_bytes(OTHER)
    with pytest.raises(NotFetched, match=f"{name} is set, and .* has another sha256 than {SHA256}"):
        fetch(remote)
    path.write_bytes(CONTENT)
    assert fetch(remote) == path


def test_what_a_killed_process_left_is_replaced(server):
    remote = RemoteFile(server.url, "sha256", SHA256)
    path = cached_path(remote)
    path.parent.mkdir(parents=True)
    (path.parent / "tmp1234").write_bytes(CONTENT[:10])
    path.write_bytes(CONTENT[:10])
    assert fetch(remote).read_bytes() == CONTENT and names(path) == ["weights.pth"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_named(server):
    remote = RemoteFile(server.url, "sha256", SHA256)
    download.cache_folder().mkdir(mode=0o500)
    with pytest.raises(NotFetched, match="Permission denied"):
        fetch(remote)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESNET_RS_CACHE", "~/own")
    assert download.cache_folder() == tmp_path / "home/own"
    monkeypatch.setenv("RESNET_RS_CACHE", "")
    assert download.cache_folder() == tmp_path / "home/.cache/resnet-rs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert download.cache_folder() == tmp_path / "xdg/resnet-rs"
