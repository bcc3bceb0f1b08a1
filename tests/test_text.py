"""Values outside of their interval are refused with it."""

from types import SimpleNamespace

import pytest

from resnet_rs.text import is_within, refuse_outside


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", [0, 0.0, 0.5, 0.999], [-1e-9, 1, 1.0, float("nan"), float("inf"), None]),
        ("(0, 0.1]", [1e-9, 0.1], [0, 0.1000001, 10**400]),
        ("[1/32, 16]", [1 / 32, 16], [0.03124, 16.1]),
        ("(0, 1] or none", [None, 1], [0, 2, float("nan")]),
    ],
)
def test_the_interval_of_the_message_is_the_one_that_is_checked(interval, inside, outside):
    for number in inside:
        refuse_outside(SimpleNamespace(rate=number), rate=interval)
    for number in outside:
        with pytest.raises(ValueError) as error:
            refuse_outside(SimpleNamespace(rate=number), rate=interval)
        assert str(error.value) == f"rate must be in {interval}, got {number}."


def test_a_field_is_within_itself_and_within_what_contains_it():
    assert is_within("data.size", ["arch", "data.size"])
    assert is_within("recipe.schedule.warmup_epochs", {"recipe.schedule": None})
    assert not is_within("recipe.epochs", ["recipe.epoch", "recipe.epochs.last"])
