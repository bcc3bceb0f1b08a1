"""Width, depth and size at several lengths of training: the grid, and the paper's two scaling rules tested on it.

    rule 1   depth gains more than width in long training, where a model can overfit; width gains more in short training
    rule 2   raise the size slowly: each further step gains less

The measure is the gain per doubling: how much the headline score gains for each doubling of a cost. It is summed over
all pairs of neighbors in the grid that differ in one axis alone. The gains of two axes are compared sample by sample
and seed by seed.

Source: paper, section 6, Figures 2 and 3, appendix E. The measure is ours: the paper shows curves and no test.

Shapes: `S` seeds, `N` samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from statistics import mean
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from resnet_rs import config
from resnet_rs.data.pipeline import SMALLEST_SIZE
from resnet_rs.models.resnet import BLOCKS, ResNetArch
from resnet_rs.plan.rules import with_length
from resnet_rs.report.blocks import Chart
from resnet_rs.report.comparison import Verdict, compare, mean_score
from resnet_rs.report.figures import Point, line, points_figure
from resnet_rs.report.study_page import Statement
from resnet_rs.studies.claim import Claim, for_seeds, oriented
from resnet_rs.studies.record import Record
from resnet_rs.studies.study import Study, Trial, check_num_trials
from resnet_rs.training.experiment import Experiment

_AXES = ("epochs", "size", "depth", "width")
_FEWEST_FOR_LAW = 6

Steps = Sequence[tuple[Trial, Trial]]
"""Pairs of neighbors in the grid, the smaller one first."""
_UNREGULARIZED: dict[str, Any] = {
    "data.randaugment": None,
    "arch.drop_path": 0.0,
    "task.label_smoothing": 0.0,
    "task.dropout": 0.0,
}
"""Edits that leave flips and crops only, as in the paper's short runs (appendix E)."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The axes of the grid. Defaults: paper, section 6, relative to a base of width 1, 224 pixels, 350 epochs."""

    widths: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0)
    """Times the base's width."""
    depths: tuple[int, ...] = (26, 50, 101, 200, 300, 350, 400)
    """Names of layouts: the paper's Table 11 and appendix E; 14 and 26 are ours."""
    sizes: tuple[float, ...] = (128 / 224, 160 / 224, 1.0, 320 / 224, 448 / 224)
    """Times the base's size."""
    epochs: tuple[float, ...] = (10 / 350, 100 / 350, 1.0)
    """Times the base's length. Only the longest is regularized; the others have flips and crops only."""

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "sizes", "epochs"):
            values = getattr(self, name)
            if not values or min(values) <= 0 or len(set(values)) < len(values):
                raise ValueError(f"{name} must be different numbers above 0, got {list(values)}.")
        for depth in self.depths:
            if depth not in BLOCKS:
                raise ValueError(f"depths must be among {', '.join(map(str, sorted(BLOCKS)))}, got {depth}.")


def scaling(base: Experiment, num_samples: int, settings: Mapping[str, str]) -> Study:
    """The grid on `base`; `settings` are edits of `Grid` such as `{"grid.widths": "0.5, 1"}`."""
    for path in settings:
        if not path.startswith("grid."):
            raise ValueError(
                f"this study has the settings of its grid, such as grid.widths=[0.5, 1]; got {path}."
            )
    if not isinstance(base.arch, ResNetArch):
        raise ValueError(f"this study scales a ResNet, and the base has a {type(base.arch).__name__}.")
    axes = config.edit(Grid(), {path.removeprefix("grid."): value for path, value in settings.items()})
    check_num_trials(len(axes.epochs) * len(axes.sizes) * len(axes.depths) * len(axes.widths))
    trials: list[Trial] = []
    for epochs, size, depth, width in product(axes.epochs, axes.sizes, axes.depths, axes.widths):
        edits = {
            "arch.width": base.arch.width * width,
            "arch.blocks": BLOCKS[depth],
            "data.size": max(SMALLEST_SIZE, round(base.data.size * size)),
        }
        length = float(f"{base.recipe.epochs * epochs:.4g}")
        scaled = with_length(config.edit(base, edits), length, num_samples)
        longest = {"recipe.ema_decay": base.recipe.ema_decay}
        scaled = config.edit(scaled, longest if epochs == max(axes.epochs) else _UNREGULARIZED)
        trials.append(
            Trial(
                label=f"{length:g} epochs, {scaled.data.size} px, depth {depth}, width {width:g}",
                edits=config.diff(base, scaled),
                at={"epochs": length, "size": float(scaled.data.size), "depth": float(depth), "width": width},
            )
        )
    return Study(
        name="scaling",
        title="Width, depth, size and length of training (Figures 2 and 3)",
        trials=tuple(trials),
        notes=(
            "Width is a multiple of the base's; depth names a layout (14: one block per stage, 26: two).",
            "The longest runs keep the base's regularizers; shorter ones have flips and crops only, as in the paper's "
            "appendix E. Dropout by width (Table 12) is left out: its values could not be verified.",
        ),
    )


