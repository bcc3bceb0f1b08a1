"""`Option`: one of several ways to train, ordered from the cheapest to the costliest, and the choice among them.

A run needs a number of updates. The costliest option is chosen whose run still makes enough of them in the time, and
that keeps the limits. There is always an answer: if no option does, the cheapest one is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from resnet_rs.data.pipeline import SMALLEST_SIZE
from resnet_rs.models.resnet import BLOCKS
from resnet_rs.plan.budget import Length
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.speed import Speed

FEWEST = 300
"""Fewest updates of a run; where fewer would fit into the time, each is made cheaper (ours)."""
_FEWEST_OF_LARGER = 4000
"""The same for a small network that is larger than the usual one: with about 1,000 it was worse (`docs/LOG.md`)."""
LONG = 100.0
"""Fewest epochs of long training. Source: the regimes of paper, Figure 3: 10, 100, 350."""
_FEWEST_EPOCHS = 30.0
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
_WORTH = 1.1
"""Without this many times as many updates, a cheaper option only loses accuracy."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """A way to train."""

    what: str
    """In words, such as `64 pixels`."""
    edits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    cost: float
    """Of an update, relative to those of the other options; a guess that says what to measure first."""
    fewest: int = FEWEST
    """Updates that it needs; with fewer a cheaper option is better."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An option, and what fits into the time with it."""

    option: Option
    speed: Speed
    length: Length
    num_updates: float
    """That fit into the time; a run may make fewer."""
    broken: tuple[str, ...] = ()
    """The limits that it does not keep, in words."""

    @property
    def is_enough(self) -> bool:
        """Whether a run makes the updates that it needs and keeps the limits."""
        return self.num_updates >= self.option.fewest and not self.broken


class Selected(NamedTuple):
    """The chosen option and, where they were measured, the next cheaper and the next costlier one."""

    chosen: Measured
    cheaper: Measured | None
    costlier: Measured | None
    is_costliest: bool = False
    """Whether no option was costlier than the chosen one."""


def select(options: Sequence[Option], *, first: int, measure: Callable[[Option], Measured]) -> Selected:
    """The costliest of `options` that is enough, else the cheapest. `first` is measured first.

    As few as possible are measured, since each takes time.
    """
    found = dict[int, Measured]()
    low, high, i = -1, len(options), first
    while low + 1 < high:
        found[i] = measured = measure(options[i])
        low, high = (i, high) if measured.is_enough else (low, i)
        updates = measured.num_updates * measured.option.cost
        fitting = [j for j, one in enumerate(options) if updates / one.cost >= one.fewest]
        i = min(max([low + 1, *fitting]), high - 1)
    chosen = max(low, 0)
    if low < 0 and not any(one.broken for one in found.values()):  # none makes enough updates
        worth = [j for j in found if found[0].num_updates < _WORTH * found[j].num_updates]
        chosen = max(worth)  # 0 is among them
    return Selected(found[chosen], found.get(chosen - 1), found.get(chosen + 1), chosen == len(options) - 1)


def frozen_stages() -> list[Option]:
    """Fine-tuning with fewer and fewer frozen stages."""
    path = "recipe.fine_tuning.frozen"
    return [
        Option(what="training the head alone", edits={path: "c5"}, cost=0.35),
        Option(what="frozen stages from the stem to c3", edits={path: "c3"}, cost=0.6),
        Option(what="training all stages", edits={path: "none"}, cost=1.0),
    ]


def sizes(experiment: Experiment, *, smallest: int) -> list[Option]:
    """Smaller and smaller sizes of the input, down to a quarter and to `smallest`, from the smallest one on."""
    size = experiment.data.size
    smaller = {16 * round(size * share / 16) for share in (0.25, 0.375, 0.5, 0.75)}
    fitting = sorted(n for n in smaller if max(smallest, SMALLEST_SIZE) < n < size)
    return [
        Option(what=f"{n} pixels", edits={"data.size": n}, cost=(n / size) ** 2) for n in (*fitting, size)
    ]


def small_networks(experiment: Experiment) -> tuple[list[Option], int]:
    """Networks of 14 and 26 layers up to full width, and the index of the one to measure first.

    They differ from `experiment` in depth, width and size. The smallest one comes at smaller sizes, too.
    """
    size = experiment.data.size
    cheaper = [
        _network(14, _SMALLEST_WIDTH, size=option.edits["data.size"], fewest=FEWEST)
        for option in sizes(experiment, smallest=_SMALLEST_SHRUNK)
    ]
    usual = _network(*_USUAL, size=size, fewest=FEWEST)
    larger = [_network(*shape, size=size, fewest=_FEWEST_OF_LARGER) for shape in _LARGER]
    return [*cheaper, usual, *larger], len(cheaper)


def large_networks(experiment: Experiment, *, side: int, num_samples: int, is_long: bool) -> list[Option]:
    """Networks from 26 layers at full width on, by the rules of the paper, section 6.

    Long training can overfit, so depth grows at full width, and size slowly with it. In short training width gains
    more. The size never exceeds `side`, the shorter side of the images.
    """
    shapes, epochs = (_DEEPER, LONG) if is_long else (_WIDER, _FEWEST_EPOCHS)
    fewest = int(epochs * num_samples / experiment.recipe.batch_size)
    return [_network(depth, width, size=min(size, side), fewest=fewest) for depth, width, size in shapes]


def _network(depth: int, width: float, *, size: int, fewest: int) -> Option:
    blocks = BLOCKS[depth]
    drop_path = {"arch.drop_path": _DROP_PATH} if depth >= _DEEP else {}
    return Option(
        what=f"{depth} layers, width {width:g}, {size} pixels",
        edits={"arch.blocks": blocks, "arch.width": width, "data.size": size, **drop_path},
        cost=sum(blocks) * width**2 * size**2,
        fewest=fewest,
    )
