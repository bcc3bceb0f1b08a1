"""Each rule of a plan, what is refused without it, and how images and speed are measured."""

import math
import re
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from shapes import Shapes

from resnet_rs.config import edit
from resnet_rs.data.builtin import Builtin
from resnet_rs.data.sample import Unreadable
from resnet_rs.data.survey import Images, measure_images
from resnet_rs.plan.options import Budget, MeasuredOption, Option, select
from resnet_rs.plan.rules import (
    PlanInput,
    adapt_channels,
    fitting_batch_size,
    fitting_decay,
    losses,
    make_plan,
    refuse_unfit,
)
from resnet_rs.training.device import Device
from resnet_rs.training.speed import Speed, measure_scoring, measure_speed
from resnet_rs.zoo import EXPERIMENTS

RS50 = EXPERIMENTS["resnet-rs-50-i160"]


def plan_of(experiment, source, budget=None, **given):
    return make_plan(PlanInput(experiment=experiment, source=source, **given), budget)


def changes_of(experiment, source, **options):
    return {change.path: change.after for change in plan_of(experiment, source, **options).changes}


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
    plan = plan_of(RS50, source)
    refuse_unfit(plan.experiment, len(source))
    assert edit(RS50, {change.path: change.after for change in plan.changes}) == plan.experiment
    with pytest.raises(ValueError, match="half-life"):
        refuse_unfit(RS50, len(source))


def test_a_base_that_was_made_for_the_data_is_left_as_it_is():
    assert changes_of(EXPERIMENTS["resnet-rs-small"], Builtin(split="train")) == {}


def fast(experiment):
    return Speed(images_per_second=100.0, seconds_per_scored=0.01)


def budget(minutes, num_scored=0, speed=fast, passed=0.0):
    return Budget(minutes=minutes, num_scored=num_scored, elapsed=lambda: passed, speed=speed)


SAVING = RS50.count_cost().params * 12 / 150e6
"""Seconds to save a checkpoint of RS50."""


def test_a_time_budget_sets_epochs_and_warm_up_by_the_measured_speed():
    found = changes_of(RS50, Shapes(num_samples=6000, size=64), budget=budget(10.0))
    # 95 % of 600 seconds without 4 and without ten checkpoints, at 100 images per second, over 6,000 images.
    epochs = (0.95 * 600 - 4 - 10 * SAVING) * 100 / 6000
    assert found["recipe.epochs"] == pytest.approx(epochs, rel=0.01)
    assert found["recipe.schedule.warmup_epochs"] == pytest.approx(epochs / 10, rel=0.01)


FAST = fast(RS50)


def length(budget, num_samples=6000, speed=FAST, most_epochs=math.inf):
    return budget.length(edit(RS50, {"recipe.batch_size": 60}), num_samples, speed, most_epochs=most_epochs)


@pytest.mark.parametrize(
    ("num_scored", "evaluations"),
    [
        (100, 10),
        (2000, 1),  # 15 % of the time is enough for one, and not for two
        (1000, 3),
        (100_000, 1),  # one evaluation takes 1,000 seconds
    ],
)
def test_evaluations_are_in_the_budget_and_training_gets_the_rest(num_scored, evaluations):
    epochs, count, seconds = length(budget(5.0, num_scored))
    assert count == evaluations
    scoring = count * (num_scored / 100 + SAVING)
    assert epochs == pytest.approx(max(0.01, (0.95 * 300 - 4 - scoring) * 100 / 6000), rel=0.01)
    assert seconds == pytest.approx(max(0.95 * 300, 4 + 0.6 + scoring), rel=0.01)


def test_images_are_decoded_once():
    """Decoding 6,000 images takes 60 s of the first epoch, and scoring decodes its 100 images once."""
    slow = fast(RS50)._replace(seconds_to_decode=0.01)
    with_decoding, without = (length(budget(10.0, 100), speed=speed).epochs for speed in (slow, fast(RS50)))
    assert without - with_decoding == pytest.approx(61 * 100 / 6000, abs=0.02)


def test_an_epoch_that_is_cut_off_decodes_a_part_of_the_images():
    slow = fast(RS50)._replace(seconds_to_decode=0.09)
    epochs, _, seconds = length(budget(5.0), speed=slow)
    assert epochs == pytest.approx((0.95 * 300 - 4 - 10 * SAVING) / (6000 * 0.1), rel=0.01)
    assert seconds == pytest.approx(0.95 * 300, rel=0.01)


