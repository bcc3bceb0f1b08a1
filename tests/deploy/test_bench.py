"""Measuring what networks cost: the rows, and what happens when one cannot be measured."""

import multiprocessing
from dataclasses import replace
from functools import cache

import pytest

from resnet_rs import zoo
from resnet_rs.config import edit
from resnet_rs.data.pipeline import FrameSampling
from resnet_rs.deploy.bench import Protocol, bench
from resnet_rs.tasks.classification import Classification
from resnet_rs.tasks.classification_multi_label import MultiLabel

TINY = zoo.experiment("resnet-rs-tiny")
WIDE = edit(TINY, {"arch.width": 1.0, "data.size": 56})
QUICK = Protocol(batch_size=4, num_repeats=3, num_threads=1)


class TwoViews(Classification):
    @property
    def num_views(self):
        return 2


@cache
def measured(mode):
    return list(bench({"tiny": TINY, "wide": WIDE}, replace(QUICK, mode=mode)))


@pytest.fixture(params=["infer", "train"])
def rows(request):
    return measured(request.param)


def test_every_network_has_a_row_in_its_order(rows):
    assert [row.name for row in rows] == ["tiny", "wide"]
    assert all(row.error is None and row.num_repeats == 3 and row.num_threads == 1 for row in rows)


def test_a_row_says_what_the_network_costs_by_count(rows):
    for row, experiment in zip(rows, (TINY, WIDE), strict=True):
        cost = experiment.count_cost()
        assert (row.params, row.macs, row.size) == (cost.params, cost.macs, experiment.data.size)


def test_throughput_is_the_batch_over_the_median(rows):
    for row in rows:
        assert row.images_per_second == pytest.approx(4 / (row.latency_ms / 1000))
        assert 0 < row.latency_ms_p10 <= row.latency_ms <= row.latency_ms_p90


def test_a_network_of_two_hundred_times_the_multiply_adds_is_slower_and_larger(rows):
    tiny, wide = rows
    assert wide.macs > 200 * tiny.macs
    assert wide.latency_ms > 2 * tiny.latency_ms  # the time of a tiny network is mostly overhead
    assert wide.peak_memory_mib > tiny.peak_memory_mib


def test_training_takes_longer_and_more_memory_than_inference():
    used, trained = measured("infer")[1], measured("train")[1]
    assert trained.latency_ms > 1.5 * used.latency_ms
    assert trained.peak_memory_mib > 1.5 * used.peak_memory_mib


def test_rounds_are_pooled():
    (row,) = bench({"tiny": TINY}, replace(QUICK, num_rounds=2))
    assert (row.num_repeats, row.num_rounds) == (6, 2)


def test_a_slow_network_is_repeated_less_often():
    (row,) = bench({"wide": WIDE}, replace(QUICK, num_repeats=10_000, max_seconds=0.5))
    assert 2 <= row.num_repeats < 10_000


def test_a_network_that_cannot_be_measured_is_a_row_and_the_next_is_tried():
    rows = list(bench({"one": TINY, "two": TINY}, replace(QUICK, batch_size=10**12)))
    assert [row.name for row in rows] == ["one", "two"]
    for row in rows:
        assert "RuntimeError" in row.error and "memory" in row.error
        assert row.latency_ms is None and row.macs > 0


def test_a_device_that_is_not_there_is_refused_before_anything_is_measured():
    with pytest.raises(ValueError, match="device 'cuda:99' is not available here"):
        next(bench({"tiny": TINY}, replace(QUICK, device="cuda:99")))


@pytest.mark.parametrize(
    ("experiment", "given"),
    [
        (edit(TINY, {"data.frames": FrameSampling(count=4)}), "'other' has clips of 4 frames"),
        (replace(TINY, task=TwoViews()), "'other' has the task TwoViews"),
    ],
    ids=["clips", "two views"],
)
def test_an_experiment_that_does_not_classify_images_is_refused(experiment, given):
    with pytest.raises(ValueError, match=f"bench measures classifiers of images, and {given}"):
        next(bench({"tiny": TINY, "other": experiment}, QUICK))


def test_no_process_is_left_when_nobody_wants_the_rest():
    rows = bench({"tiny": TINY, "wide": WIDE}, QUICK)
    next(rows)
    rows.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more to infer, got 0"),
        ({"mode": "train", "batch_size": 1}, "batch_size must be 2 or more to train, got 1"),
        ({"num_repeats": 1}, "num_repeats must be 2 or more to infer, got 1"),
        ({"max_seconds": 0.0}, "max_seconds must be 0.001 or more to infer, got 0.0"),
        ({"num_threads": -1}, "num_threads must be 1 or more to infer, got -1"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Protocol(**fields)


def test_a_multi_label_network_is_measured_in_training_too():
    task = MultiLabel(num_classes=3)
    (row,) = bench({"": replace(TINY, task=task)}, replace(QUICK, mode="train"))
    assert row.error is None and row.images_per_second > 0
