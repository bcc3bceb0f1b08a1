"""`train --from WEIGHTS` as a user types it: what is said, what is refused, and that the run continues."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from resnet_rs.training import checkpoint

TINY = ("resnet-rs-tiny", "arch.width=0.125", "data.size=16", "recipe.batch_size=16", "recipe.ema_decay=0.5")
SHORT = ("recipe.epochs=2", "recipe.schedule.warmup_epochs=0.5")


def draw(folder, classes, count=16, channels=3):
    rng = np.random.default_rng(0)
    for i, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for j in range(count):
            shape = (20, 20, 3) if channels == 3 else (20, 20)
            pixels = rng.normal(60 + 50 * i, 30, shape) + (np.arange(3) * 20 if channels == 3 else 0)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name / f"{j}.png")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with photos of three classes."""
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photos", ("cat", "dog", "fox"))
    return tmp_path


@pytest.fixture
def first(here, command):
    """A finished run."""
    assert command("train", *TINY, *SHORT, "--data", "photos", "--out", "first").returncode == 0
    return here / "first"


def test_a_run_begins_with_another_says_so_and_continues_without_it(first, here, command):
    words = ("train", *TINY, *SHORT, "--from", "first", "--data", "photos", "--out", "second")
    said = command(*words, "recipe.fine_tuning.frozen=c3")
    assert said.returncode == 0, said.stderr
    assert "initialized from the EMA weights of first (SHA-256 " in said.stderr + said.stdout
    assert "backbone and head" in said.stderr + said.stdout
    shutil.rmtree("first")
    again = command(*words, "recipe.fine_tuning.frozen=c3")
    assert again.returncode == 0, again.stderr
    other = command(*words[:-4], "--data", "photos", "--out", "second", "recipe.fine_tuning.frozen=c3")
    assert other.returncode == 0
    without = command("train", *TINY, *SHORT, "--data", "photos", "--out", "second")
    assert without.returncode == 2
    assert "was started with --from first, and this command is without --from" in without.stderr


def test_other_classes_and_gray_images_are_taken(first, here, command):
    draw(here / "gray", ("left", "right"), channels=1)
    said = command("train", *TINY, *SHORT, "--from", "first", "--data", "gray", "--out", "second")
    assert said.returncode == 0, said.stderr
    assert "the head is newly initialized" in said.stderr + said.stdout
    assert checkpoint.read(here / "second").experiment.data.channels == 3
    one = ("data.mean=[0.5]", "data.std=[0.25]")
    said = command("train", *TINY, *SHORT, *one, "--from", "first", "--data", "gray", "--out", "third")
    assert said.returncode == 0, said.stderr
    assert "adapted to the number of channels: " in said.stderr + said.stdout


def test_what_cannot_be_a_start_is_refused_and_leaves_nothing(first, here, command):
    wide = command(
        "train",
        TINY[0],
        "arch.width=0.25",
        *TINY[2:],
        *SHORT,
        "--from",
        "first",
        "--data",
        "photos",
        "--out",
        "x",
    )
    other = command("train", "efficientnet-b0", "--fit", "--from", "first", "--data", "photos", "--out", "x")
    missing = command("train", *TINY, *SHORT, "--from", "frist", "--data", "photos", "--out", "x")
    study = command("train", *TINY, *SHORT, "--from", "photos", "--data", "photos", "--out", "x")
    for said, text in (
        (wide, "the weights of first do not fit this network"),
        (other, "the weights of first do not fit this network"),
        (missing, "Closest: first."),
        (study, "holds neither checkpoints/ nor checkpoint.json"),
    ):
        assert said.returncode == 2, (text, said.stderr)
        assert text in said.stderr and "Traceback" not in said.stderr
    assert not (here / "x").exists()


def test_test_images_that_the_weights_were_trained_on_are_named(first, here, command):
    draw(here / "more", ("cat", "dog", "fox"), count=40)
    words = ("train", *TINY, *SHORT, "--from", "first", "--data", "more", "--out", "second")
    said = command(*words)
    assert said.returncode == 0 and "test images have the names of images that the pretrained" in said.stdout
    same = command("train", *TINY, *SHORT, "--from", "first", "--data", "photos", "--out", "third")
    assert same.returncode == 0 and "test images have the names" not in same.stdout


def test_damaged_weights_are_refused(first, here, command):
    for folder in (first / "checkpoints").iterdir():
        file = folder / "ema.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    said = command("train", *TINY, *SHORT, "--from", "first", "--data", "photos", "--out", "x")
    assert said.returncode in (2, 3) and "has changed since it was written" in said.stderr
    assert "Traceback" not in said.stderr and not (here / "x").exists()


def test_the_start_is_in_the_record_of_the_run(first, here, command):
    command("train", *TINY, *SHORT, "--from", "first", "--data", "photos", "--out", "second")
    record = json.loads((here / "second/run.json").read_text())
    assert record["start_from"]["name"] == "first" and len(record["start"]) == 64
