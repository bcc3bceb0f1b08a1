"""Train a tiny run and keep it as `tests/assets/golden-VERSION`, to be read by every later version.

PYTHONPATH=tests python tools/make_golden.py tests/assets/golden-0.1
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from shapes import Shapes

from resnet_rs.config import edit
from resnet_rs.data.sample import Request
from resnet_rs.data.source import Splits
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.job import Job
from resnet_rs.training.machine import Machine
from resnet_rs.training.run import run
from resnet_rs.zoo import EXPERIMENTS

EDITS = {
    "arch.width": 0.0625,
    "arch.drop_path": 0.2,
    "data.size": 16,
    "task.num_classes": 3,
    "task.dropout": 0.25,
    "recipe.epochs": 2.0,
    "recipe.batch_size": 16,
    "recipe.ema_decay": 0.8,
    "recipe.schedule.warmup_epochs": 0.5,
}


def golden_job(folder: Path) -> Job:
    """The job whose folder is kept: six updates on 48 drawn shapes."""
    return Job(
        experiment=edit(EXPERIMENTS["resnet-rs-tiny"], EDITS),
        splits=Splits(train=Shapes(num_samples=48, size=16), test=Shapes(num_samples=12, size=16, seed=1)),
        folder=folder,
        machine=Machine(device=Device.choose("cpu")),
        micro_batch=8,
    )


def logits(folder: Path) -> list[list[float]]:
    """What the newest checkpoint in `folder` says of the twelve test shapes."""
    saved, test = checkpoint.read(folder), golden_job(folder).splits.test
    inputs = [saved.experiment.data.test_input(test.read(i, Request(1)))[0] for i in range(len(test))]
    with torch.no_grad():
        return saved.load_model()(saved.experiment.data.normalize(torch.stack(inputs))).tolist()


def main(folder: Path) -> None:
    for _ in run(golden_job(folder)):
        pass
    newest = checkpoint.read(folder).path
    for path in newest.parent.iterdir():
        if path != newest:
            shutil.rmtree(path)
    (folder / "lock").unlink()
    (folder / "logits.json").write_text(json.dumps(logits(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
