"""RandAugment, against outputs of the released operations (`tests/assets/README.md`) and its own laws."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_rs.methods import randaugment
from resnet_rs.methods.randaugment import OPERATIONS, Amount, RandAugment

GOLDEN = dict(np.load(Path(__file__).parents[1] / "assets" / "randaugment-golden.npz"))
OUTPUTS = [key for key in GOLDEN if "/" in key]
DIRECTED = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}


def translate_x(image: np.ndarray, *, pixels: float) -> np.ndarray:
    return randaugment.move(image, (1.0, 0.0, pixels, 0.0, 1.0, 0.0))


def translate_y(image: np.ndarray, *, pixels: float) -> np.ndarray:
    return randaugment.move(image, (1.0, 0.0, 0.0, 0.0, 1.0, pixels))


TRANSLATIONS = {"TranslateX": translate_x, "TranslateY": translate_y}


def photo(channels: int = 3, side: int = 64) -> np.ndarray:
    """The top left of a photo, with its green repeated beyond three channels."""
    image = GOLDEN["astronaut"][:side, :side]
    return np.ascontiguousarray(image[:, :, [1] if channels == 1 else [0, 1, 2, 1][:channels]])


@pytest.mark.parametrize("key", OUTPUTS)
def test_every_released_output_is_reproduced_exactly(key):
    """No tolerance, geometry included: coordinates are float32 and rounded as the release does."""
    image, name, *rest = key.split("/")
    image = GOLDEN[image]
    sign = -1 if rest[-1] == "-" else 1
    if name == "Cutout":
        row, column = (
            (int(n) + 0.5) / side for n, side in zip(rest[1].split(","), image.shape, strict=False)
        )
        ours = randaugment.cutout(image, half_size=12, center=(row, column))
    elif name in TRANSLATIONS:
        ours = TRANSLATIONS[name](image, pixels=sign * Amount(float(rest[1])).of(20.0))
    else:
        magnitude = 10.0 if rest[0] == "any" else float(rest[0])
        ours = OPERATIONS[name.removesuffix("Released")](image, Amount(magnitude, sign))
    np.testing.assert_array_equal(ours, GOLDEN[key])


def test_the_released_outputs_cover_all_sixteen_operations():
    names = {key.split("/")[1].removesuffix("Released") for key in OUTPUTS}
    assert names == set(OPERATIONS)
    assert len(OPERATIONS) == 16


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("magnitude", [0.0, 10.0, 30.0])
@pytest.mark.parametrize("variant", ["released", "corrected"])
def test_every_operation_keeps_shape_and_input(name, channels, magnitude, variant):
    image = photo(channels)
    before = image.copy()
    result = OPERATIONS[name](image, Amount(magnitude, -1, (0.9, 0.1), variant))
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert result.flags.writeable
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"Color", "Contrast"}))
def test_channels_are_treated_alike(name):
    """Only Color mixes channels, and Contrast where it is corrected."""
    image = photo(3)
    amount = Amount(15.0, 1, (0.3, 0.6))
    whole = OPERATIONS[name](image, amount)
    for i in range(3):
        alone = OPERATIONS[name](np.ascontiguousarray(image[:, :, i : i + 1]), amount)
        np.testing.assert_array_equal(whole[:, :, i : i + 1], alone)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_color_is_the_identity_where_there_is_no_color(channels):
    image = photo(channels)
    assert OPERATIONS["Color"](image, Amount(15.0)) is image
    assert not np.array_equal(OPERATIONS["Color"](photo(3), Amount(15.0)), photo(3))


@pytest.mark.parametrize("name", ["Color", "Contrast", "Brightness", "Sharpness"])
def test_magnitude_five_is_a_factor_of_one_and_changes_nothing(name):
    np.testing.assert_array_equal(OPERATIONS[name](photo(), Amount(5.0)), photo())


@pytest.mark.parametrize("name", sorted(DIRECTED))
def test_magnitude_zero_moves_nothing(name):
    np.testing.assert_array_equal(OPERATIONS[name](photo(), Amount(0.0)), photo())


def test_inverting_twice_is_the_identity():
    np.testing.assert_array_equal(
        OPERATIONS["Invert"](OPERATIONS["Invert"](photo(), Amount(10.0)), Amount(10.0)), photo()
    )


def test_four_quarter_turns_are_the_identity():
    """Magnitude 30 is 90 degrees; the outermost half pixels of an even side turn into each other."""
    quarter = randaugment.rotate(photo(), degrees=90.0)
    np.testing.assert_array_equal(quarter, np.rot90(photo()))
    image = photo()
    for _ in range(4):
        image = randaugment.rotate(image, degrees=90.0)
    np.testing.assert_array_equal(image, photo())


@given(pixels=st.integers(0, 63))
@settings(max_examples=20, deadline=None)
def test_translating_there_and_back_loses_only_what_left_the_image(pixels):
    image = photo()
    back = translate_x(translate_x(image, pixels=float(pixels)), pixels=-float(pixels))
    np.testing.assert_array_equal(back[:, pixels:], image[:, pixels:])
    assert (back[:, :pixels] == 128).all()


@pytest.mark.parametrize(("magnitude", "threshold"), [(5.0, 128), (10.0, 0), (15.0, 128), (20.0, 0)])
def test_the_released_threshold_of_solarize_wraps_around(magnitude, threshold):
    """256 becomes 0, so magnitudes 10 and 20 invert the whole image."""
    image = photo()
    expected = np.where(image < threshold, image, 255 - image)
    np.testing.assert_array_equal(OPERATIONS["Solarize"](image, Amount(magnitude)), expected)


@pytest.mark.parametrize("magnitude", [10.0, 15.0, 30.0])
def test_the_corrected_threshold_of_solarize_is_never_reached(magnitude):
    image = photo()
    amount = Amount(magnitude, variant="corrected")
    np.testing.assert_array_equal(OPERATIONS["Solarize"](image, amount), image)
    weaker = OPERATIONS["Solarize"](image, amount._replace(magnitude=5.0))
    np.testing.assert_array_equal(weaker, np.where(image < 128, image, 255 - image))


@pytest.mark.parametrize("side", [16, 64])
def test_the_released_contrast_moves_away_from_the_pixel_count_and_the_corrected_from_the_mean(side):
    """A value v becomes level + 2.8 (v - level); the level is side * side / 256, or v if corrected."""
    image = np.full((side, side, 3), 100, dtype=np.uint8)
    level = side * side // 256
    released = OPERATIONS["Contrast"](image, Amount(15.0))
    assert np.unique(released).tolist() == [int(min(255, level + 2.8 * (100 - level)))]
    corrected = OPERATIONS["Contrast"](image, Amount(15.0, variant="corrected"))
    np.testing.assert_array_equal(corrected, image)


def test_the_released_contrast_level_is_white_from_256_pixels_a_side():
    image = np.full((256, 257, 1), 200, dtype=np.uint8)
    assert np.unique(OPERATIONS["Contrast"](image, Amount(15.0))).tolist() == [int(255 + 2.8 * (200 - 255))]


@pytest.mark.parametrize(
    ("side", "translation", "half_size"), [(160, 100, 40), (320, 100, 40), (80, 50, 20), (32, 20, 8)]
)
def test_translation_and_cutout_are_absolute_from_160_pixels_and_shares_below(side, translation, half_size):
    image = np.zeros((side, side + 9, 1), dtype=np.uint8)
    cut = OPERATIONS["Cutout"](image, Amount(10.0, center=(0.5, 0.5)))
    assert (cut == 128).sum() == (2 * half_size) ** 2
    moved = OPERATIONS["TranslateY"](image, Amount(10.0, -1))
    assert (moved[:, 0, 0] == 128).sum() == translation


@pytest.mark.parametrize(
    ("bits", "kept"), [(-1, 0x80), (0, 0x80), (1, 0x80), (4, 0xF0), (6, 0xFC), (8, 0xFF), (12, 0xFF)]
)
def test_posterize_keeps_the_highest_bits_between_one_and_eight(bits, kept):
    np.testing.assert_array_equal(randaugment.posterize(photo(), bits=bits), photo() & np.uint8(kept))


def test_every_operation_is_drawn_equally_often_and_applied_always(monkeypatch):
    """16,000 layers: 1000 of each expected, with a standard deviation of 31."""
    seen: Counter[str] = Counter()
    signs: Counter[int] = Counter()

    def spy(name: str):
        def operation(image: np.ndarray, amount: Amount) -> np.ndarray:
            seen[name] += 1
            signs[amount.sign] += 1
            return image

        return operation

    monkeypatch.setattr(randaugment, "_EVENLY", tuple(map(spy, OPERATIONS)))
    rng = np.random.default_rng(0)
    for _ in range(8000):
        RandAugment().apply(photo(1, side=4), rng)
    assert sum(seen.values()) == 16000
    assert set(seen) == set(OPERATIONS)
    assert all(abs(count - 1000) < 160 for count in seen.values())
    assert abs(signs[1] - 8000) < 320


def test_a_layer_is_the_drawn_operation_with_the_drawn_sign_and_center():
    image = photo(3)
    operations = list(OPERATIONS.values())
    for seed in range(200):
        pick, coin, row, column = np.random.default_rng(seed).random(4)
        amount = Amount(15.0, 1 if coin < 0.5 else -1, (row, column), "corrected")
        ours = RandAugment(num_layers=1, magnitude=15.0, variant="corrected").apply(
            image, np.random.default_rng(seed)
        )
        np.testing.assert_array_equal(ours, operations[int(pick * 16)](image, amount))


def test_layers_follow_one_another():
    image = photo(3)
    rng = np.random.default_rng(5)
    one_by_one = image
    for _ in range(3):
        one_by_one = RandAugment(num_layers=1).apply(one_by_one, rng)
    np.testing.assert_array_equal(
        RandAugment(num_layers=3).apply(image, np.random.default_rng(5)), one_by_one
    )


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.integers(1, 4),
    magnitude=st.floats(0, 30),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=200, deadline=None)
def test_any_image_of_any_size_survives_any_draw(height, width, channels, magnitude, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    augment = RandAugment(num_layers=4, magnitude=magnitude)
    once = augment.apply(image, np.random.default_rng(seed))
    assert once.shape == image.shape
    np.testing.assert_array_equal(once, augment.apply(image.copy(), np.random.default_rng(seed)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_layers": 0}, r"num_layers must be 1 or more, got 0\. .*`data\.randaugment=none`"),
        ({"magnitude": -1.0}, r"magnitude must be in \[0, 30\], got -1"),
        ({"magnitude": 31.0}, r"magnitude must be in \[0, 30\], got 31"),
        ({"magnitude": float("nan")}, r"magnitude must be in \[0, 30\], got nan"),
    ],
)
def test_impossible_values_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RandAugment(**fields)
