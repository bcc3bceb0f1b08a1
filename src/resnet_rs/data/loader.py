"""Batches of a run, in order: pure functions of (source, data, seed, position), whatever the number of workers.

Workers send arrays through pipes, not tensors through shared memory: nothing is left behind when a run is killed, and
the small shared memory of containers is no limit.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnet_rs import draws
from resnet_rs.data.pipeline import Data
from resnet_rs.data.sample import Batch, Unreadable
from resnet_rs.data.source import Source
from resnet_rs.processes import serve_parent


@dataclass(frozen=True)
class Span:
    """Some positions of a run that follow each other."""

    first: int
    count: int


class TrainingSpans(Dataset[Batch]):
    """Span -> augmented training batch."""

    def __init__(self, source: Source, data: Data, *, seed: int) -> None:
        self.source = source
        self.data = data
        self.seed = seed

    def __getitem__(self, span: Span) -> Batch:
        size = len(self.source)
        ids = draws.sample_ids(span.first, span.count, size=size, seed=self.seed)
        items: list[tuple[int, int, Tensor, Tensor]] = []
        unreadable: list[Unreadable] = []
        for i in range(span.count):
            position, index = span.first + i, int(ids[i])
            with _reading(self.source, index, unreadable):
                sample = self.source.read(index, channels=self.data.channels)
                pixels, target = self.data.train_input(
                    sample, seed=self.seed, epoch=position // size, index=index
                )
                items.append((position, index, pixels, target))
        return _stack(items, unreadable)


class EvaluationSpans(Dataset[Batch]):
    """Span -> batch for evaluation; positions are the samples' own order."""

    def __init__(self, source: Source, data: Data) -> None:
        self.source = source
        self.data = data

    def __getitem__(self, span: Span) -> Batch:
        items: list[tuple[int, int, Tensor, Tensor]] = []
        unreadable: list[Unreadable] = []
        for index in range(span.first, span.first + span.count):
            with _reading(self.source, index, unreadable):
                sample = self.source.read(index, channels=self.data.channels)
                items.append((index, index, *self.data.test_input(sample)))
        return _stack(items, unreadable)


def load(spans: Iterable[Span], dataset: Dataset[Batch], *, workers: int) -> Iterator[Batch]:
    """The batches of `spans`, in that order, computed by `workers` processes (0: here)."""
    if workers == 0:
        for span in spans:
            yield dataset[span]
        return
    with warnings.catch_warnings():
        # torch warns where workers outnumber cores; whoever typed the number knows, as some wait for a disk.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        loader = DataLoader(
            _Sent(dataset),
            sampler=spans,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_is,
            worker_init_fn=_begin_worker,
        )
        sent = iter(loader)
    for item in sent:
        if isinstance(item, Exception):
            raise item
        inputs, targets, indices, positions = (torch.from_numpy(part) for part in item[:4])
        if torch.cuda.is_available():
            inputs = inputs.pin_memory()  # so that its way to the device needs no waiting
        yield Batch(inputs, targets, indices, positions, unreadable=item[4])


class _Sent(Dataset[Any]):
    """A data set as its workers send it: arrays in place of tensors, and an error as a value."""

    def __init__(self, dataset: Dataset[Batch]) -> None:
        self.dataset = dataset

    def __getitem__(self, span: Span) -> tuple[Any, ...] | Exception:
        try:
            batch = self.dataset[span]
        except Exception as error:
            return _portable(error)
        return (*(np.asarray(part) for part in batch[:4]), batch.unreadable)


def _portable(error: Exception) -> Exception:
    """An error that can be sent, and says what `error` says: a wrong input stays one, all else is a `RuntimeError`."""
    text = "".join(traceback.format_exception(error))
    if not isinstance(error, ValueError | OSError):
        return RuntimeError(text)
    kind = ValueError if isinstance(error, ValueError) else OSError
    portable = kind(str(error))
    portable.add_note(f"in a process that reads pictures:\n{text}")
    return portable


@contextmanager
def _reading(source: Source, index: int, unreadable: list[Unreadable]) -> Generator[None]:
    """Leave out a sample that cannot be decoded, and let an error that nobody expects name the one it comes from."""
    try:
        yield
    except Unreadable as error:
        unreadable.append(error)
    except Exception as error:
        error.add_note(f"at sample {source.key(index)!r}")
        raise


def _begin_worker(number: int) -> None:
    del number
    serve_parent()


def cut(first: int, count: int, *, at_most: int) -> Iterator[Span]:
    """The positions `first, ..., first + count - 1` as few spans of about `at_most`, their lengths differing by 1.

    No span is a single sample, which batch norm could not train on: three positions with `at_most` 2 are one span.
    """
    num_spans = min(-(-count // at_most), max(1, count // 2))
    for i in range(num_spans):
        start, end = count * i // num_spans, count * (i + 1) // num_spans
        yield Span(first + start, end - start)


def _as_is(item: Any) -> Any:  # noqa: ANN401 - whatever the data set gives
    return item


def _stack(items: list[tuple[int, int, Tensor, Tensor]], unreadable: list[Unreadable]) -> Batch:
    empty = torch.empty(0)
    return Batch(
        inputs=torch.stack([pixels for _, _, pixels, _ in items]) if items else empty,
        targets=torch.stack([target for _, _, _, target in items]) if items else empty,
        indices=torch.tensor([index for _, index, _, _ in items], dtype=torch.int64),
        positions=torch.tensor([position for position, _, _, _ in items], dtype=torch.int64),
        unreadable=tuple(unreadable),
    )
