"""Our networks where people work already: in timm by name, as encoders of segmentation, in torchvision's detectors."""

import subprocess
import sys
from collections import OrderedDict

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FeaturePyramidNetwork

import resnet_rs as rs
import resnet_rs.bridges.timm  # registers
from resnet_rs.bridges import released
from resnet_rs.bridges.timm_names import DEPTHS, from_timm, to_timm
from resnet_rs.paper import RELEASED


def test_names_and_tags_are_the_released_configurations():
    tagged = {f"resnet_rs_{name.split('-')[2]}.{name.split('-')[3]}" for name in RELEASED}
    assert set(timm.list_models("resnet_rs_*", pretrained=True)) == tagged
    for name in RELEASED:
        _, _, depth, size = name.split("-")
        facts = timm.get_pretrained_cfg(f"resnet_rs_{depth}.{size}")
        side = int(size[1:])
        assert facts.input_size == (3, side, side) and facts.crop_pct == 0.875
        assert facts.url == released.remote_file(name).url
    assert timm.get_pretrained_cfg("resnet_rs_152").tag == "i256"


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_network_by_name_is_ours_of_that_depth(depth):
    with torch.device("meta"):
        made = timm.create_model(f"resnet_rs_{depth}")
        ours = rs.experiment(next(n for n in RELEASED if f"-{depth}-" in n)).build_model()
    assert {n: t.shape for n, t in made.state_dict().items()} == {
        n: t.shape for n, t in ours.state_dict().items()
    }


def test_timms_weights_load_by_its_own_ways(tmp_path):
    theirs = timm.create_model("resnetrs50", num_classes=4).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = timm.create_model(
        "resnet_rs_50",
        pretrained=True,
        num_classes=4,
        pretrained_cfg_overlay={"file": str(tmp_path / "theirs.pth"), "num_classes": 4},
    ).eval()
    back = to_timm(ours.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        difference = (ours(x) - theirs(x)).abs().max() / theirs(x).abs().max()
    assert difference < 1e-5
    assert set(from_timm(theirs.state_dict())) == set(ours.state_dict())


def test_weights_of_ones_own_are_not_replaced_by_the_published(monkeypatch):
    monkeypatch.setattr(released, "tensors", lambda *a: pytest.fail("the published weights were fetched"))
    with pytest.raises(Exception, match="127.0.0.1|refused|urlopen"):
        timm.create_model(
            "resnet_rs_50", pretrained=True, pretrained_cfg_overlay={"url": "http://127.0.0.1:9/mine.pth"}
        )


def test_the_module_offers_what_it_says():
    assert all(hasattr(resnet_rs.bridges.timm, name) for name in resnet_rs.bridges.timm.__all__)


def test_options_of_timm_reach_the_network():
    model = timm.create_model("resnet_rs_50", drop_rate=0.3, drop_path_rate=0.2, in_chans=1, num_classes=3)
    assert model.drop_rate == 0.3 and model.head.dropout.drop_rate == 0.3 and model.in_chans == 1
    rates = {m.drop_rate for m in model.backbone.modules() if type(m).__name__ == "StochasticDepth"}
    assert sorted(rates) == pytest.approx([0.08, 0.12, 0.16, 0.2])
    assert model.backbone.stem[1].momentum == 0.1


def test_segmentation_models_find_our_encoders():
    network = smp.Unet("tu-resnet_rs_50", encoder_weights=None, classes=4).eval()
    assert network.encoder.out_channels == [3, 64, 256, 512, 1024, 2048]
    with torch.no_grad():
        assert network(torch.randn(1, 3, 64, 64)).shape == (1, 4, 64, 64)


def test_torchvisions_pyramid_takes_our_maps():
    backbone = rs.create_model("resnet-rs-50-i160", features_only=True).eval()
    maps = backbone(torch.randn(1, 3, 96, 96))
    named = OrderedDict(maps._asdict())
    pyramid = FeaturePyramidNetwork(list(backbone.widths), 32)(named)
    assert {name: tuple(m.shape[1:]) for name, m in pyramid.items()} == {
        name: (32, side, side) for name, side in zip(("c2", "c3", "c4", "c5"), (24, 12, 6, 3), strict=True)
    }


def test_torchvisions_detector_trains_and_detects_with_our_backbone():
    backbone = rs.create_model("resnet-rs-tiny", in_chans=3, features_only=True)
    layers = {name: str(i) for i, name in enumerate(("c2", "c3", "c4", "c5"))}
    with_pyramid = BackboneWithFPN(backbone, layers, list(backbone.widths), 32)
    detector = FasterRCNN(with_pyramid, num_classes=3, min_size=64, max_size=64)
    images = [torch.rand(3, 64, 64) for _ in range(2)]
    targets = [
        {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])} for _ in range(2)
    ]
    losses = detector.train()(images, targets)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in backbone.parameters())
    assert {"boxes", "labels", "scores"} == set(detector.eval()(images)[0])


def test_without_timm_the_import_says_what_to_install():
    program = "import sys; sys.modules['timm'] = None\nimport resnet_rs.bridges.timm"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode and "pip install 'resnet-rs[timm]'" in done.stderr


def test_our_own_code_runs_without_timm_and_the_hub():
    program = (
        "import sys\nfor name in ('timm', 'huggingface_hub', 'h5py'): sys.modules[name] = None\n"
        "import resnet_rs as rs\nrs.create_model('resnet-rs-tiny').set_grad_checkpointing()\n"
        "import resnet_rs.weights.share, resnet_rs.weights.pull"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
