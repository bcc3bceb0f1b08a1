"""Stochastic depth: the released rates, whole samples dropped, and the mean kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_rs import draws
from resnet_rs.methods.dropout import drop
from resnet_rs.methods.stochastic_depth import stage_drop_rates


def test_rates_are_those_of_the_released_code():
    assert stage_drop_rates(0.1) == pytest.approx((0.04, 0.06, 0.08, 0.1), rel=1e-12)


@given(drop_path=st.floats(0, 1, exclude_max=True))
def test_rates_grow_linearly_and_end_with_the_given_one(drop_path):
    c2, c3, c4, c5 = stage_drop_rates(drop_path)
    assert c5 == pytest.approx(drop_path)
    assert (c3 - c2, c4 - c3, c5 - c4) == pytest.approx((drop_path / 5,) * 3, abs=1e-12)
    assert c2 == pytest.approx(2 * drop_path / 5)


@given(
    shape=st.sampled_from([(4,), (3, 2, 2), (3, 2, 2, 2)]),
    batch=st.integers(0, 6),
    drop_rate=st.floats(0, 1, exclude_max=True, exclude_min=True).filter(lambda p: p < 0.999),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_a_branch_is_zero_or_divided_by_the_chance_to_be_kept(shape, batch, drop_rate, seed):
    rng = torch.Generator().manual_seed(seed)
    branch, drawn = torch.randn(batch, *shape, generator=rng), torch.rand(batch, 1, generator=rng)
    out = drop(branch, drawn, drop_rate=drop_rate)
    for i in range(batch):
        kept = drawn[i, 0].item() >= drop_rate
        torch.testing.assert_close(out[i], branch[i] / (1 - drop_rate) if kept else torch.zeros(shape))


def test_the_mean_over_draws_is_the_branch():
    """Over draws on an even grid the share of kept ones is exact, so the mean is too."""
    drawn = (torch.arange(1000) / 1000)[:, None]
    branch = torch.tensor([[1.5, -2.0, 0.25]]).expand(1000, 3)
    for drop_rate in stage_drop_rates(0.1):
        mean = drop(branch, drawn, drop_rate=drop_rate).double().mean(0)
        torch.testing.assert_close(mean, branch[0].double(), rtol=1e-5, atol=0)


def test_the_mean_over_the_samples_of_a_run_is_the_branch():
    num_samples = 100_000
    drawn = draws.uniform(draws.salts(0, ["block"]), torch.arange(num_samples))[0]
    kept = drop(torch.ones(num_samples, 1), drawn, drop_rate=0.1)
    assert abs(kept.mean().item() - 1) < 4 * (0.1 / 0.9 / num_samples) ** 0.5


def test_gradients_pass_through_kept_branches_only():
    branch = torch.ones(2, 3, requires_grad=True)
    drop(branch, torch.tensor([[0.1], [0.9]]), drop_rate=0.5).sum().backward()
    assert branch.grad is not None
    assert branch.grad.tolist() == [[0, 0, 0], [2, 2, 2]]


def test_nothing_is_dropped_at_rate_zero():
    branch = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drop(branch, torch.zeros(5, 1), drop_rate=0.0), branch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_precision_of_the_branch_is_kept(dtype):
    out = drop(torch.ones(2, 3, dtype=dtype), torch.tensor([[0.5], [0.0]]), drop_rate=0.1)
    assert out.dtype == dtype
