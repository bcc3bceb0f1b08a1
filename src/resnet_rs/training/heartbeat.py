"""`Heartbeat`: every rank shows that it is alive, and watches one other, so that a hung rank does not hang the job.

A rank that is stopped, or whose machine is cut off, keeps its connections open: the others would wait for it until the
time limit of the exchange, which must be long, since saving or reading may take long. A thread that beats on its own
tells slow from gone.
"""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

from torch.distributed.distributed_c10d import Store

EXIT_LOST_TOUCH = 6
"""Exit code of a rank whose neighbor is gone."""

_SECONDS = 2.0
"""Between two beats."""
_MISSED = 15
"""Beats in a row that may be missed."""


class Heartbeat:
    """Beats for rank `index` and watches the next one. If that one falls silent, it says so and ends the process."""

    def __init__(self, store: Store, *, index: int, count: int) -> None:
        self.step = 0
        """Updates this rank has taken."""
        self._store = store
        self._index = index
        self._watched = (index + 1) % count
        self._missed = 0
        self._last_heard = b""
        self._is_over = threading.Event()

    @contextmanager
    def beating(self) -> Generator[None]:
        """Beat and watch within the block."""
        self._store.set(self._name(self._index), "0 0")
        for target in (self._beat, self._watch):
            threading.Thread(target=target, daemon=True, name=target.__name__).start()
        try:
            yield
        finally:
            self._is_over.set()

    def _beat(self) -> None:
        """Exchange beats. This may block for long where the network is cut off, so another thread counts."""
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
        # Beats are counted, not seconds: where the whole machine was asleep, nobody has missed any.
        while not self._is_over.wait(_SECONDS):
            self._missed += 1
            if self._missed > _MISSED:
                self._report()
                os._exit(EXIT_LOST_TOUCH)

    def _report(self) -> None:
        last = self._last_heard.decode().partition(" ")[2] or "none"
        text = (
            f"error: rank {self._index} has not heard of rank {self._watched} for {_MISSED * _SECONDS:.0f} s; the last "
            f"update it told of is {last}. Rank {self._index} has taken {self.step} updates, ends now, and was here:\n"
        )
        os.write(2, text.encode())
        faulthandler.dump_traceback()

    @staticmethod
    def _name(index: int) -> str:
        return f"beat of rank {index}"
