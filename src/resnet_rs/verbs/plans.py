"""`plan_experiment`: an experiment adapted to its data, to a time budget and to limits, as measured on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from resnet_rs import config
from resnet_rs.data.dataset import DataSet
from resnet_rs.data.source import Splits
from resnet_rs.deploy.bench import Mode, Protocol, Timing, bench
from resnet_rs.plan.options import Budget, MeasuredOption
from resnet_rs.plan.rules import Networks, PlanInput, make_plan, refuse_unfit
from resnet_rs.report.table import duration_text
from resnet_rs.text import is_within, macs_text, refuse_outside
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import DEFAULT_MICRO_BATCH, MAX_EVALUATIONS
from resnet_rs.training.machine import Machine
from resnet_rs.training.speed import Speed, measure_scoring, measure_speed
from resnet_rs.verbs.choice import LARGE_SCRATCH, Choice, from_scratch
from resnet_rs.verbs.precision import bfloat16_gain, machine_for, with_precision
from resnet_rs.verbs.runs import (
    ResolvedExperiment,
    base_experiment,
    recorded_changes,
    resolve,
    with_changes,
)

_SHARE_FOR_MEASURING = 0.02
_MOST_SECONDS = 20.0
"""For one measurement."""
_MOST_SECONDS_OF_TRIAL = 4.0
"""For the measurement of a run without limits, whose expected time may be rough."""
_SMALL_IMAGE = 64
"""Pixels up to which gray images were classified better from scratch (`docs/LOG.md`)."""
_NOTICED_EXCESS = 1.1
"""A plan that takes this many times its time says so."""
_WORTH_MEASURING = 2e12
"""Multiply-adds of a run that takes about a minute on two CPU cores; the backward pass counts twice."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run and its network may cost on this machine; None is no limit."""

    minutes: float | None = None
    """Time budget of the whole command."""
    num_runs: int = 1
    """Runs of the same length that share the time, as folds do."""
    begun: float | None = None
    """When the command began, a value of `time.monotonic()`; None: when the plan is made."""
    latency_ms: float | None = None
    """For inference of one image."""
    memory_gib: float | None = None
    """For the peak of a training step."""

    def __post_init__(self) -> None:
        positive = "(0, inf) or none"
        refuse_outside(self, minutes=positive, latency_ms=positive, memory_gib=positive)

    @property
    def has_any(self) -> bool:
        """Whether there is a limit."""
        return any(value is not None for value in (self.minutes, self.latency_ms, self.memory_gib))


def plan_experiment(
    resolved: ResolvedExperiment, limits: Limits, *, machine: Machine, networks: Networks = "fixed"
) -> ResolvedExperiment:
    """`resolved` with a recipe adapted to its data and to the limits. With `networks` another network may be chosen.

    A run that continues keeps its plan. So speed is measured once, and the same command continues the same run.
    """
    if resolved.stored is not None:
        _refuse_other_budget(resolved.stored, limits.minutes)
        known = with_changes(resolved, recorded_changes(resolved.stored))
        count = int(resolved.stored.get("num_evaluations", MAX_EVALUATIONS))
        return replace(known, is_adapted=True, minutes=limits.minutes, num_evaluations=count)
    given = PlanInput(
        experiment=resolved.experiment,
        source=resolved.splits.train,
        images=resolved.images,
        set_by_user=resolved.set_by_user,
        is_head_new=_is_head_new(resolved),
        networks=networks,
    )
    plan = make_plan(given, _budget(resolved.splits, limits, machine=machine) if limits.has_any else None)
    return replace(
        resolved,
        experiment=plan.experiment,
        changes=(*resolved.changes, *plan.changes),
        is_adapted=True,
        minutes=limits.minutes,
        num_evaluations=plan.num_evaluations,
        selection=plan.selection,
    )