def test_a_run_that_needs_less_than_its_time_says_so():
    epochs, _, seconds = length(budget(60.0), most_epochs=2.0)
    assert epochs == 2 and seconds == pytest.approx(4 + 10 * SAVING + 120, rel=0.01)


def slow_unless(is_cheap):
    """One image per second, and ten if the experiment is cheap."""
    return lambda experiment: Speed(10.0 if is_cheap(experiment) else 1.0, 0.0)


def test_with_too_few_updates_the_size_shrinks_and_what_is_lost_is_said():
    source = Shapes(num_samples=600, size=320)
    cheap = slow_unless(lambda e: e.data.size <= 80)
    plan = plan_of(RS50, source, budget(10.0, speed=cheap))
    (reason,) = [change.reason for change in plan.changes if change.path == "data.size"]
    assert plan.experiment.data.size == 80
    assert re.search(
        r"chosen: 80 pixels. With 128 pixels only [0-9]+ updates would fit into the time", reason
    )


@pytest.mark.parametrize(("frozen", "size"), [("none", 160), ("c3", 160), ("c5", 160), ("c5", 128)])
def test_with_trained_weights_stages_are_frozen_before_the_size_shrinks(frozen, size):
    source = Shapes(num_samples=600, size=320)
    stages = ["c5", "c3", "none"]
    cheap = slow_unless(
        lambda e: stages.index(e.recipe.fine_tuning.frozen) <= stages.index(frozen) and e.data.size <= size
    )
    adapted = plan_of(RS50, source, budget=budget(10.0, speed=cheap), is_head_new=True).experiment
    assert (adapted.recipe.fine_tuning.frozen, adapted.data.size) == (frozen, size)
    assert adapted.arch.stem == RS50.arch.stem


@pytest.mark.parametrize(("is_head_new", "factor"), [(True, 4.0), (False, 1.0)])
def test_only_a_new_head_learns_faster_than_the_backbone(is_head_new, factor):
    adapted = plan_of(RS50, Shapes(num_samples=600, size=320), is_head_new=is_head_new).experiment
    assert adapted.recipe.fine_tuning.head_lr_factor == factor
    assert adapted.data.crop_ratio == 1.0


def test_a_size_that_the_user_sets_decides_alone_with_a_budget_too():
    user, source = frozenset({"data.size"}), Shapes(num_samples=600, size=320)
    chosen = edit(RS50, {"data.size": 32})
    adapted = plan_of(chosen, source, budget=budget(10.0), set_by_user=user).experiment
    assert (adapted.data.size, adapted.arch.stem) == (32, "small")


def test_scoring_is_measured_where_no_image_can_be_read():
    @dataclass(frozen=True, kw_only=True)
    class Broken(Shapes):
        def read(self, index, request):
            raise Unreadable(self.key(index), "it is exceeded")

    tiny = edit(EXPERIMENTS["resnet-rs-tiny"], {"data.size": 16})
    cost = measure_scoring(tiny, Broken(num_samples=4, size=16), device=Device.choose("cpu"), workers=0)
    assert 0 <= cost < 1


def test_what_the_user_froze_is_measured_once():
    measured = []
    speed = lambda experiment: measured.append(1) or Speed(1.0, 0.0)  # noqa: E731 - it is one expression
    user = frozenset({"recipe.fine_tuning.frozen"})
    source = Shapes(num_samples=600, size=320)
    plan_of(RS50, source, budget(10.0, speed=speed), set_by_user=user, is_head_new=True)
    assert len(measured) == 1


def test_there_is_always_an_answer():
    slow = budget(0.5, num_scored=10_000, speed=lambda experiment: Speed(0.01, 10.0))
    for head in (None, True):
        plan = plan_of(RS50, Shapes(num_samples=600, size=320), slow, is_head_new=head)
        assert plan.experiment.recipe.timetable(600).total_steps == 1 and plan.num_evaluations == 1


