"""Each rule of the fit, what is refused without it, and how images and speed are measured."""

import time
from dataclasses import dataclass

import numpy as np
import pytest
from shapes import Shapes

from resnet_rs.config import edit
from resnet_rs.data.builtin import Builtin
from resnet_rs.data.sample import Unreadable
from resnet_rs.data.survey import Images, measure_images
from resnet_rs.fit import (
    Budget,
    adapt_channels,
    fit,
    fitting_batch_size,
    fitting_decay,
    half_life_steps,
    losses,
    refuse_unfit,
)
from resnet_rs.training.device import Device
from resnet_rs.training.job import MAX_EVALUATIONS
from resnet_rs.training.speed import Speed, measure_scoring, measure_speed
from resnet_rs.zoo import EXPERIMENTS

RS50 = EXPERIMENTS["resnet-rs-50-i160"]


def changes_of(experiment, source, **options):
    _, changes, _ = fit(experiment, source, **options)
    return {change.path: change.after for change in changes}


def test_small_images_get_the_small_stem_and_their_own_size():
    found = changes_of(RS50, Builtin(split="train"))
    assert found == {
        "arch.stem": "small",
        "data.size": 28,
        "recipe.batch_size": 128,
        "recipe.ema_decay": 0.99963,
    }


def test_the_adapted_recipe_is_accepted_where_the_published_one_is_refused():
    source = Builtin(split="train")
    adapted, changes, _ = fit(RS50, source)
    refuse_unfit(adapted, len(source))
    assert edit(RS50, {change.path: change.after for change in changes}) == adapted
    with pytest.raises(ValueError, match="half-life"):
        refuse_unfit(RS50, len(source))


def test_a_base_that_was_made_for_the_data_is_left_as_it_is():
    assert changes_of(EXPERIMENTS["resnet-rs-small"], Builtin(split="train")) == {}


def fast(experiment):
    return Speed(images_per_second=100.0, seconds_per_scored=0.01)


def budget(minutes, num_test=0, speed=fast, passed=0.0):
    return Budget(minutes=minutes, num_test=num_test, passed=lambda: passed, speed=speed)


def test_a_time_budget_sets_epochs_and_warm_up_by_the_measured_speed():
    found = changes_of(RS50, Shapes(num_samples=6000, size=64), budget=budget(10.0))
    # 95 % of 600 seconds without 10 at 100 images per second, over 6,000 images.
    assert found["recipe.epochs"] == pytest.approx(9.34, abs=0.02)
    assert found["recipe.schedule.warmup_epochs"] == pytest.approx(0.934, abs=0.002)


@pytest.mark.parametrize(
    ("num_test", "evaluations", "seconds"),
    [
        (100, MAX_EVALUATIONS, 290 - 10),
        (2000, 2, 290 - 2 * 20),  # 15 % of the time is enough for two
        (10_000, 1, 290 - 100),
        (100_000, 1, 0),  # one evaluation takes 1,000 seconds
    ],
)
def test_evaluations_are_in_the_budget_and_training_gets_the_rest(num_test, evaluations, seconds):
    epochs, count = budget(5.0, num_test).plan(edit(RS50, {"recipe.batch_size": 60}), 6000, fast(RS50))
    assert count == evaluations
    assert epochs == pytest.approx(max(0.01, 0.95 * seconds * 100 / 6000), abs=0.03)


def slow_unless(is_cheap):
    """One image per second, and ten if the experiment is cheap."""
    return lambda experiment: Speed(10.0 if is_cheap(experiment) else 1.0, 0.0)


def test_with_too_few_updates_the_size_shrinks_and_what_is_lost_is_said():
    source = Shapes(num_samples=600, size=320)
    cheap = slow_unless(lambda e: e.data.size <= 80)
    adapted, changes, _ = fit(RS50, source, budget=budget(10.0, speed=cheap))
    reasons = {change.path: change.reason for change in changes}
    assert adapted.data.size == 80
    assert "would fit into the time; 80 pixels instead of 160 make each cheaper" in reasons["data.size"]
    assert [change.path for change in changes].count("data.size") == 1


