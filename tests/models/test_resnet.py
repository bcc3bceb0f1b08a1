"""The ResNet family: published counts, torchvision's ResNet-50, and the laws of its blocks."""

import math
from functools import lru_cache

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from resnet_rs.models.backbone import Model
from resnet_rs.models.cost import Cost, count_cost
from resnet_rs.models.layers import StochasticDepth, init_as_released
from resnet_rs.models.resnet import BLOCKS, ResNetArch
from resnet_rs.tasks.classification import ClassificationHead

TINY = ResNetArch(blocks=(1, 2, 1, 1), width=0.125, norm_momentum=0.1, zero_init=False)
VANILLA = {"stem": "2015", "shortcut": "strided", "stride_in": "spatial", "se_ratio": None}


def _vanilla(depth, **edits):
    return ResNetArch(blocks=BLOCKS[depth], **{**VANILLA, **edits})


def _classifier(arch):
    backbone = arch.build(in_channels=3)
    return Model(backbone, ClassificationHead(backbone.widths[3], num_classes=1000, dropout=0.0))


@lru_cache
def _classifier_on_meta(arch):
    with torch.device("meta"):
        return _classifier(arch)


def _cost(arch, size) -> Cost:
    return count_cost(_classifier_on_meta(arch), (3, size, size))


def _num_params(arch):
    return sum(parameter.numel() for parameter in _classifier_on_meta(arch).parameters())


def _tiny(**edits):
    fields = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
    torch.manual_seed(0)
    return ResNetArch(**{**fields, **edits}).build(in_channels=3)


@pytest.mark.parametrize(
    ("depth", "count"),
    [
        (50, 35_691_912),
        (101, 63_618_696),
        (152, 86_621_576),
        (200, 93_209_992),
        (270, 129_861_448),
        (350, 163_956_168),
        (420, 191_891_656),
    ],
)
def test_parameters_of_resnet_rs_equal_the_published_count(depth, count):
    assert _num_params(ResNetArch(blocks=BLOCKS[depth])) == count


@pytest.mark.parametrize(
    ("depth", "count"), [(50, 25_557_032), (101, 44_549_160), (152, 60_192_808), (200, 64_673_832)]
)
def test_parameters_of_the_2015_networks_equal_the_published_count(depth, count):
    assert _num_params(_vanilla(depth)) == count


@pytest.mark.parametrize(
    ("depth", "millions"),
    [
        (50, (2.0, 6.9, 25.6, 55.9, 98.0)),
        (101, (3.2, 11.7, 44.5, 98.6, 173.9)),
        (200, (4.5, 16.7, 64.7, 143.8, 254.2)),
        (300, (6.2, 23.7, 92.7, 206.8, 366.1)),
        (350, (7.5, 28.8, 112.8, 252.0, 446.4)),
        (400, (8.3, 31.9, 125.2, 279.9, 496.0)),
    ],
)
def test_parameters_of_the_scaling_grid_equal_the_derived_counts(depth, millions):
    widths = (0.25, 0.5, 1.0, 1.5, 2.0)
    counts = [_num_params(_vanilla(depth, width=width)) / 1e6 for width in widths]
    assert [round(count, 1) for count in counts] == list(millions)


@pytest.mark.parametrize(
    ("depth", "size", "gmacs"),
    [
        (50, 160, 2.28),
        (101, 160, 4.18),
        (101, 192, 6.01),
        (152, 192, 8.75),
        (152, 224, 11.90),
        (152, 256, 15.53),
        (200, 256, 20.09),
        (270, 256, 26.95),
        (350, 256, 34.38),
        (350, 320, 53.68),
        (420, 320, 63.94),
    ],
)
def test_multiply_adds_of_the_released_configurations_equal_the_derived_ones(depth, size, gmacs):
    assert _cost(ResNetArch(blocks=BLOCKS[depth]), size).macs / 1e9 == pytest.approx(gmacs, rel=0.005)


def test_resnet_200_of_the_ablation_has_39_2_billion_flops_at_256_pixels():
    assert round(2 * _cost(_vanilla(200), 256).macs / 1e9, 1) == 39.2


