"""timm's ResNet-RS: the same weights under the other names give the same logits, both ways."""

from functools import partial

import pytest
import timm
import torch
from timm.layers.squeeze_excite import SEModule
from timm.models.resnet import Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import nn
from torch.nn import functional as F

from resnet_rs.bridges.timm_names import from_timm, to_timm
from resnet_rs.models.backbone import Model
from resnet_rs.models.resnet import BLOCKS, ResNetArch
from resnet_rs.tasks.classification import ClassificationHead

SIZES = (160, 192, 224, 161)
RELEASED_DEPTHS = (50, 101, 152, 200, 270, 350, 420)


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads of batch 1 wait for each other most of the time, and for minutes where the processor is shared."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def _ours(depth, num_classes=1000):
    with torch.device("meta"):
        backbone = ResNetArch(blocks=BLOCKS[depth]).build(in_channels=3)
        head = ClassificationHead(backbone.widths[3], num_classes=num_classes, dropout=0.25)
    return Model(backbone, head)


def _theirs(depth, num_classes=1000):
    with torch.device("meta"):
        if depth in RELEASED_DEPTHS:
            return timm.create_model(f"resnetrs{depth}", pretrained=False, num_classes=num_classes)
        return TimmResNet(
            Bottleneck,
            BLOCKS[depth],
            num_classes=num_classes,
            stem_width=32,
            stem_type="deep",
            replace_stem_pool=True,
            avg_down=True,
            block_args={"attn_layer": partial(SEModule, rd_ratio=0.25)},
        )


