"""Studies as values: how trials are made from steps, and what is refused."""

import pytest

from resnet_rs import config, zoo
from resnet_rs.methods.randaugment import RandAugment
from resnet_rs.studies.catalog import build
from resnet_rs.studies.file import read
from resnet_rs.studies.study import Study, Trial, additive, alternatives, grid

BASE = zoo.experiment("resnet-rs-tiny")
STEPS = [
    Trial(label="first", edits={"recipe.epochs": 1.0}),
    Trial(label="second", edits={"task.dropout": 0.1}),
    Trial(label="third", edits={"recipe.epochs": 3.0}),
]


def test_additive_trials_keep_the_edits_above_them_and_are_compared_with_the_one_before():
    trials = additive(STEPS)
    assert [dict(t.edits) for t in trials] == [
        {"recipe.epochs": 1.0},
        {"recipe.epochs": 1.0, "task.dropout": 0.1},
        {"recipe.epochs": 3.0, "task.dropout": 0.1},
    ]
    assert [t.baseline for t in trials] == [None, "first", "second"]


def test_additive_trials_may_refine_what_was_set_above_and_set_it_anew():
    edits = [
        {"data.randaugment": "RandAugment"},
        {"data.randaugment.magnitude": 15.0},
        {"data.randaugment": "none", "recipe.epochs": 3.0},
    ]
    trials = additive([Trial(label=str(i), edits=e) for i, e in enumerate(edits)])
    made = Study(name="mine", title="", trials=trials).experiments(
        config.edit(BASE, {"data.randaugment": None})
    )
    assert [e.data.randaugment for e in made.values()] == [RandAugment(), RandAugment(magnitude=15.0), None]
    assert dict(trials[2].edits) == edits[2]


def test_alternatives_have_their_own_edits_and_are_compared_with_the_first():
    trials = alternatives(STEPS)
    assert [dict(t.edits) for t in trials] == [dict(step.edits) for step in STEPS]
    assert [t.baseline for t in trials] == [None, "first", "first"]


def test_a_grid_has_every_combination_and_compares_along_its_last_axis():
    trials = grid({"task.dropout": [0.1, 0.2], "recipe.epochs": [1, 2, 3]})
    assert len(trials) == 6
    assert len({tuple(sorted(t.edits.items())) for t in trials}) == 6
    assert [t.baseline is None for t in trials] == [True, False, False, True, False, False]
    assert trials[1].baseline == trials[0].label == "task.dropout=0.1 recipe.epochs=1"


def test_a_trial_is_the_base_with_its_edits():
    study = Study(name="mine", title="", trials=alternatives(STEPS))
    made = study.experiments(BASE)
    assert config.diff(BASE, made["third"]) == {"recipe.epochs": 3.0}


def test_an_edit_the_base_does_not_take_is_refused_with_its_trial():
    study = Study(name="mine", title="", trials=(Trial(label="odd", edits={"arch.wings": 2}),))
    with pytest.raises(ValueError, match=r"trial 'odd' of study 'mine': .*no field 'wings'"):
        study.experiments(BASE)


def test_labels_that_would_share_a_folder_are_refused():
    with pytest.raises(ValueError, match="two trials have the label 'A b'"):
        Study(name="mine", title="", trials=(Trial(label="A b", edits={}), Trial(label="a-B", edits={})))


def test_a_comparison_with_nobody_is_refused():
    with pytest.raises(
        ValueError, match=r"the baseline of trial 'a' is 'b', which is no other trial. The trials are: a"
    ):
        Study(name="mine", title="", trials=(Trial(label="a", edits={}, baseline="b"),))


def test_a_part_of_a_study_drops_comparisons_with_what_is_left_out():
    study = Study(name="mine", title="", trials=additive(STEPS)).without(["second"])
    assert [(t.label, t.baseline) for t in study.trials] == [("first", None), ("third", None)]


def test_a_study_of_ones_own_is_read_from_yaml(tmp_path):
    path = tmp_path / "crops.yaml"
    path.write_text(
        "title: Does the crop matter?\nalternatives:\n  whole: {data.min_area: 1.0}\n  half: {data.min_area: 0.5}\n"
    )
    study = read(path, BASE)
    assert (study.name, study.title) == ("crops", "Does the crop matter?")
    assert [(t.label, dict(t.edits), t.baseline) for t in study.trials] == [
        ("whole", {"data.min_area": 1.0}, None),
        ("half", {"data.min_area": 0.5}, "whole"),
    ]


