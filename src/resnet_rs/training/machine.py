"""`Machine`: how a run uses the hardware. It is not part of an experiment."""

from __future__ import annotations

from dataclasses import dataclass, field

from resnet_rs.data.decode import MAX_PIXELS, check_max_pixels
from resnet_rs.processes import num_cores
from resnet_rs.training.device import Device
from resnet_rs.training.ranks import ALONE, Ranks

_MAX_WORKERS_PER_CORE = 4
_ALWAYS_ALLOWED = 8


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Device, worker processes and ranks. Only `micro_batch` and the rounding of the device affect a result."""

    device: Device = field(default_factory=Device.choose)
    micro_batch: int | None = None
    """Samples per forward pass. None: a continued run keeps its value, and a new run uses up to 128."""
    workers: int | None = None
    """Processes per rank that read samples; 0 reads in the rank itself. None: each run measures how many are useful."""
    activation_checkpointing: bool = False
    """Whether training recomputes the inside of blocks instead of keeping it: less memory, more time, the same bits."""
    max_pixels: int = MAX_PIXELS
    """Images in folders with more pixels (width times height) are unreadable, which bounds the memory of workers."""
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        check_max_pixels(self.max_pixels)
        cores = num_cores()
        limit = max(_ALWAYS_ALLOWED, _MAX_WORKERS_PER_CORE * cores)
        if self.workers is not None and not 0 <= self.workers <= limit:
            raise ValueError(
                f"workers must be 0 to {limit} here ({cores} CPU cores), got {self.workers:,}. "
                f"{cores} is a good choice: more processes than cores rarely read faster."
            )
        if self.micro_batch is not None and self.micro_batch < 2:
            raise ValueError(
                f"micro_batch must be 2 or more, because batch norm cannot train on one sample, got {self.micro_batch}."
            )
