"""The language of edits: its laws over the whole zoo, and what it refuses."""

import json

import pytest

from resnet_rs.config import (
    as_text,
    describe,
    diff,
    edit,
    from_plain,
    parse_assignments,
    to_plain,
)
from resnet_rs.methods.randaugment import RandAugment
from resnet_rs.methods.schedule import StepDecay
from resnet_rs.zoo import EXPERIMENTS

BASE = EXPERIMENTS["resnet-rs-50-i160"]


@pytest.mark.parametrize("old", EXPERIMENTS)
def test_diff_is_the_inverse_of_edit_as_values_and_as_text(old):
    for new in EXPERIMENTS:
        a, b = EXPERIMENTS[old], EXPERIMENTS[new]
        edits = diff(a, b)
        assert edit(a, edits) == b
        assert edit(a, {path: as_text(value) for path, value in edits.items()}) == b


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_json_round_trip_gives_the_same_experiment(name):
    read = from_plain(json.loads(json.dumps(to_plain(EXPERIMENTS[name]))))
    assert read == EXPERIMENTS[name]
    assert diff(EXPERIMENTS[name], read) == {}


@pytest.mark.parametrize(
    ("typed", "path", "value"),
    [
        ("recipe.epochs=100", "recipe.epochs", 100.0),
        ("recipe.epochs=.5", "recipe.epochs", 0.5),
        ("recipe.batch_size=256", "recipe.batch_size", 256),
        ('task={"dropout": 0.5}', "task.dropout", 0.5),
        ("recipe.nesterov=False", "recipe.nesterov", False),
        ("recipe.nesterov=false", "recipe.nesterov", False),
        ("arch.se_ratio=none", "arch.se_ratio", None),
        (" arch.se_ratio = none ", "arch.se_ratio", None),
        ("arch.stem=2015", "arch.stem", "2015"),
        ("arch.blocks=[1,2,3,4]", "arch.blocks", (1, 2, 3, 4)),
        ("arch.blocks=1,2,3,4", "arch.blocks", (1, 2, 3, 4)),
        ("data.randaugment=none", "data.randaugment", None),
        ("data.randaugment=RandAugment", "data.randaugment", RandAugment()),
        ('data.randaugment={"magnitude": 15}', "data.randaugment", RandAugment(magnitude=15.0)),
        ("recipe.schedule=StepDecay", "recipe.schedule", StepDecay()),
    ],
)
def test_typed_text_is_read_by_the_type_of_its_field(typed, path, value):
    slot, field = path.split(".")
    edited = (
        edit(BASE, {"recipe.schedule.warmup_epochs": 0.1} | parse_assignments([typed]))
        if field == "epochs"
        else edit(BASE, parse_assignments([typed]))
    )
    assert getattr(getattr(edited, slot), field) == value