def test_a_row_of_ones_own_may_say_what_it_is_compared_with_and_what_was_published(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "additive:\n  a: {}\n  b: {data.min_area: 0.5, paper: 71}\n  c: {data.min_area: 0.3, baseline: a}\n"
    )
    assert [(t.baseline, t.paper) for t in read(path, BASE).trials] == [(None, None), ("a", 71), ("a", None)]


def test_labels_stay_as_they_are_written(tmp_path):
    """YAML makes True of `on` and `yes`, which is also 1: one trial would silently take the place of another."""
    path = tmp_path / "mine.yaml"
    path.write_text("alternatives: {1: {}, yes: {}, on: {}, off: {}, ~: {}, 0x1: {}, 1.0: {}}\n")
    assert [t.label for t in read(path, BASE).trials] == ["1", "yes", "on", "off", "~", "0x1", "1.0"]
    path.write_text("alternatives: {first: {}, on: {}, 2015: {baseline: on}, x: {baseline: 2015}}\n")
    assert [t.baseline for t in read(path, BASE).trials] == [None, "first", "on", "2015"]


@pytest.mark.parametrize("name", ["scaling", "speed", "training-methods"])
def test_a_file_is_not_taken_for_a_study_of_the_paper(tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    path.write_text("alternatives: {a: {}}\n")
    with pytest.raises(ValueError, match="is the name of a study of the paper"):
        build(str(path), BASE, num_samples=100, settings={})


def test_every_label_has_a_folder_of_its_own():
    labels = ["大", "小", "x" * 300, "x" * 299, "a", "Über", "über uns"]
    names = [Trial(label=label, edits={}).folder_name for label in labels]
    assert len(set(names)) == len(names)
    assert all(name.isascii() and 0 < len(name) < 100 and "/" not in name for name in names)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alternatives: {a: {}, a: {}}\n", "'a' appears twice"),
        ("alternatives: {a: {recipe.epochs: 1, recipe.epochs: 2}}\n", "'recipe.epochs' appears twice"),
        ("alternatives: {a: {paper: much}}\n", "`paper` of trial 'a' must be a number"),
        ("alternatives: {a: {paper: true}}\n", "`paper` of trial 'a' must be a number"),
        ("alternatives: {a: {paper: .nan}}\n", "`paper` of trial 'a' must be a number"),
        ("alternatives: {a: {baseline: b}}\n", "is no other trial"),
        ("alternatives: {a: {}, b: {baseline: b}}\n", "is no other trial"),
        ("alternatives: !!set foo\n", "odd.yaml is not valid YAML"),
        ("title: 2020-13-45\n", "odd.yaml is not valid YAML"),
        (f"grid: {{recipe.epochs: [1{'0' * 400}]}}\n", "odd.yaml: "),
        ("grid:\n" + "".join(f"  data.f{i}: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" for i in range(9)), "387,420,489"),
        ("", "expected one of additive, alternatives or grid"),
        ("title: x\n", "got none of the three"),
        ("additive: {a: {}}\ngrid: {b: [1]}\n", "got 'additive' and 'grid'"),
        ("combine: {a: {}}\n", "got 'combine'"),
        ("grid: {recipe.epochs: 3}\n", "recipe.epochs must be a list of values, got 3"),
        ("additive: {a: 3}\n", r"trial 'a' must be edits such as \{recipe.epochs: 10\}, got 3"),
        ("additive: {a: {recipe.speed: 3}}\n", "no field 'speed'"),
        ("additive: [\n", "is not valid YAML"),
        ("titel: x\nadditive: {a: {}}\n", "got 'titel'"),
        ("alternatives: [a, b]\n", "`alternatives` must hold labels with their edits"),
        ("alternatives: {'': {}}\n", "one is empty"),
        ("alternatives: {[a]: {}}\n", "names must be words"),
        ("additive: {a: !!python/object/apply:os.system ['touch canary']}\n", "is not valid YAML"),
        ("\x00", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path, text, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read(path, BASE)
    assert not (tmp_path / "canary").exists()


def test_aliases_in_a_file_are_refused(tmp_path):
    """A few hundred bytes of nested aliases stand for gigabytes."""
    path = tmp_path / "bomb.yaml"
    path.write_text("alternatives:\n  a: &a {data.min_area: 1.0}\n  b: *a\n")
    with pytest.raises(ValueError, match="aliases"):
        read(path, BASE)