def plan_choice(
    choice: Choice,
    edits: Mapping[str, Any],
    limits: Limits | None,
    *,
    data: str | DataSet,
    machine: Machine,
    run_folder: Path | None = None,
) -> ResolvedExperiment:
    """The plan for what `verbs.choose` chose; None for `limits` leaves the recipe as it is.

    - If the user has named neither experiment nor start, small gray images are trained from scratch.
    - If the user has not named the experiment, the network from scratch follows the limits: it is a small one, or if
      the whole run of the largest small one fits, a larger one with the published recipe.
    - On a CPU where updates are clearly faster in bfloat16, the plan is made again for this precision. A short run
      without limits is not measured.
    """

    def resolved(name: str) -> ResolvedExperiment:
        found = resolve(name, edits, data=data, start=choice.start, run_folder=run_folder, machine=machine)
        return replace(found, reasons=choice.reasons)

    found = resolved(choice.name)
    is_open = not choice.is_by_user and not any(map(_is_of_network, edits))
    why = _why_from_scratch(found) if is_open else None
    if why is not None:
        choice = from_scratch(why)
        found = resolved(choice.name)
    larger = partial(resolved, LARGE_SCRATCH) if is_open and choice.start is None else None
    planned = _planned(found, larger, limits, machine=machine)
    is_measured = planned.selection is not None or _is_long(planned)
    gain = bfloat16_gain(planned, machine) if is_measured else None
    if gain is None:
        return planned
    planned = _planned(found, larger, limits, machine=with_precision(machine, "bfloat16"))
    note = f"computing in bfloat16, here {gain:.1f} times as fast as float32; `--precision float32` is more exact."
    return replace(planned, precision="bfloat16", reasons=(*planned.reasons, note))


def _planned(
    found: ResolvedExperiment,
    larger: Callable[[], ResolvedExperiment] | None,
    limits: Limits | None,
    *,
    machine: Machine,
) -> ResolvedExperiment:
    """`found`, planned for the limits; with `larger` its network follows them, up to one of those."""
    if limits is None:
        return found
    small = plan_experiment(found, limits, machine=machine, networks="fixed" if larger is None else "small")
    selection = small.selection
    if larger and selection is not None and selection.is_costliest and selection.chosen.is_feasible:
        large = plan_experiment(larger(), limits, machine=machine, networks="large")
        if large.selection is not None and large.selection.chosen.is_feasible:
            return large
    return small


def _why_from_scratch(resolved: ResolvedExperiment) -> str | None:
    """Why these images are better trained from scratch than from the pretrained weights; None if they are not."""
    if resolved.trained is None or resolved.images is None:
        return None
    side = resolved.images.side
    if side > _SMALL_IMAGE or resolved.images.has_color:
        return None
    return (
        f"training from scratch, because the images are gray and small ({side} pixels on the shorter side, median), "
        f"unlike the photos that {resolved.name} was trained on. `--from {resolved.start}` fine-tunes it."
    )


def expected_seconds(
    resolved: ResolvedExperiment, *, machine: Machine, begun: float | None = None, num_runs: int = 1
) -> float | None:
    """Expected time of the whole command that trains `resolved`, or `num_runs` like it, and that began at `begun` of
    `time.monotonic()`.

    A plan with limits knows it. Otherwise the speed is measured here. None for a run that continues, and for a short
    one, for which the measurement would take as long as the run.
    """
    if resolved.selection is not None:
        return num_runs * resolved.selection.chosen.length.seconds
    experiment, num_samples = resolved.experiment, len(resolved.splits.train)
    if resolved.stored is not None or not _is_long(resolved):
        return None
    refuse_unfit(experiment, num_samples)
    machine, limits = machine_for(resolved, machine), Limits(begun=begun, num_runs=num_runs)
    budget = _budget(resolved.splits, limits, machine=machine, most_seconds=_MOST_SECONDS_OF_TRIAL)
    speed, epochs = budget.speed(experiment), experiment.recipe.epochs
    return num_runs * budget.length(experiment, num_samples, speed, most_epochs=epochs).seconds


def _is_long(resolved: ResolvedExperiment) -> bool:
    """Whether a run takes so long that measuring its speed is a small part of it."""
    experiment = resolved.experiment
    macs = 3 * experiment.count_cost().macs * experiment.recipe.epochs * len(resolved.splits.train)
    return macs >= _WORTH_MEASURING


def _is_of_network(path: str) -> bool:
    return path.partition(".")[0] == "arch" or path == "data.size" or is_within(path, {"recipe.fine_tuning"})


