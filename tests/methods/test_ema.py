"""The average against its closed form in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resnet_rs.methods.ema import ramped_decay, update_ema


def tiny() -> nn.Sequential:
    """A network with weights, biases, running statistics, and a count of batches."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=1.0), nn.Conv2d(4, 2, 1))


def closed_form(values: list[Tensor], decays: list[float]) -> np.ndarray:
    """Sum of all values, each weighted by what the later decays leave of it, in float64.

    `values` start with the initial one, which no decay has let in: its own weight is 1.
    """
    own_shares = np.array([1.0] + [1 - decay for decay in decays])
    left = np.array([np.prod(decays[i:]) for i in range(len(values))])
    return np.tensordot(own_shares * left, np.stack([value.double().numpy() for value in values]), axes=1)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.1), (1, 2 / 11), (90, 0.91), (89_989, 89_990 / 89_999), (89_991, 0.9999)]
)
def test_decay_rises_as_released_until_it_is_reached(step, expected):
    """(1 + t) / (10 + t) reaches 0.9999 at t = 89,990."""
    assert ramped_decay(step, decay=0.9999) == pytest.approx(expected, rel=1e-15)


def test_decay_never_falls_and_never_exceeds_its_end():
    decays = [ramped_decay(step, decay=0.99) for step in range(2000)]
    assert decays == sorted(decays)
    assert max(decays) == decays[-1] == 0.99


@pytest.mark.parametrize("decay", [0.9, 0.9999])
@pytest.mark.parametrize("num_updates", [1, 10, 300])
def test_average_equals_the_closed_form(decay, num_updates):
    """The ramp binds all along at 0.9999, and lets go after 80 updates at 0.9."""
    rng = torch.Generator().manual_seed(0)
    values = [torch.randn(50, generator=rng) for _ in range(num_updates + 1)]
    decays = [ramped_decay(step, decay=decay) for step in range(num_updates)]
    average = {"weight": values[0].clone()}
    for value, now in zip(values[1:], decays, strict=True):
        update_ema(average, {"weight": value}, decay=now)
    np.testing.assert_allclose(average["weight"].numpy(), closed_form(values, decays), rtol=0, atol=1e-6)


def test_the_ramp_forgets_the_initial_weights():
    """Of the start, the product of (1 + t) / (10 + t) is left: 9! / ((k + 1) ... (k + 9)) after k updates."""
    average, current = {"weight": torch.ones(1, dtype=torch.float64)}, {"weight": torch.zeros(1).double()}
    for step in range(100):
        update_ema(average, current, decay=ramped_decay(step, decay=0.9999))
    expected = 362_880 / np.prod(np.arange(101.0, 110.0))
    assert average["weight"].item() == pytest.approx(expected, rel=1e-9)


def test_weights_and_running_statistics_of_a_model_are_averaged_and_counts_are_copied():
    torch.manual_seed(0)
    model = tiny()
    average = copy.deepcopy(model)
    history: list[dict[str, Tensor]] = [copy.deepcopy(model.state_dict())]
    decays = [ramped_decay(step, decay=0.9999) for step in range(12)]
    for now in decays:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model(3 + 2 * torch.randn(8, 3, 5, 5))
        update_ema(average.state_dict(), model.state_dict(), decay=now)
        history.append(copy.deepcopy(model.state_dict()))
    for name, tensor in average.state_dict().items():
        if name == "1.num_batches_tracked":
            assert tensor.dtype == torch.int64 and tensor.item() == 12
            continue
        expected = closed_form([state[name] for state in history], decays)
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-6, err_msg=name)
    assert {"1.running_mean", "1.running_var"} <= average.state_dict().keys()


def test_average_of_a_constant_model_is_the_model_bit_for_bit():
    torch.manual_seed(0)
    model = tiny()
    average = copy.deepcopy(model)
    for step in range(200):
        update_ema(average.state_dict(), model.state_dict(), decay=ramped_decay(step, decay=0.9999))
    for name, tensor in model.state_dict().items():
        assert torch.equal(average.state_dict()[name], tensor), name


def test_a_model_that_stops_changing_is_reached():
    torch.manual_seed(0)
    model, average = tiny(), tiny()
    for _ in range(400):
        update_ema(average.state_dict(), model.state_dict(), decay=0.9)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(average.state_dict()[name], tensor, msg=name)


def test_the_model_is_left_as_it_is_and_keeps_its_gradients():
    model, average = tiny(), tiny()
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(2, 3, 5, 5)).sum().backward()
    before["1.running_mean"], before["1.running_var"] = (
        model[1].running_mean.clone(),
        model[1].running_var.clone(),
    )
    before["1.num_batches_tracked"] += 1
    update_ema(dict(average.named_parameters()), dict(model.named_parameters()), decay=0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad_fn is None and parameter.requires_grad for parameter in average.parameters())


@pytest.mark.parametrize("missing_in", ["average", "current"])
def test_different_names_are_refused_and_listed(missing_in):
    states = {"average": tiny().state_dict(), "current": tiny().state_dict()}
    del states[missing_in]["1.running_var"]
    message = (
        r"must have the same tensors; only one has 1\.running_var\. Build both from the same experiment\."
    )
    with pytest.raises(ValueError, match=message):
        update_ema(states["average"], states["current"], decay=0.9)
