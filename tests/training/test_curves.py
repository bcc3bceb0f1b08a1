"""Copies of the curves for other programs."""

import csv
from contextlib import closing

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resnet_rs import storage
from resnet_rs.cli.training import train
from resnet_rs.training.curves import with_results, with_tensorboard
from resnet_rs.training.events import Progressed
from resnet_rs.training.log import read_log
from resnet_rs.training.run import run


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_have_a_row_per_evaluation_with_the_values_of_the_log(job):
    list(with_results(run(job()), job().folder))
    log = [line for line in read_log(job().folder / "log.jsonl") if line["kind"] == "evaluation"]
    found = rows(job().folder)
    assert [int(row["step"]) for row in found] == [line["step"] for line in log] == [4, 8, 12]
    for row, line in zip(found, log, strict=True):
        assert float(row["train/loss"]) == line["loss"] and float(row["lr"]) > 0
        assert float(row["test/top1/ema"]) == line["summaries"]["ema"]["top1"]
        assert float(row["test/nll/model"]) == line["summaries"]["model"]["nll"]


def test_curves_that_cannot_be_written_stop_no_run(job, monkeypatch):
    whole = storage.write_text

    def full(path, text):
        if path.name == "results.csv":
            raise OSError(28, "No space left on device")
        whole(path, text)

    monkeypatch.setattr(storage, "write_text", full)
    assert list(with_results(run(job()), job().folder))[-1].scores["count"] == 40
    assert not (job().folder / "results.csv").exists()


def test_tensorboard_has_every_update_once_after_an_interruption(job):
    with closing(with_tensorboard(run(job()), job().folder)) as events:
        for event in events:
            if isinstance(event, Progressed) and event.update.step == 7:
                break
    list(with_tensorboard(run(job()), job().folder))
    board = EventAccumulator(str(job().folder / "tensorboard"))
    board.Reload()
    logged = {line["step"]: line for line in read_log(job().folder / "log.jsonl") if line["kind"] == "update"}
    losses = {item.step: item.value for item in board.Scalars("train/loss")}
    assert len(board.Scalars("train/loss")) == len(losses) == 12
    assert losses == pytest.approx({step: line["loss"] for step, line in logged.items()}, rel=1e-6)
    assert [item.step for item in board.Scalars("test/top1/ema")] == [4, 8, 12]


def test_results_are_made_again_where_they_are_missing_and_from_older_logs(job):
    list(with_results(run(job()), job().folder))
    before = (job().folder / "results.csv").read_bytes()
    (job().folder / "results.csv").unlink()
    log = job().folder / "log.jsonl"
    log.write_text(log.read_text().replace('"split": "test", ', ""))
    list(with_results(run(job()), job().folder))
    assert (job().folder / "results.csv").read_bytes() == before


def test_event_files_that_cannot_be_written_stop_no_run(job):
    job().folder.mkdir()
    steps = 0
    events = with_tensorboard(run(job()), job().folder / "experiment.json")  # a file, not a folder
    with pytest.warns(UserWarning, match="TensorBoard's files cannot be written: .* The run goes on"):
        for event in events:
            steps += isinstance(event, Progressed)
    assert steps == 12


def test_without_tensorboard_the_option_is_refused_with_the_cure(monkeypatch, tmp_path):
    monkeypatch.setattr("resnet_rs.text.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"which is not installed. Install it with `pip install 'resnet-rs\[tensorb"
    ):
        train("resnet-rs-tiny", data="builtin", out=tmp_path, tensorboard=True)
