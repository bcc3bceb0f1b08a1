"""Draws of a network: those of each sample, computed before the forward pass, in eager and compiled code alike."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_rs import draws
from resnet_rs.models.backbone import Model
from resnet_rs.models.efficientnet import EfficientNetArch
from resnet_rs.models.layers import Dropout, StochasticDepth
from resnet_rs.models.randomness import ModelRng
from resnet_rs.models.resnet import BLOCKS, ResNetArch
from resnet_rs.tasks.classification import ClassificationHead

ARCHS = {
    "resnet": ResNetArch(blocks=(1, 2, 1, 1), width=0.125, drop_path=0.5, zero_init=False),
    "efficientnet": EfficientNetArch(width=0.25, depth=0.5, drop_path=0.9, norm_momentum=1.0),
}


def network(arch, *, dropout=0.3):
    torch.manual_seed(0)
    backbone = arch.build(in_channels=3)
    return Model(backbone, ClassificationHead(backbone.widths[3], num_classes=5, dropout=dropout)).train()


def images(count=4, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


class Operations(TorchDispatchMode):
    """Counts operations on tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def num_operations(arch):
    model = network(arch, dropout=0.0)
    with torch.no_grad(), Operations() as operations, ModelRng(model, seed=0).scope(torch.arange(4)):
        model(images())
    return operations.count


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize("counts", [(1, 5), (2, 2, 2)])
def test_draws_do_not_depend_on_how_the_batch_is_split(name, counts):
    model = network(ARCHS[name])
    model(images(6, 64))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    indices = torch.arange(100, 106) + 2**33
    rng = ModelRng(model, seed=7)
    with torch.no_grad():
        with rng.scope(indices):
            whole = model(images(6, 64))
        parts = []
        for chunk, own in zip(images(6, 64).split(counts), indices.split(counts), strict=True):
            with rng.scope(own):
                parts.append(model(chunk))
        with ModelRng(model, seed=8).scope(indices):
            other_seed = model(images(6, 64))
    scale = whole.std()
    torch.testing.assert_close(torch.cat(parts) / scale, whole / scale, rtol=1e-3, atol=1e-3)
    assert (other_seed - whole).abs().max() > 0.1 * scale


def test_every_layer_has_the_draws_of_its_purpose_and_of_each_sample():
    model, indices = network(ARCHS["resnet"]), torch.tensor([5, 2**40, 0])
    layers = [m for m in model.modules() if isinstance(m, StochasticDepth | Dropout)]
    assert len(layers) == 6
    with ModelRng(model, seed=3).scope(indices):
        for layer in layers:
            expected = draws.uniform(draws.salts(3, [layer.purpose]), indices, columns=layer.num_draws)[0]
            assert torch.equal(layer.draws, expected)
    assert all(layer.draws is None for layer in layers)


def test_draws_are_cleared_after_an_error():
    layer = StochasticDepth(0.5, purpose="test")
    with pytest.raises(KeyError), ModelRng(layer, seed=0).scope(torch.arange(2)):
        raise KeyError
    assert layer.draws is None


def test_in_a_scope_torchs_generator_does_not_advance_and_outside_it_draws():
    layer, ones = StochasticDepth(0.5, purpose="test").train(), torch.ones(64, 1)
    before = torch.get_rng_state()
    with ModelRng(layer, seed=0).scope(torch.arange(64)):
        layer(ones)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(layer(ones), layer(ones))
    torch.set_rng_state(before)
    expected = (torch.rand(64, 1) >= 0.5).float() * 2
    torch.set_rng_state(before)
    assert torch.equal(layer(ones), expected)


def test_stochastic_depth_keeps_the_mean_in_training():
    layer, num_samples = StochasticDepth(0.3, purpose="test").train(), 20_000
    with ModelRng(layer, seed=0).scope(torch.arange(num_samples)):
        branch = layer(torch.ones(num_samples, 1, 1, 1)).flatten()
    torch.testing.assert_close(branch.unique(), torch.tensor([0.0, 1 / 0.7]))
    # Four standard errors of a mean of these two values.
    assert branch.mean().item() == pytest.approx(1, abs=4 * math.sqrt(0.3 / 0.7 / num_samples))


def test_indices_of_another_batch_are_refused():
    layer = StochasticDepth(0.5, purpose="test").train()
    message = r"draws of shape \[1, 1\], expected \[4, 1\]\. Give `ModelRng.scope` one global sample index per sample"
    with ModelRng(layer, seed=0).scope(torch.arange(1)), pytest.raises(ValueError, match=message):
        layer(torch.ones(4, 2))


def test_layers_that_share_a_purpose_are_refused():
    layers = nn.ModuleList([StochasticDepth(0.5, purpose="same") for _ in range(2)])
    with pytest.raises(ValueError, match=r"the same purpose: \['same', 'same'\]\. Give each its own"):
        ModelRng(layers, seed=0)


@pytest.mark.parametrize("depth", [50, 200])
def test_a_stochastic_depth_draw_takes_5_operations_and_each_micro_batch_fewer_than_100(depth):
    """One draw took 78 before; a launch of each on an accelerator takes longer than its arithmetic."""
    arch = ResNetArch(blocks=BLOCKS[depth], width=1 / 32)
    with_draws = ResNetArch(blocks=BLOCKS[depth], width=1 / 32, drop_path=0.1)
    assert num_operations(with_draws) - num_operations(arch) <= 5 * sum(arch.blocks) + 100


COMPILED = """
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from resnet_rs.models.backbone import Model
from resnet_rs.models.layers import Dropout, StochasticDepth
from resnet_rs.models.randomness import ModelRng
from resnet_rs.models.resnet import BLOCKS, ResNetArch
from resnet_rs.tasks.classification import ClassificationHead

backbone = ResNetArch(blocks=BLOCKS[200], width=1 / 32, drop_path=0.3, zero_init=False).build(in_channels=3)
resnet_rs_200 = Model(backbone, ClassificationHead(backbone.widths[3], num_classes=5, dropout=0.3))
layers = nn.Sequential(StochasticDepth(0.5, purpose="a"), Dropout(8, drop_rate=0.5, purpose="b"))
counter = CompileCounter()  # runs the captured graph as it is
for model, inputs, backend in [
    (resnet_rs_200.train(), torch.randn(4, 3, 32, 32), counter),
    (layers.train(), torch.ones(4, 8), "inductor"),
]:
    compiled, rng = torch.compile(model, fullgraph=True, backend=backend), ModelRng(model, seed=1)
    outputs = []
    for first in (0, 4):
        with torch.no_grad(), rng.scope(torch.arange(first, first + 4)):
            outputs.append(compiled(inputs))
            assert torch.equal(outputs[-1], model(inputs))
    assert not torch.equal(*outputs)
assert counter.frame_count == 1
"""


def test_the_compiled_resnet_rs_200_is_one_graph_with_the_same_draws_in_every_micro_batch():
    """In its own process: the checks of shapes in these tests cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
