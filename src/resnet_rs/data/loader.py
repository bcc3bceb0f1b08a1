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
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

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
_NOTICED_SHARE = 1 / 3
"""Workers are started if reading takes at least this share of the time."""


@dataclass(frozen=True)
class _Batches(Dataset[Batch], ABC):
    """Global sample indices -> batch."""

    source: Source
    data: Data
    collate: Collate

    def __getitem__(self, indices: range) -> Batch:
        items, unreadable = list[tuple[int, int, Tensor, Target]](), list[Unreadable]()
        for global_index, (index, epoch) in zip(indices, self._order(indices), strict=True):
            try:
                items.append((global_index, index, *self._input(index, epoch)))
            except Unreadable as error:
                unreadable.append(error)
            except Exception as error:
                error.add_note(f"at sample {self.source.key(index)!r}")
                raise
        empty = torch.empty(0)
        return Batch(
            inputs=torch.stack([inputs for _, _, inputs, _ in items]) if items else empty,
            targets=self.collate([target for *_, target in items]) if items else empty,
            indices=torch.tensor([index for _, index, _, _ in items], dtype=torch.int64),
            global_indices=torch.tensor([global_index for global_index, *_ in items], dtype=torch.int64),
            unreadable=tuple(unreadable),
        )

    @abstractmethod
    def _order(self, indices: range) -> Iterable[tuple[int, int]]:
        """The sample at each global index, and how often it has come before."""

    @abstractmethod
    def _input(self, index: int, epoch: int) -> tuple[Tensor, Target]: ...


@dataclass(frozen=True)
class TrainingBatches(_Batches):
    """Global sample indices, counted over all epochs of a run -> augmented training batch.

    With several views of each image, the target is that of the first one. Raises `ValueError` for targets that differ
    from view to view, such as masks and boxes.
    """

    seed: int
    num_views: int = 1

    def _order(self, indices: range) -> Iterable[tuple[int, int]]:
        order = self.source.order(indices.start, len(indices), seed=self.seed)
        return zip(order.samples.tolist(), order.passes.tolist(), strict=True)

    def _input(self, index: int, epoch: int) -> tuple[Tensor, Target]:
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
class EvaluationBatches(_Batches):
    """Sample indices -> batch for evaluation, in the source's own order."""

    def _order(self, indices: range) -> Iterable[tuple[int, int]]:
        return ((index, 0) for index in indices)

    def _input(self, index: int, epoch: int) -> tuple[Tensor, Target]:
        return self.data.test_input(self.source.read(index, self.data.test_request()))


def split_range(first: int, count: int, *, at_most: int) -> Iterator[range]:
    """The indices `first, ..., first + count - 1` as few ranges of about `at_most`; their lengths differ by 1 at most.

    No range has a single sample, because batch norm cannot train on one: three indices with `at_most` 2 stay together.
    """
    num_ranges = min(-(-count // at_most), max(1, count // 2))
    for i in range(num_ranges):
        start, end = count * i // num_ranges, count * (i + 1) // num_ranges
        yield range(first + start, first + end)


def useful_workers(reading: float, computing: float) -> int:
    """Workers that read as fast as this process computes, for the seconds that both take for the same images.

    0 if reading takes at most a third of the time. At most one for each CPU core but one, shared with the other
    ranks of this machine.
    """
    if reading <= _NOTICED_SHARE * (reading + computing):
        return 0
    most = max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1)
    return most if reading >= most * computing else math.ceil(reading / computing)


def load(ranges: Iterable[range], dataset: Dataset[Batch], *, workers: int | None) -> Iterator[Batch]:
    """The batches of `ranges`, in that order, computed by `workers` processes (0: in this process).

    None: this process computes the first ones, for about two seconds. `useful_workers` then follow from the time that
    it took to read them and to use them.
    """
    if workers is None:
        ranges = iter(ranges)
        workers = yield from _first_batches(ranges, dataset)
    if workers == 0:
        yield from (dataset[indices] for indices in ranges)
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


def _first_batches(ranges: Iterator[range], dataset: Dataset[Batch]) -> Generator[Batch, None, int]:
    """Yield batches until the number of useful workers is known, and return it.

    Medians, because an evaluation or a checkpoint may come between two batches.
    """
    reading, computing = list[float](), list[float]()
    for i, indices in enumerate(ranges):
        started = time.monotonic()
        batch = dataset[indices]
        read = time.monotonic()
        yield batch
        if i >= _NUM_WARM_UP:
            reading.append(read - started)
            computing.append(time.monotonic() - read)
        if len(reading) >= _MIN_TIMED and sum(reading) + sum(computing) > _SECONDS_TIMED:
            return useful_workers(median(reading), median(computing))
    return 0


@dataclass(frozen=True)
class _Sent(Dataset[Any]):
    """A data set in the form that workers send: arrays instead of tensors, and errors as values."""

    dataset: Dataset[Batch]

    def __getitem__(self, indices: range) -> Batch | Exception:
        try:
            return _map(self.dataset[indices], np.asarray)
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
    kind = next((kind for kind in (ValueError, OSError) if isinstance(error, kind)), RuntimeError)
    portable = kind(str(error))
    portable.add_note(f"in a process that reads images:\n{''.join(traceback.format_exception(error))}")
    return portable


def _as_is(item: Any) -> Any:  # noqa: ANN401 - any item of the data set
    return item


def _begin_worker(number: int) -> None:
    serve_parent()
