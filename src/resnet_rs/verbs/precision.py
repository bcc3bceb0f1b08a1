"""The precision of a run on a CPU where the user names none: on processors that compute bfloat16, it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from resnet_rs import zoo
from resnet_rs.deploy.bench import Protocol, measure
from resnet_rs.training.device import Precision
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import SMALLEST_IN_BFLOAT16
from resnet_rs.training.machine import Machine
from resnet_rs.verbs.runs import stored_run

_ROUNDS = 2
_MAX_SECONDS = 1.0
"""For each precision in a round, unless two updates take longer."""
_MIN_GAIN = 1.2
"""bfloat16 must be at least this many times as fast as float32, because it is less exact (ours)."""


def choose_precision(
    machine: Machine, name: str, edits: Mapping[str, Any], *, run_folder: Path | None = None
) -> tuple[Machine, str | None]:
    """`machine` with the precision for a run of the experiment `name`, and why; None for the usual one.

    A run already in `run_folder` keeps its own, so that it continues bit for bit. A new one computes in bfloat16 on a
    CPU with instructions for it, if updates are clearly faster. The first rank decides for all.
    """
    if machine.device.name != "cpu":
        return machine, None
    stored = None if run_folder is None else stored_run(run_folder, machine.ranks)
    if stored is not None:
        return _with(machine, stored.get("precision", "float32")), None
    gain = machine.ranks.from_first(_gain(machine, zoo.experiment(name, edits)))
    if gain < _MIN_GAIN:
        return machine, None
    reason = f"computing in bfloat16, here {gain:.1f} times as fast as float32; `--precision float32` is more exact."
    return _with(machine, "bfloat16"), reason


def with_usable_precision(machine: Machine, experiment: Experiment) -> Machine:
    """`machine`, in float32 where the images of `experiment` are too small for bfloat16."""
    is_too_small = machine.device.name == "cpu" and experiment.data.size < SMALLEST_IN_BFLOAT16
    return _with(machine, "float32") if is_too_small else machine


def _gain(machine: Machine, experiment: Experiment) -> float:
    """How many times as fast as in float32 an update is in bfloat16; 0 where that is not to be asked."""
    if not (machine.ranks.is_first and machine.device.has_native_bfloat16):
        return 0.0
    if experiment.data.size < SMALLEST_IN_BFLOAT16:
        return 0.0
    seconds: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(_ROUNDS):  # in turns, so that other work on the machine slows both
        for precision, measured in seconds.items():
            protocol = Protocol(mode="train", device="cpu", precision=precision, max_seconds=_MAX_SECONDS)
            measured += measure(experiment, protocol)["seconds"]
    return median(seconds["float32"]) / median(seconds["bfloat16"])


def _with(machine: Machine, precision: Precision) -> Machine:
    return replace(machine, device=replace(machine.device, precision=precision))
