"""Two runs side by side, on runs whose answers are known."""

import json
import sys

import pytest

from resnet_rs import config, zoo
from resnet_rs.report.score import PerSample
from resnet_rs.studies.compare_runs import compare_runs

SIZE = 200


def stored_run(folder, wrong, *, edits=None, unreadable=(), digest="a", train="a", headline="top1", seed=0):
    """The files of a finished run that compared runs are read from."""
    folder.mkdir()
    experiment = config.edit(zoo.experiment("resnet-rs-tiny"), edits or {})
    scored = [i for i in range(SIZE) if i not in unreadable]
    per_sample = PerSample.of(scored, [float(i not in wrong) for i in scored])
    scores = {
        "headline": headline,
        "count": len(scored),
        "top1": 1 - len(wrong) / len(scored),
        "per_sample": per_sample.to_plain(),
        "unreadable": [{"index": i, "key": str(i)} for i in unreadable],
    }
    files = {
        "run.json": {"seed": seed, "train_digest": train, "test_digest": digest},
        "experiment.json": config.to_plain(experiment),
        "scores.json": scores,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def test_edits_scores_and_the_paired_difference_are_shown(tmp_path):
    old = stored_run(tmp_path / "old", range(60), unreadable=(199,))
    new = stored_run(tmp_path / "new", range(20), edits={"task.dropout": 0.1}, unreadable=(198,), seed=1)
    text = compare_runs(old, new)
    assert f"From {old} to {new}: task.dropout=0.1; seed 0 and seed 1." in text
    assert "| top-1, % | 69.85 | 89.95 |" in text
    assert "top-1: +20.20 points (" in text and ": better." in text
    assert "Paired over 198 test samples, of which 40 differ." in text


def test_report_of_two_runs_prints_their_comparison_line_by_line(tmp_path, monkeypatch, capsys):
    from resnet_rs.cli import main

    old, new = stored_run(tmp_path / "old", range(60)), stored_run(tmp_path / "new", range(20))
    monkeypatch.setattr(sys, "argv", ["resnet-rs", "report", str(old), str(new)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().out == compare_runs(old, new) + "\n"


def test_a_run_does_not_differ_from_itself(tmp_path):
    run = stored_run(tmp_path / "run", range(60))
    text = compare_runs(run, run)
    assert "the same experiment" in text and "not significant" in text


def test_the_same_experiment_on_other_training_data_is_named(tmp_path):
    old, new = stored_run(tmp_path / "old", range(60)), stored_run(tmp_path / "new", range(60), train="b")
    assert f"From {old} to {new}: the same experiment; other training data." in compare_runs(old, new)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"digest": "b"}, "have different test data"), ({"headline": "miou"}, "is scored by top1")],
)
def test_runs_of_other_data_or_scores_are_refused(tmp_path, changes, message):
    old, new = stored_run(tmp_path / "old", ()), stored_run(tmp_path / "new", (), **changes)
    with pytest.raises(ValueError, match=message):
        compare_runs(old, new)


def test_a_folder_without_scores_is_refused_with_what_is_missing(tmp_path):
    run = stored_run(tmp_path / "run", ())
    (run / "scores.json").unlink()
    with pytest.raises(ValueError, match=r"is no finished run: scores.json is missing"):
        compare_runs(run, run)


@pytest.mark.parametrize(
    "per_sample", [3, {"default": 1.0, "indices": [10**6], "values": [0.0]}, {"default": 1}]
)
def test_damaged_values_per_sample_are_refused_with_their_file(tmp_path, per_sample):
    old, new = stored_run(tmp_path / "old", range(60)), stored_run(tmp_path / "new", range(20))
    scores = json.loads((new / "scores.json").read_text())
    (new / "scores.json").write_text(json.dumps(scores | {"per_sample": per_sample}))
    with pytest.raises(ValueError, match=r"scores\.json has no values per sample"):
        compare_runs(old, new)
