"""Runs that take a second or two: the smallest base of the zoo on a few drawn or built-in images."""

import pytest
from shapes import Shapes

from resnet_rs.config import edit
from resnet_rs.data.source import Splits
from resnet_rs.methods.randaugment import RandAugment
from resnet_rs.training.device import Device
from resnet_rs.training.job import Job
from resnet_rs.training.machine import Machine
from resnet_rs.zoo import EXPERIMENTS

CPU = Device.choose("cpu")


TINY = edit(
    EXPERIMENTS["resnet-rs-tiny"],
    {
        "arch.width": 0.125,
        "arch.drop_path": 0.2,
        "data.size": 16,
        "data.randaugment": RandAugment(magnitude=10.0),
        "task.num_classes": 3,
        "task.dropout": 0.25,
        "recipe.epochs": 3.0,
        "recipe.batch_size": 16,
        "recipe.ema_decay": 0.8,
        "recipe.schedule.warmup_epochs": 0.5,
    },
)
"""Every method of the recipe on, on 16x16 pixels."""


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def shapes():
    return Splits(train=Shapes(num_samples=64, size=16), test=Shapes(num_samples=40, size=16, seed=1))


@pytest.fixture
def job(tiny, shapes, tmp_path):
    """A job in a folder of its own; keyword arguments change it."""

    def build(name="run", **changes):
        fields = {
            "experiment": tiny,
            "splits": shapes,
            "folder": tmp_path / name,
            "machine": Machine(device=CPU, workers=changes.pop("workers", 0)),
            "micro_batch": 8,
        }
        return Job(**{**fields, **changes})

    return build