def test_stride_in_the_reducing_convolution_has_the_multiply_adds_of_the_2015_paper():
    # He et al. 2016, Table 1: 3.8 billion at 224 pixels; the later variant, strided in the 3x3, has 4.1.
    assert _cost(_vanilla(50, stride_in="reduce"), 224).macs / 1e9 == pytest.approx(3.8, rel=0.02)
    assert _cost(_vanilla(50, stride_in="spatial"), 224).macs / 1e9 == pytest.approx(4.1, rel=0.02)


def test_logits_of_the_2015_resnet_50_equal_torchvisions_on_even_and_odd_maps():
    torch.manual_seed(0)
    ours = _classifier(_vanilla(50, zero_init=False, norm_momentum=1.0))
    # One batch in training sets the running statistics, so that activations stay of order one.
    with torch.no_grad():
        ours.train()(torch.randn(2, 3, 64, 64))
    with torch.device("meta"):
        theirs = torchvision.models.resnet50()
    pairs = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict(dict(pairs), assign=True)
    for size in (96, 97):
        images = torch.randn(2, 3, size, size)
        with torch.no_grad():
            logits, expected = ours.eval()(images), theirs.eval()(images)
        assert (expected[0] - expected[1]).abs().max() > 1e-3
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stem", ["2015", "released"])
@pytest.mark.parametrize("size", [64, 65, 97])
def test_pyramid_lies_at_a_quarter_to_a_32nd_rounded_up(stem, size):
    backbone = _tiny(stem=stem)
    pyramid = backbone(torch.randn(2, 3, size, size + 32))
    assert [level.shape[2] for level in pyramid] == [math.ceil(size / stride) for stride in (4, 8, 16, 32)]
    assert [level.shape[3] for level in pyramid] == [math.ceil((size + 32) / s) for s in (4, 8, 16, 32)]
    assert tuple(level.shape[1] for level in pyramid) == backbone.widths


@pytest.mark.parametrize("size", [28, 33])
def test_pyramid_of_the_small_stem_lies_at_the_full_size_to_an_eighth(size):
    pyramid = _tiny(stem="small")(torch.randn(2, 3, size, size))
    assert [level.shape[2] for level in pyramid] == [math.ceil(size / stride) for stride in (1, 2, 4, 8)]


@pytest.mark.parametrize("shortcut", ["strided", "pooled"])
@pytest.mark.parametrize("stride_in", ["reduce", "spatial"])
def test_every_shortcut_fits_every_stride_on_odd_maps(shortcut, stride_in):
    pyramid = _tiny(shortcut=shortcut, stride_in=stride_in)(torch.randn(2, 3, 75, 75))
    assert [level.shape[2] for level in pyramid] == [19, 10, 5, 3]


def test_pooled_shortcut_does_not_count_what_lies_outside_an_odd_map():
    pool = _tiny().get_submodule("c3.0.shortcut.0")
    assert torch.equal(pool(torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 3, 3))


@pytest.mark.parametrize("in_channels", [1, 6])
@pytest.mark.parametrize("stem", ["2015", "released", "small"])
def test_images_may_have_other_than_three_channels(in_channels, stem):
    arch = ResNetArch(blocks=(1, 1, 1, 1), width=0.125, stem=stem, zero_init=False)
    torch.manual_seed(0)
    backbone = arch.build(in_channels=in_channels)
    images = torch.randn(2, in_channels, 64, 64, requires_grad=True)
    backbone(images).c5.square().sum().backward()
    assert images.grad is not None
    assert (images.grad.abs().sum((0, 2, 3)) > 0).all()


def test_channels_last_gives_the_same_pyramid():
    backbone = _tiny().eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        contiguous = backbone(images)
        last = backbone.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    for level, expected in zip(last, contiguous, strict=True):
        torch.testing.assert_close(level.contiguous(), expected, rtol=1e-4, atol=1e-4)


def test_block_with_zero_init_begins_as_its_activation_of_the_identity():
    block = _tiny(zero_init=True).get_submodule("c3.1")
    x = torch.randn(4, 64, 8, 8)
    assert torch.equal(block(x), F.relu(x))


