"""Fit: the edits that make a published recipe work on other data than ImageNet.

A recipe presumes a number of pictures, their size, and days on a pod. Each rule below changes one field and
says why; `docs/FIT.md` explains them. Source: ours, since the paper trains on ImageNet alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from resnet_rs.config import edit
from resnet_rs.data.loader import TrainingSpans, cut, load
from resnet_rs.data.pipeline import SMALLEST_SIZE
from resnet_rs.data.sample import Unreadable
from resnet_rs.data.source import Source
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.loop import Loop
from resnet_rs.training.state import new_state

_UPDATES_PER_EPOCH = 64
_SMALLEST_BATCH = 16
SMALL_PICTURE = 64
"""Pixels up to which the stem must not shrink the picture fourfold."""
_NUM_MEASURED = 48
_WARMUP_SHARE = 0.1
_SMALLEST_DECAY = 0.5
_NUM_TIMED = 8
SHARE_FOR_TRAINING = 0.85
"""Of a time budget; the rest is for evaluation, checkpoints and the page."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One edit, and why it was made."""

    path: str
    before: Any
    after: Any
    reason: str


def fit(
    experiment: Experiment,
    source: Source,
    *,
    minutes: float | None = None,
    speed: Callable[[Experiment], float],
    typed: frozenset[str] = frozenset(),
) -> tuple[Experiment, list[Change]]:
    """`experiment` made to work on `source`, within `minutes` if given, and the changes that did it.

    `speed` measures the pictures per second that training an experiment reaches; it is asked only for a time
    budget. Fields that a person has `typed` stay as they are.
    """
    if minutes is not None and _is_typed("recipe.epochs", typed):
        raise ValueError(
            "a time budget decides on recipe.epochs, which is set as well. Leave one of the two out."
        )
    changes: list[Change] = []

    def apply(proposed: Iterable[tuple[str, Any, str]]) -> None:
        nonlocal experiment
        for path, after, reason in proposed:
            before = _field(experiment, path)
            if before != after and not _is_typed(path, typed):
                experiment = edit(experiment, {path: after})
                changes.append(Change(path=path, before=before, after=after, reason=reason))

    side = picture_side(source, channels=experiment.data.channels)
    if _is_typed("data.size", typed):
        side = experiment.data.size
    apply(_to_pictures(experiment, side, is_typed=_is_typed("data.size", typed)))
    apply(_to_number(experiment, len(source)))
    if minutes is not None:
        apply(_to_budget(experiment, len(source), minutes=minutes, rate=speed(experiment)))
    apply(_to_length(experiment, len(source)))
    return experiment, changes


def _to_pictures(experiment: Experiment, side: int, *, is_typed: bool) -> Iterator[tuple[str, Any, str]]:
    """Edits for pictures of `side` pixels, unless the experiment was made for that size already."""
    if side < experiment.data.size or is_typed:
        if side <= SMALL_PICTURE and getattr(experiment.arch, "stem", "small") != "small":
            yield (
                "arch.stem",
                "small",
                f"a stem of stride 4 would leave c5 {max(1, side // 32)} pixels of {side}",
            )
        yield (
            "data.size",
            max(SMALLEST_SIZE, side),
            f"the pictures have {side} pixels on their shorter side (median)",
        )


def _to_number(experiment: Experiment, num_samples: int) -> Iterator[tuple[str, Any, str]]:
    """Edits for `num_samples` training pictures."""
    batch_size = min(experiment.recipe.batch_size, fitting_batch_size(num_samples))
    reason = (
        f"about {_UPDATES_PER_EPOCH} updates per pass over {num_samples:,} pictures; the peak rate follows"
    )
    yield "recipe.batch_size", batch_size, reason


def _to_budget(
    experiment: Experiment, num_samples: int, *, minutes: float, rate: float
) -> Iterator[tuple[str, Any, str]]:
    """Edits for a time budget at `rate` pictures per second."""
    recipe = experiment.recipe
    affordable = 60 * minutes * SHARE_FOR_TRAINING * rate / num_samples
    epochs = min(recipe.epochs, float(f"{affordable:.3g}"))
    warmup = fitting_warmup(recipe.schedule.warmup_epochs, epochs)
    # First the warm-up: at no moment may it be longer than the run.
    yield "recipe.schedule.warmup_epochs", warmup, "at most a tenth of the run"
    yield "recipe.epochs", epochs, f"{minutes:g} minutes at {rate:.3g} pictures per second, as measured here"


