"""`ProcessGroup`: several ranks on one or more machines, started by torchrun. It uses gloo on CPUs and NCCL on CUDA.

A rank that is suspended, or whose machine is disconnected, keeps its connections open. The other ranks would wait for
it until the timeout of the collective, which is long because saving or reading may take long. So every rank sends a
`Heartbeat` from a separate thread and monitors that of one other rank.
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import re
import threading
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
from resnet_rs.training.ranks import Ranks, Subtree, TreeSum, subtrees

_SECONDS_BETWEEN_BEATS = 2.0
_MAX_MISSED_BEATS = 15
_TIMEOUT = timedelta(minutes=10)
_POLL_SECONDS = 0.05
_FAILURE = "failure"
_WAIT_FOR_FAILURE = timedelta(seconds=3)
_SECONDS_TO_END_FIRST = 3.0
"""torchrun shows the error of the rank that ends first, so the other ranks wait this long after a failure."""


_OWN_ERROR = re.compile(
    r"CUDA (error|failure)|unhandled CUDA|internal error|invalid (usage|argument)|enforce fail|out of memory",
    re.IGNORECASE,
)
"""Messages of errors that this rank has caused, even if they also mention a connection."""
_LOST = re.compile(
    r"connect|peer|tim(ed|e) ?out|broken pipe|no route to host|unreachable|remote process exited|was aborted",
    re.IGNORECASE,
)
"""Messages of gloo and NCCL, and of the system calls they make, about a peer that is gone."""


class PeerLost(ConnectionError):
    """Another rank has failed or cannot be reached."""

    exit_code = 6


@contextmanager
def _touch() -> Generator[None]:
    """Raise a connection error of the backend as `PeerLost`; other errors keep their type and message."""
    try:
        yield
    except RuntimeError as error:
        if not is_connection_error(error):
            raise
        raise PeerLost(str(error).splitlines()[0]) from None


def is_connection_error(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank cannot be reached.

    torch has no type for that: gloo raises `RuntimeError`, and NCCL raises the same `DistBackendError` for a lost peer,
    an internal error and a failed CUDA call. So the message decides.
    """
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError) or _OWN_ERROR.search(str(error)):
        return False
    return isinstance(error, dist.DistNetworkError | dist.DistStoreError) or bool(_LOST.search(str(error)))


@dataclass(frozen=True, kw_only=True)
class RankInfo:
    """This process among the ranks, as torchrun describes it in the environment."""

    index: int
    count: int
    host: str
    """Address of the launcher's store."""
    port: int


class Heartbeat:
    """Sends heartbeats for rank `index` and monitors the next rank. Ends the process if that rank goes silent."""

    def __init__(self, store: Store, *, index: int, count: int) -> None:
        self.step = 0
        self._store = store
        self._index = index
        self._watched = (index + 1) % count
        self._key, self._watched_key = (f"heartbeat of rank {i}" for i in (index, self._watched))
        self._missed = 0
        self._last_heard = b""
        self._is_over = threading.Event()

    @contextmanager
    def beating(self) -> Generator[None]:
        """Send heartbeats and monitor the next rank within the block."""
        self._store.set(self._key, "0 0")
        for target in (self._beat, self._watch):
            threading.Thread(target=target, daemon=True, name=target.__name__).start()
        try:
            yield
        finally:
            self._is_over.set()

    def _beat(self) -> None:
        """Exchange heartbeats. This may block for long without a network, so another thread counts."""
        number = 0
        while not self._is_over.wait(_SECONDS_BETWEEN_BEATS):
            number += 1
            with suppress(RuntimeError):
                self._store.set(self._key, f"{number} {self.step}")
                heard = self._store.get(self._watched_key)
                if heard != self._last_heard:
                    self._last_heard = heard
                    self._missed = 0

    def _watch(self) -> None:
        # This counts heartbeats, not seconds: after a suspend of the whole machine none was missed.
        while not self._is_over.wait(_SECONDS_BETWEEN_BEATS):
            self._missed += 1
            if self._missed > _MAX_MISSED_BEATS:
                self._report()
                os._exit(PeerLost.exit_code)

    def _report(self) -> None:
        last = self._last_heard.decode().partition(" ")[2] or "none"
        seconds = _MAX_MISSED_BEATS * _SECONDS_BETWEEN_BEATS
        text = (
            f"error: rank {self._index} has not heard from rank {self._watched} for {seconds:.0f} s; its last known "
            f"update is {last}. Rank {self._index} exits after {self.step} updates; its stack:\n"
        )
        os.write(2, text.encode())
        faulthandler.dump_traceback()


