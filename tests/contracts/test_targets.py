"""Laws of every kind of target: it follows views as its image does, and the names of classes whatever their order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_rs.data.target import Boxes, Depth, Label, Labels, Mask, SoftLabel, Target
from resnet_rs.data.view import View, resized_center_view

SIZE = (24, 30)
RNG = np.random.default_rng(0)
TARGETS = {
    "label": Label(2),
    "labels": Labels((0, 2)),
    "soft label": SoftLabel(np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)),
    "mask": Mask(RNG.integers(-1, 4, SIZE)),
    "depth": Depth(np.where(RNG.random(SIZE) < 0.1, np.nan, RNG.random(SIZE)).astype(np.float32)),
    "boxes": Boxes(
        np.array([[3, 4, 12, 20], [10, 2, 29, 9], [0, 0, 30, 24]], dtype=np.float32), np.array([0, 3, 1])
    ),
}
BY_KIND = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def values(target):
    """What a target holds, as arrays."""
    return [np.asarray(value) for value in vars(target).values()]


def same(one, other, *, atol=0.0):
    return all(
        a.shape == b.shape and np.allclose(a, b, atol=atol, equal_nan=True)
        for a, b in zip(values(one), values(other), strict=True)
    )


def test_every_kind_of_target_is_here():
    assert {type(target) for target in TARGETS.values()} == {
        kind for kind in Target.__subclasses__() if kind.__name__[0] != "_"
    }


@st.composite
def crops(draw, height, width):
    """Views that crop, flip and pad, and do not resize."""
    top, left = draw(st.integers(0, height - 2)), draw(st.integers(0, width - 2))
    size = (draw(st.integers(2, height - top)), draw(st.integers(2, width - left)))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    return View(
        image=(height, width),
        top=top,
        left=left,
        height=size[0],
        width=size[1],
        size=size,
        flip=draw(st.booleans()),
        padding=padding,
    )


@BY_KIND
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_two_views_after_each_other_are_their_composition(target, data):
    """Oracle: an image that numbers its places, seen through both views, says what the target must hold."""
    first = data.draw(crops(*SIZE))
    second = data.draw(crops(*first.shape))
    found = target.seen(first).seen(second)
    if not target.is_spatial:
        assert found is target
        return
    places = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE)
    seen = second.values(first.values(places, outside=-1), outside=-1)
    if isinstance(target, Boxes):
        rows, columns = np.divmod(places, SIZE[1])
        kept = 0
        for (x0, y0, x1, y1), label in zip(target.corners, target.labels, strict=True):
            inside = places[(rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)]
            ys, xs = np.nonzero(np.isin(seen, inside))
            if not len(ys):
                continue
            expected = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert found.labels[kept] == label
            np.testing.assert_allclose(found.corners[kept], expected, atol=1e-3)
            kept += 1
        assert kept == len(found.labels)
        return
    (whole,), (shown,) = values(target), values(found)
    known = seen >= 0
    np.testing.assert_array_equal(shown[known], whole.ravel()[seen[known]])
    outside = shown[~known]
    assert np.isnan(outside).all() if isinstance(target, Depth) else (outside == -1).all()


@BY_KIND
def test_a_resized_view_of_the_whole_image_and_back_is_nearly_the_target(target):
    larger = View(image=SIZE, top=0, left=0, height=SIZE[0], width=SIZE[1], size=(72, 60))
    back = View(image=(72, 60), top=0, left=0, height=72, width=60, size=SIZE)
    assert same(target.seen(larger).seen(back), target, atol=1e-4)


@BY_KIND
def test_other_numbers_of_classes_and_back_are_the_target(target):
    there = np.array([2, 0, 3, 1])
    back = np.argsort(there)
    renumbered = target.renumbered(there, num_classes=4)
    assert isinstance(target, Depth) or not same(renumbered, target)
    assert same(renumbered.renumbered(back, num_classes=4), target)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_points_of_a_view_go_back_to_their_place_in_the_image(data):
    height, width = data.draw(st.integers(2, 50)), data.draw(st.integers(2, 50))
    cut = data.draw(crops(height, width))
    image = (data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90)))
    if data.draw(st.booleans()):
        view = View(**{**vars(cut), "image": image, "resized": (height, width)})
    else:
        view = View(**{**vars(cut), "size": (data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)))})
    points = RNG.random((5, 2)) * view.image[::-1]
    np.testing.assert_allclose(view.image_points(view.points(points)), points, atol=1e-6)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_points_follow_the_pixels_of_an_image_that_is_resized_first(data):
    """Oracle: rows and columns as pixel values, which must name the place that a point of the view comes from."""
    height, width = data.draw(st.integers(20, 60)), data.draw(st.integers(20, 60))
    view = resized_center_view(height, width, size=16, crop_ratio=data.draw(st.sampled_from([0.7, 1.0])))
    view = View(**{**vars(view), "flip": data.draw(st.booleans())})
    rows, columns = (view.values(np.indices((height, width))[i], outside=-1) for i in (0, 1))
    at = np.stack([np.tile(np.arange(16), 16), np.repeat(np.arange(16), 16)], axis=1) + 0.5
    places = view.image_points(at)
    assert np.abs(places[:, 0] - 0.5 - columns.ravel()).max() <= 1.51
    assert np.abs(places[:, 1] - 0.5 - rows.ravel()).max() <= 1.51


@pytest.mark.parametrize("flip", [False, True])
def test_padding_surrounds_the_pixels_in_its_color_and_stays_where_it_was_put(flip):
    image = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    plain = View(image=SIZE, top=2, left=3, height=20, width=10, size=(10, 16), flip=flip)
    padded = View(**{**vars(plain), "padding": (1, 2, 3, 4)})
    pixels = padded.pixels(image, resampling="bicubic", fill=(9, 8, 7))
    assert pixels.shape == (14, 22, 3) and padded.shape == (14, 22)
    np.testing.assert_array_equal(pixels[1:11, 2:18], plain.pixels(image, resampling="bicubic"))
    pixels[1:11, 2:18] = (9, 8, 7)
    assert (pixels == (9, 8, 7)).all()
