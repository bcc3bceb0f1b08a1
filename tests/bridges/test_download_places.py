"""Where files come from, the way there, and where they are put."""

import hashlib
import shutil
import socket
import ssl
import subprocess

import pytest
from bridges.servers import CONTENT, OTHER, SHA256, Server, answers, cut, running

from resnet_rs.bridges import download
from resnet_rs.bridges.download import NotFetched, RemoteFile, cached_path


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_and_what_is_cut_there_is_continued(server, fetch, status):
    server.script = [
        answers(status, Location="/there?a=b%20c#d"),
        cut,
        answers(status, Location=server.root + "/x y"),
    ]
    assert fetch(RemoteFile(server.url)).read_bytes() == CONTENT
    assert server.requests == [
        *[("/a/weights.pth", None, None), ("/there?a=b%20c", None, None)],
        *[("/a/weights.pth", "bytes=100000-", '"1"'), ("/x%20y", "bytes=100000-", '"1"')],
    ]


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "data:,x",
        "http://a:b/",
        "http://me:pw@127.0.0.1/",
    ],
)
def test_a_redirect_to_anything_else_is_refused(server, fetch, target):
    server.script = [answers(302, Location=target)]
    with pytest.raises(NotFetched, match="redirects to where we do not follow") as caught:
        fetch(RemoteFile(server.url))
    assert len(server.requests) == 1 and "pw" not in str(caught.value).partition("cache")[0]


def test_a_circle_of_redirects_ends(server, fetch):
    server.script = 30 * [answers(302, Location="/a/weights.pth")]
    with pytest.raises(NotFetched, match="more than 10 times"):
        fetch(RemoteFile(server.url))
    assert len(server.requests) == 11


@pytest.mark.parametrize(
    "url",
    [
        *[
            "file:///etc/passwd",
            "ftp://host/x",
            "/etc/passwd",
            "weights.pth",
            "data:,x",
            "HTTPS:/host/x",
            "http://",
        ],
        *[
            "http://host:x/y",
            "http://host:0/y",
            "http://host/a b",
            "http://host/\n",
            "http://höst/",
            "http://[::1/",
        ],
    ],
)
def test_only_http_addresses_are_taken(url):
    with pytest.raises(ValueError, match="no address|no http"):
        RemoteFile(url)


def test_an_address_with_a_password_is_refused_and_not_repeated():
    for url in ("http://me:secret@host/x", "http://me:secret@host:y/x"):
        with pytest.raises(ValueError) as caught:
            RemoteFile(url)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("known", [{"sha256": "12"}, {"md5": "x" * 32}, {"size": -1}, {"size": 0}])
def test_a_hash_or_size_that_can_be_none_is_refused(known):
    with pytest.raises(ValueError, match="must be"):
        RemoteFile("https://host/x", **known)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/weights.pth?download=true#top", "weights.pth"),
        ("https://host/", "_"),
        ("https://host/a/..", "_"),
        ("https://host/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "_.._etc_passwd"),
        ("https://host/Lock", "Lock_"),
        ("https://host/" + 300 * "a" + ".pth", 96 * "a" + ".pth"),
    ],
)
def test_every_address_has_a_place_of_its_own_within_the_cache(tmp_path, url, name):
    path = cached_path(RemoteFile(url))
    assert path.name == name and path.parent.parent == tmp_path / "cache"
    assert path.parent.name.startswith("host-")
    assert cached_path(RemoteFile(url.partition("#")[0] + ("&" if "?" in url else "?") + "x")) != path
    assert cached_path(RemoteFile(url.partition("#")[0] + "#other", sha256=SHA256)) == path


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESNET_RS_CACHE", "~/own")
    assert download.cache_folder() == tmp_path / "home/own"
    monkeypatch.setenv("RESNET_RS_CACHE", "")
    assert download.cache_folder() == tmp_path / "home/.cache/resnet-rs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert download.cache_folder() == tmp_path / "xdg/resnet-rs"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    for name in ("create_connection", "getaddrinfo", "socket"):
        monkeypatch.setattr(socket, name, refuse)


URL = "https://example.org/weights.pth"


@pytest.mark.parametrize("name", download.OFFLINE)
def test_offline_no_socket_is_opened_and_the_place_is_told(monkeypatch, no_network, name):
    monkeypatch.setenv(name, "1")
    path = cached_path(RemoteFile(URL))
    with pytest.raises(NotFetched) as caught:
        download.fetch(RemoteFile(URL))
    assert str(caught.value) == (
        f"cannot fetch {URL}: {name} is set. Download it elsewhere and put it at {path}."
    )


def test_a_file_that_was_put_there_by_hand_is_taken_without_the_network(monkeypatch, no_network):
    remote = RemoteFile(URL, sha256=SHA256, size=len(CONTENT))
    path = cached_path(remote)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert download.fetch(remote) == download.fetch(RemoteFile(URL)) == path
    path.write_bytes(OTHER)
    monkeypatch.setenv("RESNET_RS_OFFLINE", "true")
    other = hashlib.sha256(OTHER).hexdigest()
    for asked in (remote, RemoteFile(URL)):
        with pytest.raises(
            NotFetched, match=f"in the cache is another: its SHA-256 is {other}, expected {SHA256}"
        ):
            download.fetch(asked)


def test_without_a_connection_the_place_is_told(fetch, waits):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        remote = RemoteFile(f"http://127.0.0.1:{closed.getsockname()[1]}/weights.pth")
        with pytest.raises(NotFetched) as caught:
            fetch(remote)
    assert str(caught.value) == (
        f"cannot fetch {remote.url}: the connection failed: Connection refused (4 tries). "
        f"Download it elsewhere and put it at {cached_path(remote)}."
    )
    assert len(waits) == 3


def test_a_proxy_is_asked_instead_of_the_server_unless_it_is_excepted(server, fetch, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.root)
    server.script = [cut]
    url = "http://weights.invalid/weights.pth"
    assert fetch(RemoteFile(url)).read_bytes() == CONTENT
    assert server.requests == [(url, None, None), (url, "bytes=100000-", '"1"')]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fetch(RemoteFile(server.url))
    assert server.requests[2:] == [("/a/weights.pth", None, None)]


def test_a_proxy_that_refuses_a_tunnel_is_told(server, fetch, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", server.root)
    with pytest.raises(
        NotFetched, match=r"Tunnel connection failed: 501 .*\(4 tries\)\. Download it elsewhere"
    ):
        fetch(RemoteFile(URL))


@pytest.fixture
def secure(tmp_path):
    """A server with a certificate that only those trust who are told to, in `tmp_path / "own.pem"`."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "own.pem"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=loopback"
    words = [*made.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run([program, *words], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    yield from running(Server(context))


def test_a_certificate_is_checked_and_can_be_given(secure, fetch, monkeypatch, tmp_path, waits):
    with pytest.raises(NotFetched, match="certificate verify failed.* SSL_CERT_FILE"):
        fetch(RemoteFile(secure.url))
    assert waits == [] and secure.requests == []
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
    assert fetch(RemoteFile(secure.url)).read_bytes() == CONTENT


def test_https_never_goes_down_to_http_but_http_may_go_up(secure, server, fetch, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
    secure.script = [answers(302, Location=server.url + "?token=secret")]
    with pytest.raises(NotFetched, match=f"from https down to '{server.url}'"):
        fetch(RemoteFile(secure.url))
    assert server.requests == []
    server.script = [answers(302, Location=secure.url)]
    assert fetch(RemoteFile(server.url)).read_bytes() == CONTENT