def _fill(model, seed):
    """Give a model on the meta device random weights and running statistics.

    The statistics are those of one batch, then shaken, so that every layer matters and no activation explodes.
    """
    rng = torch.Generator().manual_seed(seed)
    state = {name: _draw(name, tensor, rng) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(_image(64, rng, batch=2))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.get_buffer("running_var").mul_(torch.rand(norm.num_features, generator=rng) + 0.5)
        norm.get_buffer("running_mean").add_(0.1 * torch.randn(norm.num_features, generator=rng))
        norm.get_buffer("num_batches_tracked").fill_(int(torch.randint(100, (), generator=rng)))
    return model.eval()


def _draw(name, tensor, rng):
    if tensor.dim() > 1:
        return torch.randn(tensor.shape, generator=rng) / tensor[0].numel() ** 0.5
    if name.endswith(("bn3.weight", "expand.1.weight")):
        # Faint branches: without a batch to normalize by, louder ones would multiply from block to block.
        return torch.rand(tensor.shape, generator=rng) * 0.1 + 0.05
    if name.endswith("weight"):
        return torch.rand(tensor.shape, generator=rng) * 0.5 + 0.5
    if tensor.dtype == torch.int64:
        return torch.zeros((), dtype=torch.int64)
    return (
        0.1 * torch.randn(tensor.shape, generator=rng) if name.endswith("bias") else torch.ones(tensor.shape)
    )


def _image(size, rng, batch=1):
    """Patches of color under noise: white noise alone would be averaged away before the classifier."""
    patches = torch.randn(batch, 3, 3, 3, generator=rng)
    return F.interpolate(patches, size=(size, size)) + 0.5 * torch.randn(batch, 3, size, size, generator=rng)


def _check_logits(model, expected_of, sizes):
    rng = torch.Generator().manual_seed(3)
    seen = []
    with torch.no_grad():
        for size in sizes:
            image = _image(size, rng)
            expected = expected_of(image)
            torch.testing.assert_close(model(image), expected, rtol=1e-5, atol=1e-5)
            seen.append(expected)
    # Small logits, as the tolerances presume, that follow the image: else they would show no fault.
    logits = torch.cat(seen)
    assert logits.abs().max() < 100
    assert logits.std(0).mean() > 0.05 * logits.std()


@pytest.mark.parametrize("depth", [26, 50, 101, 152])
def test_timm_weights_give_timms_logits_in_our_model(depth):
    theirs, ours = _fill(_theirs(depth), seed=1), _ours(depth).eval()
    ours.load_state_dict(from_timm(theirs.state_dict()), assign=True)
    _check_logits(ours, theirs, SIZES)


@pytest.mark.parametrize("depth", [26, 50, 101, 152])
def test_our_weights_give_our_logits_in_timms_model(depth):
    theirs, ours = _theirs(depth).eval(), _fill(_ours(depth), seed=2)
    theirs.load_state_dict(to_timm(ours.state_dict()), assign=True)
    _check_logits(theirs, ours, SIZES)


@pytest.mark.parametrize("depth", [26, *RELEASED_DEPTHS])
def test_names_and_shapes_are_those_of_the_other_model_at_every_depth(depth):
    ours, theirs = _ours(depth).state_dict(), _theirs(depth).state_dict()
    assert _shapes(from_timm(theirs)) == _shapes(ours)
    assert _shapes(to_timm(ours)) == _shapes(theirs)


def _shapes(state_dict):
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def test_there_and_back_is_the_same_bit_for_bit():
    state = {name: _random_bits(tensor) for name, tensor in _theirs(50).state_dict().items()}
    back = to_timm(from_timm(state))
    assert list(back) == list(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    ours = from_timm(state)
    again = from_timm(to_timm(ours))
    assert list(again) == list(ours)
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.items())


def _random_bits(tensor):
    return torch.rand(tensor.shape).to(tensor.dtype) + torch.randint(9, tensor.shape).to(tensor.dtype)


def test_another_number_of_classes_is_carried_over():
    assert from_timm(_theirs(50, num_classes=7).state_dict())["head.classifier.weight"].shape == (7, 2048)


def test_counters_of_updates_may_be_left_out():
    state = {k: v for k, v in _fill(_theirs(26), seed=1).state_dict().items() if "num_batches" not in k}
    converted = from_timm(state)
    assert len(converted) == len(state)
    ours = _ours(26).to_empty(device="cpu")
    ours.load_state_dict(converted)
    assert torch.equal(ours.get_parameter("backbone.stem.0.weight"), state["conv1.0.weight"])


@pytest.mark.parametrize(("state", "convert"), [(_theirs, from_timm), (_ours, to_timm)])
def test_unknown_and_missing_names_are_refused_by_name(state, convert):
    tensors = dict(state(26).state_dict())
    removed = next(name for name in tensors if name.endswith("running_var"))
    del tensors[removed]
    tensors["conv9.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match="unknown: 'conv9.weight'; missing: ") as refusal:
        convert(tensors)
    assert removed in str(refusal.value)


@pytest.mark.parametrize(("state", "convert"), [(_theirs, from_timm), (_ours, to_timm)])
def test_a_block_left_out_is_missed_by_name(state, convert):
    part = "layer3.0." if convert is from_timm else "backbone.c4.0."
    tensors = {name: tensor for name, tensor in state(26).state_dict().items() if part not in name}
    with pytest.raises(ValueError, match=f"; missing: '{part}".replace(".", r"\.")):
        convert(tensors)


def test_weights_in_our_own_names_are_not_taken_for_timms():
    with pytest.raises(
        ValueError, match=r"unknown: 'backbone\.stem\.0\.weight', .* more; missing: 'conv1\.0\.weight', "
    ):
        from_timm(_ours(26).state_dict())


def test_a_forged_block_index_does_not_make_a_list_of_a_billion_names():
    tensors = dict(_theirs(26).state_dict())
    tensors["layer1.999999999.conv1.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"unknown: 'layer1\.999999999\.conv1\.weight'\.$"):
        from_timm(tensors)


def test_a_2015_network_is_refused_for_want_of_squeeze_and_excitation():
    with torch.device("meta"):
        tensors = timm.create_model("resnet50d", pretrained=False).state_dict()
    with pytest.raises(ValueError, match=r"missing: 'maxpool\.0\.weight', .*layer1\.0\.se\.fc1\.weight"):
        from_timm(tensors)
