"""Batches of a run, in order: pure functions of (source, data, seed, position), whatever the number of workers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnet_rs import draws
from resnet_rs.data.pipeline import Data
from resnet_rs.data.sample import Batch, Unreadable
from resnet_rs.data.source import Source


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
            try:
                sample = self.source.read(index, channels=self.data.channels)
            except Unreadable as error:
                unreadable.append(error)
                continue
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
            try:
                sample = self.source.read(index, channels=self.data.channels)
            except Unreadable as error:
                unreadable.append(error)
                continue
            items.append((index, index, *self.data.test_input(sample)))
        return _stack(items, unreadable)


def load(spans: Iterable[Span], dataset: Dataset[Batch], *, workers: int) -> Iterator[Batch]:
    """The batches of `spans`, in that order, computed by `workers` processes (0: here)."""
    with warnings.catch_warnings():
        # torch warns where workers outnumber cores; whoever typed the number knows, as some wait for a disk.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        loader = DataLoader(
            dataset,
            sampler=spans,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_is,  # pyright: ignore[reportArgumentType] - without a batch size it gets one item, no list
            pin_memory=torch.cuda.is_available(),
        )
        return iter(loader)


def cut(first: int, count: int, *, at_most: int) -> Iterator[Span]:
    """The positions `first, ..., first + count - 1` as few spans of about `at_most`, their lengths differing by 1.

    No span is a single sample, which batch norm could not train on: three positions with `at_most` 2 are one span.
    """
    num_spans = min(-(-count // at_most), max(1, count // 2))
    for i in range(num_spans):
        start, end = count * i // num_spans, count * (i + 1) // num_spans
        yield Span(first + start, end - start)


def _as_is(batch: Batch) -> Batch:
    return batch


def _stack(items: list[tuple[int, int, Tensor, Tensor]], unreadable: list[Unreadable]) -> Batch:
    empty = torch.empty(0)
    return Batch(
        inputs=torch.stack([pixels for _, _, pixels, _ in items]) if items else empty,
        targets=torch.stack([target for _, _, _, target in items]) if items else empty,
        indices=torch.tensor([index for _, index, _, _ in items], dtype=torch.int64),
        positions=torch.tensor([position for position, _, _, _ in items], dtype=torch.int64),
        unreadable=tuple(unreadable),
    )
