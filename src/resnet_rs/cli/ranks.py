"""The ranks of a command that torchrun has started."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_rs.verbs import Machine


@contextmanager
def with_ranks(machine: Machine) -> Generator[Machine]:
    """`machine`; if torchrun has started this process, with its ranks, of which only the first prints."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield machine
        return
    from resnet_rs.training.group import RankInfo, rendezvous

    info = RankInfo(
        index=int(os.environ["RANK"]),
        count=int(os.environ["WORLD_SIZE"]),
        host=os.environ["MASTER_ADDR"],
        port=int(os.environ["MASTER_PORT"]),
    )
    local_index, local_count = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    own = machine.device.of_rank(local_index, local_count=local_count)
    with rendezvous(info, own) as ranks:
        if not ranks.is_first:
            sys.stdout = open(os.devnull, "w")  # until this process ends: results are printed after the block
        yield replace(machine, device=own, ranks=ranks)
