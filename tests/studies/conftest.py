"""A study small enough to run in a test."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_rs.processes import Stop
from resnet_rs.studies.planning import Options, resolve
from resnet_rs.studies.study import Study, Trial, additive

EDITS = {
    "arch.width": "0.0625",
    "data.size": "16",
    "recipe.batch_size": "20",
    "recipe.epochs": "4",
    "recipe.ema_decay": "0.5",
    "recipe.schedule.warmup_epochs": "0.5",
}
STEPS = [
    Trial(label="plain", edits={"task.label_smoothing": 0.0}, paper=70.0),
    Trial(label="+ dropout", edits={"task.dropout": 0.1}, paper=71.5),
]


def asked_to_stop():
    """What makes a study end before its next run."""
    stop = Stop()
    stop.reason = "SIGTERM"
    return stop


def options(folder):
    """A study of sixteen updates a run, on images drawn to `folder`."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 20)):
        for name, level in (("bright", 150), ("dark", 110)):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = np.clip(rng.normal(level, 60, (20, 20)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return Options(
        study="training-methods", base="resnet-rs-tiny", edits=EDITS, data=str(folder), num_seeds=2
    )


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory):
    """Two trials with two seeds, sixteen updates each."""
    made = resolve(options(tmp_path_factory.mktemp("images")), folder=tmp_path_factory.mktemp("nothing"))
    return replace(made, study=Study(name="tiny", title="A tiny study", trials=additive(STEPS)))
