"""The Model Garden's network; its logits are compared with TensorFlow's in `tests/weights/test_convert.py`."""

import pytest
import torch
from torch import nn

from resnet_rs import config
from resnet_rs.bridges.model_garden import ModelGardenArch
from resnet_rs.models.backbone import Arch
from resnet_rs.models.resnet import ResNetArch

ARCH = ResNetArch(blocks=(1, 1, 1, 1), width=0.125, drop_path=0.1)


def test_every_activation_is_silu():
    kinds = {type(module) for module in ModelGardenArch.like(ARCH).build(in_channels=3).modules()}
    assert nn.SiLU in kinds and nn.ReLU not in kinds


def test_it_keeps_the_fields_of_the_paper_s_network_and_is_not_equal_to_it():
    garden = ModelGardenArch.like(ARCH)
    assert config.diff(garden, ModelGardenArch(blocks=(1, 1, 1, 1), width=0.125)) == {"drop_path": 0.0}
    assert garden != ARCH and config.from_plain(config.to_plain(garden), kinds=(Arch,)) == garden


def test_same_padding_of_an_even_map_is_at_its_end():
    conv = ModelGardenArch.like(ARCH).conv(1, 1, kernel_size=3, stride=2)
    nn.init.ones_(conv.weight)
    counted = conv(torch.ones(1, 1, 4, 4))[0, 0]
    assert counted.tolist() == [[9, 6], [6, 4]]


@pytest.mark.parametrize("edit", [{"stem": "2015"}, {"shortcut": "strided"}])
def test_a_network_that_the_model_garden_does_not_have_is_refused(edit):
    with pytest.raises(ValueError, match="Use stem 'released' and shortcut 'pooled'"):
        ModelGardenArch.like(config.edit(ARCH, edit))