def test_block_without_zero_init_does_not_begin_as_the_identity():
    block = _tiny(zero_init=False).get_submodule("c3.1")
    x = torch.rand(4, 64, 8, 8)
    assert (block(x) - x).abs().max() > 0.1


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(64, 500, 3), nn.Conv2d(64, 512, 3, groups=4), nn.Linear(300, 1000)], ids=str
)
def test_released_initialization_has_variance_one_over_fan_in_and_is_cut_at_two_sigmas(layer):
    torch.manual_seed(0)
    init_as_released(layer)
    fan_in = layer.weight[0].numel()
    sigma = math.sqrt(1 / fan_in) / 0.8796256610342398
    assert layer.weight.var().item() * fan_in == pytest.approx(1, rel=0.02)
    assert 1.99 * sigma < layer.weight.abs().max().item() <= 2 * sigma * (1 + 1e-6)
    assert not layer.bias.any()


def test_backbone_is_initialized_as_released_throughout():
    for name, module in _tiny(width=0.5).named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 20_000:
            fan_in = module.weight[0].numel()
            assert module.weight.var().item() * fan_in == pytest.approx(1, rel=0.05), name


def test_stochastic_depth_is_the_identity_in_evaluation():
    branch = torch.randn(8, 4, 2, 2)
    assert torch.equal(StochasticDepth(0.9, purpose="test").eval()(branch), branch)


def test_stages_have_the_released_drop_rates():
    backbone = _tiny(blocks=(2, 3, 2, 2), drop_path=0.1)
    rates: dict[str, list[float]] = {"c2": [], "c3": [], "c4": [], "c5": []}
    for name, module in backbone.named_modules():
        if isinstance(module, StochasticDepth):
            rates[name.split(".")[0]].append(module.drop_rate)
    assert rates["c2"] == pytest.approx([0.04] * 2)
    assert rates["c3"] == pytest.approx([0.06] * 3)
    assert rates["c4"] == pytest.approx([0.08] * 2)
    assert rates["c5"] == pytest.approx([0.10] * 2)


def test_no_two_blocks_share_their_draws():
    modules = _tiny(blocks=(2, 3, 2, 2), drop_path=0.1).modules()
    purposes = [module.purpose for module in modules if isinstance(module, StochasticDepth)]
    assert len(set(purposes)) == len(purposes) == 9


def test_without_drop_path_nothing_is_drawn():
    assert not any(isinstance(module, StochasticDepth) for module in _tiny(drop_path=0.0).modules())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("blocks", (1, 0, 1, 1)),
        ("blocks", (1, 1, 1)),
        ("blocks", (1, 1, 1, 1, 1)),
        ("width", 0.0),
        ("width", 0.03),
        ("width", 17.0),
        ("width", math.nan),
        ("stem", "2016"),
        ("shortcut", "none"),
        ("stride_in", "expand"),
        ("se_ratio", 0.0),
        ("se_ratio", 1.5),
        ("drop_path", -0.1),
        ("drop_path", 1.0),
        ("norm_momentum", 0.0),
        ("norm_momentum", 1.1),
    ],
)
def test_invalid_value_is_refused_with_the_fields_name(field, value):
    arch = ResNetArch(blocks=(1, 1, 1, 1))
    # Set from behind: the type checks of this test suite would refuse some values before the arch can.
    object.__setattr__(arch, field, value)
    with pytest.raises(ValueError, match=rf"^{field} must be .*, got "):
        arch.__post_init__()


@pytest.mark.parametrize("width", [1 / 32, 16.0])
def test_the_widest_and_the_narrowest_network_can_be_built(width):
    with torch.device("meta"):
        backbone = ResNetArch(blocks=(1, 1, 1, 1), width=width).build(in_channels=3)
    assert backbone.widths == tuple(int(width * 64 * 2**i) * 4 for i in range(4))


def test_statistics_of_the_last_batch_alone_need_an_average():
    assert ResNetArch(blocks=(1, 1, 1, 1), norm_momentum=1.0).needs_ema
    assert not ResNetArch(blocks=(1, 1, 1, 1), norm_momentum=0.1).needs_ema
