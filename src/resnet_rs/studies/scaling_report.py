"""What a scaling grid says: Figures 2 and 3, and the two rules as paired comparisons.

The measure is the *return*: points of top-1 for each doubling of cost when one axis alone is raised, over all
neighbors in the grid. Returns of two axes are compared picture by picture and seed by seed.

Source: paper, section 6; the measure is ours, since the paper shows curves and no test.

Shapes: `S` seeds, `N` pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import mean

import numpy as np
from jaxtyping import Float

from resnet_rs.report.comparison import Verdict, holm, mean_of_hits, paired_differences, verdict
from resnet_rs.report.study_figures import Axis, Line, Point, points_figure
from resnet_rs.report.study_page import Chart, Statement
from resnet_rs.studies.claim import Claim, of_seeds
from resnet_rs.studies.record import Record
from resnet_rs.studies.study import Trial

AXES = ("epochs", "size", "depth", "width")
_SHARE_OF_SMALL = 0.5
"""Share of the trials, the cheapest, through which the power law is drawn."""


def claims(record: Record) -> list[Claim]:
    """The two rules, each at the longest and the shortest training of the grid."""
    lengths = sorted({trial.at["epochs"] for trial in record.study.trials})
    longest, shortest = lengths[-1], lengths[0]

    def claim(text: str, larger: str, smaller: str, length: float, per: str) -> Claim:
        return Claim(
            text=text,
            unit=f"points for a doubling of {per}",
            larger=_return(record, axis=larger, length=length, measure=_COSTS[per]),
            smaller=_return(record, axis=smaller, length=length, measure=_COSTS[per]),
        )

    found: list[Claim] = []
    for per in _COSTS:
        text = f"rule 1, long ({longest:g} epochs): depth returns more than width for the same {per}"
        found.append(claim(text, "depth", "width", longest, per))
        if shortest < longest:
            text = f"rule 1, short ({shortest:g} epochs): width returns more than depth for the same {per}"
            found.append(claim(text, "width", "depth", shortest, per))
    text = f"rule 2 ({longest:g} epochs): size returns less than depth for the same multiply-adds"
    found.append(claim(text, "depth", "size", longest, "multiply-adds"))
    return [*found, *_diminishing(record, longest)]


def flops_mislead(record: Record) -> Iterator[Statement]:
    """Whether of two networks trained for the longest the one with fewer multiply-adds can be the more accurate."""
    longest = max(trial.at["epochs"] for trial in record.study.trials)
    trials = sorted(_finished(record, longest), key=lambda trial: _macs(record, trial))
    seeds = record.seeds(*(trial.label for trial in trials))
    pairs = [(a, b) for a, b in combinations(trials, 2) if _macs(record, a) < _macs(record, b)]
    text = f"multiply-adds do not predict accuracy ({longest:g} epochs)"
    if not pairs or not seeds:
        yield Statement(claim=text, finding="not tried", figure="")
        return
    hits = {trial.label: record.hits(trial.label, seeds) for trial in trials}
    steps = paired_differences([(hits[a.label], hits[b.label]) for a, b in pairs])
    adjusted = holm([step.p for step in steps])
    verdicts = [verdict(step.value, p) for step, p in zip(steps, adjusted, strict=True)]
    num_better, num_worse = verdicts.count(Verdict.BETTER), verdicts.count(Verdict.WORSE)
    figure = (
        f"of {len(pairs)} pairs the network with fewer is better in {num_better} and worse in {num_worse}; the others "
        "are not told apart"
    )
    if num_better:
        best = max(range(len(pairs)), key=lambda i: (verdicts[i] is Verdict.BETTER, steps[i].value))
        a, b = pairs[best]
        figure += f"; the most: {a.label} against {b.label}, {100 * steps[best].value:+.2f} points"
    finding = "seen" if num_better else "not seen" if num_worse == len(pairs) else "not told apart"
    yield Statement(claim=text, finding=of_seeds(finding, len(seeds)), figure=figure)


def charts(record: Record) -> tuple[Chart, ...]:
    """Figure 2: error against multiply-adds; Figure 3: top-1 against the time of a picture in training."""
    longest = max(trial.at["epochs"] for trial in record.study.trials)
    law = power_law(record, longest)
    points = [point for trial in _finished(record, longest) for point in [_error_point(record, trial)]]
    note = "" if law is None else law.note
    figure = points_figure(
        points,
        x=Axis(title="multiply-adds of a picture", is_log=True),
        y=Axis(title="test error, %", is_log=True),
        lines=() if law is None else (law.line,),
    )
    made = (
        [Chart(title=f"Error against multiply-adds, {longest:g} epochs (Figure 2)", figure=figure, note=note)]
        if figure
        else []
    )
    for length in sorted({trial.at["epochs"] for trial in record.study.trials}):
        for size in sorted({trial.at["size"] for trial in record.study.trials}):
            cell = [trial for trial in _finished(record, length) if trial.at["size"] == size]
            cell = [trial for trial in cell if _milliseconds(record, trial) is not None]
            figure = points_figure(
                [_speed_point(record, trial) for trial in cell],
                x=Axis(title="milliseconds for a picture in training", is_log=True),
                y=Axis(title="test top-1, %", is_log=False),
                lines=_scaled_lines(record, cell),
            )
            if figure is not None:
                title = f"Depth or width? {length:g} epochs, {size:g} px (Figure 3)"
                made.append(Chart(title=title, figure=figure))
    return tuple(made)


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """Error proportional to macs ** exponent, fitted on the cheaper trials."""

    exponent: float
    residual_of_small: float
    """Root mean square of log10(error) about the law, of the trials it was fitted on."""
    residual_of_large: float
    """The same of the others; where the law breaks, it is larger."""
    line: Line

    @property
    def note(self) -> str:
        """The law in a sentence."""
        return (
            f"Fitted on the cheaper half: error ~ macs^{self.exponent:.3f}. About it the cheaper half lies within "
            f"{_spread(self.residual_of_small)}, the costlier within "
            f"{_spread(self.residual_of_large)} (root mean square)."
        )


def power_law(record: Record, length: float) -> PowerLaw | None:
    """The law of error against multiply-adds at one length of training; none with fewer than six trials.

    Source: paper, Figure 2: small models roughly follow one whatever is scaled, and large ones leave it.
    """
    trials = sorted(_finished(record, length), key=lambda trial: _macs(record, trial))
    if len(trials) < 6:
        return None
    x = np.log10([_macs(record, trial) for trial in trials])
    errors = [1 - record.hits(t.label, record.seeds(t.label)).mean() for t in trials]
    y = np.log10(np.maximum(errors, 1e-6))
    small = max(3, round(len(trials) * _SHARE_OF_SMALL))
    exponent, offset = np.polyfit(x[:small], y[:small], 1)
    residual = y - (exponent * x + offset)
    ends = [(float(10**at), float(100 * 10 ** (exponent * at + offset))) for at in (x[0], x[-1])]
    return PowerLaw(
        exponent=float(exponent),
        residual_of_small=float(np.sqrt(np.mean(residual[:small] ** 2))),
        residual_of_large=float(np.sqrt(np.mean(residual[small:] ** 2))),
        line=Line(label="power law of the cheaper half", points=ends, is_dashed=True),
    )


Measure = Callable[[Record, Trial], float | None]


def _macs(record: Record, trial: Trial) -> float:
    return mean(float(result.macs or 0) for result in record.of(trial.label))


def _milliseconds(record: Record, trial: Trial) -> float | None:
    """Of a picture in training; none where a run was too short to tell."""
    speeds = [result.images_per_second for result in record.of(trial.label)]
    return mean(1000 / speed for speed in speeds if speed) if all(speeds) else None


_COSTS: Mapping[str, Measure] = {"multiply-adds": _macs, "training time": _milliseconds}


def _return(
    record: Record, *, axis: str, length: float, measure: Measure, step: tuple[float, float] | None = None
) -> Float[np.ndarray, "S N"] | None:
    """Hits gained for each doubling of a cost along `axis`, over all neighbors at one length; none without neighbors.

    With `step` only the neighbors between those two values of the axis count.
    """
    pairs = [
        (low, high)
        for low, high in _neighbors(record, length, axis)
        if step is None or (low.at[axis], high.at[axis]) == step
    ]
    # The same seeds in every claim, so that returns can be compared seed by seed.
    seeds = record.seeds(*(trial.label for trial in record.study.trials if record.of(trial.label)))
    costs = [(measure(record, low), measure(record, high)) for low, high in pairs]
    doublings = sum(math.log2(high / low) if low and high else math.nan for low, high in costs)
    if not pairs or not seeds or not doublings > 0:
        return None
    gains = [_gain(record, low, high, seeds) for low, high in pairs]
    return np.sum(gains, axis=0) / doublings


def _gain(record: Record, low: Trial, high: Trial, seeds: Sequence[int]) -> Float[np.ndarray, "S N"]:
    return record.hits(high.label, seeds).astype(np.float64) - record.hits(low.label, seeds)


def _diminishing(record: Record, length: float) -> Iterator[Claim]:
    """Whether the first step in size returns more than the last one; nothing with fewer than three sizes."""
    sizes = sorted({trial.at["size"] for trial in record.study.trials})
    if len(sizes) < 3:
        return
    first, last = (sizes[0], sizes[1]), (sizes[-2], sizes[-1])
    steps = f"from {first[0]:g} to {first[1]:g} px returns more than from {last[0]:g} to {last[1]:g}"
    yield Claim(
        unit="points for a doubling of multiply-adds",
        text=f"rule 2 ({length:g} epochs): {steps}",
        larger=_return(record, axis="size", length=length, measure=_macs, step=first),
        smaller=_return(record, axis="size", length=length, measure=_macs, step=last),
    )


def _neighbors(record: Record, length: float, axis: str) -> Iterator[tuple[Trial, Trial]]:
    """Finished pairs that differ in `axis` alone, by one step of the grid."""
    steps = set(pairwise(sorted({trial.at[axis] for trial in record.study.trials})))
    others = [name for name in AXES if name != axis]
    lines: dict[tuple[float, ...], list[Trial]] = {}
    for trial in _finished(record, length):
        lines.setdefault(tuple(trial.at[name] for name in others), []).append(trial)
    for line in lines.values():
        for low, high in pairwise(sorted(line, key=lambda trial: trial.at[axis])):
            if (low.at[axis], high.at[axis]) in steps:
                yield low, high


def _finished(record: Record, length: float) -> list[Trial]:
    return [t for t in record.study.trials if t.at["epochs"] == length and record.of(t.label)]


def _error_point(record: Record, trial: Trial) -> Point:
    top1 = mean_of_hits(record.hits(trial.label, record.seeds(trial.label)))
    return Point(
        label=trial.label,
        x=_macs(record, trial),
        y=100 * (1 - top1.value),
        low=100 * (1 - top1.high),
        high=100 * (1 - top1.low),
        group=f"{trial.at['size']:g} px",
    )


def _speed_point(record: Record, trial: Trial) -> Point:
    top1 = mean_of_hits(record.hits(trial.label, record.seeds(trial.label)))
    return Point(
        label=trial.label,
        x=_milliseconds(record, trial) or math.nan,
        y=100 * top1.value,
        low=100 * top1.low,
        high=100 * top1.high,
        group=f"width {trial.at['width']:g}",
    )


def _scaled_lines(record: Record, cell: Sequence[Trial]) -> tuple[Line, ...]:
    """From the smallest network of a cell: deeper at its width, and wider at its depth."""
    if not cell:
        return ()
    depth, width = min(t.at["depth"] for t in cell), min(t.at["width"] for t in cell)
    chosen = {
        "deeper": [t for t in cell if t.at["width"] == width],
        "wider": [t for t in cell if t.at["depth"] == depth],
    }
    lines: list[Line] = []
    for label, trials in chosen.items():
        points = [
            _speed_point(record, t) for t in sorted(trials, key=lambda t: t.at["depth"] + t.at["width"])
        ]
        if len(points) > 1:
            lines.append(Line(label=label, points=[(p.x, p.y) for p in points], is_dashed=label == "wider"))
    return tuple(lines)


def _spread(residual: float) -> str:
    return f"{100 * (10**residual - 1):.0f} %"