def test_a_short_run_is_not_regularized_and_a_long_one_is():
    source = Shapes(num_samples=600, size=320)
    short = plan_of(RS50, source, budget=budget(10.0)).experiment
    assert (short.data.randaugment, short.task.dropout) == (None, 0.0)
    long = plan_of(RS50, source, budget=budget(1e5)).experiment
    assert (long.data.randaugment, long.task.dropout) == (RS50.data.randaugment, RS50.task.dropout)


def test_the_time_that_has_passed_is_not_spent_again():
    before, after = (length(budget(5.0, passed=passed)).epochs for passed in (0.0, 50.0))
    assert before - after == pytest.approx(50 * 100 / 6000, abs=0.02)


def measured_updates(updates, exceeded=()):
    """A function that pretends to measure an option, whose `what` is its number, and the numbers that it got."""
    asked = []

    def measure(option):
        i = int(option.description)
        asked.append(i)
        return MeasuredOption(
            option=option,
            speed=Speed(updates[i], 0.0),
            length=length(budget(5.0)),
            num_updates=updates[i],
            exceeded=("too slow",) if i in exceeded else (),
        )

    return measure, asked


OPTIONS = [Option(description=str(i), cost=2.0**i, min_updates=300) for i in range(6)]


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("most", range(-1, 6))
def test_the_costliest_option_with_enough_updates_is_selected(most, first):
    updates = [300.0 * 2 ** (most - i) if most >= 0 else 200 / 2**i for i in range(6)]
    measure, asked = measured_updates(updates)
    selection = select(OPTIONS, first=first, measure=measure)
    assert selection.chosen.option.description == str(max(most, 0))
    assert len(asked) == len(set(asked)) <= 4
    if 0 <= most < 5:
        assert selection.costlier.option.description == str(most + 1)


def test_a_limit_leaves_out_what_exceeds_it():
    measure, _ = measured_updates([math.inf] * 6, exceeded={3, 4, 5})
    selection = select(OPTIONS, first=0, measure=measure)
    assert selection.chosen.option.description == "2" and selection.costlier.exceeded == ("too slow",)


def test_a_cheaper_option_that_makes_no_more_updates_is_not_taken():
    """Where reading the images takes all the time, a smaller network or frozen stages gain nothing."""
    measure, _ = measured_updates([100.0] * 6)
    assert select(OPTIONS[:3], first=2, measure=measure).chosen.option.description == "2"


def by_macs(rate):
    """A machine that computes `rate` multiply-adds of training per second, and reads images for nothing."""
    return lambda experiment: Speed(rate / experiment.count_cost().macs / 3, 0.0)


@pytest.mark.parametrize("side", [28, 64, 500])
def test_more_time_gives_a_larger_small_network_and_never_fewer_updates_than_it_needs(side):
    small, costs = EXPERIMENTS["resnet-rs-small"], []
    for minutes in (0.1, 1.0, 10.0, 100.0, 1000.0):
        plan = plan_of(
            small,
            Shapes(num_samples=5000, size=8),
            budget(minutes, speed=by_macs(1e10)),
            images=Images(side=side, has_color=True),
            networks="small",
        )
        chosen = plan.selection.chosen
        assert chosen.is_feasible or chosen.option.edits["arch.width"] == 0.125
        assert plan.experiment.data.size <= max(side, 28)
        assert edit(small, {c.path: c.after for c in plan.changes}) == plan.experiment
        costs.append(chosen.option.cost)
    assert costs == sorted(costs) and len(set(costs)) > 2


def large(num_samples, minutes, side=500, **limits):
    plan = plan_of(
        RS50,
        Shapes(num_samples=num_samples, size=8),
        replace(budget(minutes, speed=by_macs(1e12)), **limits),
        images=Images(side=side, has_color=True),
        networks="large",
    )
    return plan.experiment


def test_long_training_goes_deeper_and_short_training_wider():
    deep, wide = large(20_000, 2000.0).arch, large(2_000_000, 8000.0).arch
    assert sum(deep.blocks) > sum(wide.blocks) and wide.width > deep.width


def test_a_large_network_is_regularized_only_in_long_training():
    assert large(20_000, 2000.0).data.randaugment is not None
    assert large(20_000, 10.0).data.randaugment is None


def test_the_largest_network_within_a_limit_is_chosen():
    def exceeded(experiment):
        return ("too slow",) if sum(experiment.arch.blocks) > 16 else ()

    assert sum(large(20_000, 2000.0, exceeded=exceeded).arch.blocks) == 16
    assert sum(large(20_000, 2000.0).arch.blocks) > 16


