"""`Machine`: how the machines at hand are used. No part of an experiment."""

from __future__ import annotations

from dataclasses import dataclass, field

from resnet_rs.training.device import Device
from resnet_rs.training.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Device, processes and ranks. Of these only `micro_batch` decides a result, and the device its rounding."""

    device: Device = field(default_factory=Device.choose)
    micro_batch: int | None = None
    """Samples computed at once; by default as many as the run that is continued, or up to 128, some for every rank."""
    workers: int = 0
    """Processes of each rank that read samples; 0 reads in the rank itself."""
    ranks: Ranks = ALONE
    """The processes that train together."""
