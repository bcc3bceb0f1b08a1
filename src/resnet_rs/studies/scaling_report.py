"""What a scaling grid says: Figures 2 and 3, and the two rules as paired comparisons.

The measure is the gain per doubling: how much the headline score gains for each doubling of a cost when one axis alone
is raised, over all neighbors in the grid. The gains of two axes are compared sample by sample and seed by seed.

Source: paper, section 6. The measure is ours: the paper shows curves and no test.

Shapes: `S` seeds, `N` samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import mean
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from resnet_rs.report.blocks import Chart
from resnet_rs.report.comparison import Verdict, compare, mean_score
from resnet_rs.report.study_figures import Axis, Line, Point, points_figure
from resnet_rs.report.study_page import Statement
from resnet_rs.report.table import difference_text, score_title
from resnet_rs.studies.claim import Claim, for_seeds, oriented
from resnet_rs.studies.record import Record
from resnet_rs.studies.study import Trial

Expected = Literal["gain", "loss"]
AXES = ("epochs", "size", "depth", "width")
_SHARE_OF_SMALL = 0.5
"""Share of the trials, cheapest first, that the power law is fitted on."""


def claims(record: Record) -> list[Claim]:
    """The two rules, each at the longest and the shortest training of the grid."""
    lengths = sorted({trial.at["epochs"] for trial in record.study.trials})
    longest, shortest = lengths[-1], lengths[0]

    def claim(text: str, new: str, old: str, length: float, *, per: str, expects: Expected = "gain") -> Claim:
        larger = _gain_per_doubling(record, axis=new, length=length, measure=_COSTS[per])
        smaller = _gain_per_doubling(record, axis=old, length=length, measure=_COSTS[per])
        return _claim(text, larger, smaller, per=per, expects=expects)

    found: list[Claim] = []
    for per in _COSTS:
        text = f"rule 1, long ({longest:g} epochs): depth gains more than width for the same {per}"
        found.append(claim(text, "depth", "width", longest, per=per))
        if shortest < longest:
            text = f"rule 1, short ({shortest:g} epochs): width gains more than depth for the same {per}"
            found.append(claim(text, "width", "depth", shortest, per=per))
    text = f"rule 2 ({longest:g} epochs): size gains less than depth for the same multiply-adds"
    found.append(claim(text, "size", "depth", longest, per="multiply-adds", expects="loss"))
    return [*found, *_diminishing(record, longest)]


def fewer_macs_can_be_better(record: Record) -> Iterator[Statement]:
    """Whether a network with fewer multiply-adds can be the better one after the longest training."""
    longest = max(trial.at["epochs"] for trial in record.study.trials)
    trials = sorted(_finished(record, longest), key=lambda trial: _macs(record, trial))
    seeds = record.seeds(*(trial.label for trial in trials))
    pairs = [(a, b) for a, b in combinations(trials, 2) if _macs(record, a) < _macs(record, b)]
    text = f"multiply-adds do not predict the score ({longest:g} epochs)"
    if not pairs or not seeds:
        yield Statement(claim=text, finding="not tried", figure="")
        return
    values = {trial.label: oriented(record, trial.label, seeds) for trial in trials}
    differences = compare([(values[a.label], values[b.label]) for a, b in pairs])
    verdicts = [difference.verdict() for difference in differences]
    num_better, num_worse = verdicts.count(Verdict.BETTER), verdicts.count(Verdict.WORSE)
    figure = (
        f"in {len(pairs)} pairs the network with fewer is better {num_better} times and worse {num_worse} times; the "
        "others do not differ significantly"
    )
    if num_better:
        best = max(range(len(pairs)), key=lambda i: (verdicts[i] is Verdict.BETTER, differences[i].value))
        (a, b), score = pairs[best], record.context.score
        unit = "points" if score.is_share else score.label
        figure += f"; at most: {a.label} against {b.label}, {difference_text(score, differences[best].value)} {unit}"
    finding = "seen" if num_better else "not seen" if num_worse == len(pairs) else "not significant"
    yield Statement(claim=text, finding=for_seeds(finding, len(seeds)), figure=figure)


def charts(record: Record) -> tuple[Chart, ...]:
    """Figure 2: error against multiply-adds; Figure 3: the score against the training time of an image."""
    longest, score = max(trial.at["epochs"] for trial in record.study.trials), record.context.score
    made: list[Chart] = []
    if _has_error(record):
        law = power_law(record, longest)
        figure = points_figure(
            [_error_point(record, trial) for trial in _finished(record, longest)],
            x=Axis(title="multiply-adds of an image", is_log=True),
            y=Axis(title="test error, %" if score.is_share else f"test {score.label}", is_log=True),
            lines=() if law is None else (law.line,),
        )
        if figure is not None:
            title = f"Error against multiply-adds, {longest:g} epochs (Figure 2)"
            made.append(Chart(title=title, figure=figure, note="" if law is None else law.note))
    for length in sorted({trial.at["epochs"] for trial in record.study.trials}):
        for size in sorted({trial.at["size"] for trial in record.study.trials}):
            cell = [trial for trial in _finished(record, length) if trial.at["size"] == size]
            cell = [trial for trial in cell if _milliseconds(record, trial) is not None]
            figure = points_figure(
                [_speed_point(record, trial) for trial in cell],
                x=Axis(title="milliseconds for an image in training", is_log=True),
                y=Axis(title=f"test {score_title(score)}", is_log=False),
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
    """Root mean square of log10(error) about the law, for the trials it was fitted on."""
    residual_of_large: float
    """The same for the other trials; it is larger where the law breaks."""
    line: Line

    @property
    def note(self) -> str:
        """The law in a sentence."""
        return (
            f"Fitted on the cheaper half: error ~ macs^{self.exponent:.3f}. The cheaper half deviates by "
            f"{_percent(self.residual_of_small)} (root mean square), the costlier half by "
            f"{_percent(self.residual_of_large)}."
        )


def power_law(record: Record, length: float) -> PowerLaw | None:
    """The law of error against multiply-adds at one length of training; None with fewer than six trials.

    Source: paper, Figure 2: small models roughly follow one law whatever is scaled, and large ones do not.
    """
    trials = sorted(_finished(record, length), key=lambda trial: _macs(record, trial))
    if len(trials) < 6:
        return None
    x = np.log10([_macs(record, trial) for trial in trials])
    errors = [_error(record, float(_values(record, t).mean())) for t in trials]
    y = np.log10(np.maximum(errors, 1e-6))
    small = max(3, round(len(trials) * _SHARE_OF_SMALL))
    exponent, offset = np.polyfit(x[:small], y[:small], 1)
    residual = y - (exponent * x + offset)
    ends = [(float(10**at), float(_unit(record) * 10 ** (exponent * at + offset))) for at in (x[0], x[-1])]
    return PowerLaw(
        exponent=float(exponent),
        residual_of_small=float(np.sqrt(np.mean(residual[:small] ** 2))),
        residual_of_large=float(np.sqrt(np.mean(residual[small:] ** 2))),
        line=Line(label="power law of the cheaper half", points=ends, is_dashed=True),
    )


Measure = Callable[[Record, Trial], float | None]


def _macs(record: Record, trial: Trial) -> float:
    return mean(float(result.macs or 0) for result in record.finished(trial.label))


def _milliseconds(record: Record, trial: Trial) -> float | None:
    """For an image in training; None where a run was too short to tell."""
    speeds = [result.images_per_second for result in record.finished(trial.label)]
    return mean(1000 / speed for speed in speeds if speed) if all(speeds) else None


_COSTS: Mapping[str, Measure] = {"multiply-adds": _macs, "training time": _milliseconds}


class _Gain(NamedTuple):
    """The gain of each seed and sample per doubling of a cost, and its largest possible size for a score in [0, 1]."""

    values: Float[np.ndarray, "S N"]
    limit: float


def _claim(text: str, new: _Gain | None, old: _Gain | None, *, per: str, expects: Expected = "gain") -> Claim:
    per = f"doubling of {per}"
    if new is None or old is None:
        return Claim(text=text, new=None, old=None, per=per)
    return Claim(
        text=text, new=new.values, old=old.values, per=per, expects=expects, limit=new.limit + old.limit
    )


def _gain_per_doubling(
    record: Record, *, axis: str, length: float, measure: Measure, step: tuple[float, float] | None = None
) -> _Gain | None:
    """The gain along `axis` per doubling of a cost, over all neighbors at one length; None without neighbors.

    With `step` only the neighbors between those two values of the axis count.
    """
    pairs = [
        (low, high)
        for low, high in _neighbors(record, length, axis)
        if step is None or (low.at[axis], high.at[axis]) == step
    ]
    # The same seeds in every claim, so that gains can be compared seed by seed.
    seeds = record.seeds(*(trial.label for trial in record.study.trials if record.finished(trial.label)))
    costs = [(measure(record, low), measure(record, high)) for low, high in pairs]
    doublings = sum(math.log2(high / low) if low and high else math.nan for low, high in costs)
    if not pairs or not seeds or not doublings > 0:
        return None
    gains = [oriented(record, high.label, seeds) - oriented(record, low.label, seeds) for low, high in pairs]
    return _Gain(np.sum(gains, axis=0) / doublings, len(pairs) / doublings)


def _diminishing(record: Record, length: float) -> Iterator[Claim]:
    """Whether the first step in size gains more than the last one; nothing with fewer than three sizes."""
    sizes = sorted({trial.at["size"] for trial in record.study.trials})
    if len(sizes) < 3:
        return
    first, last = (sizes[0], sizes[1]), (sizes[-2], sizes[-1])
    steps = f"from {first[0]:g} to {first[1]:g} px gains more than from {last[0]:g} to {last[1]:g}"
    new, old = (
        _gain_per_doubling(record, axis="size", length=length, measure=_macs, step=step)
        for step in (first, last)
    )
    yield _claim(f"rule 2 ({length:g} epochs): {steps}", new, old, per="multiply-adds")


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
    return [t for t in record.study.trials if t.at["epochs"] == length and record.finished(t.label)]


def _values(record: Record, trial: Trial) -> Float[np.ndarray, "S N"]:
    return record.values(trial.label, record.seeds(trial.label))


def _has_error(record: Record) -> bool:
    """Whether the score is an error, or a share whose complement is one."""
    score = record.context.score
    return score.is_share or not score.is_higher_better


def _error(record: Record, value: float) -> float:
    return 1 - value if record.context.score.is_higher_better else value


def _unit(record: Record) -> float:
    """Shares are drawn in percent."""
    return 100.0 if record.context.score.is_share else 1.0


def _error_point(record: Record, trial: Trial) -> Point:
    mean = mean_score(_values(record, trial), is_share=record.context.score.is_share)
    value, *bounds = (_unit(record) * _error(record, v) for v in (mean.value, mean.low, mean.high))
    group = f"{trial.at['size']:g} px"
    return Point(
        label=trial.label, x=_macs(record, trial), y=value, low=min(bounds), high=max(bounds), group=group
    )


def _speed_point(record: Record, trial: Trial) -> Point:
    mean = mean_score(_values(record, trial), is_share=record.context.score.is_share)
    value, low, high = (_unit(record) * v for v in (mean.value, mean.low, mean.high))
    ms, group = _milliseconds(record, trial) or math.nan, f"width {trial.at['width']:g}"
    return Point(label=trial.label, x=ms, y=value, low=low, high=high, group=group)


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


def _percent(residual: float) -> str:
    return f"{100 * (10**residual - 1):.0f} %"
