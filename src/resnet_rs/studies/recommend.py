"""Which configuration to train: the paper's scaling rules, and what this machine is measured to take.

1. The length of training decides on the shape. Where a network can overfit (a hundred epochs and more), depth is
   raised at full width; in short training width pays more, so width is raised first (paper, section 6.1). A time budget
   is for long training where a network of 26 layers at full width can be trained for so long, else for short.
2. Size is raised slowly: never beyond the pictures at hand, and with the depth, as along the ResNet-RS family.
3. The largest candidate that keeps every limit is taken; what the limits are held against is measured here.

Source: paper, section 6; the candidates between the published ones, and the order of the steps, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from resnet_rs import config, zoo
from resnet_rs.data.opening import open_data
from resnet_rs.data.pipeline import SMALLEST_SIZE
from resnet_rs.deploy.bench import Protocol, Timing, bench
from resnet_rs.fit import (
    SHARE_FOR_TRAINING,
    SMALL_PICTURE,
    fitting_batch_size,
    fitting_decay,
    fitting_warmup,
    picture_side,
)
from resnet_rs.models.resnet import BLOCKS
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import DEFAULT_MICRO_BATCH

LONG = 100.0
"""Epochs from which on training is long. Source: the regimes of paper, Figure 3: 10, 100, 350."""
_FEWEST_SHORT = 30.0
"""A time budget must allow this many passes; fewer would leave a large network half trained (ours)."""
_SMALLEST = ((14, 0.125), (14, 0.25), (26, 0.25), (26, 0.5), (26, 1.0))
"""Depth and width of the first candidates, which are below the published ones; 14 is one block per stage."""
_OF_SOME_USE = (26, 1.0)
_DEPTHS = (50, 101, 152, 200, 270, 350, 420)
_SIZES = {14: 128, 26: 128, 50: 160, 101: 192, 152: 224, 200: 256, 270: 256, 350: 288, 420: 320}
"""Size that belongs to a depth, as in the released family; 14, 26 and 350 are ours."""
BASE = "resnet-rs-50-i160"
"""What the edits of a candidate start from."""
_MACS_OF_A_STEP = 2e10
"""About how many multiply-adds a measured forward pass may take."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked for."""

    num_images: int
    """Training pictures."""
    side: int | None = None
    """Pixels on the shorter side of the pictures, if known; more would be made up."""
    epochs: float | None = None
    minutes: float | None = None
    latency_ms: float | None = None
    """At most, for inference of one picture here."""
    memory_gib: float | None = None
    """At most, at the peak of a training step with the batch that is trained with."""
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_images", "side", "epochs", "minutes", "latency_ms", "memory_gib"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}.")
        if (self.epochs is None) == (self.minutes is None):
            raise ValueError("give either --epochs or --minutes, which the shape of the network depends on.")
        if self.minutes is None and self.latency_ms is None and self.memory_gib is None:
            raise ValueError(
                "without a limit the largest network is the answer; give --latency-ms or --memory-gib."
            )


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration, and what it takes here."""

    edits: dict[str, Any]
    """From `resnet-rs-50-i160`, as `train` takes them."""
    macs: int
    seconds_per_image: float
    """In training, forward and backward."""
    latency_ms: float
    """Of one picture in inference, median."""
    memory_gib: float | None
    epochs: float
    minutes: float
    """Of a whole run."""
    broken: tuple[str, ...]
    """The limits that it does not keep."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The largest candidate that keeps all limits, its neighbors, and why."""

    chosen: Candidate
    smaller: Candidate | None
    larger: Candidate | None
    reasons: tuple[str, ...]


def recommend(wish: Wish) -> Advice:
    """The configuration for a wish. Raises `ValueError` if not even the smallest keeps its limits."""
    long = _Ladder(wish, is_long=True)
    # Of a time budget, what a network of some use can be trained for says whether it is long.
    epochs = long.at(_SMALLEST.index(_OF_SOME_USE)).epochs if wish.epochs is None else wish.epochs
    ladder = long if epochs >= LONG else _Ladder(wish, is_long=False)
    if ladder.at(0).broken:
        cure = "Give more" if wish.minutes is not None else "Loosen them"
        raise ValueError(
            f"not even the smallest network keeps the limits: {'; '.join(ladder.at(0).broken)}. {cure}."
        )
    return _highest(ladder)


class _Unmeasurable(ValueError):
    """A network that could not be measured here, as for want of memory."""


