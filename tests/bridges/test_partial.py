"""What has arrived is kept, continued and verified; it becomes the file whole or not at all, whatever the disk does."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from bridges.servers import (
    CONTENT,
    CUT_AT,
    MD5,
    SHA256,
    STORED,
    answers,
    chunked,
    cut,
    hangs_in_the_middle,
    names,
    part,
    slow,
)
from chaos.faults import FragileDisk, PowerCut, failing_disk

from resnet_rs import storage
from resnet_rs.bridges import download
from resnet_rs.bridges import partial as partial_file
from resnet_rs.bridges.download import NotFetched, Patience, RemoteFile, cached_path
from resnet_rs.bridges.partial import NotStored


def test_the_next_call_continues_what_the_last_one_left(server, fetch):
    server.script = [cut] + 3 * [answers(503)]
    remote = RemoteFile(server.url, sha256=SHA256)
    with pytest.raises(
        NotFetched, match=r"503 Service Unavailable \(4 tries\); what has arrived is continued"
    ):
        fetch(remote)
    assert part(cached_path(remote)).read_bytes() == CONTENT[:CUT_AT]
    assert fetch(remote).read_bytes() == CONTENT
    assert server.ranges == [None] + 4 * ["bytes=100000-"]


def test_ctrl_c_leaves_a_part_that_is_continued(server, fetch):
    def interrupt(num_bytes, total):
        if num_bytes >= CUT_AT:
            raise KeyboardInterrupt

    remote = RemoteFile(server.url)
    with pytest.raises(KeyboardInterrupt):
        fetch(remote, progress=interrupt)
    kept = part(cached_path(remote)).stat().st_size
    assert not cached_path(remote).exists() and CUT_AT <= kept < len(CONTENT)
    assert fetch(remote).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={kept}-"]


def test_a_killed_process_leaves_a_part_that_is_continued(server, fetch, tmp_path, monkeypatch):
    server.script = [hangs_in_the_middle]
    remote = RemoteFile(server.url, sha256=SHA256)
    code = f"from resnet_rs.bridges import download as d, partial as p; p._BETWEEN_COMMITS = 1; d.fetch(d.{remote})"
    note = part(cached_path(remote)).with_name("weights.pth.partial.json")
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        deadline = time.monotonic() + 30
        while not (note.exists() and json.loads(note.read_text())["bytes"] == CUT_AT):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    assert fetch(remote).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


def test_bytes_that_may_not_have_reached_the_disk_are_asked_for_again(server, fetch):
    server.script = [cut] + 3 * [answers(500)]
    remote = RemoteFile(server.url)
    with pytest.raises(NotFetched):
        fetch(remote)
    with part(cached_path(remote)).open("ab") as opened:
        opened.write(bytes(1000))
    assert fetch(remote).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=100000-"


@pytest.mark.parametrize(
    "note", ["", "[]", "{}", '{"bytes": -1, "total": null, "validator": "x"}', '{"bytes": 10}']
)
def test_a_damaged_note_is_not_trusted(server, fetch, note):
    server.script = [cut] + 3 * [answers(500)]
    remote = RemoteFile(server.url)
    with pytest.raises(NotFetched):
        fetch(remote)
    path = cached_path(remote)
    path.with_name("weights.pth.partial.json").write_text(note)
    assert fetch(remote).read_bytes() == CONTENT
    assert server.ranges[-1] is None


def test_a_part_that_is_whole_needs_no_network(server, fetch):
    remote = RemoteFile(server.url, sha256=SHA256)

    class Failing(storage.Disk):
        def rename(self, old, new):
            if new == cached_path(remote):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().rename(old, new)

    storage.disk = Failing()
    with pytest.raises(NotStored):
        fetch(remote)
    storage.disk = storage.Disk()
    assert part(cached_path(remote)).read_bytes() == CONTENT
    assert fetch(remote).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_file_is_hashed_anew_only_if_it_has_changed(server, fetch, monkeypatch):
    remote = RemoteFile(server.url, sha256=SHA256)
    path = fetch(remote)
    with monkeypatch.context() as patched:
        patched.setattr(partial_file, "examined", lambda *args: pytest.fail("hashed again"))
        fetch(remote)
    path.write_bytes(CONTENT[:-1] + b"x")
    assert fetch(remote).read_bytes() == CONTENT
    assert len(server.requests) == 2
    os.utime(path, ns=(0, 0))
    assert fetch(RemoteFile(server.url, sha256=SHA256, md5=MD5)) == path
    assert len(server.requests) == 2


def test_a_verified_file_is_taken_from_a_cache_that_may_only_be_read(server, fetch, monkeypatch):
    remote = RemoteFile(server.url, sha256=SHA256)
    path = fetch(remote)
    path.with_name("weights.pth.json").unlink()

    class ReadOnly(storage.Disk):
        def create(self, path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    storage.disk = ReadOnly()
    assert fetch(remote) == path and names(path) == ["weights.pth"]
    with pytest.raises(NotStored, match=r"cannot store .*weights\.pth\.partial: Read-only file system"):
        fetch(RemoteFile(server.url + "?other"))


def test_a_full_disk_is_explained_and_what_has_arrived_is_continued(server, fetch):
    class Full(storage.Disk):
        def write(self, descriptor, content):
            if os.fstat(descriptor).st_size + len(content) > CUT_AT:
                os.write(descriptor, content[: CUT_AT - os.fstat(descriptor).st_size])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().write(descriptor, content)

    remote = RemoteFile(server.url, sha256=SHA256)
    server.script = [chunked]
    storage.disk = Full()
    with pytest.raises(
        NotStored, match=r"cannot store .*weights\.pth\.partial: No space left on device\. Mend that"
    ):
        fetch(remote)
    storage.disk = storage.Disk()
    assert fetch(remote).read_bytes() == CONTENT
    assert server.ranges[0] is None and server.ranges[1].startswith("bytes=")


def test_a_disk_that_is_too_small_is_refused_before_the_body(server, fetch, monkeypatch):
    free = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(
        NotStored, match="300,000 more bytes are needed, but No space left on device: 1,000 are free"
    ):
        fetch(RemoteFile(server.url))


def test_every_error_of_the_disk_leaves_the_whole_file_or_none(server, fetch):
    is_hit, number = True, -1
    while is_hit:
        number += 1
        remote = RemoteFile(f"{server.url}?{number}")
        server.script, path = [cut], cached_path(remote)
        storage.disk = failing_disk(errno.EIO, fails=lambda at, name, number=number: at == number)
        with suppress(NotStored):
            fetch(remote)
        is_hit = storage.disk.count > number
        storage.disk = storage.Disk()
        assert not path.exists() or path.read_bytes() == CONTENT
        server.script = []
        assert fetch(remote).read_bytes() == CONTENT
    assert number > 30


def test_a_power_cut_at_any_operation_leaves_what_can_be_continued(server, fetch, tmp_path):
    is_cut, number, remote, seen = True, -1, RemoteFile(server.url), set()
    while is_cut:
        number += 1
        place = tmp_path / str(number)
        (place / "disk").mkdir(parents=True)
        server.script, is_cut = [cut], False
        storage.disk = disk = FragileDisk(place / "disk", number)
        try:
            fetch(remote, cache=disk.root / "cache")
        except PowerCut:
            is_cut = True
        storage.disk = storage.Disk()
        disk.leave(place / "left")
        left, server.script, server.requests = cached_path(remote, cache=place / "left/cache"), [], []
        if left.exists() or not is_cut:
            assert left.read_bytes() == CONTENT
        assert fetch(remote, cache=place / "left/cache").read_bytes() == CONTENT
        assert server.ranges in ([], [None], ["bytes=100000-"])
        seen |= {*server.ranges}
    assert number > 30 and seen == {None, "bytes=100000-"}


def test_an_error_of_the_progress_is_nobody_elses(server, fetch):
    def broken(num_bytes, total):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        fetch(RemoteFile(server.url), progress=broken)
    assert fetch(RemoteFile(server.url)).read_bytes() == CONTENT


def test_two_processes_fetch_a_file_once(server):
    server.script = [slow]
    remote = RemoteFile(server.url, sha256=SHA256)
    code = f"from resnet_rs.bridges import download as d; print(d.fetch(d.{remote}))"
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [child.communicate(timeout=60)[0].strip() for child in children]
    assert said == 2 * [str(cached_path(remote))]
    assert cached_path(remote).read_bytes() == CONTENT and names(cached_path(remote)) == STORED
    assert server.ranges == [None]


def test_another_process_that_does_not_get_on_is_named(server):
    remote = RemoteFile(server.url)
    folder = cached_path(remote).parent
    folder.mkdir(parents=True)
    patience = Patience(turn_seconds=0.01)
    with storage.locked(folder), pytest.raises(storage.InUse, match=f"in use by process {os.getpid()}"):
        download.fetch(remote, patience=patience)
    assert server.requests == [] and download.fetch(remote).read_bytes() == CONTENT
