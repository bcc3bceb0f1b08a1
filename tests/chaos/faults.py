"""Disks that fail, kill the process, or remember what a power cut would leave; and children to break."""

import os
import shutil
import signal
import sys
import time
import traceback

from resnet_rs import storage

OPERATIONS = (
    "create",
    "extend",
    "write",
    "cut",
    "sync",
    "sync_folder",
    "rename",
    "make_folder",
    "remove",
    "remove_folder",
)


class WatchedDisk(storage.Disk):
    """Calls `before(number, name)` and `after(number, name)` around every operation, counted from 0."""

    def __init__(self, before=lambda number, name: None, after=lambda number, name: None):
        self.count = 0
        self.names = []
        self.before, self.after = before, after

    def _watched(self, name, arguments):
        number = self.count
        self.count += 1
        self.names.append(name)
        self.before(number, name)
        result = getattr(storage.Disk, name)(self, *arguments)
        self.after(number, name)
        return result


def _define(name):
    setattr(WatchedDisk, name, lambda self, *arguments: self._watched(name, arguments))


for _name in OPERATIONS:
    _define(_name)


def killing_disk(number, *, is_after):
    """Kills its process before or after operation `number`."""

    def kill(at, name):
        if at == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return WatchedDisk(**{"after" if is_after else "before": kill})


def failing_disk(code, *, fails):
    """Raises `OSError(code)` in place of the operations for which `fails(number, name)`."""

    def fail(number, name):
        if fails(number, name):
            raise OSError(code, os.strerror(code))

    return WatchedDisk(before=fail)


class PowerCut(Exception):
    """The power has gone."""


class FragileDisk(WatchedDisk):
    """Does everything for real, and knows what would be left if the power went before operation `cut_at`.

    A file has the content of its last flush, and a folder the names of its last flush: what was written, made, renamed
    or removed since is undone. Files are told apart by inode, so what is replaced or removed is kept aside.
    """

    def __init__(self, root, cut_at):
        super().__init__(before=self._cut)
        self.root, self.cut_at = root, cut_at
        self.aside = root.parent / f"{root.name}-aside"
        self.aside.mkdir()
        self.contents = {}  # of files, by inode, as flushed
        self.listings = {}  # of folders, by inode, as flushed: name -> inode
        self.paths = {}  # of open files, by descriptor

    def _cut(self, number, name):
        if number >= self.cut_at:
            raise PowerCut

    def create(self, path):
        descriptor = super().create(path)
        self.paths[descriptor] = path
        return descriptor

    def extend(self, path):
        descriptor = super().extend(path)
        self.paths[descriptor] = path
        return descriptor

    def sync(self, descriptor):
        super().sync(descriptor)
        path = self.paths[descriptor]
        self.contents[path.stat().st_ino] = path.read_bytes()

    def sync_folder(self, path):
        super().sync_folder(path)
        self.listings[path.stat().st_ino] = {child.name: child.stat().st_ino for child in path.iterdir()}

    def rename(self, old, new):
        if new.exists():
            os.link(new, self.aside / f"{self.count}")
        super().rename(old, new)

    def remove(self, path):
        os.link(path, self.aside / f"{self.count}")
        super().remove(path)

    def remove_folder(self, path):
        self._cut(self.count, "remove_folder")
        path.rename(self.aside / f"{self.count}")
        self.count += 1

    def leave(self, target):
        """Write what the power cut has left of the folder `root` to `target`."""
        folders = {
            p.stat().st_ino for top in (self.root, self.aside) for p in [top, *top.rglob("*")] if p.is_dir()
        }
        self._leave(self.root.stat().st_ino, target, folders)

    def _leave(self, folder, target, folders):
        target.mkdir()
        for name, inode in self.listings.get(folder, {}).items():
            if inode in folders:
                self._leave(inode, target / name, folders)
            else:
                (target / name).write_bytes(self.contents.get(inode, b""))


OWN = "chaos-"
"""Begins the names of what tests themselves put into shared memory."""


def shared_memory():
    """Names of the shared-memory objects of this machine, but for those of tests."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith(OWN)}


def in_child(function, *arguments):
    """Start `function` in a forked child with a process group of its own; its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a shell's background jobs are born deaf to it
        function(*arguments)
        status = 0
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait(pid, *, seconds=60):
    """Exit status of a child, negative for a signal; a child that hangs is killed, and an error."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"a child still ran after {seconds} s")


def fresh(folder):
    """An empty place at `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def in_ranks(count, function, *arguments, seconds=90):
    """Run `function(ranks, *arguments)` in `count` forked ranks that meet over gloo; their exit statuses."""
    pids, store = start_ranks(count, function, *arguments)
    statuses = [wait(pid, seconds=seconds) for pid in pids]
    del store  # the ranks have met in it
    return statuses


def start_ranks(count, function, *arguments):
    """Process ids of forked ranks, and the store that must live as long as they do.

    The ranks are forked before the store exists. Its thread may hold a lock of the C library, and a rank that is forked
    at that moment would wait for the lock forever.
    """
    from torch.distributed import TCPStore

    port = os.pipe()
    pids = [in_child(_as_rank, index, count, port, function, arguments) for index in range(count)]
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(port[1], store.port.to_bytes(2) * count)
    for end in port:
        os.close(end)
    return pids, store


def _as_rank(index, count, pipe, function, arguments):
    from resnet_rs.training.device import Device
    from resnet_rs.training.group import RankInfo, rendezvous

    os.close(pipe[1])
    port = int.from_bytes(os.read(pipe[0], 2))
    os.environ |= {
        "RANK": str(index),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    info = RankInfo(index=index, count=count, host="127.0.0.1", port=port)
    with rendezvous(info, Device.choose("cpu")) as ranks:
        status = function(ranks, *arguments)
    raise SystemExit(status or 0)
