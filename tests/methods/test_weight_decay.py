"""Weight decay: every parameter in one group, and batch norm in the free one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resnet_rs.methods.weight_decay import decayed_and_free
from resnet_rs.models.backbone import Model
from resnet_rs.models.layers import SqueezeExcite
from resnet_rs.models.resnet import ResNetArch
from resnet_rs.tasks.classification import Classification


def tiny(*, se_ratio: float | None = 0.25) -> Model:
    backbone = ResNetArch(blocks=(1, 2, 1, 1), width=1 / 16, se_ratio=se_ratio).build(in_channels=3)
    return Model(backbone, Classification(num_classes=10).build_head(backbone.widths))


MODELS = {
    "resnet-rs": tiny,
    "without squeeze-and-excitation": lambda: tiny(se_ratio=None),
    "all dimensions of batch norm": lambda: nn.Sequential(
        nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2), nn.Conv1d(2, 2, 1)
    ),
    "batch norm without scale and offset": lambda: nn.Sequential(
        nn.BatchNorm2d(2, affine=False), nn.Linear(2, 2)
    ),
    "a bare batch norm": lambda: nn.BatchNorm2d(2),
    "other norms": lambda: nn.Sequential(nn.GroupNorm(1, 2), nn.LayerNorm(2)),
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_every_parameter_is_in_exactly_one_group_under_its_own_name(build):
    model = build()
    decayed, free = decayed_and_free(model)
    assert not decayed.keys() & free.keys()
    both = decayed | free
    named = dict(model.named_parameters())
    assert both.keys() == named.keys()
    assert all(both[name] is parameter for name, parameter in named.items())


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_the_free_ones_are_the_scale_and_offset_of_batch_norm(build):
    model = build()
    _, free = decayed_and_free(model)
    norms = [module for module in model.modules() if "BatchNorm" in type(module).__name__]
    expected = {id(p) for norm in norms for p in (norm.weight, norm.bias) if p is not None}
    assert {id(parameter) for parameter in free.values()} == expected


def test_biases_of_squeeze_excite_and_of_the_classifier_decay():
    model = tiny()
    decayed, _ = decayed_and_free(model)
    assert {"head.classifier.weight", "head.classifier.bias"} <= decayed.keys()
    squeezes = [(name, module) for name, module in model.named_modules() if isinstance(module, SqueezeExcite)]
    assert len(squeezes) == 5
    for name, squeeze in squeezes:
        for parameter, _ in squeeze.named_parameters():
            assert f"{name}.{parameter}" in decayed


def test_all_biases_that_decay_are_those_two_kinds():
    """Convolutions have none, as a batch norm follows each."""
    decayed, _ = decayed_and_free(tiny())
    biases = [name for name, parameter in decayed.items() if parameter.dim() == 1]
    assert all(".excite." in name or name == "head.classifier.bias" for name in biases)
    assert len(biases) == 5 * 2 + 1


def test_an_update_without_gradient_shrinks_the_decayed_ones_alone():
    """Coupled decay: the released loss adds `decay * sum(w ** 2) / 2`, so a step takes `lr * decay * w` away."""
    torch.manual_seed(0)
    model = tiny()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    decayed, free = decayed_and_free(model)
    groups = [
        {"params": list(decayed.values()), "weight_decay": 0.01},
        {"params": list(free.values()), "weight_decay": 0.0},
    ]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.SGD(groups, lr=0.5).step()
    for name, parameter in model.named_parameters():
        factor = 1 if name in free else 1 - 0.5 * 0.01
        torch.testing.assert_close(parameter.detach(), factor * before[name], msg=name)