class _Ladder:
    """Candidates by cost, each measured when it is first asked for."""

    def __init__(self, wish: Wish, *, is_long: bool) -> None:
        self.wish = wish
        self.is_long = is_long
        self.steps = _steps(wish, is_long=is_long)
        self._measured: dict[int, Candidate] = {}

    def find(self, i: int) -> Candidate | None:
        """The candidate on step `i`; none beyond the ends, or where it could not be measured."""
        with suppress(_Unmeasurable):
            return self.at(i) if 0 <= i < len(self.steps) else None
        return None

    def at(self, i: int) -> Candidate:
        """The candidate on step `i`."""
        if i not in self._measured:
            self._measured[i] = _measured(self.steps[i], self.wish, is_long=self.is_long)
        return self._measured[i]


def _highest(ladder: _Ladder) -> Advice:
    """The last that keeps its limits, found by halving, since cost grows along the ladder; the first one does."""
    low, high = 0, len(ladder.steps)
    while high - low > 1:
        middle = (low + high) // 2
        found = ladder.find(middle)
        low, high = (middle, high) if found is not None and not found.broken else (low, middle)
    return Advice(
        chosen=ladder.at(low),
        smaller=ladder.find(low - 1),
        larger=ladder.find(low + 1),
        reasons=tuple(_reasons(ladder, ladder.at(low))),
    )


def _steps(wish: Wish, *, is_long: bool) -> list[Experiment]:
    """Candidates by cost: first small ones, then, in long training, deeper ones, in short training wider ones."""
    base = zoo.experiment(BASE)
    deeper = [(depth, 1.0) for depth in _DEPTHS]
    wider = [(26, 1.5), (26, 2.0), (50, 2.0), (50, 3.0)]
    steps = [*_SMALLEST, *(deeper if is_long else wider)]
    found: list[Experiment] = []
    for depth, width in steps:
        size = _SIZES[depth] if wish.side is None else min(_SIZES[depth], max(SMALLEST_SIZE, wish.side))
        edits: dict[str, Any] = {
            "arch.blocks": BLOCKS[depth],
            "arch.width": width,
            "data.size": size,
        }
        if size <= SMALL_PICTURE:
            edits["arch.stem"] = "small"  # as the fit does: after a stem of stride 4 little would be left
        edits["arch.drop_path"] = 0.1 if depth >= 200 else 0.0
        edits["recipe.batch_size"] = min(4096, fitting_batch_size(wish.num_images))
        if not is_long:
            # As the short runs of the scaling study: flips and crops alone (appendix E).
            edits |= {"data.randaugment": None, "task.label_smoothing": 0.0, "task.dropout": 0.0}
        found.append(config.edit(base, edits))
    return sorted(found, key=lambda experiment: experiment.count_cost().macs)


