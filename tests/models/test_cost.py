"""Costs: by hand, by brute force, and against PyTorch's own counter on a real model."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from resnet_rs.models.cost import Cost, count_cost
from resnet_rs.models.efficientnet import EfficientNetArch
from resnet_rs.models.resnet import ResNetArch

ARCHS = [
    ResNetArch(blocks=(1, 2, 1, 1), width=0.25),
    ResNetArch(
        blocks=(1, 1, 1, 1), width=0.25, stem="2015", shortcut="strided", stride_in="reduce", se_ratio=None
    ),
    ResNetArch(blocks=(1, 1, 1, 1), width=0.25, stem="small"),
    EfficientNetArch(width=0.25, depth=0.5),
]


def _on_meta(arch):
    with torch.device("meta"):
        return arch.build(in_channels=3)


def _brute_force(conv, image):
    """Multiply-adds of a convolution without padding, one by one."""
    height, width = image.shape[1:]
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    count = 0
    for _ in range(conv.out_channels):
        for top in range(0, height - kernel + 1, stride):
            for left in range(0, width - kernel + 1, stride):
                window = image[: conv.in_channels // conv.groups, top : top + kernel, left : left + kernel]
                count += window.numel()
    return count


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 1), (4, 2)])
def test_multiply_adds_of_a_convolution_equal_a_count_one_by_one(groups, stride):
    with torch.device("meta"):
        conv = nn.Conv2d(4, 8, 3, stride=stride, groups=groups, bias=False)
    assert count_cost(conv, (4, 9, 7)).macs == _brute_force(conv, torch.zeros(4, 9, 7))


def test_cost_of_a_network_small_enough_to_count_by_hand():
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
        )
    # The image is 2x2: 8 outputs of 9 multiply-adds, 3 of 8. Parameters: (18 + 2) + (2 + 2) + (24 + 3).
    assert count_cost(model, (1, 2, 2)) == Cost(params=51, macs=72 + 24, activations=8 + 3)


class Called(nn.Module):
    """A call of torch with a 4x3x3x3 kernel or a 4x3 matrix."""

    def __init__(self, call, *shape):
        super().__init__()
        self.call = call
        self.weight = nn.Parameter(torch.empty(shape, device="meta"))

    def forward(self, x):
        return self.call(x, self.weight)


KERNEL, MATRIX = (4, 3, 3, 3), (4, 3)


def _flat(x, w):
    return F.linear(x.view(x.shape[0], -1), w)


def _frame_by_frame(x, w):
    """Frames are images of the batch."""
    return F.conv2d(x.transpose(1, 2).flatten(0, 1), w)


@pytest.mark.parametrize(
    ("model", "shape", "outputs"),
    [
        (nn.Conv2d(3, 4, 3, padding="same", device="meta"), (3, 8, 8), 4 * 64),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular", device="meta"), (3, 8, 8), 4 * 64),
        (Called(lambda x, w: F.conv2d(x, w, stride=2), *KERNEL), (3, 9, 9), 4 * 16),
        (Called(lambda x, w: F.conv2d(x, w, None, 2, 1), *KERNEL), (3, 9, 9), 4 * 25),
        (Called(lambda x, w: F.conv2d(x, weight=w, padding="same"), *KERNEL), (3, 8, 8), 4 * 64),
        (Called(lambda x, w: F.conv2d(input=F.relu(input=x), weight=w), *KERNEL), (3, 8, 8), 4 * 36),
        (Called(lambda x, w: F.conv2d(x[0], w), *KERNEL), (3, 8, 8), 4 * 36),
        (Called(_flat, 4, 27), (3, 3, 3), 4),
        (Called(_frame_by_frame, *KERNEL), (3, 6, 8, 8), 6 * 4 * 36),
        (Called(F.linear, *MATRIX), (7, 3), 4 * 7),
        (Called(lambda x, w: F.linear(input=x, weight=w), *MATRIX), (7, 3), 4 * 7),
    ],
)
def test_any_way_to_call_torch_is_counted(model, shape, outputs):
    weight = model.weight
    expected = Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs=outputs * weight[0].numel(),
        activations=outputs,
    )
    assert count_cost(model, shape) == expected


def test_an_input_of_other_channels_is_refused_as_by_torch():
    with pytest.raises(RuntimeError, match="channel"):
        count_cost(nn.Conv2d(3, 4, 3, device="meta"), (2, 8, 8))


def test_clip_is_counted_over_its_frames():
    with torch.device("meta"):
        model = nn.Conv3d(3, 4, 3, padding=1)
    assert count_cost(model, (3, 5, 6, 7)).macs == 4 * (5 * 6 * 7) * (3 * 27)


@pytest.mark.parametrize("arch", ARCHS, ids=str)
def test_counts_equal_those_of_a_real_model_at_work(arch):
    real = arch.build(in_channels=3).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        real(torch.randn(1, 3, 65, 65))
    cost = count_cost(_on_meta(arch), (3, 65, 65))
    assert 2 * cost.macs == counter.get_total_flops()
    assert cost.params == sum(parameter.numel() for parameter in real.parameters())


@pytest.mark.parametrize("arch", ARCHS, ids=str)
def test_counting_allocates_no_weights(arch):
    model = _on_meta(arch)
    count_cost(model, (3, 64, 64))
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_counting_leaves_hooks_and_modes_as_they_were():
    model = _on_meta(ARCHS[0]).train()
    frozen = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    before = count_cost(model, (3, 64, 64))
    assert model.training
    assert not frozen.training
    assert not any(module._forward_hooks for module in model.modules())
    assert count_cost(model, (3, 64, 64)) == before


def test_model_with_weights_is_refused():
    with pytest.raises(ValueError, match="on the meta device, got one on cpu"):
        count_cost(nn.Conv2d(3, 4, 3), (3, 8, 8))
