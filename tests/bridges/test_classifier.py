"""timm's methods on our networks: what timm's own tests of its models ask for, and a plain network as oracle."""

import copy

import pytest
import timm
import torch
from torch import nn

import resnet_rs as rs
import resnet_rs.bridges.timm
from resnet_rs import config
from resnet_rs.models.resnet import ResNetArch
from resnet_rs.tasks.classifier import Classifier
from resnet_rs.zoo import EXPERIMENTS

SMALL = ResNetArch(blocks=(2, 1, 1, 1), width=0.125)
KINDS = {
    "released": SMALL,
    "2015": config.edit(SMALL, {"stem": "2015", "shortcut": "strided", "se_ratio": None}),
    "small": config.edit(SMALL, {"stem": "small"}),
    "efficientnet": EXPERIMENTS["efficientnet-b0"].arch,
}


@pytest.fixture(params=KINDS)
def arch(request):
    return config.edit(KINDS[request.param], {"norm_momentum": 0.1})


RGB = {"data.mean": (0.5,) * 3, "data.std": (0.2,) * 3}


def shapes(state_dict):
    return {name: tensor.shape for name, tensor in state_dict.items()}


def images(size=64, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def plain(arch, **options):
    """As timm makes it."""
    return timm.create_model("resnet_rs", arch=config.to_plain(arch), **options)


def test_logits_are_those_of_the_network_without_the_methods():
    for name in ("resnet-rs-tiny", "efficientnet-b0"):
        model = rs.create_model(name, num_classes=7).eval()
        x = images(32, channels=model.in_chans)
        assert torch.equal(model(x), model.head(model.backbone(x)))
        expected = config.edit(EXPERIMENTS[name], RGB | {"task.num_classes": 7}).build_model().state_dict()
        assert shapes(model.state_dict()) == shapes(expected)


def test_every_parameter_has_a_gradient(arch):
    model = plain(arch, num_classes=42).train()
    out = model(images())
    assert out.shape == (2, 42) and not out.isnan().any()
    out.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_features_head_and_classifier_are_what_timm_asks_for(arch):
    model = plain(arch, num_classes=5).eval()
    x = images(96)
    features = model.forward_features(x)
    side = 96 // model.feature_info[-1]["reduction"]
    assert features.shape == (2, model.num_features, side, side)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert torch.equal(model.forward_head(features), model(x)) and model(x).shape == (2, 5)
    assert model.get_classifier() is model.head.classifier
    pooled = model.forward_head(features, pre_logits=True)
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled) and model.num_classes == 0
    model.reset_classifier(0, "")
    assert torch.equal(model(x), features)
    model.reset_classifier(3, "avg")
    assert model(x).shape == (2, 3) and model.num_classes == 3 and model.get_classifier().out_features == 3


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"num_classes": 0, "global_pool": ""}])
def test_a_network_may_be_made_without_a_classifier(arch, options):
    model = plain(arch, **options).eval()
    out = model(images())
    assert out.shape[:2] == (2, model.num_features) and out.dim() == (4 if "global_pool" in options else 2)
    assert not [name for name in model.state_dict() if name.startswith("head")]


