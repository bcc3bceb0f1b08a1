"""How many processes read images is measured, and changes nothing but the time."""

import os
import time
from dataclasses import dataclass

import pytest
import torch
from torch.utils.data import Dataset

from resnet_rs.data import loader
from resnet_rs.data.loader import load, split_range, useful_workers
from resnet_rs.data.sample import Batch


@pytest.mark.parametrize(
    ("reading", "computing", "workers"),
    [
        (0.0, 0.0, 0),
        (1.0, 9.0, 0),
        (1.0, 2.0, 0),
        (2.0, 2.0, 1),
        (5.0, 2.0, 3),
        (90.0, 2.0, 7),
        (1.0, 0.0, 7),
    ],
)
def test_as_many_workers_as_read_as_fast_as_the_network_computes(monkeypatch, reading, computing, workers):
    monkeypatch.setattr(loader, "num_cores", lambda: 8)
    assert useful_workers(reading, computing) == workers


def test_ranks_share_the_cores_of_their_machine(monkeypatch):
    monkeypatch.setattr(loader, "num_cores", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert useful_workers(90.0, 2.0) == 1


@dataclass(frozen=True)
class Sleeping(Dataset[Batch]):
    """Batches that take `seconds` to read and name the process that read them."""

    seconds: float

    def __getitem__(self, indices: range) -> Batch:
        time.sleep(self.seconds)
        index = torch.tensor([indices.start])
        return Batch(torch.tensor([os.getpid()]), torch.zeros(1), index, index, ())


@pytest.mark.parametrize(("reading", "computing", "is_worth_it"), [(0.02, 0.01, True), (0.0, 0.02, False)])
def test_workers_take_over_where_reading_takes_much_of_the_time(monkeypatch, reading, computing, is_worth_it):
    monkeypatch.setattr(loader, "_SECONDS_TIMED", 0.1)
    monkeypatch.setattr(loader, "num_cores", lambda: 2)
    batches = list[Batch]()
    for batch in load(split_range(0, 24, at_most=2), Sleeping(reading), workers=None):
        time.sleep(computing)
        batches.append(batch)
    assert [int(batch.indices) for batch in batches] == list(range(0, 24, 2))
    readers = [int(batch.inputs) for batch in batches]
    assert set(readers[:6]) == {os.getpid()}
    assert (readers[-1] != os.getpid()) == is_worth_it
