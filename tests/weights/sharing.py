"""Checkpoints of random weights, and folders of the Hub, for the tests of these."""

import json
from pathlib import Path

import torch

from resnet_rs.training import checkpoint
from resnet_rs.training.provenance import Provenance

GOLDEN = Path(__file__).parents[1] / "assets/golden-0.1"
CLASSES = ("cat", "dog", 'a "b": #c | `d`')


def write(path, experiment, *, classes=CLASSES, seed=0):
    """A checkpoint of random weights and statistics."""
    chosen = experiment.with_classes(classes)
    model = chosen.build_model(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.rand(t.shape, generator=generator)
        if t.is_floating_point() and "running" in name
        else t + seed
        for name, t in model.state_dict().items()
    }
    origin = {"source": "elsewhere.h5", "format": "keras"}
    checkpoint.write(path, tensors, Provenance(experiment=chosen, classes=classes, seed=seed, origin=origin))
    return path


def state(path):
    return checkpoint.read(path).load_model().state_dict()


def assert_same(a, b):
    assert list(a) and set(a) == set(b)
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype and torch.equal(tensor, b[name]), name


def spoilt(folder, **fields):
    """The folder with other fields in its configuration; None takes one away."""
    file = folder / "config.json"
    found = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
    return folder
