"""The rules that adapt an experiment to images and time. Each changes one field and gives its reason.

A published recipe is made for a number of images, their size and color, and days on a TPU pod. `docs/PLAN.md` explains
the rules. They are ours, because the paper trains on ImageNet alone. The choice of large networks follows section 6 of
the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal

from resnet_rs.config import edit
from resnet_rs.data.pipeline import SMALLEST_SIZE, Data
from resnet_rs.data.source import Source
from resnet_rs.data.survey import Images, measure_images
from resnet_rs.plan.changes import Change, Edits
from resnet_rs.plan.options import (
    Budget,
    MeasuredOption,
    Option,
    Selection,
    fine_tuning_options,
    large_networks,
    select,
    sizes,
    small_networks,
)
from resnet_rs.text import is_within
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import MAX_EVALUATIONS

_UPDATES_PER_EPOCH = 64
_SMALLEST_BATCH = 16
SMALL_IMAGE = 64
"""Pixels up to which the stem must not shrink the image fourfold."""
_WARMUP_SHARE = 0.1
_SMALLEST_DECAY = 0.5
_NOTICED_RATIO = 1.5
"""Images that are larger than the network's input by more than this lose detail that is worth a note."""
_ENOUGH = 4000
"""Updates that a run on few images may have, even if that takes more epochs than its recipe has (ours)."""
_MOST_EPOCHS = 350.0
"""The paper's longest training."""
_WORTH_SHRINKING = 1.25
"""Images that are larger than needed by more than this are shrunk as they are read (ours)."""
_LARGEST_GROWN = 128
"""Pixels up to which the size of a small base grows; the published sizes begin at 160."""
_LONG = 10_000
"""Updates from which regularization pays. The paper's 10 epochs are 3,125 updates, its 100 epochs 31,250."""
_NEW_HEAD_LR_FACTOR = 4.0
_SHORT_CROPS = 0.35
"""Smallest share of an image in a training crop of a short run (ours)."""


Networks = Literal["fixed", "small", "large"]


@dataclass(frozen=True, kw_only=True)
class PlanInput:
    """What a plan is made from."""

    experiment: Experiment
    source: Source
    images: Images | None = None
    """Size and color of the images; None measures them."""
    set_by_user: frozenset[str] = frozenset()
    """Fields that the user set. They stay as they are."""
    is_head_new: bool | None = None
    """Whether the head is newly initialized, for pretrained weights; None for training from scratch."""
    networks: Networks = "fixed"
    """Which networks to choose from for the time and the limits; `fixed` keeps the one of the experiment."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An experiment adapted to data and time, with the reasons."""

    experiment: Experiment
    changes: tuple[Change, ...]
    num_evaluations: int = MAX_EVALUATIONS
    selection: Selection | None = None
    """What was measured; None if there is neither a time budget nor a limit."""


def make_plan(given: PlanInput, budget: Budget | None = None) -> Plan:
    """`given.experiment`, adapted to its images and, if given, to a time budget and limits."""
    is_timed = budget is not None and math.isfinite(budget.minutes)
    if is_timed and is_within("recipe.epochs", given.set_by_user):
        raise ValueError("a time budget chooses recipe.epochs, which is also set. Leave one of the two out.")
    edits = Edits(given.experiment, given.set_by_user)
    num_samples, has_start = len(given.source), given.is_head_new is not None
    images = given.images or measure_images(given.source, channels=given.experiment.data.channels)
    if edits.is_set("data.max_short_side") and given.experiment.data.max_short_side is not None:
        images = replace(images, side=min(images.side, given.experiment.data.max_short_side))
    if not has_start:
        _fit_size(edits, images, may_grow=budget is not None)
    edits.apply(
        "recipe.batch_size",
        min(edits.experiment.recipe.batch_size, fitting_batch_size(num_samples)),
        f"about {_UPDATES_PER_EPOCH} updates per pass over {num_samples:,} images; the learning rate is proportional",
    )
    selection = None
    if budget is not None:
        selection = _selection(given, edits, images, budget)
        _fit_time(edits, selection, budget)
    steps = edits.experiment.recipe.timetable(num_samples).total_steps
    if has_start or budget is not None:
        _fit_regularization(edits, steps)
        if given.is_head_new is not None:
            _fit_fine_tuning(edits, steps, is_head_new=given.is_head_new)
        _fit_reading(edits, images, smallest_crop=edits.experiment.data.min_area)
    decay = edits.experiment.recipe.ema_decay
    if decay is not None:
        reach = f"the EMA weights reach back over a tenth of {steps:,} updates, as in the published runs"
        edits.apply("recipe.ema_decay", min(decay, fitting_decay(steps)), reach)
    return Plan(
        experiment=edits.experiment,
        changes=tuple(edits.changes.values()),
        num_evaluations=MAX_EVALUATIONS if selection is None else selection.chosen.length.num_evaluations,
        selection=selection,
    )


