"""`Pace`: how fast training goes since the last evaluation or save: images per second and the share of waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator

from resnet_rs.data.sample import Batch

_SECONDS_BETWEEN_SAVES = 600.0


class Pace:
    """A stopwatch that counts samples."""

    def __init__(self, *, seconds_before: float) -> None:
        self._begin = time.monotonic() - seconds_before
        self._saved = time.monotonic()
        self.restart()

    def restart(self) -> None:
        """Begin to measure anew."""
        self._since = time.monotonic()
        self._waited = 0.0
        self._num_samples = 0

    def count(self, num_samples: int) -> None:
        """Take note of samples that were trained on."""
        self._num_samples += num_samples

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """`batches`, while the time that they let us wait is measured."""
        while True:
            begin = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - begin
            if batch is None:
                return
            yield batch

    def saved(self) -> None:
        """Take note of an attempt to save."""
        self._saved = time.monotonic()

    def is_time_to_save(self) -> bool:
        """Whether more work would be lost by a crash now than a user would forgive."""
        return time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES

    @property
    def seconds(self) -> float:
        """Since the run began; the time between a stop and its continuation is left out."""
        return time.monotonic() - self._begin

    @property
    def images_per_second(self) -> float:
        """Samples trained on per second."""
        return self._num_samples / max(1e-9, time.monotonic() - self._since)

    @property
    def data_wait(self) -> float:
        """Share of the time in which the loop had no batch to work on."""
        return self._waited / max(1e-9, time.monotonic() - self._since)
