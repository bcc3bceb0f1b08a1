"""The precision of a run on a CPU where the user names none: on processors that compute bfloat16, it is measured."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from resnet_rs.deploy.bench import Protocol, measure
from resnet_rs.tasks.classification import Classification
from resnet_rs.training.device import Precision
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import SMALLEST_IN_BFLOAT16
from resnet_rs.training.machine import Machine
from resnet_rs.verbs.runs import ResolvedExperiment

_ROUNDS = 2
_MAX_SECONDS = 1.0
"""For each precision in a round, unless three updates take longer."""
_LARGEST_BATCH = 8
_MACS_OF_UPDATE = 2e11
"""Multiply-adds of a measured update, unless two images have more: about a second on two CPU cores."""
_MIN_GAIN = 1.2
"""bfloat16 must be at least this many times as fast as float32, because it is less exact (ours)."""


def bfloat16_gain(resolved: ResolvedExperiment, machine: Machine) -> float | None:
    """How many times as fast as in float32 updates are in bfloat16, if a run may choose it and gains enough; else None.

    That is asked for a new run on CPUs with instructions for bfloat16, where the user named no precision and the images
    are large enough. The first rank measures for all.
    """
    device, experiment = machine.device, resolved.experiment
    is_asked = device.is_precision_open and resolved.stored is None
    if not is_asked or experiment.data.size < SMALLEST_IN_BFLOAT16:
        return None
    if not all(machine.ranks.gather_values(device.has_native_bfloat16)):
        return None
    gain = machine.ranks.from_first(_measured(experiment, machine) if machine.ranks.is_first else 0.0)
    return gain if gain >= _MIN_GAIN else None


def machine_for(resolved: ResolvedExperiment, machine: Machine) -> Machine:
    """`machine` with the precision of the run, unless the user named one: a run that continues keeps its own."""
    if resolved.precision is None or not machine.device.is_precision_open:
        return machine
    return with_precision(machine, resolved.precision)


def with_precision(machine: Machine, precision: Precision) -> Machine:
    """`machine`, computing in `precision`."""
    return replace(machine, device=replace(machine.device, precision=precision))


def _measured(experiment: Experiment, machine: Machine) -> float:
    """The median time of an update in float32 over that in bfloat16, on images of noise with one label each."""
    if not isinstance(experiment.task, Classification):
        experiment = replace(experiment, task=Classification())
    largest = min(_LARGEST_BATCH, machine.micro_batch or _LARGEST_BATCH, experiment.recipe.batch_size)
    batch_size = max(2, min(largest, int(_MACS_OF_UPDATE / (3 * experiment.count_cost().macs))))
    seconds: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(_ROUNDS):  # in turns, so that other work on the machine slows both
        for precision, measured in seconds.items():
            protocol = Protocol(
                mode="train",
                batch_size=batch_size,
                device=machine.device.name,
                precision=precision,
                max_seconds=_MAX_SECONDS,
            )
            measured += measure(experiment, protocol)["seconds"]
    return median(seconds["float32"]) / median(seconds["bfloat16"])