def claims(record: Record) -> list[Claim]:
    """The two rules, each at the longest and the shortest training of the grid."""
    lengths, sizes = _values_of(record, "epochs"), _values_of(record, "size")
    longest, shortest = lengths[-1], lengths[0]
    size, depth, width = (_neighbors(record, longest, axis) for axis in ("size", "depth", "width"))
    deeper, wider = (_neighbors(record, shortest, axis) for axis in ("depth", "width"))
    found: list[Claim] = []
    for per in _COSTS:
        text = f"rule 1, long ({longest:g} epochs): depth gains more than width for the same {per}"
        found.append(_claim(record, text, depth, width, per=per))
        if shortest < longest:
            text = f"rule 1, short ({shortest:g} epochs): width gains more than depth for the same {per}"
            found.append(_claim(record, text, wider, deeper, per=per))
    text = f"rule 2 ({longest:g} epochs): size gains less than depth for the same multiply-adds"
    found.append(_claim(record, text, size, depth, expects="loss"))
    if len(sizes) > 2:
        (a, b), (c, d) = sizes[:2], sizes[-2:]
        text = f"rule 2 ({longest:g} epochs): from {a:g} to {b:g} px gains more than from {c:g} to {d:g}"
        first, last = ([(low, high) for low, high in size if low.at["size"] == start] for start in (a, c))
        found.append(_claim(record, text, first, last))
    return found


def fewer_macs_can_be_better(record: Record) -> Statement:
    """Whether a network with fewer multiply-adds can be the better one after the longest training."""
    longest, score = _values_of(record, "epochs")[-1], record.context.score
    trials = sorted(_finished(record, longest), key=lambda trial: _macs(record, trial))
    seeds = record.seeds(*(trial.label for trial in trials))
    pairs = [(a, b) for a, b in combinations(trials, 2) if _macs(record, a) < _macs(record, b)]
    text = f"multiply-adds do not predict the score ({longest:g} epochs)"
    if not pairs or not seeds:
        return Statement(claim=text)
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
        (a, b), gain = pairs[best], score.change(differences[best].value)
        figure += f"; at most: {a.label} against {b.label}, {gain} {score.unit}"
    finding = "seen" if num_better else "not seen" if num_worse == len(pairs) else "not significant"
    return Statement(claim=text, finding=for_seeds(finding, len(seeds)), figure=figure)


def charts(record: Record) -> tuple[Chart, ...]:
    """Figure 2: error against multiply-adds; Figure 3: the score against the training time of an image."""
    return (*_error_charts(record), *_speed_charts(record))


def _error_charts(record: Record) -> Iterator[Chart]:
    score, longest = record.context.score, _values_of(record, "epochs")[-1]
    if not score.is_share and score.is_higher_better:
        return  # it is no error, and no share whose complement is one
    lines, note = power_law(record, longest)
    points = [
        _point(record, trial, x=_macs(record, trial), group=f"{trial.at['size']:g} px", is_error=True)
        for trial in _finished(record, longest)
    ]
    error = "test error, %" if score.is_share else f"test {score.label}"
    figure = points_figure(points, x_title="multiply-adds of an image", y_title=error, log="xy", lines=lines)
    title = f"Error against multiply-adds, {longest:g} epochs (Figure 2)"
    yield Chart(title=title, figure=figure, note=note)


def _speed_charts(record: Record) -> Iterator[Chart]:
    for length in _values_of(record, "epochs"):
        for size in _values_of(record, "size"):
            points = {
                (t.at["depth"], t.at["width"]): _point(record, t, x=ms, group=f"width {t.at['width']:g}")
                for t in _finished(record, length)
                if t.at["size"] == size and (ms := _milliseconds(record, t)) is not None
            }
            figure = points_figure(
                list(points.values()),
                x_title="milliseconds for an image in training",
                y_title=f"test {record.context.score.title}",
                log="x",
                lines=_scaled_lines(points),
            )
            title = f"Depth or width? {length:g} epochs, {size:g} px (Figure 3)"
            yield Chart(title=title, figure=figure)


