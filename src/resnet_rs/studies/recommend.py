"""Which configuration to train: the paper's scaling rules, and measurements on this machine.

1. The length of training decides the shape. Long training (100 epochs and more) can overfit, so depth grows at full
   width; in short training width gains more, so width grows first (paper, section 6.1). A time budget counts as long
   training if a network of 26 layers at full width can be trained for 100 epochs in it.
2. Size grows slowly: with the depth, as in the ResNet-RS family, and never beyond the size of the images.
3. The largest candidate within all limits is chosen. Its cost is measured here, on noise. If there are images, the
   time to read and augment 48 of them in one process is added. Memory is measured only if it is limited.

Source: paper, section 6; the candidates between the published ones, and the order of the steps, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from resnet_rs import config, zoo
from resnet_rs.data import dataset
from resnet_rs.data.pipeline import SMALLEST_SIZE
from resnet_rs.data.source import Source
from resnet_rs.deploy.bench import Mode, Protocol, Timing, bench
from resnet_rs.fit import (
    SMALL_IMAGE,
    affordable_epochs,
    fitting_batch_size,
    measure_images,
    needed_minutes,
    with_length,
)
from resnet_rs.models.resnet import BLOCKS
from resnet_rs.report.table import duration_text
from resnet_rs.studies.scaling import UNREGULARIZED
from resnet_rs.text import macs_text
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import DEFAULT_MICRO_BATCH
from resnet_rs.training.speed import measure_reading

LONG = 100.0
"""Fewest epochs of long training. Source: the regimes of paper, Figure 3: 10, 100, 350."""
_FEWEST_SHORT = 30.0
"""A time budget must allow this many epochs; fewer leave a large network half trained (ours)."""
_SMALLEST = ((14, 0.125), (14, 0.25), (26, 0.25), (26, 0.5), (26, 1.0))
"""Depth and width of the first candidates, below the published ones; 14 has one block per stage."""
_REFERENCE = (26, 1.0)
"""Depth and width of the candidate that decides whether a time budget allows long training."""
_DEPTHS = (50, 101, 152, 200, 270, 350, 420)
_SIZES = {14: 128, 26: 128, 50: 160, 101: 192, 152: 224, 200: 256, 270: 256, 350: 288, 420: 320}
"""Size for each depth, as in the released family; 14, 26 and 350 are ours."""
BASE = "resnet-rs-50-i160"
"""The experiment that the edits of a candidate change."""
_MACS_OF_A_STEP = 2e10
"""Approximate limit of multiply-adds in a measured forward pass."""


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Data, length of training, and limits."""

    num_images: int
    """Training images."""
    source: Source | None = None
    """The training images themselves, if they exist: the time to read them is measured."""
    side: int | None = None
    """Pixels on the shorter side of the images, if known; the size does not exceed it."""
    epochs: float | None = None
    minutes: float | None = None
    latency_ms: float | None = None
    """Limit for inference of one image here."""
    memory_gib: float | None = None
    """Limit for the peak of a training step."""
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_images", "side", "epochs", "minutes", "latency_ms", "memory_gib"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}.")
        if (self.epochs is None) == (self.minutes is None):
            raise ValueError("give either --epochs or --minutes; the shape of the network depends on it.")
        if self.minutes is None and self.latency_ms is None and self.memory_gib is None:
            raise ValueError(
                "without a limit the largest network is the answer; give --latency-ms or --memory-gib."
            )


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration and its cost here."""

    edits: dict[str, Any]
    """From `resnet-rs-50-i160`, as `train` takes them; the values are JSON."""
    macs: int
    seconds_per_image: float
    """In training."""
    latency_ms: float
    """Of one image in inference, median."""
    memory_gib: float | None
    """Peak of a training step; None without a limit for it, and where it cannot be measured."""
    epochs: float
    minutes: float
    """Of a whole run."""
    broken: tuple[str, ...]
    """The limits that it exceeds, in words."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The largest candidate within all limits, its neighbors, and the reasons."""

    chosen: Candidate
    smaller: Candidate | None
    larger: Candidate | None
    reasons: tuple[str, ...]