@pytest.mark.parametrize("frozen", ["none", "c3", "c5"])
def test_with_trained_weights_stages_are_frozen_instead(frozen):
    source = Shapes(num_samples=600, size=320)
    cheap = slow_unless(lambda e: e.recipe.fine_tuning.frozen == frozen)
    adapted, _, _ = fit(RS50, source, budget=budget(10.0, speed=cheap), is_head_new=True)
    assert adapted.recipe.fine_tuning.frozen == frozen
    assert (adapted.arch.stem, adapted.data.size) == (RS50.arch.stem, RS50.data.size)


@pytest.mark.parametrize(("is_head_new", "factor"), [(True, 4.0), (False, 1.0)])
def test_only_a_new_head_learns_faster_than_the_backbone(is_head_new, factor):
    adapted, _, _ = fit(RS50, Shapes(num_samples=600, size=320), is_head_new=is_head_new)
    assert adapted.recipe.fine_tuning.head_lr_factor == factor
    assert adapted.data.crop_ratio == 1.0


def test_a_size_that_the_user_sets_decides_alone_with_a_budget_too():
    user, source = frozenset({"data.size"}), Shapes(num_samples=600, size=320)
    chosen = edit(RS50, {"data.size": 32})
    adapted, _, _ = fit(chosen, source, budget=budget(10.0), set_by_user=user)
    assert (adapted.data.size, adapted.arch.stem) == (32, "small")


def test_scoring_is_measured_where_no_image_can_be_read():
    @dataclass(frozen=True, kw_only=True)
    class Broken(Shapes):
        def read(self, index, request):
            raise Unreadable(self.key(index), "it is broken")

    tiny = edit(EXPERIMENTS["resnet-rs-tiny"], {"data.size": 16})
    cost = measure_scoring(tiny, Broken(num_samples=4, size=16), device=Device.choose("cpu"), workers=0)
    assert 0 <= cost < 1


def test_what_the_user_froze_is_measured_once():
    measured = []
    speed = lambda experiment: measured.append(1) or Speed(1.0, 0.0)  # noqa: E731 - it is one expression
    user = frozenset({"recipe.fine_tuning.frozen"})
    source = Shapes(num_samples=600, size=320)
    fit(RS50, source, budget=budget(10.0, speed=speed), set_by_user=user, is_head_new=True)
    assert len(measured) == 1


def test_there_is_always_an_answer():
    slow = budget(0.5, num_test=10_000, speed=lambda experiment: Speed(0.01, 10.0))
    for head in (None, True):
        adapted, _, count = fit(RS50, Shapes(num_samples=600, size=320), budget=slow, is_head_new=head)
        assert adapted.recipe.plan(600).total_steps == 1 and count == 1


def test_a_short_run_is_not_regularized_and_a_long_one_is():
    source = Shapes(num_samples=600, size=320)
    short, _, _ = fit(RS50, source, budget=budget(10.0))
    assert (short.data.randaugment, short.task.dropout) == (None, 0.0)
    long, _, _ = fit(RS50, source, budget=budget(1e5))
    assert (long.data.randaugment, long.task.dropout) == (RS50.data.randaugment, RS50.task.dropout)


def test_the_time_that_has_passed_is_not_spent_again():
    early, late = budget(5.0), budget(5.0, passed=150)
    (before, _), (after, _) = (b.plan(RS50, 6000, fast(RS50)) for b in (early, late))
    assert after / before == pytest.approx((290 - 150) / 290, abs=0.01)


def test_a_small_base_makes_as_many_updates_on_few_images_in_more_epochs():
    small = EXPERIMENTS["resnet-rs-small"]
    found = changes_of(small, Shapes(num_samples=200, size=28), budget=budget(1e6))
    assert found["recipe.epochs"] * 200 / found["recipe.batch_size"] == pytest.approx(4000, rel=0.01)


def test_a_budget_never_lengthens_a_published_recipe():
    found = changes_of(RS50, Shapes(num_samples=100, size=64), budget=budget(1e6))
    assert "recipe.epochs" not in found and "recipe.schedule.warmup_epochs" not in found


