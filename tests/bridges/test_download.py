"""A file arrives whole and right, or not at all, however its server behaves."""

import hashlib
import time
from email.utils import formatdate
from functools import partial

import pytest
from bridges.servers import (
    CONTENT,
    CUT_AT,
    MD5,
    OTHER,
    SHA256,
    STORED,
    answers,
    chunked,
    cut,
    hangs,
    hangs_in_the_middle,
    names,
    slow,
    until_closed,
    whole,
)

from resnet_rs.bridges import download
from resnet_rs.bridges.download import NotFetched, Patience, RemoteFile, cached_path


def says(raw):
    return lambda handler: handler.wfile.write(raw)


def test_a_file_arrives_whole_and_is_not_asked_for_again(server, fetch):
    seen = []
    remote = RemoteFile(server.url, sha256=SHA256, md5=MD5.upper(), size=len(CONTENT))
    path = fetch(remote, progress=lambda *numbers: seen.append(numbers))
    assert path.read_bytes() == CONTENT
    assert path == cached_path(remote) and names(path) == STORED
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(set(seen))
    assert fetch(remote) == fetch(RemoteFile(server.url)) == path
    assert server.requests == [("/a/weights.pth", None, None)]


@pytest.mark.parametrize("body", [chunked, until_closed, partial(whole, etag=None)])
def test_a_body_of_any_framing_arrives(server, fetch, body):
    server.script = [body]
    assert fetch(RemoteFile(server.url, sha256=SHA256)).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_what_is_cut_is_continued(server, fetch, waits):
    server.script = [cut, partial(whole, stop=200_000)]
    path = fetch(RemoteFile(server.url, sha256=SHA256))
    assert path.read_bytes() == CONTENT and names(path) == STORED
    assert server.requests == [
        ("/a/weights.pth", None, None),
        ("/a/weights.pth", "bytes=100000-", '"1"'),
        ("/a/weights.pth", "bytes=200000-", '"1"'),
    ]
    assert 1 <= waits[0] <= 2 <= waits[1] <= 4 and len(waits) == 2


def test_a_date_serves_where_there_is_no_strong_etag(server, fetch):
    date = formatdate(1e9, usegmt=True)
    server.script = [partial(cut, etag='W/"1"', headers={"Last-Modified": date}), partial(whole, etag=date)]
    assert fetch(RemoteFile(server.url)).read_bytes() == CONTENT
    assert server.requests[1:] == [("/a/weights.pth", "bytes=100000-", date)]


def test_without_a_version_it_begins_anew(server, fetch):
    server.script = [partial(cut, etag=None)]
    assert fetch(RemoteFile(server.url)).read_bytes() == CONTENT
    assert server.ranges == [None, None]


def ignores_range(handler):
    handler.begin(200, {"Content-Length": len(CONTENT), "ETag": '"1"'})
    handler.wfile.write(CONTENT)


def sends_another_part(handler):
    handler.begin(206, {"Content-Length": 5, "Content-Range": f"bytes 7-11/{len(CONTENT)}", "ETag": '"1"'})
    handler.wfile.write(b"wrong")


def ignores_if_range(handler):
    span = f"bytes {CUT_AT}-{len(OTHER) - 1}/{len(OTHER)}"
    handler.begin(206, {"Content-Length": len(OTHER) - CUT_AT, "Content-Range": span, "ETag": '"2"'})
    handler.wfile.write(OTHER[CUT_AT:])


def says_more_than_it_announces(handler):
    span = f"bytes {CUT_AT}-{CUT_AT + 9}/{CUT_AT + 10}"
    handler.begin(206, {"Content-Length": 50, "Content-Range": span, "ETag": '"1"'})
    handler.wfile.write(bytes(50))


