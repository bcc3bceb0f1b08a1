"""On processors that compute bfloat16, a short trial decides on the precision of a new run."""

import json
import os
import signal

import pytest
import torch
from test_cli import QUICK, paint

from resnet_rs.training.device import Device
from resnet_rs.training.machine import Machine
from resnet_rs.verbs import cross_validation, plans, precision, resolve
from resnet_rs.verbs.precision import bfloat16_gain

OPEN = Machine(device=Device.choose("cpu"))
NAMED = Machine(device=Device.choose("cpu", precision="float32"))
SMALL = {"data.size": 24, "arch.width": 0.125}


@pytest.fixture
def native(monkeypatch):
    """A processor that computes bfloat16 natively, and updates that take the seconds of `times`."""
    times = {"float32": 3.0, "bfloat16": 2.0}
    monkeypatch.setattr(Device, "has_native_bfloat16", True)
    monkeypatch.setattr(
        precision, "measure", lambda _, protocol: {"seconds": [times[protocol.precision]] * 3}
    )
    return times


def gain(machine=OPEN, **edits):
    return bfloat16_gain(resolve("resnet-rs-tiny", {**SMALL, **edits}, data="builtin"), machine)


def test_bfloat16_is_chosen_where_it_is_clearly_faster(native):
    assert gain() == 1.5 and gain(NAMED) is None
    native["bfloat16"] = 2.6
    assert gain() is None


def test_other_processors_and_small_images_are_not_measured(native, monkeypatch):
    assert gain(**{"data.size": 16}) is None
    monkeypatch.setattr(Device, "has_native_bfloat16", False)
    assert gain() is None


@pytest.mark.parametrize("name", ["amx_bf16", "avx512_bf16", "bf16"])
def test_a_processor_says_what_it_computes_natively(name, monkeypatch):
    known = {"avx2": True, name: False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert not Device().has_native_bfloat16
    known[name] = True
    assert Device().has_native_bfloat16 and not Device(name="mps").has_native_bfloat16
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not Device().has_native_bfloat16


def test_the_trial_measures_real_updates_in_turns(monkeypatch):
    """With the real measurement, whatever this processor is: two rounds of both precisions."""
    seen = []
    monkeypatch.setattr(Device, "has_native_bfloat16", True)
    real = precision.measure

    def measure(tried, protocol):
        found = real(tried, protocol)
        assert len(found["seconds"]) >= 2 and found["precision"] == protocol.precision
        seen.append(protocol.precision)
        return found

    monkeypatch.setattr(precision, "measure", measure)
    gain()
    assert seen == ["float32", "bfloat16"] * 2


def test_a_run_and_all_folds_keep_their_precision(native, tmp_path, command, monkeypatch):
    """Also folds that have not begun when a signal comes."""
    monkeypatch.setattr(plans, "_WORTH_MEASURING", 0)
    for i in range(24):
        name = ("red", "green")[i % 2]
        paint(tmp_path / "photos" / name / f"{i}.png", (200, 40, 40) if i % 2 else (40, 200, 40), seed=i)
    edits = [edit.replace("size=16", "size=20") for edit in QUICK if "batch_size" not in edit]
    words = ("train", "resnet-rs-tiny", "--data", tmp_path / "photos", "--out", tmp_path / "out", *edits)
    words = (*words, "recipe.batch_size=8", "--folds", "2", "--device", "cpu")
    resolve = cross_validation.resolve
    kill = lambda *args, **options: os.kill(os.getpid(), signal.SIGTERM) or resolve(*args, **options)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(cross_validation, "resolve", kill)
        begun = command(*words)
    assert begun.returncode == 75 and "computing in bfloat16, here 1.5 times" in begun.stdout, begun.stderr
    native["bfloat16"] = 9.0
    again = command(*words)
    assert again.returncode == 0 and "continues after update" in again.stdout, again.stderr
    runs = [json.loads((tmp_path / "out" / f"fold-{i}" / "run.json").read_text()) for i in (1, 2)]
    assert [run["precision"] for run in runs] == ["bfloat16", "bfloat16"]
    other = command(*words, "--precision", "float32")
    assert other.returncode == 2 and "another precision: bfloat16, now float32" in other.stderr