def _measured(experiment: Experiment, wish: Wish, *, is_long: bool) -> Candidate:
    macs = experiment.count_cost().macs
    # A small network needs a large batch to show its speed, and a large one would take long for it.
    batch_size = max(8, min(64, 2 ** int(math.log2(_MACS_OF_A_STEP / macs))))
    few, many = (_trained(experiment, size, wish) for size in (batch_size // 4, batch_size))
    inferred = _timing(experiment, Protocol(mode="infer", batch_size=1, num_repeats=5, device=wish.device))
    seconds = (many.latency_ms or 0.0) / 1000 / many.batch_size
    if wish.epochs is not None:
        epochs = wish.epochs
    else:
        affordable = 60 * (wish.minutes or 0.0) * SHARE_FOR_TRAINING / (seconds * wish.num_images)
        epochs = float(f"{min(350.0 if is_long else LONG - 1, affordable):.3g}")
    memory = _memory_gib(few, many, batch_size=min(DEFAULT_MICRO_BATCH, experiment.recipe.batch_size))
    latency = inferred.latency_ms or 0.0
    return Candidate(
        edits=config.diff(zoo.experiment(BASE), _of_length(experiment, epochs, wish.num_images)),
        macs=macs,
        seconds_per_image=seconds,
        latency_ms=latency,
        memory_gib=memory,
        epochs=epochs,
        minutes=epochs * wish.num_images * seconds / SHARE_FOR_TRAINING / 60,
        broken=(
            *_too_few(wish, epochs, fewest=LONG if is_long else _FEWEST_SHORT),
            *_broken(wish, latency_ms=latency, memory_gib=memory),
        ),
    )


def _of_length(experiment: Experiment, epochs: float, num_images: int) -> Experiment:
    """The experiment with `epochs`, and with a warm-up and an average that suit them."""
    warmup = fitting_warmup(experiment.recipe.schedule.warmup_epochs, epochs)
    shorter = config.edit(experiment, {"recipe.schedule.warmup_epochs": warmup, "recipe.epochs": epochs})
    decay = fitting_decay(shorter.recipe.plan(num_images).total_steps)
    return config.edit(shorter, {"recipe.ema_decay": min(shorter.recipe.ema_decay or 1.0, decay)})


def _trained(experiment: Experiment, batch_size: int, wish: Wish) -> Timing:
    protocol = Protocol(mode="train", batch_size=batch_size, num_repeats=2, device=wish.device)
    return _timing(experiment, protocol)


def _memory_gib(few: Timing, many: Timing, *, batch_size: int) -> float | None:
    """Peak of a training step with `batch_size` pictures at once: a straight line through two measured ones."""
    if few.peak_memory_mib is None or many.peak_memory_mib is None:
        return None
    of_one = (many.peak_memory_mib - few.peak_memory_mib) / (many.batch_size - few.batch_size)
    return (many.peak_memory_mib + max(0.0, of_one) * (batch_size - many.batch_size)) / 1024


def _timing(experiment: Experiment, protocol: Protocol) -> Timing:
    timing = next(bench({BASE: experiment}, protocol))
    if timing.error is not None:
        raise _Unmeasurable(
            f"a network of {timing.macs:,} multiply-adds could not be measured: {timing.error.rstrip('.')}."
        )
    return timing


def _too_few(wish: Wish, epochs: float, *, fewest: float) -> Iterator[str]:
    if wish.minutes is not None and epochs < fewest:
        yield (
            f"{wish.minutes:g} minutes are enough for {epochs:.3g} epochs only; below {fewest:g} a network of this "
            "size stays half trained"
        )


def _broken(wish: Wish, *, latency_ms: float, memory_gib: float | None) -> Iterator[str]:
    if wish.latency_ms is not None and latency_ms > wish.latency_ms:
        yield f"a picture takes {latency_ms:.3g} ms, {wish.latency_ms:g} are allowed"
    if wish.memory_gib is not None and memory_gib is not None and memory_gib > wish.memory_gib:
        yield f"a training step takes {memory_gib:.3g} GiB, {wish.memory_gib:g} are allowed"


def _reasons(ladder: _Ladder, chosen: Candidate) -> Sequence[str]:
    wish = ladder.wish
    if ladder.is_long:
        shape = (
            f"{chosen.epochs:.3g} epochs over {wish.num_images:,} pictures: a network that sees them so often can "
            "overfit, so depth is raised before width (rule 1)"
        )
    else:
        shape = f"{chosen.epochs:.3g} epochs are short training, where width pays more than depth (rule 1)"
    if not ladder.is_long:
        shape += (
            "; and what long training needs against overfitting is left out, as in the paper's short runs"
        )
    size = "size grows slowly, with the depth, as in the released family (rule 2)"
    if wish.side is not None:
        size += f", and not beyond the {wish.side} pixels of the pictures"
    limits = "of the candidates it is the largest that keeps every limit, as measured here"
    if wish.memory_gib is not None and chosen.memory_gib is None:
        limits = f"{limits}; but memory cannot be measured on this device, and is not among them"
    return (shape, size, limits)


def wish_for(data: str | None, *, num_images: int | None, **limits: Any) -> Wish:  # noqa: ANN401 - the fields of `Wish`
    """A wish for a data set, or for a number of pictures."""
    if (data is None) == (num_images is None):
        raise ValueError("give either --data DATA or --images N.")
    if data is None:
        return Wish(num_images=num_images or 0, **limits)
    source = open_data(data).train
    return Wish(num_images=len(source), side=picture_side(source, channels=3), **limits)


def outline(candidate: Candidate) -> str:
    """What a candidate is and takes, in a line."""
    arch, size = candidate.edits.get("arch.blocks"), candidate.edits.get("data.size")
    memory = "" if candidate.memory_gib is None else f", {candidate.memory_gib:.2f} GiB"
    limits = f"; {'; '.join(candidate.broken)}" if candidate.broken else ""
    return (
        f"blocks {list(arch or BLOCKS[50])}, width {candidate.edits.get('arch.width', 1.0):g}, {size or 160} px, "
        f"{candidate.macs / 1e9:.3g} GMAC: {candidate.minutes:,.3g} min for {candidate.epochs:.3g} epochs, "
        f"{candidate.latency_ms:.3g} ms a picture in use{memory}{limits}"
    )


def to_plain(advice: Advice) -> dict[str, Any]:
    """The advice as JSON."""
    plain = asdict(advice)
    for name in ("chosen", "smaller", "larger"):
        candidate = getattr(advice, name)
        if candidate is not None:
            plain[name]["edits"] = {path: config.to_plain(value) for path, value in candidate.edits.items()}
    return plain
