"""Learning rates against the released numbers, written out in closed form."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_rs.methods.schedule import Cosine, Schedule, StepDecay

RELEASED = {"peak_lr": 1.6, "total_steps": 109_200, "warmup_steps": 1560.0}
"""350 epochs of 312 updates at batch size 4096, 5 of them warm-up. Source: TF2 release."""

SCHEDULES = [Cosine(), StepDecay(), StepDecay(milestones=(0.3, 0.35), factor=0.5), StepDecay(milestones=())]


@pytest.mark.parametrize("step", [1560, 1561, 27_300, 54_600, 81_900, 109_199, 109_200])
def test_cosine_equals_the_released_formula(step):
    expected = 0.5 * 1.6 * (1 + math.cos(math.pi * step / 109_200))
    assert Cosine().lr(step, **RELEASED) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_cosine_is_half_the_peak_in_the_middle_and_zero_at_the_end():
    assert Cosine().lr(54_600, **RELEASED) == pytest.approx(0.8, rel=1e-12)
    assert Cosine().lr(109_200, **RELEASED) == 0
    assert 0 < Cosine().lr(109_199, **RELEASED) < 1e-8


def test_warmup_starts_at_zero_and_joins_the_cosine():
    joined = 0.5 * 1.6 * (1 + math.cos(math.pi * 1560 / 109_200))
    assert Cosine().lr(0, **RELEASED) == 0
    assert Cosine().lr(390, **RELEASED) == pytest.approx(joined / 4, rel=1e-12)
    assert Cosine().lr(1559, **RELEASED) == pytest.approx(joined * 1559 / 1560, rel=1e-12)
    assert Cosine().lr(1560, **RELEASED) == pytest.approx(joined, rel=1e-12)


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 312, 5004])
def test_rates_of_2015_fall_after_30_60_and_80_of_90_epochs(steps_per_epoch):
    def rate(epoch: int, *, before: int = 0) -> float:
        step = epoch * steps_per_epoch - before
        total, warmup = 90 * steps_per_epoch, 5.0 * steps_per_epoch
        return StepDecay().lr(step, peak_lr=1.0, total_steps=total, warmup_steps=warmup)

    first_rates = [rate(epoch) for epoch in (5, 30, 60, 80)]
    last_rates = [rate(epoch, before=1) for epoch in (30, 60, 80, 90)]
    assert first_rates == pytest.approx([1, 0.1, 0.01, 0.001], rel=1e-12)
    assert last_rates == first_rates


@given(
    schedule=st.sampled_from(SCHEDULES),
    total_steps=st.integers(1, 200_000),
    warmup_share=st.floats(0, 0.25),
    shares=st.lists(st.floats(0, 1), min_size=2, max_size=2),
)
def test_rates_never_rise_after_the_warmup(schedule: Schedule, total_steps, warmup_share, shares):
    warmup_steps = warmup_share * total_steps
    earlier, later = sorted(math.ceil(warmup_steps + x * (total_steps - warmup_steps)) for x in shares)

    def rate(step: int) -> float:
        return schedule.lr(step, peak_lr=1.6, total_steps=total_steps, warmup_steps=warmup_steps)

    assert 1.6 >= rate(earlier) >= rate(later) >= 0


@given(
    schedule=st.sampled_from(SCHEDULES),
    total_steps=st.integers(2, 200_000),
    warmup_share=st.floats(0.01, 0.25),
    step_share=st.floats(0, 1, exclude_max=True),
)
def test_warmup_is_a_straight_line_below_the_rate_it_joins(
    schedule: Schedule, total_steps, warmup_share, step_share
):
    warmup_steps = warmup_share * total_steps
    step = math.floor(step_share * warmup_steps)
    rate = schedule.lr(step, peak_lr=1.6, total_steps=total_steps, warmup_steps=warmup_steps)
    joined = 1.6 * schedule.decay(warmup_share)
    assert rate == pytest.approx(joined * step / warmup_steps, rel=1e-9)


@given(
    schedule=st.sampled_from(SCHEDULES),
    step=st.integers(0, 1000),
    stretch=st.integers(1, 350),
    peak_lr=st.floats(1e-3, 10),
)
def test_a_longer_run_is_the_same_curve_stretched(schedule: Schedule, step, stretch, peak_lr):
    short = schedule.lr(step, peak_lr=peak_lr, total_steps=1000, warmup_steps=50.0)
    long = schedule.lr(
        step * stretch, peak_lr=peak_lr, total_steps=1000 * stretch, warmup_steps=50.0 * stretch
    )
    assert long == pytest.approx(short, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_a_warmup_the_first_update_has_the_peak_rate(schedule):
    assert schedule.lr(0, peak_lr=1.6, total_steps=100, warmup_steps=0.0) == 1.6


@pytest.mark.parametrize("milestones", [(0.5, 0.5), (0.6, 0.3), (0.0, 0.5), (0.5, 1.0), (math.nan,), (-0.1,)])
def test_milestones_outside_of_the_run_or_out_of_order_are_refused(milestones):
    with pytest.raises(ValueError, match=r"milestones must increase within \(0, 1\), got \["):
        StepDecay(milestones=milestones)


@pytest.mark.parametrize("factor", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_factor_that_does_not_lower_the_rate_is_refused(factor):
    with pytest.raises(ValueError, match=r"factor must be in \(0, 1\), got"):
        StepDecay(factor=factor)


@pytest.mark.parametrize("schedule", [Cosine, StepDecay])
@pytest.mark.parametrize("warmup_epochs", [-1.0, math.nan])
def test_a_negative_warmup_is_refused(schedule, warmup_epochs):
    with pytest.raises(ValueError, match="warmup_epochs must be 0 or more, got"):
        schedule(warmup_epochs=warmup_epochs)
