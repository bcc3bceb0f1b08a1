"""`Heartbeat`: every rank signals that it is alive and monitors one other rank, so a hung rank does not hang the job.

A rank that is suspended, or whose machine is disconnected, keeps its connections open. The other ranks would wait for
it until the timeout of the collective, which is long because saving or reading may take long. A heartbeat from a
separate thread distinguishes a slow rank from a lost one.
"""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

from torch.distributed.distributed_c10d import Store

EXIT_PEER_LOST = 6
"""Exit code of a rank that has lost another rank."""

_SECONDS = 2.0
"""Seconds between two heartbeats."""
_MISSED = 15
"""Missed heartbeats in a row after which a rank counts as lost."""


class Heartbeat:
    """Sends heartbeats for rank `index` and monitors the next rank. Ends the process if that rank goes silent."""

    def __init__(self, store: Store, *, index: int, count: int) -> None:
        self.step = 0
        """Updates that this rank has taken."""
        self._store = store
        self._index = index
        self._watched = (index + 1) % count
        self._missed = 0
        self._last_heard = b""
        self._is_over = threading.Event()

    @contextmanager
    def beating(self) -> Generator[None]:
        """Send heartbeats and monitor the next rank within the block."""
        self._store.set(self._name(self._index), "0 0")
        for target in (self._beat, self._watch):
            threading.Thread(target=target, daemon=True, name=target.__name__).start()
        try:
            yield
        finally:
            self._is_over.set()

    def _beat(self) -> None:
        """Exchange heartbeats. This may block for long without a network, so another thread counts."""
        number = 0
        while not self._is_over.wait(_SECONDS):
            number += 1
            with suppress(RuntimeError):
                self._store.set(self._name(self._index), f"{number} {self.step}")
                heard = self._store.get(self._name(self._watched))
                if heard != self._last_heard:
                    self._last_heard = heard
                    self._missed = 0

    def _watch(self) -> None:
        # This counts heartbeats, not seconds: after a suspend of the whole machine none was missed.
        while not self._is_over.wait(_SECONDS):
            self._missed += 1
            if self._missed > _MISSED:
                self._report()
                os._exit(EXIT_PEER_LOST)

    def _report(self) -> None:
        last = self._last_heard.decode().partition(" ")[2] or "none"
        text = (
            f"error: rank {self._index} has not heard from rank {self._watched} for {_MISSED * _SECONDS:.0f} s; its "
            f"last known update is {last}. Rank {self._index} exits after {self.step} updates; its stack:\n"
        )
        os.write(2, text.encode())
        faulthandler.dump_traceback()

    @staticmethod
    def _name(index: int) -> str:
        return f"heartbeat of rank {index}"
