"""Follows a run of any experiment from training to the page: what every new task, source or arch needs."""

import json
from typing import NamedTuple

import pytest
import torch

from resnet_rs import config
from resnet_rs.config import edit
from resnet_rs.data.sample import Request
from resnet_rs.deploy.predictor import Predictor
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.evaluate import evaluate
from resnet_rs.training.evaluate import scores as scores_of
from resnet_rs.training.events import Finished, Progressed
from resnet_rs.training.job import Job
from resnet_rs.training.machine import Machine
from resnet_rs.training.page import write_page
from resnet_rs.training.run import run
from resnet_rs.zoo import EXPERIMENTS

BASE = edit(
    EXPERIMENTS["resnet-rs-tiny"],
    {
        "data.size": 16,
        "data.flip": False,
        "arch.stem": "small",
        "recipe.batch_size": 16,
        "recipe.ema_decay": 0.9,
        "recipe.epochs": 6.0,
    },
)


class Trained(NamedTuple):
    """What came of a run."""

    scores: dict
    saved: checkpoint.Checkpoint
    page: str


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Train, stop in the middle, continue, score again from the checkpoint, write the page; all must agree."""
    packages = {"seams", "contracts", "tests", *(name.partition(".")[0] for name in (__name__,))}
    monkeypatch.setattr(config, "TRUSTED_PACKAGES", [*config.TRUSTED_PACKAGES, *packages])

    def build(experiment, splits, name, workers=0):
        origin = {"name": name, "edits": {}, "changes": [], "data": name, "data_title": name}
        return Job(
            experiment=experiment.with_classes(splits.train.classes),
            splits=splits,
            folder=tmp_path / name,
            micro_batch=8,
            machine=Machine(device=Device.choose("cpu"), workers=workers),
            origin=origin | {"num_train": len(splits.train), "num_test": len(splits.test)},
        )

    def train(experiment, splits, *, stop_at=5):
        whole = build(experiment, splits, "whole")
        (final,) = [event.scores for event in run(whole) if isinstance(event, Finished)]
        # The same run, stopped and continued with worker processes.
        for event in run(build(experiment, splits, "cut")):
            if isinstance(event, Progressed) and event.update.step == stop_at:
                break
        list(run(build(experiment, splits, "cut", workers=2)))
        saved, again = checkpoint.read(whole.folder), checkpoint.read(tmp_path / "cut")
        models = [found.load_model().state_dict() for found in (saved, again)]
        assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
        # From the checkpoint alone.
        model = whole.machine.device.place(saved.load_model())
        evaluation = evaluate({"ema": model}, splits.test, saved.experiment, machine=whole.machine)
        found = scores_of(evaluation, splits.test, saved.experiment.task)
        assert found[found["headline"]] == final[final["headline"]]
        answers = Predictor(saved, device=whole.machine.device).predict(
            [splits.test.read(i, Request(saved.experiment.data.channels)).input for i in range(3)]
        )
        assert len(answers) == 3 and all(found.answer.text for found in answers)
        json.dumps([found.to_plain() for found in answers], allow_nan=False)
        page = write_page(whole.folder, splits).read_text()
        assert saved.experiment.task.headline.label in page
        assert "0.0 min" not in page, "a short run is shown in seconds"
        return Trained(final, saved, page)

    return train
