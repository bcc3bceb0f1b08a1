"""From options to the machine, or to the place torchrun has given this process."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_rs.training.group import Place
    from resnet_rs.verbs import Machine


@contextmanager
def machine(
    device: str | None, *, precision: str | None = None, micro_batch: int | None = None, workers: int = 0
) -> Generator[Machine]:
    """This machine, or, where torchrun has started this process, this rank among the others."""
    from resnet_rs.training.device import Device
    from resnet_rs.verbs import Machine

    place = _place()
    if place is None:
        chosen = Device.choose(device, precision=precision)
        yield Machine(device=chosen, micro_batch=micro_batch, workers=workers)
        return
    from resnet_rs.training.group import joined

    chosen = Device.choose(device, precision=precision).of_rank(place.local_index)
    with joined(place, chosen) as ranks:
        yield Machine(device=chosen, micro_batch=micro_batch, workers=workers, ranks=ranks)


def _place() -> Place | None:
    """Where torchrun has put this process; none if it was started by itself."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    from resnet_rs.training.group import Place

    return Place(
        index=int(os.environ["RANK"]),
        count=int(os.environ["WORLD_SIZE"]),
        local_index=int(os.environ["LOCAL_RANK"]),
        host=os.environ["MASTER_ADDR"],
        port=int(os.environ["MASTER_PORT"]),
    )
