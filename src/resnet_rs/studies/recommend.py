"""Which configuration to train: the paper's scaling rules, and measurements on this machine.

1. The length of training decides the shape. Long training (100 epochs and more) can overfit, so depth grows at full
   width; in short training width gains more, so width grows first (paper, section 6.1). A time budget counts as long
   training if a network of 26 layers at full width can be trained for 100 epochs in it.
2. Size grows slowly: with the depth, as in the ResNet-RS family, and never beyond the size of the images.
3. The largest candidate within all limits is chosen. Its cost is measured here.

Source: paper, section 6; the candidates between the published ones, and the order of the steps, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from resnet_rs import config, zoo
from resnet_rs.data import dataset
from resnet_rs.data.pipeline import SMALLEST_SIZE
from resnet_rs.deploy.bench import Protocol, Timing, bench
from resnet_rs.fit import (
    SHARE_FOR_TRAINING,
    SMALL_IMAGE,
    fitting_batch_size,
    fitting_decay,
    fitting_warmup,
    image_side,
)
from resnet_rs.models.resnet import BLOCKS
from resnet_rs.report.table import duration_text
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import DEFAULT_MICRO_BATCH

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
    """From `resnet-rs-50-i160`, as `train` takes them."""
    macs: int
    seconds_per_image: float
    """In training, forward and backward."""
    latency_ms: float
    """Of one image in inference, median."""
    memory_gib: float | None
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
    long = _Candidates(constraints, is_long=True)
    # A time budget is long if the reference network can be trained for long in it.
    epochs = long.at(_SMALLEST.index(_REFERENCE)).epochs if constraints.epochs is None else constraints.epochs
    candidates = long if epochs >= LONG else _Candidates(constraints, is_long=False)
    if candidates.at(0).broken:
        cure = "Give more time" if constraints.minutes is not None else "Raise them"
        raise ValueError(
            f"even the smallest network exceeds the limits: {'; '.join(candidates.at(0).broken)}. {cure}."
        )
    return _highest(candidates)


class _Unmeasurable(ValueError):
    """A network that cannot be measured here, for example for lack of memory."""


class _Candidates:
    """Candidates by cost, each measured at its first use."""

    def __init__(self, constraints: Constraints, *, is_long: bool) -> None:
        self.constraints = constraints
        self.is_long = is_long
        self.steps = _steps(constraints, is_long=is_long)
        self._measured: dict[int, Candidate] = {}

    def find(self, i: int) -> Candidate | None:
        """The candidate on step `i`; None beyond the ends, and where it cannot be measured."""
        with suppress(_Unmeasurable):
            return self.at(i) if 0 <= i < len(self.steps) else None
        return None

    def at(self, i: int) -> Candidate:
        """The candidate on step `i`."""
        if i not in self._measured:
            self._measured[i] = _measured(self.steps[i], self.constraints, is_long=self.is_long)
        return self._measured[i]


def _highest(candidates: _Candidates) -> Recommendation:
    """The last candidate within the limits, by bisection; cost grows along the candidates, and the first is within."""
    low, high = 0, len(candidates.steps)
    while high - low > 1:
        middle = (low + high) // 2
        found = candidates.find(middle)
        low, high = (middle, high) if found is not None and not found.broken else (low, middle)
    return Recommendation(
        chosen=candidates.at(low),
        smaller=candidates.find(low - 1),
        larger=candidates.find(low + 1),
        reasons=tuple(_reasons(candidates, candidates.at(low))),
    )


def _steps(constraints: Constraints, *, is_long: bool) -> list[Experiment]:
    """Candidates by cost: small ones, then deeper ones in long training, wider ones in short training."""
    base = zoo.experiment(BASE)
    deeper = [(depth, 1.0) for depth in _DEPTHS]
    wider = [(26, 1.5), (26, 2.0), (50, 2.0), (50, 3.0)]
    steps = [*_SMALLEST, *(deeper if is_long else wider)]
    found: list[Experiment] = []
    for depth, width in steps:
        size = (
            _SIZES[depth]
            if constraints.side is None
            else min(_SIZES[depth], max(SMALLEST_SIZE, constraints.side))
        )
        edits: dict[str, Any] = {
            "arch.blocks": BLOCKS[depth],
            "arch.width": width,
            "data.size": size,
        }
        if size <= SMALL_IMAGE:
            edits["arch.stem"] = "small"  # as in `fit`: a stem of stride 4 leaves too few pixels
        edits["arch.drop_path"] = 0.1 if depth >= 200 else 0.0
        edits["recipe.batch_size"] = min(4096, fitting_batch_size(constraints.num_images))
        if not is_long:
            # As in the short runs of the scaling study: flips and crops only (appendix E).
            edits |= {"data.randaugment": None, "task.label_smoothing": 0.0, "task.dropout": 0.0}
        found.append(config.edit(base, edits))
    return sorted(found, key=lambda experiment: experiment.count_cost().macs)


def _measured(experiment: Experiment, constraints: Constraints, *, is_long: bool) -> Candidate:
    macs = experiment.count_cost().macs
    # A small network shows its speed only with a large batch, which would take long with a large network.
    batch_size = max(8, min(64, 2 ** int(math.log2(_MACS_OF_A_STEP / macs))))
    few, many = (_trained(experiment, size, constraints) for size in (batch_size // 4, batch_size))
    inferred = _timing(
        experiment, Protocol(mode="infer", batch_size=1, num_repeats=5, device=constraints.device)
    )
    seconds = (many.latency_ms or 0.0) / 1000 / many.batch_size
    if constraints.epochs is not None:
        epochs = constraints.epochs
    else:
        affordable = (
            60 * (constraints.minutes or 0.0) * SHARE_FOR_TRAINING / (seconds * constraints.num_images)
        )
        epochs = float(f"{min(350.0 if is_long else LONG - 1, affordable):.3g}")
    memory = _memory_gib(few, many, batch_size=min(DEFAULT_MICRO_BATCH, experiment.recipe.batch_size))
    latency = inferred.latency_ms or 0.0
    return Candidate(
        edits=config.diff(zoo.experiment(BASE), _of_length(experiment, epochs, constraints.num_images)),
        macs=macs,
        seconds_per_image=seconds,
        latency_ms=latency,
        memory_gib=memory,
        epochs=epochs,
        minutes=epochs * constraints.num_images * seconds / SHARE_FOR_TRAINING / 60,
        broken=(
            *_too_few(constraints, epochs, fewest=LONG if is_long else _FEWEST_SHORT),
            *_broken(constraints, latency_ms=latency, memory_gib=memory),
        ),
    )


def _of_length(experiment: Experiment, epochs: float, num_images: int) -> Experiment:
    """The experiment with `epochs`, and a warm-up and an EMA decay for that length."""
    warmup = fitting_warmup(experiment.recipe.schedule.warmup_epochs, epochs)
    shorter = config.edit(experiment, {"recipe.schedule.warmup_epochs": warmup, "recipe.epochs": epochs})
    decay = fitting_decay(shorter.recipe.plan(num_images).total_steps)
    return config.edit(shorter, {"recipe.ema_decay": min(shorter.recipe.ema_decay or 1.0, decay)})


def _trained(experiment: Experiment, batch_size: int, constraints: Constraints) -> Timing:
    protocol = Protocol(mode="train", batch_size=batch_size, num_repeats=2, device=constraints.device)
    return _timing(experiment, protocol)


def _memory_gib(few: Timing, many: Timing, *, batch_size: int) -> float | None:
    """Peak of a training step with `batch_size` images at once: extrapolated linearly from two measurements."""
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


def _too_few(constraints: Constraints, epochs: float, *, fewest: float) -> Iterator[str]:
    if constraints.minutes is not None and epochs < fewest:
        yield (
            f"{constraints.minutes:g} minutes allow {epochs:.3g} epochs only; with fewer than {fewest:g} a network of "
            "this size stays half trained"
        )


def _broken(constraints: Constraints, *, latency_ms: float, memory_gib: float | None) -> Iterator[str]:
    if constraints.latency_ms is not None and latency_ms > constraints.latency_ms:
        yield f"inference of an image takes {latency_ms:.3g} ms, {constraints.latency_ms:g} are allowed"
    if constraints.memory_gib is not None and memory_gib is not None and memory_gib > constraints.memory_gib:
        yield f"a training step takes {memory_gib:.3g} GiB, {constraints.memory_gib:g} are allowed"


def _reasons(candidates: _Candidates, chosen: Candidate) -> Sequence[str]:
    constraints = candidates.constraints
    if candidates.is_long:
        shape = (
            f"{chosen.epochs:.3g} epochs over {constraints.num_images:,} images: long training can overfit, so depth "
            "grows before width (rule 1)"
        )
    else:
        shape = f"{chosen.epochs:.3g} epochs are short training, where width gains more than depth (rule 1)"
    if not candidates.is_long:
        shape += "; the regularizers of long training are left out, as in the paper's short runs"
    size = "size grows slowly with the depth, as in the released family (rule 2)"
    if constraints.side is not None:
        size += f", and not beyond the {constraints.side} pixels of the images"
    limits = "it is the largest candidate within all limits, as measured here"
    if constraints.memory_gib is not None and chosen.memory_gib is None:
        limits = f"{limits}, except memory, which cannot be measured on this device"
    return (shape, size, limits)


def constraints_for(data: str | None, *, num_images: int | None, **limits: Any) -> Constraints:  # noqa: ANN401 - the fields of `Constraints`
    """The constraints for a data set, or for a number of images."""
    if (data is None) == (num_images is None):
        raise ValueError("give either --data DATA or --images N.")
    if data is None:
        return Constraints(num_images=num_images or 0, **limits)
    source = dataset.find(data).open().train
    return Constraints(num_images=len(source), side=image_side(source, channels=3), **limits)


def outline(candidate: Candidate) -> str:
    """A candidate and its cost in a line."""
    arch, size = candidate.edits.get("arch.blocks"), candidate.edits.get("data.size")
    memory = "" if candidate.memory_gib is None else f", {candidate.memory_gib:.2f} GiB"
    limits = f"; {'; '.join(candidate.broken)}" if candidate.broken else ""
    return (
        f"blocks {list(arch or BLOCKS[50])}, width {candidate.edits.get('arch.width', 1.0):g}, {size or 160} px, "
        f"{candidate.macs / 1e9:.3g} GMAC: {duration_text(candidate.minutes)} for {candidate.epochs:.3g} epochs, "
        f"{candidate.latency_ms:.3g} ms for inference of an image{memory}{limits}"
    )


def to_plain(recommendation: Recommendation) -> dict[str, Any]:
    """The recommendation as JSON."""
    plain = asdict(recommendation)
    for name in ("chosen", "smaller", "larger"):
        candidate = getattr(recommendation, name)
        if candidate is not None:
            plain[name]["edits"] = {path: config.to_plain(value) for path, value in candidate.edits.items()}
    return plain
