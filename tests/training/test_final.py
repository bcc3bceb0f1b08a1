"""Runs with validation images: what they choose, and that the test images choose nothing."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from shapes import Shapes

from resnet_rs import storage
from resnet_rs.config import edit
from resnet_rs.data.sample import Request
from resnet_rs.data.source import Splits
from resnet_rs.deploy.predictor import Predictor
from resnet_rs.report.score import ScoreName
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.evaluate import evaluate
from resnet_rs.training.events import Evaluated, Finished, Progressed
from resnet_rs.training.final import best_steps, choose_final, is_patience_over
from resnet_rs.training.folder import held
from resnet_rs.training.log import read_log
from resnet_rs.training.machine import Machine
from resnet_rs.training.run import run
from resnet_rs.training.state import new_state

TOP, LOSS = ScoreName(key="top1", label="top-1"), ScoreName(key="nll", label="nll", is_higher_better=False)


@pytest.fixture
def validated(job, shapes):
    """Builds a job with validation images."""

    def build(name="run", *, patience=None, seed=2, **edits):
        plain = job()
        changed = edit(plain.experiment, {"recipe.patience": patience, **edits})
        parts = Splits(
            train=shapes.train, test=shapes.test, validation=Shapes(num_samples=30, size=16, seed=seed)
        )
        return job(name, experiment=changed, splits=parts)

    return build


def result(job):
    return next(event for event in run(job) if isinstance(event, Finished)).scores


def files(job):
    return {path.name: path.read_bytes() for path in (job.folder / "final").iterdir()}


def test_the_best_is_the_last_of_equals_and_patience_counts_from_the_first():
    evaluations = [
        (10, {"top1": 0.5, "nll": 2.0}),
        (20, {"top1": 0.7, "nll": 1.0}),
        (30, {"top1": 0.7, "nll": 3.0}),
    ]
    assert [best_steps(evaluations, score) for score in (TOP, LOSS)] == [[30, 20, 10], [20, 10, 30]]
    assert is_patience_over(evaluations, LOSS, 1) and not is_patience_over(evaluations, LOSS, 2)
    assert is_patience_over(evaluations, TOP, 1) and not is_patience_over(evaluations, LOSS, None)
    unknown = [(10, {"top1": float("nan")}), *evaluations, (40, {})]
    assert best_steps(unknown, TOP) == [30, 20, 10] and best_steps([], TOP) == []
    assert not is_patience_over([(10, {}), (20, {})], TOP, 1)


def test_choices_are_made_by_validation_images_and_the_score_is_of_test_images(validated):
    run_ = validated(patience=10)
    events = list(run(run_))
    scored = [event for event in events if isinstance(event, Evaluated)]
    assert {event.split for event in scored} == {"validation"} and len(scored) == 3
    by_validation = [event.summaries["ema"]["top1"] for event in scored]
    scores = events[-1].scores
    best = max(i for i in range(3) if by_validation[i] == max(by_validation))
    assert scores["step"] == scored[best].step and scores["count"] == 40
    saved = checkpoint.read(run_.folder)
    assert saved.path.name == "final" and saved.step == scores["step"]
    stored = checkpoint.read(checkpoint.folder_of(run_.folder, saved.step)).load_model().state_dict()
    final = saved.load_model().state_dict()
    assert all(torch.equal(final[name], tensor) for name, tensor in stored.items())
    again = evaluate(
        {"ema": saved.load_model()},
        run_.splits.test,
        saved.experiment,
        machine=Machine(device=Device.choose("cpu")),
    )
    assert again.meters["ema"].summary()["nll"] == pytest.approx(scores["nll"], rel=1e-6)


def test_test_images_cannot_change_the_final_weights(validated, shapes):
    one, other = validated("one", patience=1), validated("other", patience=1)
    other = replace(other, splits=replace(other.splits, test=Shapes(num_samples=9, size=16, seed=7)))
    assert result(one)["count"] != result(other)["count"]
    assert files(one) == files(other)


@pytest.mark.parametrize("cut_after", [0, 4, 9, 12])
def test_an_interrupted_run_chooses_the_same_weights(validated, cut_after):
    whole, cut = validated("whole", patience=1), validated("cut", patience=1)
    expected = result(whole)
    steps = 0
    for event in run(cut):
        steps += isinstance(event, Progressed)
        if steps >= cut_after:
            break
    assert result(cut) == expected and files(cut) == files(whole)


def test_patience_ends_a_run_early_and_the_same_command_changes_nothing(validated):
    """At this learning rate the score only gets worse after the first evaluation."""
    wild = validated(patience=1, seed=3, **{"recipe.epochs": 8.0, "recipe.base_lr": 8.0})
    scores = result(wild)
    log = [line for line in read_log(wild.folder / "log.jsonl") if line["kind"] == "evaluation"]
    assert log[-1]["step"] < wild.timetable.total_steps
    before = files(wild)
    again = list(run(wild))
    assert not any(isinstance(event, Progressed) for event in again)
    assert again[-1].scores == scores and files(wild) == before


def test_the_temperature_is_stored_with_the_weights_and_used_by_predictions(validated):
    run_ = validated()
    scores = result(run_)
    saved = checkpoint.read(run_.folder)
    assert saved.step == run_.timetable.total_steps
    temperature = saved.experiment.task.temperature
    assert temperature != 1 and scores["task"]["temperature"] == temperature
    image = run_.splits.test.read(0, Request(1)).input
    calibrated = Predictor(saved, device=Device.choose("cpu"))
    plain = Predictor(
        checkpoint.read(checkpoint.folder_of(run_.folder, saved.step)), device=Device.choose("cpu")
    )
    log_shares = [
        torch.tensor(list(p.predict([image])[0].answer.probabilities.values())).log()
        for p in (calibrated, plain)
    ]
    gaps = [float(log_share[0] - log_share[1]) for log_share in log_shares]
    assert gaps[1] / gaps[0] == pytest.approx(temperature, rel=1e-3)


def test_the_best_checkpoint_outlives_newer_ones(validated):
    run_ = replace(validated(patience=10, **{"recipe.epochs": 6.0}), save_every=2)
    scores = result(run_)
    kept = {path.name for path in (run_.folder / "checkpoints").iterdir()}
    assert f"step-{scores['step']:08d}" in kept and len(kept) <= 3


def test_damaged_final_weights_are_named_and_the_newest_checkpoint_is_used(validated):
    run_ = validated()
    result(run_)
    (run_.folder / "final" / "ema.safetensors").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"final.*is used instead"):
        assert checkpoint.read(run_.folder).path.name.startswith("step-")
    result(run_)  # writes them anew
    assert checkpoint.read(run_.folder).path.name == "final"


def test_a_best_checkpoint_that_is_lost_is_named_and_the_next_best_is_used(validated):
    run_ = validated(patience=10)
    result(run_)
    last = run_.timetable.total_steps
    state = new_state(run_.experiment, run_.machine.device, seed=0)
    with pytest.warns(UserWarning, match="weights after update 999 cannot be the result: .*step-00000999"):
        final = choose_final(run_, state, [(999, {"top1": 0.9}), (last, {"top1": 0.5})])
    assert final.step == last


def test_final_weights_that_are_gone_are_missed_and_a_full_disk_does_not_take_them(validated, monkeypatch):
    run_ = validated()
    result(run_)
    before = files(run_)
    with monkeypatch.context() as patched:
        patched.setattr(storage, "write_folder", lambda *_: pytest.fail("written again"))
        result(run_)
    assert files(run_) == before
    shutil.rmtree(run_.folder / "final")
    with pytest.warns(
        UserWarning, match=r"final is missing, the final weights of this run. step-\d+ is used instead"
    ):
        checkpoint.read(run_.folder)


def test_without_patience_no_score_decides_which_checkpoints_stay(job):
    run_ = replace(job(), save_every=2)
    result(run_)
    assert len(list((run_.folder / "checkpoints").iterdir())) == 2


def test_patience_without_validation_images_is_refused(job, tiny):
    with pytest.raises(
        ValueError, match=r"recipe.patience=3 needs validation images, and there are none. Add"
    ):
        job(experiment=edit(tiny, {"recipe.patience": 3}))
    with pytest.raises(ValueError, match=r"patience must be 1 evaluation or more, or none, got 0"):
        edit(tiny, {"recipe.patience": 0})


def test_a_run_continues_only_with_the_same_validation_images(validated):
    run_ = validated()
    next(run(run_))
    other = validated(seed=9)
    with pytest.raises(ValueError, match=r"the validation images of this data"), held(other):
        pass
    assert json.loads((run_.folder / "run.json").read_text())["validation_digest"]
    assert storage.is_vacant(run_.folder, but=tuple(p.name for p in run_.folder.iterdir()))
