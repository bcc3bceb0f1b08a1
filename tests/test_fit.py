"""Fit: each rule, and what is refused without it."""

import pytest

from resnet_rs.config import edit
from resnet_rs.data.builtin import Builtin
from resnet_rs.data.shapes import Shapes
from resnet_rs.fit import fit, fitting_batch_size, fitting_decay, half_life_steps, measure_speed, refuse_unfit
from resnet_rs.training.device import Device
from resnet_rs.zoo import EXPERIMENTS

RS50 = EXPERIMENTS["resnet-rs-50-i160"]


def never(experiment):
    raise AssertionError("speed is measured only for a time budget")


def changes_of(experiment, source, **options):
    _, changes = fit(experiment, source, **{"speed": never, **options})
    return {change.path: change.after for change in changes}


def test_small_pictures_get_the_small_stem_and_their_own_size():
    found = changes_of(RS50, Builtin(split="train"))
    assert found == {
        "arch.stem": "small",
        "data.size": 28,
        "recipe.batch_size": 128,
        "recipe.ema_decay": 0.99963,
    }


def test_the_fitted_recipe_is_accepted_where_the_published_one_is_refused():
    source = Builtin(split="train")
    fitted, changes = fit(RS50, source, speed=never)
    refuse_unfit(fitted, len(source))
    assert edit(RS50, {change.path: change.after for change in changes}) == fitted
    with pytest.raises(ValueError, match="half-life"):
        refuse_unfit(RS50, len(source))


def test_a_base_that_was_made_for_the_data_is_left_as_it_is():
    assert changes_of(EXPERIMENTS["resnet-rs-small"], Builtin(split="train")) == {}


def test_a_time_budget_sets_epochs_and_warm_up_by_the_measured_speed():
    found = changes_of(RS50, Shapes(num_samples=6000, size=64), minutes=10.0, speed=lambda experiment: 100.0)
    # 85 % of 600 seconds at 100 pictures per second, over 6,000 pictures.
    assert found["recipe.epochs"] == pytest.approx(8.5)
    assert found["recipe.schedule.warmup_epochs"] == pytest.approx(0.85)


def test_a_budget_never_lengthens_a_recipe():
    found = changes_of(RS50, Shapes(num_samples=100, size=64), minutes=1e6, speed=lambda experiment: 100.0)
    assert "recipe.epochs" not in found and "recipe.schedule.warmup_epochs" not in found


def test_typed_fields_are_never_overruled():
    typed = edit(RS50, {"recipe.batch_size": 32})
    found = changes_of(typed, Builtin(split="train"), typed=frozenset({"recipe.batch_size", "arch.stem"}))
    assert "recipe.batch_size" not in found and "arch.stem" not in found


@pytest.mark.parametrize(
    ("num_samples", "size"), [(2, 2), (10, 8), (100, 16), (10_000, 128), (1_281_167, 16384)]
)
def test_the_batch_is_a_power_of_two_that_the_data_can_fill(num_samples, size):
    assert fitting_batch_size(num_samples) == size <= max(2, num_samples)


def test_the_average_reaches_back_over_a_tenth_of_the_run():
    assert fitting_decay(100_000) == 0.9999
    assert fitting_decay(10**7) < 1
    assert fitting_decay(1) == 0.5
    assert half_life_steps(fitting_decay(2000)) < 200


def test_a_batch_larger_than_the_data_is_refused_with_one_that_fits():
    with pytest.raises(ValueError, match=r"more than the 100 training samples\. Set recipe\.batch_size=16"):
        refuse_unfit(RS50, 100)


def test_speed_is_measured_by_training(tmp_path):
    tiny = edit(EXPERIMENTS["resnet-rs-tiny"], {"data.size": 16})
    source = Shapes(num_samples=40, size=16)
    speed = measure_speed(tiny, source, device=Device.choose("cpu"), micro_batch=16, workers=0)
    assert 10 < speed < 1e6