def describe_plan(resolved: ResolvedExperiment) -> dict[str, Any]:
    """A plan as JSON: `plan` in words, the `edits` that `train` takes, `why`, and the expected `seconds`.

    `seconds` of the whole command is None without a time budget and without a limit: nothing is measured then.
    """
    experiment, selection = resolved.experiment, resolved.selection
    splits, recipe, cost = resolved.splits, experiment.recipe, experiment.count_cost()
    num_train, num_classes, validation = len(splits.train), len(splits.train.classes), splits.validation
    held_out = "" if validation is None else f", {len(validation):,} for validation"
    frozen = recipe.fine_tuning.frozen
    shown = {
        "images": f"{num_train:,} to train{held_out} and {len(splits.test):,} to test, {num_classes:,} classes",
        "start": resolved.start or "from scratch",
        "network": f"{resolved.name}: {cost.params / 1e6:.3g} million parameters, {macs_text(cost.macs)}",
        "frozen": {"none": "no stage", "stem": "the stem", "c5": "all but the head"}.get(
            frozen, f"the stem to {frozen}"
        ),
        "size": f"{experiment.data.size} pixels",
        "training": f"{recipe.epochs:.3g} epochs, {recipe.timetable(num_train).total_steps:,} updates of "
        f"{recipe.batch_size} images",
        "augment": _augmentation(experiment),
    }
    if resolved.precision is not None:
        shown["precision"] = resolved.precision
    seconds = None
    if selection is not None:
        seconds = selection.chosen.length.seconds
        shown["time"] = f"about {duration_text(seconds / 60)} for the whole command"
        if resolved.minutes is not None and seconds > _NOTICED_EXCESS * 60 * resolved.minutes:
            shown["time"] += f", more than the {resolved.minutes:g} minutes: less is not possible"
        if selection.chosen.exceeded:
            shown["limits"] = f"exceeded: {'; '.join(selection.chosen.exceeded)}"
        for label, other in (("cheaper", selection.cheaper), ("costlier", selection.costlier)):
            if other is not None:
                shown[label] = _outline(other)
    edits = config.diff(base_experiment(resolved.name, splits).with_classes(splits.train.classes), experiment)
    return {
        "plan": shown,
        "why": [str(change) for change in resolved.changes],
        "edits": {path: config.to_plain(value) for path, value in edits.items()},
        "seconds": seconds,
    }


def _outline(measured: MeasuredOption) -> str:
    """What an option that was not chosen would give."""
    updates = "the whole run fits" if measured.fits_whole else f"{measured.num_updates:,.0f} updates fit"
    return "; ".join((f"{measured.option.description}: {updates}", *measured.exceeded))


def _augmentation(experiment: Experiment) -> str:
    data = experiment.data
    parts = [f"crops of {data.min_area:.0%} to 100% of the image"]
    if data.flip:
        parts.append("flips")
    if data.randaugment is not None:
        parts.append(f"RandAugment of magnitude {data.randaugment.magnitude:g}")
    return ", ".join(parts)


def _budget(
    splits: Splits, limits: Limits, *, machine: Machine, most_seconds: float = _MOST_SECONDS
) -> Budget:
    """The limits, with what measures on this machine whether they are kept."""
    minutes, num_runs = math.inf if limits.minutes is None else limits.minutes, limits.num_runs
    num_scored = len(splits.validation_or_test)
    at_end = 0 if splits.validation is None else num_scored + len(splits.test)
    begun = time.monotonic() if limits.begun is None else limits.begun
    # A measurement takes a small share of the time, because several may be needed.
    max_seconds = min(most_seconds, _SHARE_FOR_MEASURING * 60 * minutes)
    return Budget(
        minutes=minutes / num_runs,
        num_scored=num_scored,
        # Folds are scored once more, all together.
        num_scored_at_end=at_end + (len(splits.test) if num_runs > 1 else 0),
        elapsed=lambda: machine.ranks.from_first(time.monotonic() - begun) / num_runs,
        speed=partial(_speed, splits=splits, machine=machine, max_seconds=max_seconds),
        exceeded=partial(_exceeded_of_first, limits=limits, machine=machine),
    )