def test_maps_are_what_their_description_says(arch):
    model = plain(arch).eval()
    x = images(96)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x)) and torch.equal(last, maps[-1])
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
    assert [96 // m.shape[2] for m in maps] == [info["reduction"] for info in model.feature_info]
    pyramid = model.backbone(x)
    assert all(torch.equal(a, b) for a, b in zip(maps[1:], pyramid, strict=True))
    seen = {}
    for info in model.feature_info:
        model.get_submodule(info["module"]).register_forward_hook(
            lambda module, given, out, name=info["module"]: seen.setdefault(name, out.clone())
        )
    model(x)
    assert all(torch.equal(seen[i["module"]], m) for i, m in zip(model.feature_info, maps, strict=True))


def test_features_only_gives_the_chosen_maps(arch):
    x = images()
    for indices in (None, (0,), (1, 3), (-2, -1)):
        options = {} if indices is None else {"out_indices": indices}
        extractor = plain(arch, features_only=True, **options).eval()
        maps = extractor(x)
        assert [m.shape[1] for m in maps] == extractor.feature_info.channels()
        assert [64 // m.shape[2] for m in maps] == extractor.feature_info.reduction()
        assert len(maps) == (5 if indices is None else len(indices))
    last = plain(arch, features_only=True, out_indices=(0,))
    assert not [name for name, _ in last.named_parameters() if ".c2." in name or ".head." in name]


def test_stopping_early_computes_nothing_beyond():
    model = plain(SMALL).eval()
    whole = model.forward_intermediates(images(), indices=[1, 2], intermediates_only=True)
    model.backbone.c5 = nn.Linear(1, 1)  # of a map it would fail
    last, maps = model.forward_intermediates(images(), indices=[1, 2], stop_early=True)
    assert all(torch.equal(a, b) for a, b in zip(whole, maps, strict=True)) and torch.equal(last, maps[-1])


def test_timms_weights_are_taken_as_they_are(tmp_path):
    theirs = timm.create_model("resnetrs50", num_classes=3)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = timm.create_model("resnet_rs_50", num_classes=3, checkpoint_path=tmp_path / "theirs.pth")
    assert torch.equal(ours.head.classifier.weight, theirs.fc.weight)
    ours.load_state_dict(ours.state_dict())


def test_a_copy_and_a_stored_network_are_the_same(tmp_path):
    model = plain(SMALL).eval()
    torch.save(model, tmp_path / "model.pt")
    for again in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert torch.equal(again(images()), model(images())) and again.feature_info == model.feature_info


def test_checkpointing_is_turned_on_and_off():
    model = plain(SMALL)
    for enable in (True, False):
        model.set_grad_checkpointing(enable)
        assert model.backbone.c3.activation_checkpointing is enable


def test_groups_of_parameters_go_by_depth():
    model = plain(SMALL)
    from timm.models import group_parameters

    fine = group_parameters(model, model.group_matcher(), reverse=True)
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert fine["backbone.stem.0.weight"] == coarse["backbone.stem.0.weight"] == 0
    layers = [fine[f"backbone.{block}.reduce.0.weight"] for block in ("c2.0", "c2.1", "c3.0", "c4.0", "c5.0")]
    assert layers == sorted(set(layers)) and fine["head.classifier.bias"] > layers[-1]
    assert coarse["backbone.c2.0.reduce.0.weight"] == coarse["backbone.c2.1.reduce.0.weight"]


def test_a_network_says_how_images_become_its_inputs():
    model = rs.create_model("resnet-rs-50-i160")
    said = timm.data.resolve_model_data_config(model)
    assert said == {
        "input_size": (3, 160, 160),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    assert f"{model.pretrained_cfg['first_conv']}.weight" in model.state_dict()
    assert f"{model.pretrained_cfg['classifier']}.weight" in model.state_dict()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.forward_intermediates(images(), output_fmt="NHWC"), "must be 'NCHW', got 'NHWC'"),
        (lambda m: m.forward_intermediates(images(), indices=[5]), r"0 to 4, or -5 to -1, .*got \[5\]"),
        (
            lambda m: m.forward_intermediates(images(), indices=6),
            "a number of last maps from 1 to 5, got 6",
        ),
        (lambda m: m.forward_intermediates(images(), indices=[]), "indices of maps must be"),
        (lambda m: m.reset_classifier(-1), "0 or more, got -1"),
        (lambda m: m.reset_classifier(3, "max"), '"avg" or "" .* got \'max\''),
        (lambda m: m.reset_classifier(3, ""), "needs pooled features"),
        (lambda m: plain(SMALL, global_pool=""), "needs pooled features"),
        (lambda m: timm.create_model("resnet_rs"), r"Give arch="),
        (lambda m: rs.create_model("resnet-rs-tiny", num_classes=-1), "0 or more, got -1"),
        (lambda m: Classifier.build(SMALL, num_classes=-1), "num_classes must be 0 or more"),
        (lambda m: Classifier.build(SMALL, global_pool="max"), "got 'max'"),
        (lambda m: plain(SMALL, output_stride=16), "output_stride must be 32, got 16"),
    ],
)
def test_what_cannot_be_is_refused_in_words(call, said):
    with pytest.raises(ValueError, match=said):
        call(Classifier.build(SMALL, num_classes=2))


def test_a_refused_reset_changes_nothing():
    model = plain(SMALL, num_classes=3).eval()
    with pytest.raises(ValueError, match="needs pooled features"):
        model.reset_classifier(3, "")
    assert model(images()).shape == (2, 3) and model.global_pool == "avg"


def test_no_classes_are_pooled_features():
    model = rs.create_model("resnet-rs-tiny", num_classes=0).eval()
    assert model(images(28)).shape == (2, model.num_features)


def test_registration_leaves_timms_own_networks_alone():
    assert set(timm.list_models("resnet_rs*")) == {
        "resnet_rs",
        *(f"resnet_rs_{d}" for d in resnet_rs.bridges.timm.DEPTHS),
    }
    assert type(timm.create_model("resnetrs50")).__module__ == "timm.models.resnet"
