"""From options to a study: limits leave trials out, and a study that is begun keeps those it began with."""

from dataclasses import replace
from pathlib import Path

import pytest
from studies.conftest import asked_to_stop, options

from resnet_rs.jobs import InProcess
from resnet_rs.studies import record as records
from resnet_rs.studies.planning import forecast, resolve
from resnet_rs.studies.run import run

GRID = {"grid.widths": "1, 2", "grid.depths": "14", "grid.sizes": "1", "grid.epochs": "1"}


@pytest.fixture(scope="module")
def scaling(tmp_path_factory):
    asked = options(tmp_path_factory.mktemp("images"))
    return replace(asked, study="scaling", edits={**asked.edits, **GRID}, num_seeds=1)


def begin(made, folder):
    """Write the record and run nothing."""
    assert list(run(made, folder, InProcess(), stop=asked_to_stop())) == []


def widths(made):
    return [trial.at["width"] for trial in made.study.trials]


def macs(scaling):
    made = resolve(scaling, folder=Path("no such folder"))
    return [experiment.count_cost().macs for experiment in made.study.experiments(made.base).values()]


def test_trials_beyond_a_limit_are_left_out_and_the_study_says_so(scaling, tmp_path):
    small, large = macs(scaling)
    assert small < large
    made = resolve(replace(scaling, max_macs=float(small)), folder=tmp_path)
    assert widths(made) == [1.0]
    assert (
        made.study.notes[-1]
        == f"1 of 2 trials are beyond {made.context.limits} and left out: 4 epochs, 16 px, depth 14, width 2."
    )
    with pytest.raises(ValueError, match="is within the limits"):
        resolve(replace(scaling, max_macs=1.0), folder=tmp_path)


def test_a_forecast_names_what_a_limit_leaves_out(scaling):
    found, costs = forecast(replace(scaling, max_macs=float(macs(scaling)[0])))
    assert [trial.label for trial in found.study.trials] == ["4 epochs, 16 px, depth 14, width 1"]
    assert found.context.left_out == ("4 epochs, 16 px, depth 14, width 2",)
    assert [cost.macs for cost in costs.values()] == macs(scaling)


def test_a_forecast_with_a_limit_of_time_measures_once(scaling, monkeypatch):
    from resnet_rs.studies import planning

    measured = []
    monkeypatch.setattr(planning, "measure_speed", lambda *_, **__: measured.append(1) or (100.0, 0.0))
    _, costs = forecast(replace(scaling, minutes=1e6))
    # 80 images, 4 epochs, 100 images a second, for the trial that is the base itself.
    assert costs["4 epochs, 16 px, depth 14, width 1"].minutes == pytest.approx(80 * 4 / 100 / 60)
    assert measured == [1]


def test_the_same_request_goes_on_with_a_study_that_a_limit_has_cut(scaling, tmp_path):
    limited = replace(scaling, max_macs=float(macs(scaling)[0]))
    made = resolve(limited, folder=tmp_path / "study")
    begin(made, tmp_path / "study")
    again = resolve(limited, folder=tmp_path / "study")
    assert again == made
    begin(again, tmp_path / "study")


def test_a_trial_that_is_added_under_the_same_limit_is_planned(scaling, tmp_path):
    small = replace(scaling, max_macs=float(macs(scaling)[0]))
    begin(resolve(small, folder=tmp_path / "study"), tmp_path / "study")
    more = replace(small, edits={**small.edits, "grid.widths": "0.5, 1, 2"})
    made = resolve(more, folder=tmp_path / "study")
    assert widths(made) == [0.5, 1.0] and len(made.context.left_out) == 1
    begin(made, tmp_path / "study")


def test_a_looser_limit_that_brings_the_first_trial_back_is_taken(scaling, tmp_path):
    """What the others are compared with changes then, not they themselves."""
    asked = replace(scaling, study="leave-one-out", edits=options(tmp_path / "images").edits)
    experiments = resolve(asked, folder=tmp_path / "none")
    costs = {t: e.count_cost().macs for t, e in experiments.study.experiments(experiments.base).items()}
    limit = float(sorted(set(costs.values()))[0])
    tight = resolve(replace(asked, max_macs=limit), folder=tmp_path / "study")
    assert "all methods" in tight.context.left_out
    begin(tight, tmp_path / "study")
    begin(resolve(asked, folder=tmp_path / "study"), tmp_path / "study")


def test_a_budget_of_time_is_measured_once(scaling, tmp_path, monkeypatch):
    from resnet_rs.studies import planning

    made = resolve(replace(scaling, minutes=60.0), folder=tmp_path / "study")
    begin(made, tmp_path / "study")
    monkeypatch.setattr(planning, "measure_speed", None)
    assert resolve(replace(scaling, minutes=60.0), folder=tmp_path / "study") == made


def test_a_looser_limit_adds_trials_and_a_tighter_one_is_refused(scaling, tmp_path):
    small, large = macs(scaling)
    begin(resolve(replace(scaling, max_macs=float(small)), folder=tmp_path / "study"), tmp_path / "study")
    looser = resolve(replace(scaling, max_macs=float(large)), folder=tmp_path / "study")
    assert widths(looser) == [1.0, 2.0]
    begin(looser, tmp_path / "study")
    assert len(records.read(tmp_path / "study").study.trials) == 2
    tighter = resolve(replace(scaling, max_macs=float(small)), folder=tmp_path / "study")
    with pytest.raises(ValueError, match="now: no trial"):
        begin(tighter, tmp_path / "study")


def test_trials_that_learn_from_other_images_are_refused(scaling, tmp_path):
    without_grid = {path: value for path, value in scaling.edits.items() if path not in GRID}
    (tmp_path / "held.yaml").write_text("alternatives:\n  all: {}\n  fewer: {recipe.validation: 0.2}\n")
    with pytest.raises(
        ValueError, match="recipe.validation differs between them. Set it for the whole study"
    ):
        resolve(
            replace(scaling, study=str(tmp_path / "held.yaml"), edits=without_grid), folder=tmp_path / "out"
        )
