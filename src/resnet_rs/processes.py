"""Processes: requests to stop (SIGTERM, SIGINT, SIGUSR1), and children that answer and end with their parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
"""The signals that ask a run to stop; Windows has no SIGUSR1."""

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Options of glibc's `mallopt`."""
_SECONDS_OF_ONE_REQUEST = 1.0
"""Signals within this time are one request, since launchers and terminals send the same signal in several ways."""


class Stop:
    """Whether a signal has asked the run to stop. A run checks this between micro-batches."""

    reason: str = ""
    """Name of the first signal; empty before it."""

    @property
    def is_requested(self) -> bool:
        return bool(self.reason)


class Interrupted(Exception):
    """Work obeyed a stop request before its end; it can be continued."""


@contextmanager
def listening() -> Generator[Stop]:
    """Within this block the first signal of `SIGNALS` is a request to stop, and a second one ends the process at once.

    A separate thread takes the signals, because the main thread may be in a long computation or wait for another rank.
    Ignored signals stay ignored. Python handles signals only in the main thread, so elsewhere this does nothing.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    threading.Thread(target=_take, args=(read_end, stop), daemon=True, name="signals").start()
    # The handler does nothing: Python writes the number of the signal to the pipe before it calls the handler.
    wakeup_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    heard = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, _ignore) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        os.close(write_end)  # the thread then reads the end of the pipe, and closes the other end


def _take(read_end: int, stop: Stop) -> None:
    requested = 0.0
    while numbers := os.read(read_end, 1):
        if numbers[0] not in SIGNALS:
            continue
        if not stop.is_requested:
            requested = time.monotonic()
            stop.reason = signal.Signals(numbers[0]).name
        elif time.monotonic() - requested > _SECONDS_OF_ONE_REQUEST:
            os._exit(128 + numbers[0])
    os.close(read_end)


def _ignore(number: int, frame: object) -> None: ...


def keep_freed_memory() -> None:
    """Let this process reuse the memory of freed tensors from now on, in place of returning it to the system.

    The system clears the pages that it hands out, which took up to half of the time of an update (`docs/LOG.md`). Only
    glibc's allocator does it; elsewhere nothing happens.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library, or Windows
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def num_cores() -> int:
    """CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


@dataclass
class Child:
    """A function that runs in a new process, which ends with this one."""

    process: BaseProcess
    _answers: Connection
    is_asked_to_stop: bool = False

    @classmethod
    def start(cls, function: Callable[..., bytes], *arguments: object) -> Child:
        """Start `function`, which must be importable, with `arguments`, which must be picklable.

        The child starts with `SIGNALS` blocked. A signal to the whole process group therefore cannot end it before it
        can handle signals; then it calls `unblock_signals`.
        """
        context = multiprocessing.get_context("spawn")
        answers, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run_as_child, args=(theirs, function, arguments))
        # The first child would also start the resource tracker, which unblocks the signals again. So start it before.
        resource_tracker.ensure_running()
        before = _mask_signals("SIG_BLOCK", SIGNALS)
        try:
            process.start()
        finally:
            _mask_signals("SIG_SETMASK", before)
        theirs.close()
        return cls(process, answers)

    def ask_to_stop(self) -> None:
        """Send SIGTERM once, since a second one would end the process before it can save."""
        if not self.is_asked_to_stop and self.process.is_alive():
            self.is_asked_to_stop = True
            self.process.terminate()

    def end(self) -> bytes | int:
        """Wait for the end of the process: what the function returned, or the exit code if it returned nothing."""
        with self._answers, suppress(EOFError):
            answer = self._answers.recv_bytes()
            self.process.join()
            return answer
        self.process.join()
        return self.process.exitcode or 0

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.join()
        self._answers.close()


def run_in_child(function: Callable[..., bytes], *arguments: object) -> bytes | int:
    """What `function` returns in a new process, or the exit code of that process if it was killed or failed."""
    child = Child.start(function, *arguments)
    try:
        return child.end()
    finally:
        child.kill()


def unblock_signals() -> None:
    """Let a child hear `SIGNALS`, except Ctrl-C, which also reaches its parent and which the parent passes on."""
    _mask_signals("SIG_UNBLOCK", {*SIGNALS} - {signal.SIGINT})


def _mask_signals(how: str, numbers: Iterable[int]) -> Iterable[int]:
    """Change which signals this thread blocks; the ones it blocked before. Windows cannot block signals."""
    if not hasattr(signal, "pthread_sigmask"):
        return ()
    return signal.pthread_sigmask(getattr(signal, how), numbers)


def _run_as_child(answers: Connection, function: Callable[..., bytes], arguments: tuple[object, ...]) -> None:
    end_with_parent()
    with answers:
        answers.send_bytes(function(*arguments))


def end_with_parent() -> None:
    """End this process when its parent ends, in whatever way. Only Linux can do that; elsewhere nothing happens."""
    if platform.system() != "Linux":
        return
    parent = _parent_pid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before that, even while this process was starting. `parent_process().is_alive()` does
    # not notice it in a forked process, whose siblings hold the parent's end of the pipe open.
    if os.getppid() != parent and not _is_running(parent):
        os._exit(1)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _parent_pid() -> int:
    """Number of the process that started this one, even if that has ended: multiprocessing passes it on."""
    parent = multiprocessing.parent_process()
    return os.getppid() if parent is None or parent.pid is None else parent.pid


def serve_parent() -> None:
    """Make this process a worker: it ignores the signals of launchers and terminals, and ends with its parent.

    Launchers and terminals signal whole process groups. A worker that ended at once would fail a run that wants to
    finish its update and save. A parent ends its workers with SIGTERM. Where the system reports the sender of a signal,
    a SIGTERM from any other process is ignored.
    """
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(_parent_pid(),), daemon=True, name="obey").start()
    end_with_parent()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