def _selection(given: PlanInput, edits: Edits, images: Images, budget: Budget) -> Selection:
    """The option to train, chosen by measuring each option at most once."""
    experiment = edits.experiment
    known = dict[str, MeasuredOption]()

    def measure(option: Option) -> MeasuredOption:
        if option.description not in known:
            known[option.description] = _measured(option, given, edits, images, budget)
        return replace(known[option.description], option=option)

    if given.networks == "fixed":
        # What makes an update cheaper: frozen stages, from scratch a smaller size.
        has_start = given.is_head_new is not None
        options = fine_tuning_options(experiment) if has_start else sizes(experiment, smallest=SMALL_IMAGE)
        options = [one for one in options if not any(map(edits.is_set, one.edits))]
        options = options or [Option(description="as it is", cost=1.0)]
        return select(options, first=len(options) - 1, measure=measure)
    if given.networks == "small":
        options, first = small_networks(experiment)
        return select(options, first=first, measure=measure)
    # By the paper's rules, which depend on whether training is long.
    deeper, wider = (
        large_networks(experiment, side=images.side, num_samples=len(given.source), is_long=is_long)
        for is_long in (True, False)
    )
    return select(deeper if measure(deeper[0]).is_feasible else wider, first=0, measure=measure)


def _fit_size(edits: Edits, images: Images, *, may_grow: bool) -> None:
    """Set `data.size` to at most the images' size, and use the small stem for small images.

    With `may_grow`, a size well below the images' grows, up to 128 pixels.
    """
    size, is_set = edits.experiment.data.size, is_within("data.size", edits.set_by_user)
    grown = 16 * (min(_LARGEST_GROWN, images.side) // 16)
    if may_grow and not is_set and grown > _NOTICED_RATIO * size:
        reason = f"a larger input keeps more detail of the images, whose shorter side has {images.side} pixels (median)"
        edits.apply("data.size", grown, reason)
        return
    side = size if is_set else images.side
    if side < size or is_set:
        if side <= SMALL_IMAGE and getattr(edits.experiment.arch, "stem", "small") != "small":
            left = f"with a stride-4 stem, c5 would be {max(1, side // 32)} pixels wide for images of {side}"
            edits.apply("arch.stem", "small", left)
        reason = f"the images have {side} pixels on their shorter side (median)"
        edits.apply("data.size", max(SMALLEST_SIZE, side), reason)


def _fit_reading(edits: Edits, images: Images, *, smallest_crop: float) -> None:
    """Shrink large images as they are read. The smallest crop still has `data.size` pixels on each side."""
    max_short_side = 16 * math.ceil(edits.experiment.data.size / math.sqrt(smallest_crop) / 16)
    if images.side > _WORTH_SHRINKING * max_short_side:
        size = f"the images have {images.side} pixels on their shorter side (median)"
        reason = f"{size}; shrinking them while reading is faster"
        edits.apply("data.max_short_side", max_short_side, reason)


def _measured(
    option: Option, given: PlanInput, edits: Edits, images: Images, budget: Budget
) -> MeasuredOption:
    """The experiment of `edits` with `option`, measured on images that are read as the run will read them."""
    changed = Edits(edit(edits.experiment, dict(option.edits)), given.set_by_user)
    area = changed.experiment.data.min_area
    if given.is_head_new is not None and not edits.is_set("data.min_area"):
        area = max(_SHORT_CROPS, area)
    _fit_reading(changed, images, smallest_crop=area)
    experiment, num_samples = changed.experiment, len(given.source)
    recipe, speed = experiment.recipe, budget.speed(experiment)
    # On few images, more epochs are allowed, up to 4,000 updates.
    enough = min(_MOST_EPOCHS, _ENOUGH * recipe.batch_size / num_samples)
    is_set = edits.is_set("recipe.epochs")
    wanted = recipe.epochs if is_set else max(recipe.epochs, float(f"{enough:.3g}"))
    fitting = budget.length(experiment, num_samples, speed, most_epochs=math.inf).epochs
    return MeasuredOption(
        option=option,
        speed=speed,
        length=budget.length(experiment, num_samples, speed, most_epochs=wanted),
        num_updates=fitting * num_samples / recipe.batch_size,
        fits_whole=fitting >= wanted,
        exceeded=budget.exceeded(experiment),
    )


def _fit_time(edits: Edits, selection: Selection, budget: Budget) -> None:
    """Set what makes an update cheaper or costlier; then epochs and warm-up to the time budget."""
    chosen = selection.chosen
    for path, value in chosen.option.edits.items():
        edits.apply(path, value, _reason(selection))
    # The warm-up comes first, because it must never be longer than the run.
    warmup = fitting_warmup(edits.experiment.recipe.schedule.warmup_epochs, chosen.length.epochs)
    edits.apply("recipe.schedule.warmup_epochs", warmup, "at most a tenth of the run")
    rate = f"{_rounded(chosen.speed.images_per_second)} images per second"
    scoring = f"{_rounded(budget.num_scored * chosen.speed.seconds_per_scored)} s per evaluation"
    given = "no time limit" if math.isinf(budget.minutes) else f"{float(f'{budget.minutes:.3g}'):g} minutes"
    reason = f"{given}, at {rate} and {scoring}, as measured here"
    edits.apply("recipe.epochs", chosen.length.epochs, reason)


def _reason(selection: Selection) -> str:
    """Why this option and not the next costlier one."""
    chosen, costlier = selection.chosen.option.description, selection.costlier
    if costlier is None:
        return f"chosen: {chosen}"
    other = costlier.option.description
    if costlier.exceeded:
        return f"chosen: {chosen}. With {other}, {' and '.join(costlier.exceeded)}"
    return f"chosen: {chosen}. With {other} only {costlier.num_updates:,.0f} updates would fit into the time"


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def _fit_regularization(edits: Edits, steps: int) -> None:
    """Turn off regularization in short runs, where overfitting is unlikely."""
    reason = f"a short run ({steps:,} updates); the paper leaves this out of its 10-epoch runs too"
    if steps < _LONG:
        edits.apply("data.randaugment", None, reason)
        edits.apply("task.dropout", 0.0, reason)
        edits.apply("arch.drop_path", 0.0, reason)


def _fit_fine_tuning(edits: Edits, steps: int, *, is_head_new: bool) -> None:
    """Crops and rates for pretrained weights (ours; `docs/LOG.md`)."""
    if steps < _LONG:
        crops = f"smaller crops often miss the object, and the run has only {steps:,} updates"
        edits.apply("data.min_area", max(_SHORT_CROPS, edits.experiment.data.min_area), crops)
    whole = "use the whole shorter side, because a tighter center crop can cut off objects"
    edits.apply("data.crop_ratio", 1.0, whole)
    if is_head_new:
        rate = "a new head needs a higher learning rate than the pretrained backbone"
        edits.apply("recipe.fine_tuning.head_lr_factor", _NEW_HEAD_LR_FACTOR, rate)


def refuse_unfit(experiment: Experiment, num_samples: int) -> None:
    """Refuse a recipe that cannot work on `num_samples` samples. The message names the edit that makes it work."""
    recipe = experiment.recipe
    if recipe.batch_size > num_samples:
        raise ValueError(
            f"recipe.batch_size={recipe.batch_size} is more than the {num_samples} training samples. "
            f"Set recipe.batch_size={fitting_batch_size(num_samples)}, or let `--fit` adapt the recipe."
        )
    steps = recipe.timetable(num_samples).total_steps
    if recipe.ema_decay is not None and (half_life := math.log(0.5) / math.log(recipe.ema_decay)) > steps:
        raise ValueError(
            f"recipe.ema_decay={recipe.ema_decay} has a half-life of {half_life:,.0f} updates, longer than the run "
            f"of {steps:,}. Set recipe.ema_decay={fitting_decay(steps)}, or let `--fit` adapt the recipe."
        )


def with_length(experiment: Experiment, epochs: float, num_samples: int) -> Experiment:
    """`experiment` with `epochs`, and with a warm-up and an EMA decay that fit a run of that length."""
    warmup = fitting_warmup(experiment.recipe.schedule.warmup_epochs, epochs)
    changed = edit(experiment, {"recipe.schedule.warmup_epochs": warmup, "recipe.epochs": epochs})
    decay = changed.recipe.ema_decay
    if decay is None:
        return changed
    steps = changed.recipe.timetable(num_samples).total_steps
    return edit(changed, {"recipe.ema_decay": min(decay, fitting_decay(steps))})


def fitting_warmup(warmup_epochs: float, epochs: float) -> float:
    """`warmup_epochs`, or a tenth of the run if that is shorter."""
    return min(warmup_epochs, float(f"{epochs * _WARMUP_SHARE:.3g}"))


def fitting_decay(total_steps: int) -> float:
    """The EMA decay whose reach, 1 / (1 - decay) updates, is a tenth of the run.

    The published EMA weights reach back over 10,000 of 109,475 updates. `1 - decay` is rounded to two digits.
    """
    return max(_SMALLEST_DECAY, round(1 - float(f"{10 / total_steps:.2g}"), 10))


def fitting_batch_size(num_samples: int) -> int:
    """The power of two that gives about 64 updates per epoch, and at least 16 where there are 16 samples."""
    wanted = max(_SMALLEST_BATCH, num_samples // _UPDATES_PER_EPOCH)
    return 2 ** int(math.log2(max(2, min(wanted, num_samples))))


CHANNEL_FIELDS: tuple[str, ...] = ("data.mean", "data.std")


def adapt_channels(
    experiment: Experiment, images: Images, *, set_by_user: frozenset[str]
) -> tuple[Experiment, tuple[Change, ...]]:
    """`experiment` with three channels if it has one and the images have color, and the changes.

    The normalization is then ImageNet's. A user who sets `data.mean` or `data.std` decides alone.
    """
    of_imagenet = attrgetter("mean", "std")(Data())  # the defaults
    color: dict[str, Any] = dict(zip(CHANNEL_FIELDS, of_imagenet, strict=True))
    user_decides = any(is_within(path, set_by_user) for path in color)
    if user_decides or not images.has_color or experiment.data.channels != 1:
        return experiment, ()
    reason = "the images have color, so the network gets three channels with ImageNet's mean and std"
    changes = (
        Change(path=path, before=attrgetter(path)(experiment), after=after, reason=reason)
        for path, after in color.items()
    )
    return edit(experiment, color), tuple(changes)


def losses(experiment: Experiment, images: Images) -> Iterator[str]:
    """A sentence for each property of the images that the network does not see: color, resolution."""
    if images.has_color and experiment.data.channels == 1:
        yield (
            "the images have color, and the network sees them in gray, as data.mean and data.std of one value say. "
            "Give both three values to keep the color."
        )
    size = experiment.data.size
    if images.side > _NOTICED_RATIO * size:
        yield (
            f"the images have {images.side} pixels on their shorter side (median), and the network sees {size}. "
            "Set data.size to keep more detail; training takes longer."
        )
