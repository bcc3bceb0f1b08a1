"""Our networks as graphs: torch.fx (torchvision's `create_feature_extractor`), `torch.export`, tracing.

In a process of its own: what checks shapes in these tests does not take the stand-ins of torch.fx for tensors.
"""

import subprocess
import sys

PROGRAM = """
import warnings
import torch
from torchvision.models.feature_extraction import create_feature_extractor
from resnet_rs import config
from resnet_rs.bridges.model_garden import ModelGardenArch
from resnet_rs.models.efficientnet import EfficientNetArch
from resnet_rs.models.resnet import ResNetArch
from resnet_rs.tasks.classifier import Classifier

small = ResNetArch(blocks=(2, 1, 1, 1), width=0.125, drop_path=0.2, norm_momentum=0.1)
images, other = torch.randn(2, 3, 64, 64), torch.randn(3, 3, 32, 32)  # of different sizes
archs = {
    "released": small,
    "2015": config.edit(small, {"stem": "2015", "shortcut": "strided", "se_ratio": None}),
    "garden": ModelGardenArch.like(small),
    "efficientnet": EfficientNetArch(width=0.25, depth=0.5, norm_momentum=0.1),
}
def trained(network):
    network.train().zero_grad()
    torch.manual_seed(1)
    out = network(images)
    (out["head"] if isinstance(out, dict) else out).square().sum().backward()
    return [parameter.grad.clone() for parameter in network.parameters()]

for arch in archs.values():
    model = Classifier.build(arch, num_classes=5, drop_rate=0.25)
    model(images)  # running statistics of something

    graph = create_feature_extractor(model, ["backbone.c3", "backbone.c5", "head"])
    graph.eval(), model.eval()
    found, pyramid = graph(images), model.backbone(images)
    assert torch.equal(found["backbone.c3"], pyramid.c3) and torch.equal(found["backbone.c5"], pyramid.c5)
    assert torch.equal(found["head"], model(images))
    assert torch.equal(graph(other)["head"], model(other))

    assert all(map(torch.equal, trained(graph), trained(model)))  # with its draws

    model.eval()
    assert torch.equal(torch.export.export(model, (images,)).module()(images), model(images))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, images)
    torch.testing.assert_close(traced(images), model(images))
"""


def test_a_graph_computes_what_the_network_computes():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
