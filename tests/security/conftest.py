"""One small trained run, copied for every attack, and the means of an attacker who knows our format."""

import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image

from resnet_rs import storage, verbs

SMALL = {
    "arch.width": 1 / 32,
    "arch.blocks": (1, 1, 1, 1),
    "data.size": 16,
    "recipe.epochs": 1.0,
    "recipe.batch_size": 16,
    "recipe.ema_decay": 0.5,
    "recipe.schedule.warmup_epochs": 0.5,
}


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of small noisy images of three classes."""
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        (root / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def pristine(photos, tmp_path_factory):
    """A finished run of a few updates. It must not be changed."""
    out = tmp_path_factory.mktemp("trained") / "run"
    verbs.train(verbs.experiment("resnet-rs-tiny", SMALL), data=str(photos), out=out)
    (out / "page.html").unlink()  # large, and made anew from the rest
    return out


@pytest.fixture
def run_folder(pristine, tmp_path):
    """A copy of the run that may be changed."""
    return shutil.copytree(pristine, tmp_path / "run")


@pytest.fixture
def folder(run_folder):
    """The checkpoint in it."""
    return max((run_folder / "checkpoints").glob("step-*"))


@pytest.fixture
def reseal():
    """Make the manifest of a changed folder anew, so that it is valid: hashes keep out rot, not people."""

    def remake(folder):
        (folder / storage.MANIFEST).unlink(missing_ok=True)
        contents = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        listed = {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in sorted(contents.items())
        }
        (folder / storage.MANIFEST).write_bytes(storage.manifest(listed))

    return remake
