"""What processes owe each other: to leave when asked (SIGTERM, SIGINT, SIGUSR1), and to end with their parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
"""Those that this system has: Windows lacks SIGUSR1."""

_PR_SET_PDEATHSIG = 1
_SECONDS_OF_ONE_REQUEST = 1.0
"""Signals this close together are one request: launchers and terminals send the same one in several ways."""


class Stop:
    """Whether somebody asked the run to leave. A run looks between micro-batches, so a request is never in the way."""

    def __init__(self) -> None:
        self.reason = ""
        """Name of the first signal that came."""

    @property
    def is_requested(self) -> bool:
        """Whether a request has come."""
        return bool(self.reason)


@contextmanager
def listening() -> Generator[Stop]:
    """Within this block a first signal of `SIGNALS` is a request to stop; a second one ends the process at once.

    The signals are taken by a thread of their own, for the main thread may be inside a long computation or wait for
    another rank. Signals that this process was told to ignore stay ignored. Outside of the main thread nothing is
    caught, since Python allows it there alone.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    threading.Thread(target=_take, args=(read_end, stop), daemon=True, name="signals").start()
    # The handler itself does nothing: the system writes the signal's number to the pipe before Python knows of it.
    wakeup_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    heard = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, _ignore) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        os.close(write_end)  # the thread reads the end and closes its own


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


def end_with_parent() -> None:
    """End this process when its parent ends, however that ends. Linux only; elsewhere children notice by themselves."""
    if platform.system() != "Linux":
        return
    parent, begetter = os.getppid(), multiprocessing.parent_process()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before it could be heard, also while this process was still starting.
    if os.getppid() != parent or (begetter is not None and not begetter.is_alive()):
        os._exit(1)


def serve_parent() -> None:
    """Make this process a worker: it obeys its parent alone, and ends with it.

    Launchers and terminals signal whole groups of processes; a worker that left at once would fail a run that wants to
    finish its update and save. A parent ends its workers by SIGTERM; only where the system tells who has sent one is
    it kept apart from that of a stranger.
    """
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True, name="obey").start()
    end_with_parent()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