@pytest.mark.parametrize(
    ("second", "later"),
    [
        (ignores_range, []),
        (answers(416, Content_Range=f"bytes */{len(CONTENT)}"), [None]),
        (sends_another_part, [None]),
        (answers(206), [None]),
        (answers(206, Content_Range="bytes 100000-*/*"), [None]),
        (ignores_if_range, [None]),
        (says_more_than_it_announces, [None]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_server_that_does_not_continue_is_asked_for_the_whole(server, fetch, second, later):
    server.script = [cut, second]
    path = fetch(RemoteFile(server.url))
    assert path.read_bytes() == CONTENT and names(path) == STORED
    assert server.ranges == [None, "bytes=100000-", *later]


def test_a_file_that_changes_in_between_is_taken_whole(server, fetch):
    server.script = [cut, partial(whole, content=OTHER, etag='"2"')]
    assert fetch(RemoteFile(server.url)).read_bytes() == OTHER
    assert server.ranges == [None, "bytes=100000-"]


@pytest.mark.parametrize("is_middle", [False, True])
def test_a_server_that_hangs_is_asked_again(server, is_middle):
    server.script = [hangs_in_the_middle if is_middle else hangs]
    patience = Patience(timeout_seconds=0.3, sleep=lambda seconds: None)
    assert download.fetch(RemoteFile(server.url), patience=patience).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-" if is_middle else None]


def test_more_bytes_than_announced_are_not_read(server, fetch):
    server.script = [
        says(b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 300000\r\n\r\n' + CONTENT + b"more")
    ]
    assert fetch(RemoteFile(server.url, sha256=SHA256)).read_bytes() == CONTENT


@pytest.mark.parametrize("raw", [b"", b"\x1b[31mnonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + 70_000 * b"x"])
def test_what_is_no_http_is_asked_again(server, fetch, raw):
    server.script = 4 * [says(raw)]
    with pytest.raises(NotFetched) as caught:
        fetch(RemoteFile(server.url))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert len(server.requests) == 4
    assert fetch(RemoteFile(server.url)).read_bytes() == CONTENT


def test_chunks_that_are_cut_are_continued(server, fetch):
    server.script = [partial(chunked, content=CONTENT[:CUT_AT], is_ended=False)]
    assert fetch(RemoteFile(server.url)).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


def test_a_body_without_an_end_is_refused_if_nothing_tells_its_size(server, fetch):
    server.script = [until_closed]
    with pytest.raises(NotFetched, match="its end could be missing"):
        fetch(RemoteFile(server.url))
    server.script = [partial(until_closed, content=CONTENT[:CUT_AT])]
    assert fetch(RemoteFile(server.url, size=len(CONTENT))).read_bytes() == CONTENT
    assert server.ranges == [None, None, "bytes=100000-"]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server, fetch, waits, status):
    server.script = [answers(status), answers(status)]
    assert fetch(RemoteFile(server.url)).read_bytes() == CONTENT
    assert len(server.requests) == 3 and 1 <= waits[0] <= 2 <= waits[1] <= 4


def test_a_server_is_not_asked_forever(server, fetch, waits):
    server.script = 9 * [answers(503)]
    with pytest.raises(
        NotFetched, match=r"503 Service Unavailable \(4 tries\)\. Download it elsewhere and put it"
    ):
        fetch(RemoteFile(server.url))
    assert len(server.requests) == 4 and len(waits) == 3


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [("7", 7, 7), ("9" * 400, 60, 60), ("in 20", 20, 30), ("in -99", 0, 0), ("soon", 1, 2), ("-5", 1, 2)],
)
def test_the_wait_that_a_server_asks_for_is_kept_within_bounds(server, fetch, waits, asked, least, most):
    if asked.startswith("in "):
        asked = formatdate(time.time() + int(asked[3:]) + 2 * (asked > "in 0"), usegmt=True)
    server.script = [answers(429, Retry_After=asked)]
    fetch(RemoteFile(server.url))
    assert len(waits) == 1 and least <= waits[0] <= most


@pytest.mark.parametrize("status", [204, 300, 304, 400, 401, 403, 404, 410, 416])
def test_a_refusal_is_final(server, fetch, waits, status):
    server.script = [answers(status)]
    with pytest.raises(NotFetched, match=f"the server answers {status} "):
        fetch(RemoteFile(server.url))
    assert len(server.requests) == 1 and waits == []


def test_a_compressed_answer_is_refused(server, fetch):
    server.script = [partial(whole, headers={"Content-Encoding": "gzip"})]
    with pytest.raises(NotFetched, match="compressed"):
        fetch(RemoteFile(server.url))


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_other_content_is_fetched_once_more_and_then_refused(server, fetch, kind):
    server.script = [partial(whole, content=OTHER), partial(whole, content=OTHER)]
    wanted, found = {"sha256": SHA256, "md5": MD5}[kind], hashlib.new(kind, OTHER).hexdigest()
    remote = RemoteFile(server.url, **{kind: wanted})
    with pytest.raises(NotFetched, match=f"twice: its .* is {found}, expected {wanted}"):
        fetch(remote)
    assert names(cached_path(remote)) == [] and server.ranges == [None, None]


def test_other_content_once_is_mended(server, fetch):
    server.script = [partial(whole, content=OTHER, stop=CUT_AT)]  # under the same ETag
    path = fetch(RemoteFile(server.url, sha256=SHA256))
    assert path.read_bytes() == CONTENT and names(path) == STORED
    assert server.ranges == [None, "bytes=100000-", None]


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_another_announced_size_is_refused_before_the_body(server, fetch, size):
    remote = RemoteFile(server.url, size=size)
    with pytest.raises(NotFetched, match=f"announces 300,000 bytes, expected {size:,}"):
        fetch(remote)
    assert names(cached_path(remote)) == [] and server.ranges == [None]


def test_a_server_that_sends_more_than_the_size_is_cut_off(server, fetch):
    server.script = [chunked]
    remote = RemoteFile(server.url, size=CUT_AT)
    with pytest.raises(NotFetched, match="more than 100,000 bytes, and was cut off"):
        fetch(remote)
    assert names(cached_path(remote)) == [] and len(server.requests) == 1


def test_a_server_that_sends_less_than_the_size_in_chunks_is_refused(server, fetch):
    server.script = 2 * [partial(chunked, content=CONTENT[:CUT_AT])]
    with pytest.raises(NotFetched, match="twice: its size in bytes is 100000, expected 300000"):
        fetch(RemoteFile(server.url, size=len(CONTENT)))


@pytest.mark.parametrize("body", [whole, chunked])
def test_no_server_sends_more_than_the_bound(server, fetch, body):
    server.script = [body]
    remote = RemoteFile(server.url)
    with pytest.raises(NotFetched, match="(at most|more than) 1,000"):
        fetch(remote, at_most=1000)
    assert names(cached_path(remote)) == [] and len(server.requests) == 1


def test_a_server_that_trickles_is_given_up(server, waits):
    server.script = [slow] * 4
    patience = Patience(sleep=waits.append, slow_seconds=0.15, least_bytes=1_000_000, timeout_seconds=5.0)
    with pytest.raises(NotFetched, match="sends next to nothing"):
        download.fetch(RemoteFile(server.url, sha256=SHA256), patience=patience)
    assert len(server.requests) == 4 and len(waits) == 3
