"""Dropout: single features dropped, and the mean kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_rs import draws
from resnet_rs.methods.dropout import drop


@given(
    batch=st.integers(0, 5),
    width=st.integers(1, 20),
    drop_rate=st.floats(0, 0.99),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_a_feature_is_zero_or_divided_by_the_chance_to_be_kept(batch, width, drop_rate, seed):
    rng = torch.Generator().manual_seed(seed)
    features, drawn = torch.randn(batch, width, generator=rng), torch.rand(batch, width, generator=rng)
    out = drop(features, drawn, drop_rate=drop_rate)
    expected = torch.where(drawn.double() >= drop_rate, features.double() / (1 - drop_rate), 0.0)
    torch.testing.assert_close(out, expected.float())


@pytest.mark.parametrize("drop_rate", [0.0, 0.25, 0.4, 0.75])
def test_the_mean_over_draws_is_the_feature(drop_rate):
    """Over draws on an even grid the share of kept ones is exact, so the mean is too."""
    drawn = (torch.arange(1000) / 1000)[:, None].expand(1000, 3)
    features = torch.tensor([[1.5, -2.0, 0.25]]).expand(1000, 3)
    mean = drop(features, drawn, drop_rate=drop_rate).double().mean(0)
    torch.testing.assert_close(mean, features[0].double(), rtol=1e-5, atol=0)


def test_share_and_mean_of_kept_features_are_right_in_a_run():
    drawn = draws.uniform(draws.salts(0, ["dropout"]), torch.arange(200), columns=2048)[0]
    kept = drop(torch.ones(200, 2048), drawn, drop_rate=0.25)
    num_features = kept.numel()
    assert abs((kept == 0).double().mean().item() - 0.25) < 4 * (0.25 * 0.75 / num_features) ** 0.5
    assert abs(kept.double().mean().item() - 1) < 4 * (0.25 / 0.75 / num_features) ** 0.5


def test_gradients_pass_through_kept_features_only():
    features = torch.ones(1, 3, requires_grad=True)
    drop(features, torch.tensor([[0.1, 0.5, 0.9]]), drop_rate=0.5).sum().backward()
    assert features.grad is not None
    assert features.grad.tolist() == [[0, 2, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_precision_of_the_features_is_kept(dtype):
    out = drop(torch.ones(1, 2, dtype=dtype), torch.tensor([[0.5, 0.1]]), drop_rate=0.25)
    assert out.dtype == dtype