def power_law(record: Record, length: float) -> tuple[list[dict[str, Any]], str]:
    """The law of error against multiply-adds at one length of training, as a line and a sentence.

    It is fitted on the cheaper half of the trials. Empty with fewer than six trials. Source: paper, Figure 2: small
    models roughly follow one law whatever is scaled, and large ones do not.
    """
    trials = sorted(_finished(record, length), key=lambda trial: _macs(record, trial))
    if len(trials) < _FEWEST_FOR_LAW:
        return [], ""
    x = np.log10([_macs(record, trial) for trial in trials])
    errors = [_error(record, float(record.values(trial.label).mean())) for trial in trials]
    y = np.log10(np.maximum(errors, 1e-6))
    small = round(len(trials) / 2)
    exponent, offset = np.polyfit(x[:small], y[:small], 1)
    residual = y - (exponent * x + offset)
    cheaper, costlier = (
        f"{100 * (10 ** float(np.sqrt(np.mean(part**2))) - 1):.0f} %"
        for part in (residual[:small], residual[small:])
    )
    ends = [(float(10**at), float(_unit(record) * 10 ** (exponent * at + offset))) for at in (x[0], x[-1])]
    note = (
        f"Fitted on the cheaper half: error ~ macs^{exponent:.3f}. The cheaper half deviates by {cheaper} (root mean "
        f"square), the costlier half by {costlier}."
    )
    return [line(ends, name="power law of the cheaper half", dash="dash")], note


def _macs(record: Record, trial: Trial) -> float:
    return mean(float(result.macs or 0) for result in record.finished(trial.label))


def _milliseconds(record: Record, trial: Trial) -> float | None:
    """For an image in training; None where a run was too short to tell."""
    speeds = [result.images_per_second for result in record.finished(trial.label)]
    return mean(1000 / speed for speed in speeds if speed) if all(speeds) else None


_COSTS: Mapping[str, Callable[[Record, Trial], float | None]] = {
    "multiply-adds": _macs,
    "training time": _milliseconds,
}


def _claim(
    record: Record,
    text: str,
    new: Steps,
    old: Steps,
    *,
    per: str = "multiply-adds",
    expects: Literal["gain", "loss"] = "gain",
) -> Claim:
    """That the steps `new` gain more than the steps `old` per doubling of a cost."""
    more, less = (_gain_per_doubling(record, steps, per) for steps in (new, old))
    per = f"doubling of {per}"
    if more is None or less is None:
        return Claim(text=text, pair=None, per=per, expects=expects)
    return Claim(text=text, pair=(more[0], less[0]), per=per, expects=expects, limit=more[1] + less[1])


def _gain_per_doubling(
    record: Record, steps: Steps, per: str
) -> tuple[Float[np.ndarray, "S N"], float] | None:
    """The gain over all steps per doubling of a cost, and its largest possible size for a score in [0, 1]."""
    # The same seeds in every claim, so that gains can be compared seed by seed.
    seeds = record.seeds(*(trial.label for trial in record.study.trials if record.finished(trial.label)))
    costs = [(_COSTS[per](record, low), _COSTS[per](record, high)) for low, high in steps]
    doublings = sum(math.log2(high / low) if low and high else math.nan for low, high in costs)
    if not steps or not seeds or not doublings > 0:
        return None
    gains = [oriented(record, high.label, seeds) - oriented(record, low.label, seeds) for low, high in steps]
    return np.sum(gains, axis=0) / doublings, len(steps) / doublings


def _neighbors(record: Record, length: float, axis: str) -> Steps:
    """Finished pairs of one length of training that differ in `axis` alone, by one step of the grid."""
    steps = set(pairwise(_values_of(record, axis)))
    others = [name for name in _AXES if name != axis]
    trials = _finished(record, length)
    return [
        (low, high)
        for low, high in product(trials, trials)
        if (low.at[axis], high.at[axis]) in steps and all(low.at[name] == high.at[name] for name in others)
    ]


def _values_of(record: Record, axis: str) -> list[float]:
    return sorted({trial.at[axis] for trial in record.study.trials})


def _finished(record: Record, length: float) -> list[Trial]:
    return [t for t in record.study.trials if t.at["epochs"] == length and record.finished(t.label)]


def _error(record: Record, value: float) -> float:
    return 1 - value if record.context.score.is_higher_better else value


def _unit(record: Record) -> float:
    """Shares are drawn in percent."""
    return 100.0 if record.context.score.is_share else 1.0


def _point(record: Record, trial: Trial, *, x: float, group: str, is_error: bool = False) -> Point:
    """The score of a trial, or its error, with its interval."""
    found = mean_score(record.values(trial.label), is_share=record.context.score.is_share)
    value, *bounds = (
        _unit(record) * (_error(record, v) if is_error else v) for v in (found.value, found.low, found.high)
    )
    return Point(label=trial.label, x=x, y=value, low=min(bounds), high=max(bounds), group=group)


def _scaled_lines(points: Mapping[tuple[float, float], Point]) -> list[dict[str, Any]]:
    """From the smallest network: deeper at its width, and wider at its depth. `points` are by (depth, width)."""
    lines: list[dict[str, Any]] = []
    for name, fixed in (("deeper", 1), ("wider", 0)):
        least = min((place[fixed] for place in points), default=0.0)
        chosen = [(points[place].x, points[place].y) for place in sorted(points) if place[fixed] == least]
        if len(chosen) > 1:
            lines.append(line(chosen, name=name, dash="dash" if name == "wider" else "solid"))
    return lines
