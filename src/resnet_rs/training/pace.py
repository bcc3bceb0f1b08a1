"""`Pace`: training speed since the last evaluation or save, in images per second and share of time spent waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator

from resnet_rs.data.sample import Batch

_SECONDS_BETWEEN_SAVES = 600.0


class Pace:
    """Measures images per second and the time spent waiting for data."""

    def __init__(self, *, seconds_before: float) -> None:
        self._begin = time.monotonic() - seconds_before
        self._saved = time.monotonic()
        self.restart()

    def restart(self) -> None:
        """Start a new measurement."""
        self._since = time.monotonic()
        self._waited = 0.0
        self._num_samples = 0

    def count(self, num_samples: int) -> None:
        """Add samples that were trained on."""
        self._num_samples += num_samples

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time spent waiting for each is measured."""
        while True:
            begin = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - begin
            if batch is None:
                return
            yield batch

    def saved(self) -> None:
        """Note an attempt to save."""
        self._saved = time.monotonic()

    def is_time_to_save(self) -> bool:
        """Whether the last attempt to save is more than ten minutes ago."""
        return time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES

    @property
    def seconds(self) -> float:
        """Seconds of training so far; the time between a stop and its continuation does not count."""
        return time.monotonic() - self._begin

    def speed(self) -> dict[str, float]:
        """Samples per second, and the share of the time in which the loop waited, since the last restart."""
        passed = max(1e-9, time.monotonic() - self._since)
        return {"images_per_second": self._num_samples / passed, "data_wait": self._waited / passed}
