"""Draws: permutations that are permutations, numbers that look random, and no hidden stream."""

from __future__ import annotations

import hashlib
import time
import tracemalloc
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare
from torch import Tensor

from resnet_rs import draws

CPU = torch.device("cpu")
HUGE = 130_000_000
WORST_P = 1e-4
"""Seeds are fixed: a smaller p-value means a fault, or an unlucky change of the draws."""


@cache
def orders(size: int, epochs: int, seed: int = 0) -> np.ndarray:
    """Sample at each position of each epoch, [epochs, size]."""
    return draws.sample_ids(0, size * epochs, size=size, seed=seed).reshape(epochs, size)


def uniform(indices: Tensor, *, columns: int = 1, seed: int = 0, purpose: str = "test") -> Tensor:
    """Draws of one layer."""
    return draws.uniform(draws.salts(seed, [purpose]), indices, columns=columns)[0]


# The order of samples: laws.


@pytest.mark.parametrize("factor", [0, 0x0123456789ABCDEFFEDCBA9876543210], ids=["one key", "many keys"])
def test_permute_is_a_bijection_for_every_size_up_to_2000(factor):
    for size in range(1, 2001):
        positions = np.arange(size)
        images = draws.permute(positions, size=size, key=factor * size % 2**128)
        assert np.array_equal(np.sort(images), positions), size


@given(
    size=st.sampled_from([1, 2, 7, 101, 1000, HUGE]),
    first=st.integers(0, 350 * HUGE),
    counts=st.lists(st.integers(0, 16), max_size=4),
    seed=st.integers(0, 2**63),
)
@settings(max_examples=60, deadline=None)
def test_any_cutting_into_batches_gives_the_same_order(size, first, counts, seed):
    whole = draws.sample_ids(first, sum(counts), size=size, seed=seed)
    parts = [np.empty(0, np.int64)]
    for count in counts:
        start = first + sum(len(part) for part in parts)
        parts.append(draws.sample_ids(start, count, size=size, seed=seed))
    assert np.array_equal(np.concatenate(parts), whole)


@given(size=st.integers(1, 300), epoch=st.integers(0, 10**6), seed=st.integers(0, 2**63))
@settings(max_examples=60, deadline=None)
def test_every_epoch_holds_each_sample_exactly_once(size, epoch, seed):
    ids = draws.sample_ids(size * epoch, 2 * size, size=size, seed=seed)
    assert np.array_equal(np.sort(ids[:size]), np.arange(size))
    assert np.array_equal(np.sort(ids[size:]), np.arange(size))


@pytest.mark.parametrize(("seed", "epochs_later"), [(0, 1), (0, 7), (1, 0), (2, 3)])
def test_orders_of_two_epochs_or_seeds_agree_only_by_chance(seed, epochs_later):
    """Two random orders agree at Poisson(1) positions."""
    num_pairs = 100 - epochs_later
    agreements = orders(1000, 300)[:num_pairs] == orders(1000, 100, seed=seed)[epochs_later:]
    assert abs(int(agreements.sum()) - num_pairs) < 4 * num_pairs**0.5


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match=r"needs 1 sample or more, got a size of 0\. Is the source empty\?"):
        draws.sample_ids(0, 4, size=0, seed=0)


# The order of samples: statistics.