def test_edits_are_applied_all_at_once():
    edited = edit(BASE, {"recipe.epochs": 3.0, "recipe.schedule.warmup_epochs": 1.0})
    assert (edited.recipe.epochs, edited.recipe.schedule.warmup_epochs) == (3.0, 1.0)


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"arch.se_rate": 0.5}, "ResNetArch has no field 'se_rate'. Closest: arch.se_ratio."),
        ({"arhc.width": 2.0}, "Experiment has no field 'arhc'. Closest: arch.width."),
        ({"lr": "3"}, "Experiment has no field 'lr'. Closest: recipe.base_lr."),
        ({"recipe.lr": "3"}, "has no field 'lr'. Closest: recipe.base_lr."),
        ({"Recipe.epoch": "3"}, "Closest: recipe.epochs."),
        ({"zzzz": "3"}, "has no field 'zzzz'. Its fields are: arch, data, task, recipe."),
        ({"recipe.epochs": "many"}, "cannot set 'recipe.epochs' to 'many': it must be a number."),
        ({"recipe.epochs": "nan"}, "cannot set 'recipe.epochs' to 'nan'"),
        ({"recipe.epochs": "inf"}, "cannot set 'recipe.epochs' to 'inf'"),
        ({"recipe.epochs": "-1"}, "epochs must be above 0, got -1.0"),
        ({"recipe.batch_size": "1.5"}, "cannot set 'recipe.batch_size' to '1.5': it must be a whole number."),
        ({"arch.stem": "smal"}, "it must be 2015 or released or small. Closest: small."),
        ({"arch.blocks": "[1, 2]"}, "it must be a list of 4 values"),
        ({"arch.width.x": "1"}, "'arch.width' is 1.0, which has no fields"),
        ({"recipe.schedule": "cosine"}, "it must be Cosine or StepDecay or JSON"),
        (
            {"recipe.schedule.warmup_epochs": 3.0, "recipe.schedule": "Cosine"},
            "'recipe.schedule' is set after its fields, which undoes them. Set it before them.",
        ),
        ({"data.randaugment": "none", "data.randaugment.magnitude": 3.0}, "is none, which has no fields"),
        ({"recipe.epochs": "3"}, "the warm-up of 5.0 epochs must end before the run of 3.0"),
        ({"recipe.ema_decay": "none"}, "Set arch.norm_momentum=0.1 as well"),
        ({"data.mean": "123.7,116.3,103.5"}, "mean must be in [0, 1]"),
        ({"recipe.batch_size": "9" * 400}, "batch_size must be 2"),
        ({"data.mean": "[0.5]"}, "mean and std must have one value per channel"),
        ({"recipe.momentum": "0"}, "nesterov needs a momentum above 0"),
    ],
)
def test_a_wrong_edit_is_refused_with_its_cure(edits, said):
    with pytest.raises(ValueError) as error:
        edit(BASE, edits)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_edit_below_an_absent_value_says_how_to_set_it():
    without = edit(BASE, {"data.randaugment": None})
    with pytest.raises(ValueError, match="Set it first, as in data.randaugment=RandAugment"):
        edit(without, {"data.randaugment.magnitude": "15"})


def test_a_whole_may_be_set_and_then_its_fields():
    without = edit(BASE, {"data.randaugment": None})
    typed = parse_assignments(["data.randaugment=RandAugment", "data.randaugment.magnitude=15"])
    assert edit(without, typed).data.randaugment == RandAugment(magnitude=15.0)
    assert edit(without, {**typed, "data.randaugment": RandAugment(num_layers=3)}).data.randaugment == (
        RandAugment(num_layers=3, magnitude=15.0)
    )


@pytest.mark.parametrize("assignments", [["recipe.epochs"], [" =3"], ["a=1", "a =2"]])
def test_a_malformed_assignment_is_refused(assignments):
    with pytest.raises(ValueError, match="field=value|set twice"):
        parse_assignments(assignments)


def test_described_edits_can_be_typed_again():
    edits = diff(BASE, EXPERIMENTS["resnet-50-2015"])
    typed = [part for part in describe(edits).split(" ") if "=" in part]
    assert {part.partition("=")[0] for part in typed} == set(edits)


@pytest.mark.parametrize(
    "stored",
    [
        "os.system",
        "resnet_rs.config.edit",
        "resnet_rs.cli.app",
        "resnet_rs.no.such",
        "subprocess.Popen",
        "",
        "resnet_rs",
    ],
)
def test_a_stored_type_that_is_no_dataclass_of_ours_is_refused(stored):
    with pytest.raises(ValueError, match="not a dataclass of resnet_rs"):
        from_plain({"type": stored, "command": "true"})


@pytest.mark.parametrize("stored", ["resnet_rs.data.sample.Mask", "resnet_rs.report.page.RunPage"])
def test_a_stored_type_of_ours_that_is_no_setting_is_an_error_of_the_file(stored):
    with pytest.raises(ValueError):
        from_plain({"type": stored, "classes": [1], "title": 3, "headline": 3})


def test_a_stored_experiment_with_an_unknown_field_is_refused():
    plain = to_plain(BASE)
    plain["arch"]["colour"] = "red"
    with pytest.raises(ValueError, match="has no field 'colour'"):
        from_plain(plain)
