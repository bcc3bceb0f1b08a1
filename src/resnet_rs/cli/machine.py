"""The machine that the options and torchrun's environment describe."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from resnet_rs.cli.options import MAX_PIXELS

if TYPE_CHECKING:
    from resnet_rs.verbs import Machine


@contextmanager
def machine(
    device: str | None,
    *,
    precision: str | None = None,
    micro_batch: int | None = None,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    activation_checkpointing: bool = False,
) -> Generator[Machine]:
    """This machine; if torchrun has started this process, with this rank and the others."""
    from resnet_rs.training.device import Device
    from resnet_rs.verbs import Machine

    chosen = Machine(
        device=Device.choose(device, precision=precision),
        micro_batch=micro_batch,
        workers=workers,
        max_pixels=max_pixels,
        activation_checkpointing=activation_checkpointing,
    )
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun has not started this process
        yield chosen
        return
    from dataclasses import replace

    from resnet_rs.training.group import RankInfo, rendezvous

    info = RankInfo(
        index=int(os.environ["RANK"]),
        count=int(os.environ["WORLD_SIZE"]),
        local_index=int(os.environ["LOCAL_RANK"]),
        local_count=int(os.environ["LOCAL_WORLD_SIZE"]),
        host=os.environ["MASTER_ADDR"],
        port=int(os.environ["MASTER_PORT"]),
    )
    own = chosen.device.of_rank(info.local_index, local_count=info.local_count)
    with rendezvous(info, own) as ranks:
        yield replace(chosen, device=own, ranks=ranks)