@pytest.mark.parametrize(
    ("size", "epochs", "bins"), [(2, 1000, 2), (3, 1000, 3), (5, 1000, 5), (10, 1000, 10), (1000, 300, 50)]
)
def test_every_sample_lands_everywhere_equally_often(size, epochs, bins):
    width = size // bins
    position_bins = np.broadcast_to(np.arange(size) // width, (epochs, size))
    counts = np.zeros((bins, bins))
    np.add.at(counts, (position_bins, orders(size, epochs) // width), 1)
    expected = epochs * width / bins
    # Rows and columns of the table are fixed, as an order is a permutation: hence the factor and the freedom.
    statistic = ((counts - expected) ** 2 / expected).sum() * (size - 1) / size
    assert WORST_P < chi2.sf(statistic, (bins - 1) ** 2) < 1 - WORST_P


@pytest.mark.parametrize(("size", "num_orders"), [(2, 2), (3, 6), (5, 120)])
def test_every_order_of_few_samples_is_equally_frequent(size, num_orders):
    _, counts = np.unique(orders(size, 1000), axis=0, return_counts=True)
    assert len(counts) == num_orders
    assert chisquare(counts).pvalue > WORST_P


def test_any_two_positions_hold_every_pair_of_samples_equally_often():
    found = orders(10, 1000)
    for first in range(10):
        for second in range(first + 1, 10):
            counts = np.bincount(found[:, first] * 10 + found[:, second], minlength=100)
            possible = counts[~np.eye(10, dtype=bool).ravel()]
            assert chisquare(possible).pvalue > WORST_P, (first, second)


def test_the_successor_of_a_sample_comes_next_once_per_epoch():
    """P(next = id + 1) = 1 / n, at n - 1 places: Poisson(1) per epoch."""
    steps = np.diff(orders(1000, 300), axis=1)
    for step in (1, -1, 2, 500):
        expected = 300 * (1000 - abs(step)) / 1000
        assert abs(int((steps == step).sum()) - expected) < 4 * expected**0.5, step


@pytest.mark.parametrize("lag", [1, 2, 3, 16, 512])
def test_samples_that_follow_each_other_keep_no_fixed_distance(lag):
    found = orders(1000, 300)
    distances = (np.roll(found, -lag, axis=1) - found) % 1000
    assert chisquare(np.bincount(distances.ravel(), minlength=1000)[1:]).pvalue > WORST_P


# The order of samples: 130 million of them.


def test_any_position_of_130_million_is_found_within_a_millisecond():
    seconds = []
    for position in np.random.default_rng(0).integers(0, 350 * HUGE, 60):
        start = time.perf_counter()
        draws.sample_ids(int(position), 1, size=HUGE, seed=0)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1e-3  # the fastest, as a busy machine may hold up any of them


def test_memory_does_not_grow_with_the_number_of_samples():
    tracemalloc.start()
    draws.sample_ids(3 * HUGE - 2048, 4096, size=HUGE, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_samples_of_130_million_are_in_range_distinct_and_spread():
    ids = draws.sample_ids(5 * HUGE, 200_000, size=HUGE, seed=0)
    assert ids.min() >= 0 and ids.max() < HUGE
    assert len(np.unique(ids)) == len(ids)
    assert chisquare(np.bincount(ids // (HUGE // 1000), minlength=1000)).pvalue > WORST_P
    assert chisquare(np.bincount(ids % 1000, minlength=1000)).pvalue > WORST_P


# The draws of a model: laws.


@given(
    indices=st.lists(st.integers(0, 350 * HUGE), min_size=1, max_size=20),
    order=st.randoms(use_true_random=False),
    split=st.integers(0, 20),
    columns=st.integers(1, 9),
    seed=st.integers(0, 2**63),
)
@settings(max_examples=80, deadline=None)
def test_a_row_depends_only_on_its_own_global_sample_index(indices, order, split, columns, seed):
    rows = torch.tensor(indices)
    whole = uniform(rows, columns=columns, seed=seed)
    shuffled = torch.tensor(order.sample(range(len(indices)), len(indices)))
    for part in (shuffled[:split], shuffled[split:]):
        assert torch.equal(uniform(rows[part], columns=columns, seed=seed), whole[part])
    assert torch.equal(uniform(rows, columns=columns + 3, seed=seed)[:, :columns], whole)


def test_draws_of_many_purposes_together_equal_the_draws_of_each():
    purposes, indices = [f"block {i}" for i in range(5)], torch.arange(7) + 2**33
    together = draws.uniform(draws.salts(3, purposes), indices, columns=2)
    for purpose, values in zip(purposes, together, strict=True):
        assert torch.equal(values, uniform(indices, columns=2, seed=3, purpose=purpose))


@given(index=st.integers(0, 350 * HUGE), column=st.integers(0, 50), seed=st.integers(-5, 2**63))
@settings(max_examples=80, deadline=None)
def test_draws_equal_the_formula_in_plain_integers(index, column, seed):
    """Tensors of int32 must wrap as unsigned words do, on every device and in every version of torch."""

    def mix(word: int) -> int:
        word = (word ^ word >> 16) * 0x7FEB352D % 2**32
        word = (word ^ word >> 15) * 0x846CA68B % 2**32
        return word ^ word >> 16

    key = int.from_bytes(hashlib.blake2b(f"{seed}:test".encode(), digest_size=16).digest(), "little")
    salts = [(key >> shift) % 2**32 for shift in (0, 32, 64, 96)]
    row = mix(mix(index % 2**32 ^ salts[0]) ^ index >> 32 ^ salts[1])
    expected = (mix(mix(row ^ mix(column ^ salts[2])) ^ salts[3]) >> 8) / 2**24
    assert uniform(torch.tensor([index]), columns=51, seed=seed)[0, column].item() == expected


def test_initial_weights_follow_the_seed_and_leave_the_generator_of_torch_as_it_was():
    def weights(seed: int) -> Tensor:
        with draws.initial(seed):
            return torch.randn(5)

    before = torch.get_rng_state()
    first = weights(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)


def test_draws_never_change_between_versions():
    """With other draws, a run that was begun before would go on as another one, without a word."""
    ids = draws.sample_ids(HUGE - 2, 4, size=HUGE, seed=0)
    assert ids.tolist() == [67636634, 32894672, 127207914, 128500708]
    words = uniform(torch.tensor([0, 2**31, 2**32 + 1]), columns=2) * 2**24
    assert words.tolist() == [[9153025, 5606434], [4078562, 10526597], [4139732, 7550433]]
    assert draws.generator(0, "view", 3, 5).integers(2**32, size=2).tolist() == [3528328411, 326373450]


# The draws of a model: statistics.


def assert_uniform(values: Tensor) -> None:
    """Mean, variance, and equal counts by the highest and by the lowest 8 of 24 bits."""
    assert values.min() >= 0 and values.max() < 1
    numbers = values.double().numpy().ravel()
    assert abs(numbers.mean() - 1 / 2) < 4 * (1 / 12 / len(numbers)) ** 0.5
    assert abs(numbers.var() - 1 / 12) < 4 * (1 / 180 / len(numbers)) ** 0.5
    words = (numbers * 2**24).astype(np.int64)
    assert chisquare(np.bincount(words >> 16, minlength=256)).pvalue > WORST_P
    assert chisquare(np.bincount(words & 255, minlength=256)).pvalue > WORST_P


def assert_independent(first: Tensor, second: Tensor) -> None:
    """No linear correlation, and equal counts in every cell of a 16 x 16 table of the two."""
    x, y = first.double().numpy().ravel(), second.double().numpy().ravel()
    assert abs(np.corrcoef(x, y)[0, 1]) < 4 / len(x) ** 0.5
    cells = (x * 16).astype(np.int64) * 16 + (y * 16).astype(np.int64)
    assert chisquare(np.bincount(cells, minlength=256)).pvalue > WORST_P


@pytest.mark.parametrize(
    ("rows", "columns"), [(200_000, 1), (100, 2048)], ids=["stochastic depth", "dropout"]
)
@pytest.mark.parametrize("first", [0, 45 * 10**9], ids=["start", "late"])
def test_draws_are_uniform(rows, columns, first):
    assert_uniform(uniform(torch.arange(first, first + rows), columns=columns))


def test_draws_of_neighbors_are_independent():
    """Neighbors in sample index (also across batches), column, purpose and seed."""
    indices = torch.arange(2000)
    table = uniform(indices, columns=100)
    assert_independent(table[1:], table[:-1])
    assert_independent(table[256:], table[:-256])
    assert_independent(table[:, 1:], table[:, :-1])
    assert_independent(table[1:, 1:], table[:-1, :-1])
    for other in ("test ", "test.0", "tesu"):
        assert_independent(table, uniform(indices, columns=100, purpose=other))
    assert_independent(table, uniform(indices, columns=100, seed=1))
    assert_independent(table, uniform(indices + 2**32, columns=100))


def test_blocks_of_one_network_skip_samples_independently():
    """Among 66 blocks of drop rate 0.1, the number skipped by a sample is binomial."""
    indices = torch.arange(4096)
    skipped = sum((uniform(indices, purpose=f"block {i}") < 0.1).long() for i in range(66))
    variance = skipped.double().var().item()
    expected = 66 * 0.1 * 0.9
    assert abs(variance / expected - 1) < 4 * (2 / 4096) ** 0.5


# Generators of single samples.

USES = st.tuples(st.integers(0, 99), st.text("a/1:", max_size=4), st.lists(st.integers(0, 99), max_size=2))


@given(one=USES, other=USES)
@settings(max_examples=200, deadline=None)
def test_generators_draw_the_same_exactly_if_all_their_arguments_are_the_same(one, other):
    def first_draw(seed: int, purpose: str, where: list[int]) -> int:
        return int(draws.generator(seed, purpose, *where).integers(2**63))

    assert first_draw(*one) == first_draw(*one)
    assert (first_draw(*one) == first_draw(*other)) == (one == other)


def test_first_draws_of_10000_samples_and_epochs_are_uniform_and_distinct():
    first = [
        draws.generator(0, "view", epoch, sample).random() for epoch in range(10) for sample in range(1000)
    ]
    assert len(set(first)) == 10_000
    assert chisquare(np.histogram(first, bins=100, range=(0, 1))[0]).pvalue > WORST_P
    by_epoch = np.array(first).reshape(10, 1000)
    assert abs(np.corrcoef(by_epoch[0], by_epoch[1])[0, 1]) < 4 / 1000**0.5
