"""A backbone of three dimensions that the package does not know learns motion from clips of requested frames."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from seams.conftest import BASE
from shapes import Shapes
from torch import nn

from resnet_rs.config import edit
from resnet_rs.data.pipeline import FrameSampling
from resnet_rs.data.sample import Frames, Request
from resnet_rs.data.source import Splits
from resnet_rs.models.backbone import Arch, Backbone, Pyramid
from resnet_rs.models.layers import SqueezeExcite, StochasticDepth, init_as_released


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


EXPERIMENT = edit(
    replace(BASE, arch=ClipArch()),
    {
        "data.frames": {"type": "resnet_rs.data.pipeline.FrameSampling", "count": 6, "stride": 2},
        "recipe.epochs": 8.0,
    },
)
SPLITS = Splits(
    train=Shapes(num_samples=128, size=16, asks="motion", num_frames=16),
    test=Shapes(num_samples=64, size=16, asks="motion", num_frames=16, seed=1),
)


def test_motion_is_learned_from_the_frames_that_were_asked_for(trained):
    # One in four by chance: no single frame tells where a shape moves to.
    assert trained(EXPERIMENT, SPLITS).scores["top1"] > 0.5
    # Stage one: 6 frames of 8 x 8 places, 27 taps of 1 channel, 8 outputs.
    assert EXPERIMENT.count_cost().macs > 6 * 8 * 8 * 27 * 8


def test_a_request_names_the_frames_and_training_draws_where_a_clip_begins():
    source, data = SPLITS.train, EXPERIMENT.data
    whole = source.read(0, Request(1)).input
    clip = source.read(0, Request(1, Frames(count=4, stride=3, start=1.0))).input
    np.testing.assert_array_equal(clip, whole[[6, 9, 12, 15]])
    begins = [Frames(count=13, start=i / 8).indices(16)[0] for i in range(8)]
    assert begins == [0, 0, 1, 1, 2, 2, 3, 3]  # as many starts for the first place as for the last
    starts = {data.train_request(seed=0, epoch=i, index=0).frames.start for i in range(8)}
    assert len(starts) == 8 and data.test_request().frames.start == 0.5


@pytest.mark.parametrize(
    ("length", "expected"), [(16, [3, 5, 7, 9, 11, 13]), (3, [0, 2, 2, 2, 2, 2]), (1, [0] * 6)]
)
def test_short_videos_repeat_their_last_frame(length, expected):
    assert Frames(count=6, stride=2, start=0.5).indices(length).tolist() in (
        expected,
        [i - 1 for i in expected],
    )


def test_frame_sampling_refuses_less_than_one():
    with pytest.raises(ValueError, match="1 or more"):
        FrameSampling(count=0)
