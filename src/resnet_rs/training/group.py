"""`Group`: several ranks on one or more machines, launched by torchrun (gloo on processors, NCCL on CUDA)."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage] - documented, yet not exported
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from resnet_rs.processes import end_with_parent
from resnet_rs.training.device import Device
from resnet_rs.training.heartbeat import EXIT_LOST_TOUCH, Heartbeat
from resnet_rs.training.ordered_sum import Node, OrderedSum, subtrees
from resnet_rs.training.ranks import Ranks

_TIMEOUT = timedelta(minutes=10)
_SECONDS_BETWEEN_LOOKS = 0.05
_FAILURE = "failure"
_WAIT_FOR_FAILURE = timedelta(seconds=3)
_SECONDS_TO_END_FIRST = 3.0
"""torchrun shows the rank that it sees end first, so one that has failed gets this much of a lead on the others."""


class LostTouch(ConnectionError):
    """Another rank has failed, is gone or cannot be reached."""

    exit_code = EXIT_LOST_TOUCH


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a launcher has put this process, as torchrun says in the environment."""

    index: int
    """Number of this rank among all."""
    count: int
    local_index: int
    """Number of this rank on its machine."""
    host: str
    """Where the launcher's store listens."""
    port: int


class Group(Ranks):
    """Ranks that exchange tensors of one device."""

    def __init__(self, place: Place, device: Device, heartbeat: Heartbeat) -> None:
        self.index = place.index
        self.count = place.count
        self._device = device
        self._heartbeat = heartbeat

    def gather(self, content: bytes) -> list[bytes]:
        with _touch():
            return _gather(content, self.count)

    def largest(self, number: int) -> int:
        largest = torch.tensor(number)
        with _touch():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            with _touch():
                dist.broadcast(sent, src=0)
            tensor.detach().copy_(sent)

    def total(self, share: OrderedSum, num_leaves: int) -> list[Tensor]:
        """As of `Ranks`: every rank adds up its part of the subtrees of all, in order; then they exchange the parts.

        That moves as many bytes as a ring all-reduce does, if each rank holds one subtree.
        """
        layouts = share.nodes[0].values
        whole = self._exchange([_flat(node) for node in share.nodes], num_leaves)
        sizes = [value.numel() for value in layouts]
        values = whole[: sum(sizes)].split(sizes)
        # Same strides as before: fused optimizers read weights and gradients side by side, as they lie in memory.
        return [
            value.as_strided(like.shape, like.stride()) for value, like in zip(values, layouts, strict=True)
        ]

    def at_step(self, step: int) -> None:
        self._heartbeat.step = step

    def _exchange(self, mine: list[Tensor], num_leaves: int) -> Tensor:
        held = [subtrees(*self.bounds(num_leaves, rank)) for rank in range(self.count)]
        part = -(-len(mine[0]) // self.count)
        received: list[list[Tensor]] = []
        for i in range(max(len(nodes) for nodes in held)):
            sent = mine[0].new_zeros(self.count * part)
            if i < len(mine):
                sent[: len(mine[i])] = mine[i]
            parts = torch.empty_like(sent)
            with _touch():
                dist.all_to_all_single(parts, sent)
            received.append(list(parts.split(part)))
        total = OrderedSum()
        for rank, nodes in enumerate(held):
            for i, (first, count) in enumerate(nodes):
                total.add(Node(first, count, [received[i][rank]]))
        whole = mine[0].new_empty(self.count * part)
        mine_of_total = total.total()[0].contiguous()
        with _touch():
            dist.all_gather(list(whole.split(part)), mine_of_total)
        return whole


@contextmanager
def joined(place: Place, device: Device) -> Generator[Group]:
    """Meet the other ranks; within the block they work together, after it they part.

    The first rank to fail says so; one that fails because of it raises `LostTouch` with the other's words.
    """
    end_with_parent()
    with _touch():
        launcher = TCPStore(place.host, place.port, timeout=timedelta(seconds=30))
        store = PrefixStore(_meet(launcher, place), launcher)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.is_cuda else "gloo",
            store=store,
            rank=place.index,
            world_size=place.count,
            timeout=_TIMEOUT,
        )
    heartbeat = Heartbeat(store, index=place.index, count=place.count)
    try:
        with heartbeat.beating(), _failing_first(store, place.index):
            yield Group(place, device, heartbeat)
            with _touch():
                dist.barrier()
    finally:
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _meet(store: Store, place: Place) -> str:
    """A name for this attempt that all of its ranks, and none of an earlier attempt, agree on.

    The launcher's store outlives restarts, and so do the addresses that killed ranks have left in it. So every rank
    shows a number of its own, the first one names the attempt by all of them, and begins when all have seen theirs.
    """
    mine = uuid.uuid4().hex
    store.set(f"rank {place.index}", mine)
    deadline = time.monotonic() + _TIMEOUT.total_seconds()
    while time.monotonic() < deadline:
        if place.index == 0:
            store.set("attempt", " ".join(_read(store, f"rank {i}") for i in range(place.count)))
        attempt = _read(store, "attempt")
        if attempt.split(" ")[place.index : place.index + 1] == [mine]:
            store.set(f"seen by {place.index}", attempt)
        if place.index == 0 and all(_read(store, f"seen by {i}") == attempt for i in range(place.count)):
            store.set("agreed", attempt)
        if mine in (agreed := _read(store, "agreed")):
            return hashlib.sha256(agreed.encode()).hexdigest()
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    raise LostTouch(f"only some of {place.count} ranks have come within {_TIMEOUT}. Start the others too.")


def _read(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


@contextmanager
def _failing_first(store: Store, index: int) -> Generator[None]:
    """Let the first error of all ranks be the one that is shown."""
    try:
        yield
    except LostTouch as error:
        with suppress(RuntimeError):
            store.wait([_FAILURE], _WAIT_FOR_FAILURE)
            failure = store.get(_FAILURE).decode()
            time.sleep(_SECONDS_TO_END_FIRST)
            raise LostTouch(f"stopped, for {failure}") from None
        raise LostTouch(f"lost touch with another rank, which may have been killed: {error}") from None
    except Exception as error:
        with suppress(RuntimeError):
            store.set(_FAILURE, f"rank {index} has failed: {type(error).__name__}: {error}")
        get_error_handler().record_exception(error)
        raise


@contextmanager
def _touch() -> Generator[None]:
    """What torch raises when other ranks cannot be reached, as `LostTouch`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostTouch(str(error).splitlines()[0]) from None


def _gather(content: bytes, count: int) -> list[bytes]:
    length = torch.tensor([len(content)])
    lengths = [torch.empty_like(length) for _ in range(count)]
    dist.all_gather(lengths, length)
    longest = max(1, *(int(n) for n in lengths))
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(content)] = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)[: len(content)]
    contents = [torch.empty_like(padded) for _ in range(count)]
    dist.all_gather(contents, padded)
    return [bytes(c[: int(n)].numpy()) for c, n in zip(contents, lengths, strict=True)]


def _flat(node: Node) -> Tensor:
    """All values of a node, each as it lies in memory; they are dense, in whatever order of their dimensions."""
    return torch.cat([value.as_strided((value.numel(),), (1,)) for value in node.values])
