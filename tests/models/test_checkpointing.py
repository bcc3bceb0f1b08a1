"""Activation checkpointing: less memory, and everything else the same bit for bit."""

import pytest
import torch
from torch import nn

from resnet_rs import config
from resnet_rs.models.checkpointing import _Recomputation, set_activation_checkpointing
from resnet_rs.models.randomness import ModelRng
from resnet_rs.models.resnet import ResNetArch

SMALL = ResNetArch(blocks=(2, 1, 1, 1), width=0.125, drop_path=0.5, zero_init=False)


def backbone(enable, **edits):
    torch.manual_seed(0)
    made = config.edit(SMALL, edits).build(in_channels=3).train()
    set_activation_checkpointing(made, enable)
    return made


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def gradients(model):
    return [parameter.grad for parameter in model.parameters()]


def assert_equal(first, second):
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_gradients_and_statistics_are_the_same(momentum):
    models = [backbone(enable, norm_momentum=momentum) for enable in (False, True)]
    for model in models:
        torch.manual_seed(1)
        model(images()).c5.square().sum().backward()
    assert_equal(*map(gradients, models))
    assert_equal(*(model.buffers() for model in models))


def test_each_backward_pass_has_the_draws_of_its_own_forward_pass():
    """The backward passes run after both RNG scopes have ended."""
    models = [backbone(enable) for enable in (False, True)]
    for model in models:
        rng, losses = ModelRng(model, seed=3), []
        for first in (0, 2):
            with rng.scope(torch.arange(first, first + 2)):
                losses.append(model(images()).c5.square().sum())
        assert not torch.equal(*losses)
        (losses[0] + 2 * losses[1]).backward()
    assert_equal(*map(gradients, models))
    assert_equal(*(model.buffers() for model in models))


def test_a_second_backward_pass_gives_the_same_gradients():
    model = backbone(True)
    loss = model(images()).c5.square().sum()
    statistics = [buffer.clone() for buffer in model.buffers()]
    first, second = (torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for _ in range(2))
    assert_equal(first, second)
    assert_equal(model.buffers(), statistics)


def test_norms_of_several_ranks_keep_their_statistics_too():
    block = nn.SyncBatchNorm.convert_sync_batchnorm(backbone(True).c2[0])
    assert len(_Recomputation(block)._norms) == 4


def test_it_keeps_less_than_a_third():
    def num_kept(enable):
        model = backbone(enable, blocks=(4, 4, 4, 4))
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(images())
        return sum(sizes)

    assert num_kept(True) < num_kept(False) / 3


def test_a_model_without_stages_is_refused():
    with pytest.raises(ValueError, match="Linear has no stages of blocks, so it cannot checkpoint"):
        set_activation_checkpointing(nn.Linear(1, 1))