def test_a_network_never_sees_more_pixels_than_the_images_have():
    experiment = large(20_000, 100.0, side=48)
    assert experiment.data.size == 48 and experiment.arch.stem == "small"


def test_without_a_time_limit_networks_are_tried_one_step_at_a_time():
    """The next one may be the largest that this machine can compute."""

    def exceeded(experiment):
        return ("too slow",) if sum(experiment.arch.blocks) > 16 else ()

    tried, fastest = [], by_macs(1e12)

    def speed(experiment):
        tried.append(sum(experiment.arch.blocks))
        return fastest(experiment)

    unlimited = budget(math.inf, speed=speed)
    experiment = large(500, math.inf, speed=unlimited.speed, exceeded=exceeded)
    assert sum(experiment.arch.blocks) == 16 and tried == [8, 16, 33]


@pytest.mark.parametrize("head", [None, True])
def test_where_not_one_update_fits_the_fastest_option_is_taken(head):
    slow = budget(0.1, speed=lambda e: Speed(1.0 + 9 * (e.recipe.fine_tuning.frozen == "c5"), 0.0))
    source = Shapes(num_samples=6000, size=8)
    images = Images(side=300, has_color=True)
    if head is None:
        slow = replace(slow, speed=by_macs(1e9))
    plan = plan_of(RS50, source, slow, images=images, is_head_new=head)
    found = plan.experiment
    assert found.recipe.fine_tuning.frozen == "c5" if head else found.data.size == 80


@pytest.mark.parametrize(("side", "max_short_side"), [(400, None), (500, 384), (3000, 384)])
def test_large_photos_are_shrunk_as_they_are_read(side, max_short_side):
    """A crop of 0.35 of an image of 384 pixels has about the 224 pixels that the network sees."""
    lite = EXPERIMENTS["efficientnet-lite0-i224"]
    source = Shapes(num_samples=100, size=8)
    plan = plan_of(lite, source, images=Images(side=side, has_color=True), is_head_new=True)
    assert plan.experiment.data.max_short_side == max_short_side


@pytest.mark.parametrize("minutes", [0.1, 10.0, 2000.0])
@pytest.mark.parametrize("min_area", [0.08, 0.5])
def test_photos_are_never_shrunk_below_what_the_smallest_crop_needs(minutes, min_area):
    base = edit(RS50, {"data.min_area": min_area})
    plan = plan_of(
        base,
        Shapes(num_samples=20_000, size=8),
        budget(minutes, speed=by_macs(1e12)),
        images=Images(side=3000, has_color=True),
        networks="large",
    )
    data = plan.experiment.data
    assert data.max_short_side >= data.size / data.min_area**0.5


def test_a_side_that_the_user_sets_bounds_the_size():
    base = edit(EXPERIMENTS["resnet-rs-small"], {"data.max_short_side": 100})
    plan = plan_of(
        base,
        Shapes(num_samples=100, size=8),
        budget(10.0),
        images=Images(side=500, has_color=True),
        networks="small",
        set_by_user=frozenset({"data.max_short_side"}),
    )
    assert plan.experiment.data.size == 96


def test_epochs_that_the_user_sets_beside_a_limit_are_the_expected_ones():
    chosen = edit(RS50, {"recipe.epochs": 10.0, "recipe.schedule.warmup_epochs": 1.0})
    user = frozenset({"recipe.epochs"})
    plan = plan_of(chosen, Shapes(num_samples=600, size=320), budget(math.inf), set_by_user=user)
    assert plan.experiment.recipe.epochs == plan.selection.chosen.length.epochs == 10


def test_a_part_of_a_field_that_the_user_sets_is_kept():
    chosen = edit(RS50, {"data.randaugment.magnitude": 5})
    user = frozenset({"data.randaugment.magnitude"})
    plan = plan_of(chosen, Shapes(num_samples=600, size=320), budget(1.0), set_by_user=user)
    assert plan.experiment.data.randaugment.magnitude == 5


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
    assert fitting_decay(2000) ** 200 < 0.5


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
    device = Device.choose("cpu")
    speed, _ = measure_speed(tiny, source, device=device, micro_batch=16, workers=workers, max_seconds=2.0)
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
