"""`Budget`: the time and other limits. `Option`: one of several ways to train, and the choice among them.

Options are ordered from the cheapest to the costliest. The costliest is chosen that makes enough updates in the time
and is within the limits. If none is, it is the cheapest, or one that is as fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from resnet_rs.data.pipeline import SMALLEST_SIZE
from resnet_rs.models.resnet import BLOCKS
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import MAX_EVALUATIONS
from resnet_rs.training.speed import Speed

MIN_UPDATES = 300
"""Fewest updates of a run (ours). If fewer fit into the time, cheaper updates are looked for."""
_MIN_UPDATES_OF_LARGER = 4000
"""The same for small networks above the usual one. With about 1,000 updates they were less accurate (`docs/LOG.md`)."""
_COST_OF_HEAD = 0.35
"""Cost of an update of the head alone, relative to one of all stages."""
_MIN_UPDATES_OF_HEAD = 75
"""Fewest updates of the head alone at a larger size (ours). With 93 it was as accurate as with more at a smaller size
(`docs/LOG.md`)."""
_SMALLEST_PRETRAINED = 100
"""Pretrained networks were much less accurate at 96 pixels and below on some data (`docs/LOG.md`)."""
LONG = 100.0
"""Fewest epochs of long training. Source: the regimes of paper, Figure 3: 10, 100, 350."""
_MIN_EPOCHS = 30.0
"""Fewest epochs of short training of a large network (ours)."""
_SMALLEST_WIDTH = 0.125
_SMALLEST_SHRUNK = 31
_USUAL = (14, 0.25)
"""Depth and width of the small network to measure first; 14 layers are one block per stage (ours)."""
_LARGER = ((14, 0.5), (26, 0.5), (26, 1.0))
_REFERENCE = (26, 1.0, 128)
_DEEPER = (
    _REFERENCE,
    (50, 1.0, 160),
    (101, 1.0, 192),
    (152, 1.0, 224),
    (200, 1.0, 256),
    (270, 1.0, 256),
    (350, 1.0, 288),
    (420, 1.0, 320),
)
_WIDER = (_REFERENCE, (26, 1.5, 128), (26, 2.0, 128), (50, 2.0, 160), (50, 3.0, 160))
"""Depth, width and size; sizes as in the released family, between and below them ours."""
_DEEP, _DROP_PATH = 200, 0.1
"""Depth from which the released networks have stochastic depth."""
_MIN_GAIN = 1.1
"""A cheaper option must be at least 1.1 times as fast. Otherwise it only loses accuracy."""
_SHARE_FOR_SCORING = 0.15
"""Fraction of a time budget for all evaluations and checkpoints, unless one alone takes more."""
_UNMEASURED_SECONDS = 4.0
"""Seconds for what is not measured: the start of Python before the command, the page, the end."""
_PLANNED_SHARE = 0.95
"""Fraction of the time that a plan uses, because speed varies."""
_BYTES_PER_PARAMETER = 12
"""A checkpoint has weights, EMA weights and momentum in float32."""
_BYTES_PER_SECOND = 150e6
"""Approximate speed of writing and flushing a checkpoint to a disk."""


class RunLength(NamedTuple):
    """How long a run is."""

    epochs: float
    num_evaluations: int
    seconds: float
    """Expected time, with what a run does beside training."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The time for a whole command: start, measurements, training, scoring, saving and the page.

    Where several runs share the time, it is that of one of them, with its share of what is done once.
    """

    minutes: float
    num_scored: int
    """Images that every evaluation scores: the validation part, else the test part."""
    num_scored_at_end: int = 0
    """Images that are scored once more at the end, such as both parts if there is a validation part."""
    elapsed: Callable[[], float]
    """Seconds that have passed; the same on every rank."""
    speed: Callable[[Experiment], Speed]
    """Measures an experiment on this machine."""
    exceeded: Callable[[Experiment], tuple[str, ...]] = lambda _: ()
    """A message for each limit of inference time and memory that an experiment exceeds on this machine."""

    def length(
        self, experiment: Experiment, num_samples: int, speed: Speed, *, most_epochs: float
    ) -> RunLength:
        """The longest run that fits, at least one update and at most `most_epochs`."""
        around = self.elapsed() + _UNMEASURED_SECONDS
        left = _PLANNED_SHARE * 60 * self.minutes - around
        saving = experiment.count_cost().params * _BYTES_PER_PARAMETER / _BYTES_PER_SECOND
        evaluation = self.num_scored * speed.seconds_per_scored + saving
        at_end = self.num_scored_at_end * (speed.seconds_per_scored + speed.seconds_to_decode)
        left -= at_end
        count = max(1, int(min(MAX_EVALUATIONS, _SHARE_FOR_SCORING * left / max(1e-9, evaluation))))
        scoring = count * evaluation + self.num_scored * speed.seconds_to_decode
        first, later = num_samples * speed.first_pass, num_samples / speed.images_per_second
        training = left - scoring
        epochs = training / first if training < first else 1 + (training - first) / later
        one_update = experiment.recipe.batch_size / num_samples
        epochs = min(most_epochs, max(one_update, float(f"{epochs:.3g}")))
        training = first * min(1.0, epochs) + later * max(0.0, epochs - 1)
        return RunLength(epochs, count, around + scoring + training + at_end)


@dataclass(frozen=True, kw_only=True)
class Option:
    """A way to train."""

    description: str
    """In words, such as `64 pixels`."""
    edits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    cost: float
    """Estimated cost of an update, relative to the other options. It only decides what to measure first."""
    min_updates: int = MIN_UPDATES
    """Fewest updates; with fewer a cheaper option is better."""


@dataclass(frozen=True, kw_only=True)
class MeasuredOption:
    """An option, measured on this machine."""

    option: Option
    speed: Speed
    length: RunLength
    num_updates: float
    fits_whole: bool = False
    """Whether the whole run fits, however few updates it has."""
    exceeded: tuple[str, ...] = ()

    @property
    def is_feasible(self) -> bool:
        """Whether enough updates fit, and no limit is exceeded."""
        is_long_enough = self.fits_whole or self.num_updates >= self.option.min_updates
        return is_long_enough and not self.exceeded


class Selection(NamedTuple):
    """The chosen option and, where they were measured, the next cheaper and the next costlier one."""

    chosen: MeasuredOption
    cheaper: MeasuredOption | None
    costlier: MeasuredOption | None
    is_costliest: bool = False
    """Whether no option was costlier than the chosen one."""


def select(
    options: Sequence[Option], *, first: int, measure: Callable[[Option], MeasuredOption]
) -> Selection:
    """The costliest feasible one of `options`, else the cheapest, found by bisection that begins with index `first`.

    Bisection measures few options, because each measurement takes time. A cheaper option is not taken if it makes
    hardly more updates, for example because reading the images takes all the time.
    """
    found = dict[int, MeasuredOption]()
    low, high, i = -1, len(options), first
    while low + 1 < high:
        found[i] = measured = measure(options[i])
        low, high = (i, high) if measured.is_feasible else (low, i)
        updates = measured.num_updates * measured.option.cost
        fitting = [j for j, one in enumerate(options) if updates / one.cost >= one.min_updates]
        is_known = math.isfinite(updates) and not measured.exceeded
        # Without a time limit nothing tells how far to go, and a far too large network would take long to measure.
        i = min(max([low + 1, *fitting]), high - 1) if is_known else (low + 1 if low >= 0 else high - 1)
    chosen = max(low, 0)
    if low < 0 and not any(one.exceeded for one in found.values()):  # none makes enough updates
        fast = [j for j, one in found.items() if one.speed.first_pass < _MIN_GAIN * found[0].speed.first_pass]
        chosen = max(fast)  # 0 is among them
    return Selection(found[chosen], found.get(chosen - 1), found.get(chosen + 1), chosen == len(options) - 1)


def fine_tuning_options(experiment: Experiment) -> list[Option]:
    """Fine-tuning with all, some and no stages frozen; if that is still too much, at smaller sizes, too."""
    path = "recipe.fine_tuning.frozen"
    head_alone = Option(
        description="training the head alone",
        edits={path: "c5"},
        cost=_COST_OF_HEAD,
        min_updates=_MIN_UPDATES_OF_HEAD,
    )
    smaller = [
        replace(
            head_alone,
            description=f"{head_alone.description} at {one.description}",
            edits={**head_alone.edits, **one.edits},
            cost=_COST_OF_HEAD * one.cost,
        )
        for one in sizes(experiment, smallest=_SMALLEST_PRETRAINED)[:-1]
    ]
    return [
        *smaller,
        head_alone,
        Option(description="frozen stages from the stem to c3", edits={path: "c3"}, cost=0.6),
        Option(description="training all stages", edits={path: "none"}, cost=1.0),
    ]


def sizes(experiment: Experiment, *, smallest: int) -> list[Option]:
    """Input sizes from a quarter of `data.size`, and above `smallest`, up to `data.size`, in ascending order."""
    size = experiment.data.size
    smaller = {16 * round(size * share / 16) for share in (0.25, 0.375, 0.5, 0.75)}
    fitting = sorted(n for n in smaller if max(smallest, SMALLEST_SIZE) < n < size)
    return [
        Option(description=f"{n} pixels", edits={"data.size": n}, cost=(n / size) ** 2)
        for n in (*fitting, size)
    ]


def small_networks(experiment: Experiment) -> tuple[list[Option], int]:
    """Networks of 14 and 26 layers up to full width, and the index of the one to measure first.

    They differ from `experiment` in depth, width and size. The smallest one comes at smaller sizes, too.
    """
    size = experiment.data.size
    cheaper = [
        _network(14, _SMALLEST_WIDTH, size=option.edits["data.size"])
        for option in sizes(experiment, smallest=_SMALLEST_SHRUNK)
    ]
    usual = _network(*_USUAL, size=size)
    larger = [_network(*shape, size=size, min_updates=_MIN_UPDATES_OF_LARGER) for shape in _LARGER]
    return [*cheaper, usual, *larger], len(cheaper)


def large_networks(experiment: Experiment, *, side: int, num_samples: int, is_long: bool) -> list[Option]:
    """Networks from 26 layers at full width on, by the rules of the paper, section 6.

    Long training can overfit, so depth grows at full width, and size slowly with it. In short training width gains
    more. The size never exceeds `side`, the shorter side of the images.
    """
    shapes, epochs = (_DEEPER, LONG) if is_long else (_WIDER, _MIN_EPOCHS)
    min_updates = int(epochs * num_samples / experiment.recipe.batch_size)
    side = max(SMALLEST_SIZE, side)
    return [
        _network(depth, width, size=min(size, side), min_updates=min_updates) for depth, width, size in shapes
    ]


def _network(depth: int, width: float, *, size: int, min_updates: int = MIN_UPDATES) -> Option:
    blocks = BLOCKS[depth]
    drop_path = {"arch.drop_path": _DROP_PATH} if depth >= _DEEP else {}
    return Option(
        description=f"{depth} layers, width {width:g}, {size} pixels",
        edits={"arch.blocks": blocks, "arch.width": width, "data.size": size, **drop_path},
        cost=sum(blocks) * width**2 * size**2,
        min_updates=min_updates,
    )
