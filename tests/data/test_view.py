"""Views: their geometry, the laws they obey, and the distribution of random ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_rs.data.view import CropDistribution, View, center_view, random_view

RESAMPLINGS = ["bicubic", "tf1_bicubic"]


@st.composite
def views_of_images(draw) -> tuple[int, int, View]:
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    view = View(
        image=(height, width),
        top=top,
        left=left,
        height=draw(st.integers(1, height - top)),
        width=draw(st.integers(1, width - left)),
        flip=draw(st.booleans()),
        size=(draw(st.integers(1, 40)), draw(st.integers(1, 40))),
    )
    return height, width, view


@given(case=views_of_images(), resampling=st.sampled_from(RESAMPLINGS))
@settings(max_examples=150, deadline=None)
def test_image_and_mask_stay_aligned_in_any_view(case, resampling):
    """Every pixel of image and mask holds its own row and column, and the two must name about one place.

    Bicubic bends a ramp near its ends by less than 0.6 pixels of the coarser grid; `tf1_bicubic` lets corners
    coincide instead of centers, which moves the image by up to another half.
    """
    height, width, view = case
    rows, columns = np.indices((height, width))
    image = np.stack([rows, columns], axis=2).astype(np.uint8)
    pixels = view.pixels(image, resampling=resampling).astype(np.float64)
    mask = view.values(rows * width + columns, outside=0)
    for values, classes, (length, size) in (
        (pixels[:, :, 0], mask // width, (view.height, view.size[0])),
        (pixels[:, :, 1], mask % width, (view.width, view.size[1])),
    ):
        grid = max(1.0, length / size)
        tolerance = 0.5 + 0.6 * grid + (0.5 * grid if resampling == "tf1_bicubic" else 0.5)
        assert np.abs(values - classes).max() <= tolerance


@given(case=views_of_images(), resampling=st.sampled_from(RESAMPLINGS))
@settings(max_examples=50, deadline=None)
def test_a_flipped_view_is_the_mirror_image_of_the_view(case, resampling):
    height, width, view = case
    plain, mirrored = (View(**{**vars(view), "flip": flip}) for flip in (False, True))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    classes = np.random.default_rng(1).integers(0, 9, (height, width))
    one, other = (v.pixels(image, resampling=resampling) for v in (plain, mirrored))
    np.testing.assert_array_equal(one[:, ::-1], other)
    np.testing.assert_array_equal(
        plain.values(classes, outside=0)[:, ::-1], mirrored.values(classes, outside=0)
    )


def test_flipping_twice_is_the_identity():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    classes = np.random.default_rng(1).integers(0, 9, (16, 16))
    view = View(image=(16, 16), top=0, left=0, height=16, width=16, flip=True, size=(16, 16))
    once = view.pixels(image, resampling="bicubic")
    assert not np.array_equal(once, image)
    np.testing.assert_array_equal(view.pixels(once, resampling="bicubic"), image)
    np.testing.assert_array_equal(view.values(view.values(classes, outside=0), outside=0), classes)


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize("flip", [False, True])
def test_every_frame_of_a_clip_is_seen_as_an_image_would_be(resampling, flip):
    clip = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
    view = View(image=(20, 30), top=2, left=5, height=17, width=11, flip=flip, size=(8, 8))
    frames = view.pixels(clip, resampling=resampling)
    assert frames.shape == (4, 8, 8, 3)
    for frame, image in zip(frames, clip, strict=True):
        np.testing.assert_array_equal(frame, view.pixels(image, resampling=resampling))


def test_a_mask_takes_the_pixel_under_each_center():
    """Three of six: centers lie between two pixels, and the second counts. Six of three: each twice."""
    classes = np.arange(6)[None, :].repeat(6, axis=0)
    smaller = View(image=(6, 6), top=0, left=0, height=6, width=6, flip=False, size=(3, 3)).values(
        classes, outside=0
    )
    assert smaller[0].tolist() == [1, 3, 5]
    larger = View(image=(6, 6), top=0, left=0, height=3, width=3, flip=True, size=(6, 6)).values(
        classes, outside=0
    )
    assert larger[0].tolist() == [2, 2, 1, 1, 0, 0]


@pytest.mark.parametrize(("resampling", "dtype"), [("bicubic", np.uint8), ("tf1_bicubic", np.float32)])
@pytest.mark.parametrize("side", [12, 20])
def test_pixels_are_new_contiguous_memory_of_one_type(resampling, dtype, side):
    """Resized or not: a batch stacks both, and nobody may write into a source through its views."""
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    image.flags.writeable = False
    pixels = View(image=(20, 20), top=0, left=0, height=side, width=side, flip=False, size=(20, 20)).pixels(
        image, resampling=resampling
    )
    assert pixels.dtype == dtype
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous
    assert not np.shares_memory(pixels, image)


@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_a_crop_of_the_right_size_is_not_resized(resampling):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    view = View(image=(20, 30), top=3, left=7, height=16, width=16, flip=False, size=(16, 16))
    np.testing.assert_array_equal(view.pixels(image, resampling=resampling), image[3:19, 7:23])


@pytest.mark.parametrize(
    ("height", "width", "size", "top", "left", "side"),
    [
        (427, 640, 160, 27, 134, 373),
        (427, 640, 224, 27, 134, 373),
        (400, 600, 160, 26, 126, 349),
        (400, 600, 224, 25, 125, 350),
    ],
)
def test_center_view_is_the_released_crop(height, width, size, top, left, side):
    """Worked by hand from the released formula; `test_resample.py` compares the images that come of it."""
    expected = View(
        image=(height, width), top=top, left=left, height=side, width=side, flip=False, size=(size, size)
    )
    assert center_view(height, width, size=size, crop_ratio=0.875) == expected


@given(height=st.integers(1, 400), width=st.integers(1, 400), size=st.integers(1, 400))
@settings(max_examples=100, deadline=None)
def test_a_crop_ratio_of_one_takes_the_whole_short_side(height, width, size):
    view = center_view(height, width, size=size, crop_ratio=1.0)
    assert view.height == view.width == min(height, width)
    assert abs(2 * view.top + view.height - height) <= 1
    assert abs(2 * view.left + view.width - width) <= 1


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    least_area=st.floats(0.05, 0.9),
    least_aspect=st.floats(0.4, 1.0),
    most_aspect=st.floats(1.0, 2.5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=300, deadline=None)
def test_random_views_keep_within_area_and_aspect(height, width, least_area, least_aspect, most_aspect, seed):
    law = CropDistribution(area=(least_area, 0.95), aspect=(least_aspect, most_aspect), crop_ratio=0.875)
    view = random_view(height, width, size=32, crops=law, rng=np.random.default_rng(seed))
    assert view.top + view.height <= height
    assert view.left + view.width <= width
    center = center_view(height, width, size=32, crop_ratio=0.875)
    if (view.top, view.left, view.height, view.width) == (
        center.top,
        center.left,
        center.height,
        center.width,
    ):
        return
    share = view.height * view.width / (height * width)
    assert max(least_area, 0.1) - 1e-9 <= share <= 0.95 + 1e-9
    assert view.height * least_aspect - 0.5 <= view.width <= view.height * most_aspect + 0.5


def test_random_views_of_a_photo_spread_over_all_sizes_places_and_both_directions():
    """Heights are even within bounds: shares from 0.1 to almost 1 occur, the center view hardly ever."""
    rng = np.random.default_rng(0)
    views = [random_view(375, 500, size=160, crops=CropDistribution(), rng=rng) for _ in range(3000)]
    shares = np.array([view.height * view.width for view in views]) / (375 * 500)
    assert shares.min() < 0.11
    assert shares.max() > 0.95
    assert np.mean([view.flip for view in views]) == pytest.approx(0.5, abs=0.04)
    middles = np.array([(view.top + view.height / 2, view.left + view.width / 2) for view in views])
    np.testing.assert_allclose(middles.mean(axis=0), (187, 250), atol=5)
    assert middles.std(axis=0).min() > 30
    centers = sum((view.height, view.width) == (327, 327) for view in views)
    assert centers < 30


def test_crops_between_the_least_area_and_the_least_cover_never_happen():
    """The release asks for an area of 0.08 and a cover of 0.1; without the latter, 6 % are smaller."""
    rng = np.random.default_rng(0)
    shares = {0.0: [], 0.1: []}
    for min_covered, found in shares.items():
        for _ in range(1000):
            view = random_view(375, 500, size=160, crops=CropDistribution(min_covered=min_covered), rng=rng)
            found.append(view.height * view.width / (375 * 500))
    assert min(shares[0.1]) >= 0.1
    assert 0.08 <= min(shares[0.0]) < 0.09


def test_a_random_view_is_a_function_of_the_generator():
    def draw(seed: int) -> list[View]:
        rng = np.random.default_rng(seed)
        return [random_view(100, 140, size=32, crops=CropDistribution(), rng=rng) for _ in range(20)]

    assert draw(1) == draw(1)
    assert not set(map(str, draw(1))) & set(map(str, draw(2)))


def test_views_are_not_mirrored_where_the_law_forbids_it():
    rng = np.random.default_rng(0)
    law = CropDistribution(flip=False)
    assert not any(random_view(40, 40, size=32, crops=law, rng=rng).flip for _ in range(200))


def test_a_draw_of_the_whole_image_gives_the_center_view():
    law = CropDistribution(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=False, crop_ratio=0.875)
    view = random_view(64, 64, size=224, crops=law, rng=np.random.default_rng(0))
    assert view == center_view(64, 64, size=224, crop_ratio=0.875)


def test_ten_failures_give_the_center_view():
    law = CropDistribution(area=(0.9, 1.0), flip=False)
    view = random_view(10, 1000, size=224, crops=law, rng=np.random.default_rng(0))
    assert view == center_view(10, 1000, size=224, crop_ratio=0.875)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20000), (20000, 1), (2, 3)])
@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_degenerate_images_have_views(height, width, resampling):
    image = np.full((height, width, 3), 99, dtype=np.uint8)
    center = center_view(height, width, size=32, crop_ratio=0.875)
    drawn = random_view(height, width, size=32, crops=CropDistribution(), rng=np.random.default_rng(0))
    whole = View(image=(height, width), top=0, left=0, height=height, width=width, flip=True, size=(32, 32))
    for view in (center, drawn, whole):
        np.testing.assert_allclose(
            view.pixels(image, resampling=resampling), np.full((32, 32, 3), 99), atol=1e-4
        )
        assert view.values(np.full((height, width), 7), outside=0).tolist() == [[7] * 32] * 32


def test_a_view_beyond_the_image_is_refused_with_both_named():
    view = View(image=(12, 10), top=5, left=0, height=6, width=6, flip=False, size=(4, 4))
    for refused in (
        lambda: view.pixels(np.zeros((10, 10, 3), dtype=np.uint8), resampling="bicubic"),
        lambda: view.values(np.zeros((10, 10), dtype=np.int64), outside=0),
    ):
        with pytest.raises(ValueError, match="is for an image of 12 x 10 pixels, got 10 x 10"):
            refused()
