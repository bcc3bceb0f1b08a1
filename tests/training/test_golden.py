"""Runs of earlier versions are read, scored and continued by this one. `tools/make_golden.py` has made them."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from resnet_rs import verbs
from resnet_rs.training.events import Finished, Progressed, Started
from resnet_rs.training.run import run

ROOT = Path(__file__).parent.parent.parent
GOLDEN = sorted((ROOT / "tests/assets").glob("golden-*"))


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_golden", ROOT / "tools/make_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_the_weights_of_an_earlier_version_say_what_they_said(golden, maker):
    said = json.loads((golden / "logits.json").read_text())
    torch.testing.assert_close(torch.tensor(maker.logits(golden)), torch.tensor(said), atol=1e-5, rtol=1e-5)
    assert verbs.load(golden, device="cpu").class_names == ("disc", "square", "triangle")


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_a_finished_run_of_an_earlier_version_has_its_scores(golden, maker, tmp_path):
    shutil.copytree(golden, tmp_path / "run")
    events = list(run(maker.golden_job(tmp_path / "run")))
    assert isinstance(events[0], Started) and events[0].step == 6
    assert not any(isinstance(event, Progressed) for event in events)
    assert isinstance(events[-1], Finished)
    before = json.loads((golden / "scores.json").read_text())
    assert events[-1].scores["top1"] == before["top1"]


def test_there_is_a_golden_run_of_this_version():
    assert GOLDEN