def recommend(constraints: Constraints) -> Recommendation:
    """The configuration for `constraints`. Raises `ValueError` if even the smallest one exceeds the limits."""
    epochs = constraints.epochs
    if epochs is None:
        # A time budget is long if the reference network can be trained for long in it.
        reference = _steps(constraints, is_long=True)[_SMALLEST.index(_REFERENCE)]
        epochs = _measured(reference, constraints, is_long=True).epochs
    is_long = epochs >= LONG
    steps = _steps(constraints, is_long=is_long)

    @cache
    def at(i: int) -> Candidate:
        return _measured(steps[i], constraints, is_long=is_long)

    def find(i: int) -> Candidate | None:
        with suppress(_Unmeasurable):
            return at(i) if 0 <= i < len(steps) else None
        return None

    if at(0).broken:
        cure = "Give more time" if constraints.minutes is not None else "Raise them"
        raise ValueError(f"even the smallest network exceeds the limits: {'; '.join(at(0).broken)}. {cure}.")

    # Bisection: cost grows along the candidates, and the first is within the limits.
    low, high = 0, len(steps)
    while high - low > 1:
        middle = (low + high) // 2
        found = find(middle)
        low, high = (middle, high) if found is not None and not found.broken else (low, middle)
    return Recommendation(
        chosen=at(low),
        smaller=find(low - 1),
        larger=find(low + 1),
        reasons=tuple(_reasons(constraints, at(low), is_long=is_long)),
    )


class _Unmeasurable(ValueError):
    """A network that cannot be measured here, for example for lack of memory."""


def _steps(constraints: Constraints, *, is_long: bool) -> list[Experiment]:
    """Candidates by cost: small ones, then deeper ones in long training, wider ones in short training."""
    base = zoo.experiment(BASE)
    deeper = [(depth, 1.0) for depth in _DEPTHS]
    wider = [(26, 1.5), (26, 2.0), (50, 2.0), (50, 3.0)]
    found: list[Experiment] = []
    for depth, width in (*_SMALLEST, *(deeper if is_long else wider)):
        size = _SIZES[depth]
        if constraints.side is not None:
            size = min(size, max(SMALLEST_SIZE, constraints.side))
        edits: dict[str, Any] = {
            "arch.blocks": BLOCKS[depth],
            "arch.width": width,
            "arch.drop_path": 0.1 if depth >= 200 else 0.0,
            "data.size": size,
            "recipe.batch_size": min(4096, fitting_batch_size(constraints.num_images)),
        }
        if size <= SMALL_IMAGE:
            edits["arch.stem"] = "small"  # as in `fit`: a stem of stride 4 leaves too few pixels
        if not is_long:
            edits |= UNREGULARIZED  # as in the short runs of the scaling study
        found.append(config.edit(base, edits))
    return sorted(found, key=lambda experiment: experiment.count_cost().macs)