def _is_head_new(resolved: ResolvedExperiment) -> bool | None:
    """Whether the head is newly initialized; None for training from scratch."""
    if resolved.trained is None:
        return None
    task, classes = resolved.experiment.task, resolved.splits.train.classes
    is_same_task = type(task) is type(resolved.trained.experiment.task)
    return not is_same_task or task.start_head({}, before=resolved.trained.classes, after=classes) is None


def _speed(chosen: Experiment, *, splits: Splits, machine: Machine, max_seconds: float) -> Speed:
    """The speed of all ranks together, measured at the same time. Every rank gets the same numbers."""
    training, decoding = measure_speed(
        chosen,
        splits.train,
        device=machine.device,
        micro_batch=machine.micro_batch or DEFAULT_MICRO_BATCH,
        workers=machine.workers,
        max_seconds=max_seconds,
    )
    scoring = measure_scoring(
        chosen, splits.validation_or_test, device=machine.device, workers=machine.workers
    )
    measured = machine.ranks.gather_values((training, scoring, decoding))
    rates, costs, decodings = zip(*measured, strict=True)
    count = machine.ranks.count
    return Speed(sum(rates), max(costs) / count, max(decodings) / count)


def _exceeded_of_first(experiment: Experiment, *, limits: Limits, machine: Machine) -> tuple[str, ...]:
    """What `_exceeded` finds on the first rank, so that all ranks make the same plan."""
    found = list(_exceeded(experiment, limits, machine)) if machine.ranks.is_first else []
    return tuple(machine.ranks.from_first(found))


def _exceeded(experiment: Experiment, limits: Limits, machine: Machine) -> Iterator[str]:
    """A message for each limit that a network exceeds here."""
    if limits.latency_ms is not None:
        latency = _timing(experiment, mode="infer", batch_size=1, device=machine.device).latency_ms or 0.0
        if latency > limits.latency_ms:
            yield f"inference of an image takes {latency:.3g} ms (limit: {limits.latency_ms:g})"
    if limits.memory_gib is not None:
        wanted = min(machine.micro_batch or DEFAULT_MICRO_BATCH, experiment.recipe.batch_size)
        few, many = (
            _timing(experiment, mode="train", batch_size=n, device=machine.device)
            for n in _two_batches(wanted)
        )
        memory = _memory_gib(few, many, batch_size=wanted)
        if memory is not None and memory > limits.memory_gib:
            yield f"a training step takes {memory:.3g} GiB (limit: {limits.memory_gib:g})"


def _two_batches(wanted: int) -> tuple[int, int]:
    """Two small batches from whose memory that of a batch of `wanted` images follows."""
    return (4, 16) if wanted > 16 else (2, max(4, wanted))


def _timing(experiment: Experiment, *, mode: Mode, batch_size: int, device: Device) -> Timing:
    precision = device.precision if mode == "train" else None
    protocol = Protocol(
        mode=mode, batch_size=batch_size, num_repeats=5, device=device.name, precision=precision
    )
    timing = next(bench({"": experiment}, protocol))
    if timing.error is not None:
        raise ValueError(f"a network could not be measured: {timing.error.rstrip('.')}.")
    return timing


def _memory_gib(few: Timing, many: Timing, *, batch_size: int) -> float | None:
    """Peak of a training step with `batch_size` images at once: extrapolated linearly from two measurements."""
    if few.peak_memory_mib is None or many.peak_memory_mib is None:
        return None
    of_one = (many.peak_memory_mib - few.peak_memory_mib) / (many.batch_size - few.batch_size)
    return (many.peak_memory_mib + max(0.0, of_one) * (batch_size - many.batch_size)) / 1024


def _refuse_other_budget(stored: Mapping[str, Any], minutes: float | None) -> None:
    if not stored["is_adapted"] or stored["minutes"] != minutes:
        before = _option(stored["minutes"]) if stored["is_adapted"] else "neither --fit nor --minutes"
        raise ValueError(
            f"the run in this folder began with {before}, now {_option(minutes)}. "
            "Use a new folder for `--out`, or the same command to continue that run."
        )


def _option(minutes: float | None) -> str:
    return "--fit" if minutes is None else f"--minutes {minutes:g}"
