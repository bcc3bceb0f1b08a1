"""Resizing, against released evaluation images, TensorFlow 2 (`tests/assets/README.md`) and Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from resnet_rs.data.resample import Resampling, resize
from resnet_rs.data.view import center_view

GOLDEN = np.load(Path(__file__).parents[1] / "assets" / "eval-preprocess-golden.npz")
GARDEN = np.load(Path(__file__).parents[1] / "assets/foreign/bilinear.npz")
WAYS = list(get_args(Resampling))
IMAGES = [(name, size) for name in ("rocket", "coffee") for size in (160, 224, 256)]


def released_eval_error(decoded: np.ndarray, name: str, size: int) -> np.ndarray:
    view = center_view(*decoded.shape[:2], size=size, crop_ratio=0.875)
    return np.abs(view.pixels(decoded, resampling="tf1_bicubic") - GOLDEN[f"{name}/{size}"] / 64)


@pytest.mark.parametrize(("name", "size"), IMAGES)
def test_released_evaluation_images_are_equal_when_decoded_as_released(name, size):
    """Half a step of the stored values is 1/128. Nothing is left beyond it: crop and resampling are exact."""
    error = released_eval_error(decode_as_released(name), name, size)
    assert error.mean() <= 0.005
    assert error.max() <= 1 / 128 + 1e-4


@pytest.mark.parametrize(("name", "size"), IMAGES)
def test_released_evaluation_images_differ_by_the_decoder_alone(name, size):
    """Pillow decodes JPEG with the accurate inverse cosine transform, TensorFlow with the fast one.

    That alone makes 1.0 grey levels on average, after the same crop and resampling; antialiasing makes more.
    """
    decoded = np.array(Image.open(io.BytesIO(GOLDEN[f"{name}/jpeg"].tobytes())))
    error = released_eval_error(decoded, name, size).mean()
    assert error <= 1.1
    view = center_view(*decoded.shape[:2], size=size, crop_ratio=0.875)
    antialiased = view.pixels(decoded, resampling="bicubic")
    assert np.abs(antialiased - GOLDEN[f"{name}/{size}"] / 64).mean() > 1.5 * error


@pytest.mark.parametrize("name", ["rocket", "coffee"])
def test_released_overshoot_is_left_in_place(name):
    released = GOLDEN[f"{name}/160"] / 64
    decoded = decode_as_released(name)
    ours = center_view(*decoded.shape[:2], size=160, crop_ratio=0.875).pixels(
        decoded, resampling="tf1_bicubic"
    )
    assert ours.dtype == np.float32
    assert released.max() > 255
    assert ours.max() == pytest.approx(released.max(), abs=1 / 64)
    assert ours.min() == pytest.approx(released.min(), abs=1 / 64)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("resampling", WAYS)
def test_channels_do_not_mix(channels, resampling):
    pixels = np.random.default_rng(0).integers(0, 256, (23, 31, channels), dtype=np.uint8)
    whole = resize(pixels, height=12, width=40, resampling=resampling)
    for i in range(channels):
        alone = resize(pixels[:, :, i : i + 1], height=12, width=40, resampling=resampling)
        np.testing.assert_array_equal(whole[:, :, i : i + 1], alone)


@pytest.mark.parametrize(
    ("resampling", "kernel"),
    [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)],
)
def test_what_is_antialiased_is_pillows(resampling, kernel):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((17, 23), kernel))
    np.testing.assert_array_equal(resize(pixels, height=23, width=17, resampling=resampling), expected)


@pytest.mark.parametrize("size", [name for name in GARDEN.files if name != "image"])
def test_gardens_images_are_tensorflows(size):
    height, width = map(int, size.split("x"))
    found = resize(GARDEN["image"], height=height, width=width, resampling="tf2_bilinear")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, GARDEN[size], atol=1e-3)


@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    new_height=st.integers(1, 30),
    new_width=st.integers(1, 30),
    resampling=st.sampled_from(WAYS),
)
@settings(max_examples=60, deadline=None)
def test_one_color_stays_that_color_at_any_size(height, width, new_height, new_width, resampling):
    pixels = np.full((height, width, 3), (0, 77, 255), dtype=np.uint8)
    resized = resize(pixels, height=new_height, width=new_width, resampling=resampling)
    assert resized.shape == (new_height, new_width, 3)
    np.testing.assert_allclose(resized, np.broadcast_to((0, 77, 255), resized.shape), atol=1e-4)


@pytest.mark.parametrize("resampling", WAYS)
def test_the_same_size_changes_nothing(resampling):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(pixels, height=9, width=14, resampling=resampling), pixels)


@pytest.mark.parametrize("resampling", WAYS)
def test_the_result_is_new_memory_that_can_be_written(resampling):
    pixels = np.zeros((5, 5, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    resized = resize(pixels, height=5, width=5, resampling=resampling)
    assert resized.flags.writeable
    assert not np.shares_memory(resized, pixels)


@pytest.mark.parametrize(("resampling", "is_lost"), list(zip(WAYS, (False, True, False, True), strict=True)))
def test_what_is_antialiased_reads_every_pixel(resampling, is_lost):
    """From 64 pixels to 2: one white pixel far from both sampling places is lost without antialiasing."""
    pixels = np.zeros((1, 64, 1), dtype=np.uint8)
    pixels[0, 22] = 255
    assert (resize(pixels, height=1, width=2, resampling=resampling).max() == 0) == is_lost


def decode_as_released(name: str) -> np.ndarray:
    """The JPEG as TensorFlow decodes it: fast inverse cosine transform, smooth upsampling of halved color.

    Pillow's draft decoder takes the fast transform but repeats halved color instead of smoothing it; so it is
    asked for color as stored, and the smoothing of libjpeg (weights 9, 3, 3 and 1) is done here.
    """
    image = Image.open(io.BytesIO(GOLDEN[f"{name}/jpeg"].tobytes()))
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    if image.layer[0][1:3] != (2, 2):
        image.decoderconfig = (1, 1)
        return np.array(image)
    image.draft("YCbCr", None)
    image.decoderconfig = (1, 1)
    stored = np.array(image).astype(np.int64)
    luma = stored[:, :, 0]
    blue, red = (upsample(stored[::2, ::2, i])[: luma.shape[0], : luma.shape[1]] - 128 for i in (1, 2))
    half = 1 << 15
    channels = [
        luma + ((91881 * red + half) >> 16),
        luma + ((-22554 * blue - 46802 * red + half) >> 16),
        luma + ((116130 * blue + half) >> 16),
    ]
    return np.clip(np.stack(channels, axis=2), 0, 255).astype(np.uint8)


def upsample(plane: np.ndarray) -> np.ndarray:
    """Twice as many rows and columns, each mixed 3 : 1 with its neighbor, rounded as libjpeg does."""
    height, width = plane.shape
    above, below = plane[[0, *range(height - 1)]], plane[[*range(1, height), height - 1]]
    tall = np.stack([3 * plane + above, 3 * plane + below], axis=1).reshape(2 * height, width)
    left, right = tall[:, [0, *range(width - 1)]], tall[:, [*range(1, width), width - 1]]
    return np.stack([(3 * tall + left + 8) >> 4, (3 * tall + right + 7) >> 4], axis=2).reshape(
        2 * height, 2 * width
    )