def _measured(experiment: Experiment, constraints: Constraints, *, is_long: bool) -> Candidate:
    num_images, macs = constraints.num_images, experiment.count_cost().macs
    # A small network shows its speed only with a large batch, which would take long with a large network.
    batch_size = max(8, min(64, 2 ** int(math.log2(_MACS_OF_A_STEP / macs))))
    many = _timing(experiment, constraints, mode="train", batch_size=batch_size, num_repeats=2)
    inferred = _timing(experiment, constraints, mode="infer", batch_size=1, num_repeats=5)
    seconds = (many.latency_ms or math.inf) / (1000 * many.batch_size)
    if constraints.source is not None:
        seconds += measure_reading(experiment, constraints.source)
    rate = 1 / seconds
    epochs = constraints.epochs
    if epochs is None:
        affordable = affordable_epochs(constraints.minutes or 0.0, num_images, rate=rate)
        epochs = min(350.0 if is_long else LONG - 1, affordable)
    memory = None
    if constraints.memory_gib is not None:
        few = _timing(experiment, constraints, mode="train", batch_size=batch_size // 4, num_repeats=2)
        memory = _memory_gib(few, many, batch_size=min(DEFAULT_MICRO_BATCH, experiment.recipe.batch_size))
    latency = inferred.latency_ms or 0.0
    edits = config.diff(zoo.experiment(BASE), with_length(experiment, epochs, num_images))
    return Candidate(
        edits={path: config.to_plain(value) for path, value in edits.items()},
        macs=macs,
        seconds_per_image=seconds,
        latency_ms=latency,
        memory_gib=memory,
        epochs=epochs,
        minutes=needed_minutes(epochs, num_images, rate=rate),
        broken=tuple(_broken(constraints, epochs, latency, memory, is_long=is_long)),
    )


def _memory_gib(few: Timing, many: Timing, *, batch_size: int) -> float | None:
    """Peak of a training step with `batch_size` images at once: extrapolated linearly from two measurements."""
    if few.peak_memory_mib is None or many.peak_memory_mib is None:
        return None
    of_one = (many.peak_memory_mib - few.peak_memory_mib) / (many.batch_size - few.batch_size)
    return (many.peak_memory_mib + max(0.0, of_one) * (batch_size - many.batch_size)) / 1024


def _timing(
    experiment: Experiment, constraints: Constraints, *, mode: Mode, batch_size: int, num_repeats: int
) -> Timing:
    protocol = Protocol(mode=mode, batch_size=batch_size, num_repeats=num_repeats, device=constraints.device)
    timing = next(bench({BASE: experiment}, protocol))
    if timing.error is not None:
        raise _Unmeasurable(
            f"a network of {macs_text(timing.macs)} could not be measured: {timing.error.rstrip('.')}."
        )
    return timing


def _broken(
    constraints: Constraints, epochs: float, latency_ms: float, memory_gib: float | None, *, is_long: bool
) -> Iterator[str]:
    """The limits that a candidate exceeds, in words."""
    fewest = LONG if is_long else _FEWEST_SHORT
    if constraints.minutes is not None and epochs < fewest:
        yield (
            f"{constraints.minutes:g} minutes allow {epochs:.3g} epochs only; with fewer than {fewest:g} a network of "
            "this size stays half trained"
        )
    if constraints.latency_ms is not None and latency_ms > constraints.latency_ms:
        yield f"inference of an image takes {latency_ms:.3g} ms, {constraints.latency_ms:g} are allowed"
    if constraints.memory_gib is not None and memory_gib is not None and memory_gib > constraints.memory_gib:
        yield f"a training step takes {memory_gib:.3g} GiB, {constraints.memory_gib:g} are allowed"


def _reasons(constraints: Constraints, chosen: Candidate, *, is_long: bool) -> Iterator[str]:
    if is_long:
        yield (
            f"{chosen.epochs:.3g} epochs over {constraints.num_images:,} images: long training can overfit, so depth "
            "grows before width (rule 1)"
        )
    else:
        yield (
            f"{chosen.epochs:.3g} epochs are short training, where width gains more than depth (rule 1); the "
            "regularizers of long training are left out, as in the paper's short runs"
        )
    side = "" if constraints.side is None else f", and not beyond the {constraints.side} pixels of the images"
    yield f"size grows slowly with the depth, as in the released family (rule 2){side}"
    no_memory = constraints.memory_gib is not None and chosen.memory_gib is None
    yield "it is the largest candidate within all limits, as measured here" + (
        ", except memory, which cannot be measured on this device" if no_memory else ""
    )
    yield (
        "the time of training is that of the computation, without the time to read images"
        if constraints.source is None
        else "the time of training is that of the computation and of reading these images; --workers may shorten it"
    )


def constraints_for(data: str | None, *, num_images: int | None, **limits: Any) -> Constraints:  # noqa: ANN401 - the fields of `Constraints`
    """The constraints for a data set, or for a number of images."""
    if (data is None) == (num_images is None):
        raise ValueError("give either --data DATA or --images N.")
    if data is None:
        return Constraints(num_images=num_images or 0, **limits)
    source = dataset.find(data).open().train
    return Constraints(num_images=len(source), source=source, side=measure_images(source).side, **limits)


def outline(candidate: Candidate) -> str:
    """A candidate and its cost in a line."""
    edits = candidate.edits
    blocks, width = edits.get("arch.blocks", list(BLOCKS[50])), edits.get("arch.width", 1.0)
    memory = "" if candidate.memory_gib is None else f", {candidate.memory_gib:.2f} GiB"
    limits = f"; {'; '.join(candidate.broken)}" if candidate.broken else ""
    return (
        f"blocks {blocks}, width {width:g}, {edits.get('data.size', 160)} px, "
        f"{macs_text(candidate.macs)}: {duration_text(candidate.minutes)} for {candidate.epochs:.3g} epochs, "
        f"{candidate.latency_ms:.3g} ms for inference of an image{memory}{limits}"
    )