def _to_length(experiment: Experiment, num_samples: int) -> Iterator[tuple[str, Any, str]]:
    """Edits for the number of updates that came out of the others."""
    decay = experiment.recipe.ema_decay
    steps = experiment.recipe.plan(num_samples).total_steps
    if decay is not None:
        reason = f"the average reaches back over a tenth of {steps:,} updates, as in the published runs"
        yield "recipe.ema_decay", min(decay, fitting_decay(steps)), reason


def refuse_unfit(experiment: Experiment, num_samples: int) -> None:
    """Refuse a recipe that cannot work on `num_samples` samples, with the edit that would cure it."""
    recipe = experiment.recipe
    if recipe.batch_size > num_samples:
        raise ValueError(
            f"recipe.batch_size={recipe.batch_size} is more than the {num_samples} training samples. "
            f"Set recipe.batch_size={fitting_batch_size(num_samples)}, or let `--fit` adapt the recipe."
        )
    plan = recipe.plan(num_samples)
    if recipe.ema_decay is not None:
        half_life = half_life_steps(recipe.ema_decay)
        if half_life > plan.total_steps:
            steps = plan.total_steps
            raise ValueError(
                f"recipe.ema_decay={recipe.ema_decay} has a half-life of {half_life:,.0f} updates, longer than the run "
                f"of {steps:,}. Set recipe.ema_decay={fitting_decay(steps)}, or let `--fit` adapt the recipe."
            )


def half_life_steps(decay: float) -> float:
    """Updates after which a weight counts half in the average."""
    return math.log(0.5) / math.log(decay)


def fitting_warmup(warmup_epochs: float, epochs: float) -> float:
    """A warm-up that is at most a tenth of the run, which five epochs can exceed."""
    return min(warmup_epochs, float(f"{epochs * _WARMUP_SHARE:.3g}"))


def fitting_decay(total_steps: int) -> float:
    """The decay whose reach, 1 / (1 - decay) updates, is a tenth of the run.

    The published average reaches back over 10,000 of 109,475 updates.
    """
    return max(_SMALLEST_DECAY, 1 - float(f"{10 / total_steps:.2g}"))


def fitting_batch_size(num_samples: int) -> int:
    """The power of two that gives about 64 updates per epoch, at least 16 if there are as many samples."""
    wanted = max(_SMALLEST_BATCH, num_samples // _UPDATES_PER_EPOCH)
    return 2 ** int(math.log2(max(2, min(wanted, num_samples))))


def picture_side(source: Source, *, channels: int) -> int:
    """Median of the shorter side, in pixels, of some pictures taken evenly from `source`."""
    chosen = sorted({len(source) * i // _NUM_MEASURED for i in range(_NUM_MEASURED)})
    sides: list[int] = []
    for index in chosen:
        try:
            sides.append(min(source.read(index, channels=channels).input.shape[-3:-1]))
        except Unreadable:
            continue
    if not sides:
        raise ValueError(
            f"none of {len(chosen)} pictures taken from the data could be read; check the folder."
        )
    return int(median(sides))


def measure_speed(
    experiment: Experiment, source: Source, *, device: Device, micro_batch: int, workers: int
) -> float:
    """Pictures per second of training `experiment` on `source` here: the median of a few timed updates."""
    num_samples = min(experiment.recipe.batch_size, micro_batch)
    plan = replace(experiment.recipe.plan(len(source)), batch_size=num_samples, total_steps=_NUM_TIMED)
    spans = cut(0, num_samples * _NUM_TIMED, at_most=num_samples)
    batches = load(spans, TrainingSpans(source, experiment.data, seed=0), workers=workers)
    loop = Loop(experiment=experiment, plan=plan, device=device, seed=0, micro_batches=1)
    seconds: list[float] = []
    begin = time.monotonic()
    for _ in loop.updates(new_state(experiment, device, seed=0), batches):
        seconds.append(time.monotonic() - begin)
        begin = time.monotonic()
    return num_samples / median(seconds[2:])


def _is_typed(path: str, typed: frozenset[str]) -> bool:
    """Whether a person has set the field at `path`, or the whole value that holds it."""
    return any(path == name or path.startswith(f"{name}.") for name in typed)


def _field(experiment: Experiment, path: str) -> Any:
    value: Any = experiment
    for name in path.split("."):
        value = getattr(value, name)
    return value
