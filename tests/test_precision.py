"""On processors that compute bfloat16, a short trial decides on the precision of a new run."""

import json

import pytest
from test_cli import QUICK, paint

from resnet_rs.training.device import Device
from resnet_rs.training.machine import Machine
from resnet_rs.verbs import choose_precision, experiment, precision, with_usable_precision

MACHINE = Machine(device=Device.choose("cpu"))


@pytest.fixture
def native(monkeypatch):
    """A processor that computes bfloat16 natively, and updates that take the seconds of `times`."""
    times = {"float32": 3.0, "bfloat16": 2.0}
    monkeypatch.setattr(Device, "has_native_bfloat16", True)
    monkeypatch.setattr(
        precision, "measure", lambda _, protocol: {"seconds": [times[protocol.precision]] * 3}
    )
    return times


def chosen(tmp_path, *, name="resnet-rs-50-i160", edits=None):
    found, reason = choose_precision(MACHINE, name, edits or {}, run_folder=tmp_path / "run")
    return found.device.precision, reason


def test_bfloat16_is_chosen_where_it_is_clearly_faster(native, tmp_path):
    assert chosen(tmp_path) == (
        "bfloat16",
        "computing in bfloat16, here 1.5 times as fast as float32; `--precision float32` is more exact.",
    )
    native["bfloat16"] = 2.6
    assert chosen(tmp_path) == ("float32", None)


def test_other_processors_and_small_images_are_not_measured(native, tmp_path, monkeypatch):
    small = {"data.size": 16}
    assert chosen(tmp_path, edits=small) == ("float32", None)
    rounded = Machine(device=Device.choose("cpu", precision="bfloat16"))
    found = with_usable_precision(rounded, experiment("resnet-rs-50-i160", small))
    assert found.device.precision == "float32"
    assert with_usable_precision(rounded, experiment("resnet-rs-50-i160")) is rounded
    monkeypatch.setattr(Device, "has_native_bfloat16", False)
    assert chosen(tmp_path) == ("float32", None)


def test_the_trial_measures_real_updates_in_turns(native, monkeypatch, tmp_path):
    """With the real measurement, whatever this processor is: two rounds of both precisions."""
    seen = []
    monkeypatch.undo()
    monkeypatch.setattr(Device, "has_native_bfloat16", True)
    real = precision.measure

    def measure(tried, protocol):
        found = real(tried, protocol)
        assert len(found["seconds"]) >= 2 and found["precision"] == protocol.precision
        seen.append(protocol.precision)
        return found

    monkeypatch.setattr(precision, "measure", measure)
    chosen(tmp_path, name="resnet-rs-tiny", edits={"data.size": 24, "arch.width": 0.125})
    assert seen == ["float32", "bfloat16"] * 2


def test_a_run_keeps_its_precision(native, tmp_path, command):
    for i in range(24):
        name = ("red", "green")[i % 2]
        paint(tmp_path / "photos" / name / f"{i}.png", (200, 40, 40) if i % 2 else (40, 200, 40), seed=i)
    edits = [edit for edit in QUICK if "data.size" not in edit] + ["data.size=20"]
    words = ("train", "resnet-rs-tiny", "--data", tmp_path / "photos", "--out", tmp_path / "run", *edits)
    begun = command(*words, "--device", "cpu")
    assert begun.returncode == 0 and "computing in bfloat16" in begun.stdout, begun.stderr
    assert json.loads((tmp_path / "run/run.json").read_text())["precision"] == "bfloat16"
    native["bfloat16"] = 9.0
    again = command(*words, "--device", "cpu")
    assert again.returncode == 0 and "continues after update" in again.stdout, again.stderr
    other = command(*words, "--device", "cpu", "--precision", "float32")
    assert other.returncode == 2 and "another precision: bfloat16, now float32" in other.stderr
