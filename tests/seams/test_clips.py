"""A backbone that the package does not know, of three dimensions, learns motion through the unchanged loop."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from resnet_rs import config
from resnet_rs.config import edit
from resnet_rs.data.shapes import Shapes
from resnet_rs.data.source import Splits
from resnet_rs.models.backbone import Arch, Backbone, Pyramid
from resnet_rs.models.layers import SqueezeExcite, StochasticDepth, init_as_released
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.events import Finished, Progressed
from resnet_rs.training.job import Job
from resnet_rs.training.machine import Machine
from resnet_rs.training.page import write_page
from resnet_rs.training.run import run
from resnet_rs.zoo import EXPERIMENTS


@dataclass(frozen=True, kw_only=True)
class ClipArch(Arch):
    """Four strided 3-D convolutions."""

    width: int = 8

    def build(self, *, in_channels):
        return ClipNet(self, in_channels=in_channels)


class ClipNet(Backbone):
    def __init__(self, arch, *, in_channels):
        super().__init__()
        self.widths = (arch.width, 2 * arch.width, 4 * arch.width, 4 * arch.width)
        channels = (in_channels, *self.widths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(channels[i], channels[i + 1], 3, stride=(1, 2, 2), padding=1, bias=False),
                nn.BatchNorm3d(channels[i + 1]),
                nn.ReLU(inplace=True),
            )
            for i in range(4)
        )
        self.excite = SqueezeExcite(channels[-1], ratio=0.25)
        self.drop = StochasticDepth(0.1, purpose="stochastic depth of the last stage")
        self.apply(init_as_released)

    def forward(self, images):
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return Pyramid(maps[0], maps[1], maps[2], maps[3] + self.drop(self.excite(maps[3])))


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "TRUSTED_PACKAGES", [*config.TRUSTED_PACKAGES, __name__.partition(".")[0]])
    splits = Splits(
        train=Shapes(num_samples=128, size=16, asks="motion", num_frames=6),
        test=Shapes(num_samples=64, size=16, asks="motion", num_frames=6, seed=1),
    )
    edits = {
        "data.size": 16,
        "data.flip": False,
        "recipe.batch_size": 16,
        "recipe.ema_decay": 0.9,
        "recipe.epochs": 8.0,
    }
    experiment = edit(replace(EXPERIMENTS["resnet-rs-tiny"], arch=ClipArch()), edits)

    def build(name):
        origin = {"name": "clips", "edits": {}, "changes": [], "data": "shapes", "num_test": 64}
        return Job(
            experiment=experiment.suited_to(splits.train.classes),
            splits=splits,
            folder=tmp_path / name,
            machine=Machine(device=Device.choose("cpu")),
            origin=origin,
        )

    return build


def test_motion_is_learned_and_a_stopped_run_continues_bit_for_bit(job):
    whole = [event for event in run(job("whole")) if isinstance(event, Finished)][0]
    # One in four by chance: no single frame tells where a shape moves to.
    assert whole.scores["top1"] > 0.5
    for event in run(job("cut")):
        if isinstance(event, Progressed) and event.update.step == 21:
            break
    list(run(job("cut")))
    first, second = (checkpoint.read(job(name).folder).load_model() for name in ("whole", "cut"))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert write_page(job("whole").folder, job("whole").splits).stat().st_size > 10_000


def test_what_clips_cost_is_counted(job):
    cost = job("x").experiment.count_cost(frames=6)
    # Stage one: 6 frames of 8 x 8 places, 27 taps of 1 channel, 8 outputs.
    assert cost.macs > 6 * 8 * 8 * 27 * 8