class ProcessGroup(Ranks):
    """Ranks that exchange tensors through `torch.distributed`."""

    def __init__(self, info: RankInfo, device: Device, heartbeat: Heartbeat) -> None:
        self.index = info.index
        self.count = info.count
        self._device = device
        self._heartbeat = heartbeat

    @_touch()
    def gather(self, content: bytes) -> list[bytes]:
        length = torch.tensor([len(content)])
        lengths = [torch.empty_like(length) for _ in range(self.count)]
        dist.all_gather(lengths, length)
        padded = torch.zeros(max(1, *map(int, lengths)), dtype=torch.uint8)
        if content:
            padded[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        contents = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(contents, padded)
        return [bytes(c[: int(n)].numpy()) for c, n in zip(contents, lengths, strict=True)]

    @_touch()
    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, src=0)
            tensor.detach().copy_(sent)

    @_touch()
    def _over_ranks(self, tree: TreeSum, num_micro_batches: int) -> list[Tensor]:
        """Every rank adds up its part of the subtrees of all ranks, in order. Then the ranks exchange the parts.

        If each rank holds one subtree, that moves as many bytes as a ring all-reduce.
        """
        mine = [_flat(node) for node in tree.subtrees]
        held = [subtrees(*self.bounds(num_micro_batches, rank)) for rank in range(self.count)]
        part = -(-len(mine[0]) // self.count)
        received: list[list[Tensor]] = []
        for i in range(max(len(nodes) for nodes in held)):
            sent = mine[0].new_zeros(self.count * part)
            if i < len(mine):
                sent[: len(mine[i])] = mine[i]
            parts = torch.empty_like(sent)
            dist.all_to_all_single(parts, sent)
            received.append(list(parts.split(part)))
        total = TreeSum()
        for rank, nodes in enumerate(held):
            for i, (first, count) in enumerate(nodes):
                total.add(first, count, [received[i][rank]])
        whole = mine[0].new_empty(self.count * part)
        dist.all_gather(list(whole.split(part)), total.total()[0].contiguous())
        # Same strides as before: fused optimizers read weights and gradients side by side, as they lie in memory.
        layouts = tree.subtrees[0].values
        values = whole[: len(mine[0])].split([like.numel() for like in layouts])
        return [
            value.as_strided(like.shape, like.stride()) for value, like in zip(values, layouts, strict=True)
        ]

    def at_step(self, step: int) -> None:
        self._heartbeat.step = step


@contextmanager
def rendezvous(info: RankInfo, device: Device) -> Generator[ProcessGroup]:
    """Wait for the other ranks and form a process group, which exists within the block.

    If a rank fails, the other ranks raise `PeerLost` with its error message.
    """
    end_with_parent()
    with _touch():
        launcher = TCPStore(info.host, info.port, timeout=timedelta(seconds=30))
        store = PrefixStore(_agree_on_name(launcher, info), launcher)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.is_cuda else "gloo",
            store=store,
            rank=info.index,
            world_size=info.count,
            timeout=_TIMEOUT,
        )
    heartbeat = Heartbeat(store, index=info.index, count=info.count)
    try:
        with heartbeat.beating(), _sharing_first_error(store, info.index):
            yield ProcessGroup(info, device, heartbeat)
            with _touch():
                dist.barrier()
    finally:
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _agree_on_name(store: Store, info: RankInfo) -> str:
    """A name for this attempt on which its ranks agree, and which no earlier attempt had.

    The launcher's store survives restarts, and so do the addresses of killed ranks in it. So every rank publishes a
    random number, the first rank names the attempt by all of them, and starts when every rank has seen its own.
    """
    mine = uuid.uuid4().hex
    store.set(f"rank {info.index}", mine)
    deadline = time.monotonic() + _TIMEOUT.total_seconds()
    while time.monotonic() < deadline:
        if info.index == 0:
            store.set("attempt", " ".join(_read(store, f"rank {i}") for i in range(info.count)))
        attempt = _read(store, "attempt")
        if attempt.split(" ")[info.index : info.index + 1] == [mine]:
            store.set(f"seen by {info.index}", attempt)
        if info.index == 0 and all(_read(store, f"seen by {i}") == attempt for i in range(info.count)):
            store.set("agreed", attempt)
        if mine in (agreed := _read(store, "agreed")):
            return hashlib.sha256(agreed.encode()).hexdigest()
        time.sleep(_POLL_SECONDS)
    raise PeerLost(f"not all of the {info.count} ranks started within {_TIMEOUT}. Start the missing ranks.")


def _read(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


@contextmanager
def _sharing_first_error(store: Store, index: int) -> Generator[None]:
    """Publish the error of this rank; replace a lost connection by the published error of another rank."""
    try:
        yield
    except PeerLost as error:
        with suppress(RuntimeError):
            store.wait([_FAILURE], _WAIT_FOR_FAILURE)
            failure = store.get(_FAILURE).decode()
            time.sleep(_SECONDS_TO_END_FIRST)
            raise PeerLost(f"stopped because {failure}") from None
        raise PeerLost(f"lost the connection to another rank, which may have been killed: {error}") from None
    except Exception as error:
        with suppress(RuntimeError):
            store.set(_FAILURE, f"rank {index} failed: {type(error).__name__}: {error}")
        get_error_handler().record_exception(error)
        raise


def _flat(node: Subtree) -> Tensor:
    """All values of a node, each as it lies in memory; they are dense, in whatever order of their dimensions."""
    return torch.cat([value.as_strided((value.numel(),), (1,)) for value in node.values])