def test_the_cost_of_scoring_counts_reading_and_every_model():
    tiny = edit(EXPERIMENTS["resnet-rs-tiny"], {"data.size": 16})
    slow = SlowSource(num_samples=20, size=16)
    cost = measure_scoring(tiny, slow, device=Device.choose("cpu"), workers=0)
    assert cost > 0.01
    assert measure_scoring(tiny, slow, device=Device.choose("cpu"), workers=4) < cost


def test_fields_set_by_the_user_are_kept():
    chosen = edit(RS50, {"recipe.batch_size": 32})
    user = frozenset({"recipe.batch_size", "arch.stem"})
    found = changes_of(chosen, Builtin(split="train"), set_by_user=user)
    assert "recipe.batch_size" not in found and "arch.stem" not in found


@pytest.mark.parametrize(
    ("num_samples", "size"), [(2, 2), (10, 8), (100, 16), (10_000, 128), (1_281_167, 16384)]
)
def test_the_batch_is_a_power_of_two_that_the_data_can_fill(num_samples, size):
    assert fitting_batch_size(num_samples) == size <= max(2, num_samples)


def test_the_ema_weights_reach_back_over_a_tenth_of_the_run():
    assert fitting_decay(100_000) == 0.9999
    assert fitting_decay(10**7) < 1
    assert fitting_decay(1) == 0.5
    assert str(fitting_decay(31)) == "0.68"
    assert half_life_steps(fitting_decay(2000)) < 200


def test_a_batch_larger_than_the_data_is_refused_with_one_that_fits():
    with pytest.raises(ValueError, match=r"more than the 100 training samples\. Set recipe\.batch_size=16"):
        refuse_unfit(RS50, 100)


@dataclass(frozen=True, kw_only=True)
class SlowSource(Shapes):
    """Shapes that take 10 ms to read, so that each process reads at most 100 per second."""

    def read(self, index, request):
        time.sleep(0.01)
        return super().read(index, request)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_speed_of_slow_reading_counts_no_batch_that_was_read_before(workers):
    tiny = edit(EXPERIMENTS["resnet-rs-tiny"], {"data.size": 16, "recipe.batch_size": 16})
    source = SlowSource(num_samples=1000, size=16)
    speed = measure_speed(tiny, source, device=Device.choose("cpu"), micro_batch=16, workers=workers)
    assert 10 < speed <= 100 * max(1, workers)


@dataclass(frozen=True, kw_only=True)
class Blank(Shapes):
    """Images of one value; those from `first_color` on have a red pixel."""

    first_color: int

    def read(self, index, request):
        pixels = np.full((self.size, self.size, request.channels), 100, np.uint8)
        pixels[0, 0, 0] += 50 * (index >= self.first_color)
        return super().read(index, request)._replace(input=pixels)


@pytest.mark.parametrize(("num_colored", "channels"), [(0, 1), (3, 3), (100, 3)])
def test_a_gray_base_gets_three_channels_if_some_images_have_color(num_colored, channels):
    small = EXPERIMENTS["resnet-rs-small"]
    images = measure_images(Blank(num_samples=100, size=28, first_color=100 - num_colored))
    adapted, changes = adapt_channels(small, images, set_by_user=frozenset())
    assert adapted.data.channels == channels
    assert edit(small, {change.path: change.after for change in changes}) == adapted
    assert not list(losses(adapted, images))


def test_channels_that_the_user_set_stay_and_the_loss_of_color_and_resolution_is_said():
    small = EXPERIMENTS["resnet-rs-small"]
    images = Images(side=43, has_color=True)
    assert adapt_channels(small, images, set_by_user=frozenset({"data.mean"})) == (small, ())
    color, resolution = losses(small, images)
    assert "have color, and the network sees them in gray" in color
    assert "have 43 pixels on their shorter side (median), and the network sees 28" in resolution
    assert not list(losses(small, Images(side=42, has_color=False)))


def test_gray_images_leave_a_base_of_three_channels_as_it_is():
    assert adapt_channels(RS50, Images(side=28, has_color=False), set_by_user=frozenset()) == (RS50, ())
