"""The edits that make a published recipe work on other data than ImageNet, and the measurements behind them.

A published recipe is made for a number of images, their size and color, and days on a TPU pod. Each rule below changes
one field and gives its reason. `docs/FIT.md` explains the rules. Source: ours, because the paper trains on ImageNet
alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from resnet_rs.config import as_text, edit
from resnet_rs.data.pipeline import SMALLEST_SIZE, Data
from resnet_rs.data.source import Source
from resnet_rs.data.survey import Images, measure_images
from resnet_rs.text import is_within
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import MAX_EVALUATIONS
from resnet_rs.training.speed import Speed

_UPDATES_PER_EPOCH = 64
_SMALLEST_BATCH = 16
SMALL_IMAGE = 64
"""Pixels up to which the stem must not shrink the image fourfold."""
_WARMUP_SHARE = 0.1
_SMALLEST_DECAY = 0.5
_NOTICED_RATIO = 1.5
"""Images that are larger than the network's input by more than this lose detail that is worth a note."""
_SHARE_FOR_TRAINING = 0.85
"""Share of a time budget that is for training, where the cost of scoring is not known."""
_SHARE_FOR_SCORING = 0.15
"""Share of a time budget for all evaluations, unless one alone takes more."""
_SECONDS_AROUND = 10.0
"""Seconds reserved for startup, checkpoints and the page."""
_RESERVE = 0.95
"""Share of the remaining time that training is planned to take, because speed varies."""
_FEWEST = 300
"""Fewest updates; where fewer would fit into the time, each is made cheaper (ours)."""
_ENOUGH = 4000
"""Updates that a run on few images may have, even if that takes more epochs than its recipe has (ours)."""
_MOST_EPOCHS = 350.0
"""The paper's longest training."""
_LARGEST_GROWN = 128
"""Pixels up to which the size of a small base grows; the published sizes begin at 160."""
_LONG = 10_000
"""Updates from which regularization pays. The paper's 10 epochs are 3,125 updates, its 100 epochs 31,250."""
_CHEAPER_FINE_TUNING = (
    ("recipe.fine_tuning.frozen", "c3", "frozen stages, from the stem to c3, make each cheaper"),
    ("recipe.fine_tuning.frozen", "c5", "training the head alone makes each cheaper"),
)
_NEW_HEAD_LR_FACTOR = 4.0
_SHORT_CROPS = 0.35
"""Smallest share of an image in a training crop of a short run (ours)."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One edit and its reason."""

    path: str
    before: Any
    after: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.path}={as_text(self.after)} (was {as_text(self.before)}): {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The time for a whole command: start, measurements, training, scoring, saving and the page."""

    minutes: float
    num_test: int
    """Test images, which every evaluation scores."""
    passed: Callable[[], float]
    """Seconds since the command began; the same on every rank."""
    speed: Callable[[Experiment], Speed]
    """Measures an experiment on this machine."""

    def plan(self, experiment: Experiment, num_samples: int, speed: Speed) -> tuple[float, int]:
        """Epochs of training that fit, at least one update, and the number of evaluations."""
        left = 60 * self.minutes - self.passed() - _SECONDS_AROUND
        evaluation = self.num_test * speed.seconds_per_scored
        count = min(MAX_EVALUATIONS, max(1, int(_SHARE_FOR_SCORING * left / max(1e-9, evaluation))))
        seconds = _RESERVE * (left - count * evaluation)
        one_update = experiment.recipe.batch_size / num_samples
        return max(one_update, float(f"{seconds * speed.images_per_second / num_samples:.3g}")), count


class Fitted(NamedTuple):
    """An experiment adapted to data and time."""

    experiment: Experiment
    changes: list[Change]
    num_evaluations: int = MAX_EVALUATIONS


def fit(
    experiment: Experiment,
    source: Source,
    *,
    budget: Budget | None = None,
    set_by_user: frozenset[str] = frozenset(),
    images: Images | None = None,
    is_head_new: bool | None = None,
) -> Fitted:
    """`experiment` adapted to `source` and, if given, to a time budget.

    Fields `set_by_user` stay as they are. The `images` are measured unless given. `is_head_new` is None for training
    from scratch. For pretrained weights it says whether the head is newly initialized; arch and size then stay.
    """
    if budget is not None and is_within("recipe.epochs", set_by_user):
        raise ValueError("a time budget sets recipe.epochs, which is set as well. Leave one of the two out.")
    edits = _Edits(experiment, set_by_user)
    num_samples, has_start = len(source), is_head_new is not None
    if not has_start:
        images = images or measure_images(source, channels=experiment.data.channels)
        _fit_size(edits, images, may_grow=budget is not None)
    edits.apply(
        "recipe.batch_size",
        min(experiment.recipe.batch_size, fitting_batch_size(num_samples)),
        f"about {_UPDATES_PER_EPOCH} updates per pass over {num_samples:,} images; the peak rate follows",
    )
    num_evaluations = MAX_EVALUATIONS
    if budget is not None:
        cheaper = _CHEAPER_FINE_TUNING if has_start else _cheaper_sizes(edits.experiment.data.size)
        num_evaluations = _fit_time(edits, num_samples, budget, cheaper)
    steps = edits.experiment.recipe.plan(num_samples).total_steps
    if has_start or budget is not None:
        _fit_regularization(edits, steps)
    if is_head_new is not None:
        _fit_fine_tuning(edits, steps, is_head_new=is_head_new)
    decay = edits.experiment.recipe.ema_decay
    if decay is not None:
        reach = f"the EMA weights reach back over a tenth of {steps:,} updates, as in the published runs"
        edits.apply("recipe.ema_decay", min(decay, fitting_decay(steps)), reach)
    return Fitted(edits.experiment, edits.changes, num_evaluations)


class _Edits:
    """An experiment that rules change field by field, except where the user has set a field."""

    def __init__(self, experiment: Experiment, set_by_user: frozenset[str]) -> None:
        self.experiment = experiment
        self.set_by_user = set_by_user
        self.changes: list[Change] = []

    def apply(self, path: str, after: Any, reason: str) -> None:
        """Set a field, unless the user has set it or this arch or task has no such field."""
        slot, _, name = path.partition(".")
        if is_within(path, self.set_by_user) or not hasattr(
            getattr(self.experiment, slot), name.partition(".")[0]
        ):
            return
        before = attrgetter(path)(self.experiment)
        if before != after:
            self.experiment = edit(self.experiment, {path: after})
            known = next((change for change in self.changes if change.path == path), None)
            if known is not None:
                self.changes.remove(known)
                before = known.before
            self.changes.append(Change(path=path, before=before, after=after, reason=reason))


def _fit_size(edits: _Edits, images: Images, *, may_grow: bool) -> None:
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


Cheaper = Sequence[tuple[str, Any, str]]
"""Edits that make an update cheaper, tried in this order: path, value, and how."""


def _cheaper_sizes(size: int) -> Cheaper:
    sizes = [16 * round(size * share / 16) for share in (0.75, 0.5, 0.375, 0.25)]
    return [
        ("data.size", smaller, f"{smaller} pixels instead of {size} make each cheaper, with less detail")
        for smaller in sizes
        if SMALL_IMAGE < smaller < size
    ]


def _fit_time(
    edits: _Edits,
    num_samples: int,
    budget: Budget,
    cheaper: Cheaper,
) -> int:
    """Set epochs and warm-up to the time budget; if few updates fit, make them cheaper. Returns the evaluations."""
    recipe = edits.experiment.recipe
    # A base made for more images makes as many updates on few of them, in more epochs.
    enough = min(_MOST_EPOCHS, _ENOUGH * recipe.batch_size / num_samples)
    wanted = max(recipe.epochs, float(f"{enough:.3g}"))
    left = iter([one for one in cheaper if not is_within(one[0], edits.set_by_user)])
    while True:
        measured, recipe = budget.speed(edits.experiment), edits.experiment.recipe
        epochs, num_evaluations = budget.plan(edits.experiment, num_samples, measured)
        updates = epochs * num_samples / recipe.batch_size
        path, value, how = next(left, ("", None, ""))
        if updates >= _FEWEST or epochs >= wanted or not path:
            break
        edits.apply(path, value, f"only {updates:,.0f} updates would fit into the time; {how}")
    epochs = min(wanted, epochs)
    # The warm-up comes first, because it must never be longer than the run.
    warmup = fitting_warmup(recipe.schedule.warmup_epochs, epochs)
    edits.apply("recipe.schedule.warmup_epochs", warmup, "at most a tenth of the run")
    rate = f"{_rounded(measured.images_per_second)} images per second"
    scoring = f"{_rounded(budget.num_test * measured.seconds_per_scored)} s per evaluation"
    reason = f"{budget.minutes:g} minutes at {rate} and {scoring}, as measured here"
    edits.apply("recipe.epochs", epochs, reason)
    return num_evaluations


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def _fit_regularization(edits: _Edits, steps: int) -> None:
    """Turn off regularization in short runs, where overfitting is unlikely."""
    if steps >= _LONG:
        return
    reason = f"a short run ({steps:,} updates); the paper leaves this out of its 10-epoch runs too"
    edits.apply("data.randaugment", None, reason)
    edits.apply("task.dropout", 0.0, reason)
    edits.apply("arch.drop_path", 0.0, reason)


def _fit_fine_tuning(edits: _Edits, steps: int, *, is_head_new: bool) -> None:
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
    steps = recipe.plan(num_samples).total_steps
    if recipe.ema_decay is not None and (half_life := half_life_steps(recipe.ema_decay)) > steps:
        raise ValueError(
            f"recipe.ema_decay={recipe.ema_decay} has a half-life of {half_life:,.0f} updates, longer than the run "
            f"of {steps:,}. Set recipe.ema_decay={fitting_decay(steps)}, or let `--fit` adapt the recipe."
        )


def half_life_steps(decay: float) -> float:
    """Updates after which a weight counts half in the EMA weights."""
    return math.log(0.5) / math.log(decay)


def with_length(experiment: Experiment, epochs: float, num_samples: int) -> Experiment:
    """`experiment` with `epochs`, and with a warm-up and an EMA decay that fit a run of that length."""
    warmup = fitting_warmup(experiment.recipe.schedule.warmup_epochs, epochs)
    changed = edit(experiment, {"recipe.schedule.warmup_epochs": warmup, "recipe.epochs": epochs})
    decay = changed.recipe.ema_decay
    if decay is None:
        return changed
    steps = changed.recipe.plan(num_samples).total_steps
    return edit(changed, {"recipe.ema_decay": min(decay, fitting_decay(steps))})


def affordable_epochs(minutes: float, num_samples: int, *, rate: float) -> float:
    """Passes over `num_samples` images that fit into `minutes`, when training reads `rate` images per second."""
    return float(f"{60 * minutes * _SHARE_FOR_TRAINING * rate / num_samples:.3g}")


def needed_minutes(epochs: float, num_samples: int, *, rate: float) -> float:
    """The inverse of `affordable_epochs`."""
    return epochs * num_samples / rate / _SHARE_FOR_TRAINING / 60


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
    user_decides = any(is_within(path, set_by_user) for path in CHANNEL_FIELDS)
    if user_decides or not images.has_color or experiment.data.channels != 1:
        return experiment, ()
    color: dict[str, Any] = {"data.mean": Data().mean, "data.std": Data().std}  # the defaults are ImageNet's
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
