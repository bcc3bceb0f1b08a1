"""The center of a resized image, with timm's and torchvision's own transforms as oracles."""

import numpy as np
import pytest
import timm.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from resnet_rs import paper
from resnet_rs.config import edit
from resnet_rs.data.pipeline import Data
from resnet_rs.data.sample import Sample
from resnet_rs.data.target import Label
from resnet_rs.data.view import View, center_view, resized_center_view

SHAPES = [(375, 500), (500, 375), (333, 499), (120, 77), (70, 64), (901, 130)]


def image(height, width):
    """Smooth, as photographs are, with sharp dots."""
    rng = np.random.default_rng(height * width)
    coarse = rng.normal(128, 70, (height // 16 + 2, width // 16 + 2, 3)).clip(0, 255).astype(np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    pixels[rng.random((height, width)) < 0.02] = 255
    return pixels


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", paper.TIMM)
def test_timms_evaluation_is_had_bit_for_bit(name, shape):
    theirs = paper.TIMM[name]
    data = Data(size=theirs.size, crop_ratio=theirs.crop_ratio, crop_first=False)
    pixels = image(*shape)
    transform = timm.data.create_transform(
        (3, theirs.size, theirs.size),
        crop_pct=theirs.crop_ratio,
        crop_mode="center",
        interpolation="bicubic",
        normalize=False,
    )
    expected = transform(Image.fromarray(pixels))
    assert torch.equal(data.test_input(Sample(pixels, Label(0), ""))[0], expected)
    first = edit(data, {"crop_first": True}).test_input(Sample(pixels, Label(0), ""))[0]
    assert not torch.equal(first, expected)  # the other order is another image


@given(
    height=st.integers(9, 90), width=st.integers(9, 90), size=st.integers(8, 60), resized=st.integers(0, 40)
)
@settings(max_examples=60, deadline=None)
def test_torchvisions_resize_and_crop_are_had_bit_for_bit(height, width, size, resized):
    data = Data(size=size, crop_ratio=size / (size + resized), crop_first=False, resampling="bilinear")
    pixels = image(height, width)
    transform = v2.Compose([v2.Resize(size + resized), v2.CenterCrop(size), v2.PILToTensor()])
    assert torch.equal(data.test_input(Sample(pixels, Label(0), ""))[0], transform(Image.fromarray(pixels)))


@given(height=st.integers(9, 90), width=st.integers(9, 90), size=st.integers(8, 60))
@settings(max_examples=60, deadline=None)
def test_a_mask_stays_under_its_image(height, width, size):
    """Every pixel holds its own place, which image and mask must agree on to one pixel of the coarser grid."""
    view = resized_center_view(height, width, size=size, crop_ratio=0.8)
    rows, columns = np.indices((height, width))
    pixels = view.pixels(np.stack([rows, columns], 2).astype(np.uint8), resampling="bilinear").astype(float)
    mask = view.values(rows * width + columns, outside=0)
    tolerance = 1 + max(1, min(height, width) / size)
    assert np.abs(pixels[:, :, 0] - mask // width).max() <= tolerance
    assert np.abs(pixels[:, :, 1] - mask % width).max() <= tolerance


def test_every_frame_of_a_clip_is_treated_alike():
    view = resized_center_view(30, 50, size=16, crop_ratio=0.8)
    frames = np.stack([image(30, 50), image(30, 50)[::-1]])
    found = view.pixels(frames, resampling="bicubic")
    assert np.array_equal(found, [view.pixels(frame, resampling="bicubic") for frame in frames])


def test_a_strip_is_not_blown_up():
    assert resized_center_view(1, 50_000_000, size=224, crop_ratio=1.0) == center_view(
        1, 50_000_000, size=224, crop_ratio=1.0
    )


def test_nothing_is_resized_twice():
    with pytest.raises(ValueError, match="must not resize the crop again"):
        View(image=(9, 9), top=0, left=0, height=8, width=8, flip=False, size=(16, 16), resized=(20, 20))
