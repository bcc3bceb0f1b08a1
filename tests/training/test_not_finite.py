"""Numbers that are none: the update is taken back, on whichever rank they came up, and named."""

import pytest
import torch

from resnet_rs.config import edit
from resnet_rs.data.pipeline import Data
from resnet_rs.tasks.classification import Classification
from resnet_rs.training import checkpoint
from resnet_rs.training import run as run_module
from resnet_rs.training.events import Finished, Progressed
from resnet_rs.training.log import read_log
from resnet_rs.training.run import Diverged, run

NAN, INF = float("nan"), float("inf")


def bad_input(monkeypatch, when):
    original = Data.normalize

    def normalize(self, inputs):
        result = original(self, inputs)
        if when():
            result[0, 0, 0, 0] = NAN
        return result

    monkeypatch.setattr(Data, "normalize", normalize)


def bad_loss(value):
    def spoil(monkeypatch, when):
        original = Classification.loss

        def loss(self, prediction, targets, indices):
            result = original(self, prediction, targets, indices)
            return result + value if when() else result

        monkeypatch.setattr(Classification, "loss", loss)

    return spoil


def bad_gradient(monkeypatch, when):
    """The loss is finite, and the root of zero has an infinite slope."""
    original = Classification.loss

    def loss(self, prediction, targets, indices):
        result = original(self, prediction, targets, indices)
        return result + (prediction.sum(1) * 0).sqrt() if when() else result

    monkeypatch.setattr(Classification, "loss", loss)


SPOILED = {"input": bad_input, "nan": bad_loss(NAN), "inf": bad_loss(INF), "gradient": bad_gradient}


def snapshot(state):
    tensors = [t for model in state.models.values() for t in model.state_dict().values()]
    return [t.clone() for t in [*tensors, *state.momenta().values()]]


@pytest.mark.parametrize("kind", SPOILED)
def test_an_update_that_is_not_finite_changes_nothing_and_names_its_samples(job, monkeypatch, kind):
    """The first of the two micro-batches of update 5 is not finite; its eight samples are written down."""
    states, calls, before = [], [], {}
    original = run_module.new_state
    monkeypatch.setattr(
        run_module, "new_state", lambda *a, **k: states.append(original(*a, **k)) or states[-1]
    )

    def is_now():
        if not torch.is_grad_enabled() or len(calls) != 1:
            return False
        calls.append("spoiled")
        return True

    SPOILED[kind](monkeypatch, is_now)
    for event in run(job()):
        if not isinstance(event, Progressed):
            continue
        step = event.update.step
        if step == 4:
            before[4] = snapshot(states[0])
            calls.append("armed")
        if step == 5:
            assert event.update.is_skipped
            assert all(torch.equal(a, b) for a, b in zip(before[4], snapshot(states[0]), strict=True))
        if step == 6:
            assert not event.update.is_skipped
            assert not all(torch.equal(a, b) for a, b in zip(before[4], snapshot(states[0]), strict=True))
    assert isinstance(event, Finished)
    lines = read_log(job().folder / "log.jsonl")
    (skipped,) = [line for line in lines if line["kind"] == "skipped"]
    assert skipped["step"] == 5 and len(skipped["keys"]) == 8 and skipped["keys"][0].startswith("shapes/")
    assert [line["step"] for line in lines if line["kind"] == "update"] == [
        1,
        2,
        3,
        4,
        6,
        7,
        8,
        9,
        10,
        11,
        12,
    ]
    assert checkpoint.read(job().folder).skipped == (5,)


def spoil_updates(monkeypatch, numbers, job):
    """Make the loss of these updates infinite; what the run raises, or none."""
    taken = [0]
    bad_loss(INF)(monkeypatch, lambda: torch.is_grad_enabled() and taken[0] + 1 in numbers)
    try:
        for event in run(job):
            if isinstance(event, Progressed):
                taken[0] = event.update.step
    except Diverged as error:
        return str(error)
    return None


def test_three_updates_in_a_row_end_the_run_and_two_do_not(job, monkeypatch):
    assert spoil_updates(monkeypatch, {3, 4, 7, 8}, job("two")) is None
    monkeypatch.undo()
    assert "updates 3, 7, 8, 9 was not finite" in spoil_updates(monkeypatch, {3, 7, 8, 9}, job("three"))


def test_more_than_one_of_the_last_thousand_updates_end_a_run(job, tiny, monkeypatch):
    """A share of 0.1 %, as soon as a thousand updates have been taken."""
    many = edit(tiny, {"recipe.epochs": 1010 / 4, "arch.width": 0.0625, "data.randaugment": None})
    monkeypatch.setattr(run_module, "_SKIPPED_WINDOW", 10)
    monkeypatch.setattr(run_module, "_MAX_SKIPPED_SHARE", 0.1)
    said = spoil_updates(monkeypatch, {2, 5, 9, 30, 45, 52}, job(experiment=many))
    assert "updates 45, 52 was not finite" in said


def test_a_state_that_is_not_finite_is_never_saved(job, monkeypatch):
    original = run_module.new_state

    def spoiled(*arguments, **named):
        state = original(*arguments, **named)
        next(iter(state.ema.parameters())).data[0] = NAN
        return state

    monkeypatch.setattr(run_module, "new_state", spoiled)
    with pytest.raises(checkpoint.NotFinite, match=r"of the ema has a value that is not finite"):
        list(run(job()))
    assert not list(job().folder.glob("checkpoints/step-*"))
