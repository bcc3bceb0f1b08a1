"""Batches of a run, in order: pure functions of (source, data, seed, index range) for any number of workers.

Workers send arrays through pipes, not tensors through shared memory. A killed run leaves nothing behind, and the small
shared memory of containers is no limit.
"""

from __future__ import annotations

import math
import os
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnet_rs.data.pipeline import Data
from resnet_rs.data.sample import Batch, Collate, Unreadable, map_targets
from resnet_rs.data.source import Source
from resnet_rs.data.target import Target
from resnet_rs.processes import num_cores, serve_parent

_NUM_WARM_UP, _MIN_TIMED, _SECONDS_TIMED = 2, 4, 2.0
_NOTICED_SHARE = 0.2
"""Workers are started if reading takes at least this share of the time."""


@dataclass(frozen=True)
class IndexRange:
    """Consecutive global sample indices, counted over all epochs of a run."""

    first: int
    count: int


@dataclass(frozen=True)
class TrainingBatches(Dataset[Batch]):
    """Index range -> augmented training batch.

    With several views of each image, the target is that of the first one. Raises `ValueError` for targets that differ
    from view to view, such as masks and boxes.
    """

    source: Source
    data: Data
    collate: Collate
    seed: int
    num_views: int = 1

    def __getitem__(self, index_range: IndexRange) -> Batch:
        order = self.source.order(index_range.first, index_range.count, seed=self.seed)
        items, unreadable = list[_Item](), list[Unreadable]()
        for i, (index, epoch) in enumerate(zip(order.samples.tolist(), order.passes.tolist(), strict=True)):
            with _reading(self.source, index, unreadable):
                items.append(_Item(index_range.first + i, index, *self._input(epoch, index)))
        return _stack(items, unreadable, self.collate)

    def _input(self, epoch: int, index: int) -> tuple[Tensor, Target]:
        request = self.data.train_request(seed=self.seed, epoch=epoch, index=index)
        sample = self.source.read(index, request)
        if self.num_views > 1 and sample.target.is_spatial:
            raise ValueError(
                f"several views of an image need a target that is the same in all of them, got {sample.key!r} with "
                f"{type(sample.target).__name__}."
            )
        views = [
            self.data.train_input(sample, seed=self.seed, epoch=epoch, index=index, view=i)
            for i in range(self.num_views)
        ]
        inputs, target = views[0]
        return (inputs if self.num_views == 1 else torch.stack([pixels for pixels, _ in views])), target


@dataclass(frozen=True)
class EvaluationBatches(Dataset[Batch]):
    """Index range -> batch for evaluation, in the source's own order."""

    source: Source
    data: Data
    collate: Collate

    def __getitem__(self, index_range: IndexRange) -> Batch:
        items, unreadable = list[_Item](), list[Unreadable]()
        for index in range(index_range.first, index_range.first + index_range.count):
            with _reading(self.source, index, unreadable):
                sample = self.source.read(index, self.data.test_request())
                items.append(_Item(index, index, *self.data.test_input(sample)))
        return _stack(items, unreadable, self.collate)


def split_range(first: int, count: int, *, at_most: int) -> Iterator[IndexRange]:
    """The indices `first, ..., first + count - 1` as few ranges of about `at_most`; their lengths differ by 1 at most.

    No range has a single sample, because batch norm cannot train on one: three indices with `at_most` 2 stay together.
    """
    num_ranges = min(-(-count // at_most), max(1, count // 2))
    for i in range(num_ranges):
        start, end = count * i // num_ranges, count * (i + 1) // num_ranges
        yield IndexRange(first + start, end - start)


def useful_workers(reading: float, computing: float) -> int:
    """Workers that read as fast as this process computes, for the seconds that both take for the same images.

    None if reading takes less than a fifth of the time. At most one for each CPU core but one, shared with the other
    ranks of this machine.
    """
    if reading <= _NOTICED_SHARE * (reading + computing):
        return 0
    most = max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1)
    return most if reading >= most * computing else math.ceil(reading / computing)


def load(ranges: Iterable[IndexRange], dataset: Dataset[Batch], *, workers: int | None) -> Iterator[Batch]:
    """The batches of `ranges`, in that order, computed by `workers` processes (0: in this process).

    None: this process computes the first ones, for about two seconds. `useful_workers` then follow from the time that
    it took to read them and to use them.
    """
    if workers is None:
        ranges = iter(ranges)
        workers = yield from _first_batches(ranges, dataset)
    if workers == 0:
        for index_range in ranges:
            yield dataset[index_range]
        return
    with warnings.catch_warnings():
        # torch warns about more workers than cores. The user set that number: it helps with a slow disk.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        sent = iter(
            DataLoader(
                _Sent(dataset),
                sampler=ranges,
                batch_size=None,
                num_workers=workers,
                collate_fn=_as_is,
                worker_init_fn=_begin_worker,
            )
        )
    for item in sent:
        if isinstance(item, Exception):
            raise item
        yield _map(item, _tensor)


def _first_batches(ranges: Iterator[IndexRange], dataset: Dataset[Batch]) -> Generator[Batch, None, int]:
    """Yield batches until the number of useful workers is known, and return it."""
    begin, reading = 0.0, 0.0
    for i, index_range in enumerate(ranges):
        started = time.monotonic()
        if i == _NUM_WARM_UP:
            begin, reading = started, 0.0
        batch = dataset[index_range]
        reading += time.monotonic() - started
        yield batch
        passed = time.monotonic() - begin
        if i >= _NUM_WARM_UP + _MIN_TIMED - 1 and passed > _SECONDS_TIMED:
            return useful_workers(reading, passed - reading)
    return 0


class _Item(NamedTuple):
    global_index: int
    sample_index: int
    inputs: Tensor
    target: Target


def _stack(items: list[_Item], unreadable: list[Unreadable], collate: Collate) -> Batch:
    empty = torch.empty(0)
    return Batch(
        inputs=torch.stack([item.inputs for item in items]) if items else empty,
        targets=collate([item.target for item in items]) if items else empty,
        indices=torch.tensor([item.sample_index for item in items], dtype=torch.int64),
        global_indices=torch.tensor([item.global_index for item in items], dtype=torch.int64),
        unreadable=tuple(unreadable),
    )


@contextmanager
def _reading(source: Source, index: int, unreadable: list[Unreadable]) -> Generator[None]:
    """Leave out a sample that cannot be decoded, and add the key of the sample to other errors."""
    try:
        yield
    except Unreadable as error:
        unreadable.append(error)
    except Exception as error:
        error.add_note(f"at sample {source.key(index)!r}")
        raise


@dataclass(frozen=True)
class _Sent(Dataset[Any]):
    """A data set in the form that workers send: arrays instead of tensors, and errors as values."""

    dataset: Dataset[Batch]

    def __getitem__(self, index_range: IndexRange) -> Batch | Exception:
        try:
            return _map(self.dataset[index_range], np.asarray)
        except Exception as error:
            return _portable(error)


def _map(batch: Batch, function: Callable[[Any], Any]) -> Batch:
    """`batch` with `function` of each of its tensors."""
    inputs, targets, indices, global_indices = (map_targets(function, part) for part in batch[:4])
    return Batch(inputs, targets, indices, global_indices, batch.unreadable)


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor of what a worker sent; in pinned memory if there is CUDA, for asynchronous copies."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def _portable(error: Exception) -> Exception:
    """`error` in a form that can be sent: `ValueError` and `OSError` keep their type, others become `RuntimeError`."""
    text = "".join(traceback.format_exception(error))
    if not isinstance(error, ValueError | OSError):
        return RuntimeError(text)
    kind = ValueError if isinstance(error, ValueError) else OSError
    portable = kind(str(error))
    portable.add_note(f"in a process that reads images:\n{text}")
    return portable


def _as_is(item: Any) -> Any:  # noqa: ANN401 - any item of the data set
    return item


def _begin_worker(number: int) -> None:
    del number
    serve_parent()
