"""The results of the speed study: Pareto fronts, speed-ups at equal accuracy, and Figures 1, 4 and 5.

Latency at an accuracy between two networks is interpolated within the family, linear in accuracy and log latency.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from resnet_rs import storage
from resnet_rs.deploy.bench import Mode, Timing
from resnet_rs.report.blocks import Chart, Listing
from resnet_rs.report.figures import Figure
from resnet_rs.report.study_figures import Axis, Line, Point, points_figure
from resnet_rs.report.study_page import Statement, StudyPage, render_study_page
from resnet_rs.report.table import markdown_table
from resnet_rs.studies.speed import MODES, TITLE, Family, Network, SpeedRecord, networks

_CALLED: Mapping[Mode, str] = {"train": "training step", "infer": "inference"}
_MILLISECONDS = "milliseconds an image, here"
_HEAD = (
    "", "size", "parameters, M", "multiply-adds, G", "training step: ms an image", "training step: MiB",
    "inference: ms an image", "inference: MiB", "published accuracy, %", "published TPUv3, ms", "published V100, ms",
)  # fmt: skip
_UPS_HEAD = (
    "at the accuracy of",
    "accuracy, %",
    "training step, here",
    "inference, here",
    "TPUv3, published",
    "V100, published",
)


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """How much faster ResNet-RS is than an EfficientNet at its accuracy: here, and as published."""

    rival: str
    accuracy: float
    here: Mapping[Mode, float | None]
    tpu: float | None
    v100: float | None


def speed_ups(record: SpeedRecord) -> list[SpeedUp]:
    """The speed-ups over every EfficientNet; None where its accuracy is outside the range of the measured ResNet-RS."""
    known = networks()
    ours = [c for c in known if c.family == "ResNet-RS"]
    here: dict[Mode, dict[str, float | None]] = {
        mode: {c.name: _latency(record, c.name, mode) for c in known} for mode in MODES
    }
    return [
        SpeedUp(
            rival=rival.name,
            accuracy=rival.accuracy,
            here={
                mode: _speed_up(rival.accuracy, ms[rival.name], [(c.accuracy, ms[c.name]) for c in ours])
                for mode, ms in here.items()
            },
            tpu=_speed_up(rival.accuracy, rival.tpu_ms, [(c.accuracy, c.tpu_ms) for c in ours]),
            v100=_speed_up(rival.accuracy, rival.v100_ms, [(c.accuracy, c.v100_ms) for c in ours]),
        )
        for rival in known
        if rival.family == "EfficientNet" and rival.accuracy is not None
    ]


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front of points (latency, accuracy), the fastest first."""
    best: list[tuple[float, float]] = []
    for latency, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((latency, accuracy))
    return best


def interpolated(points: Sequence[tuple[float, float]], accuracy: float) -> float | None:
    """Latency of a front at an accuracy, interpolated in log latency; None outside its range."""
    for (low_ms, low), (high_ms, high) in pairwise(points):
        if low <= accuracy <= high:
            share = (accuracy - low) / (high - low)
            return math.exp((1 - share) * math.log(low_ms) + share * math.log(high_ms))
    return None


def markdown(record: SpeedRecord) -> str:
    """All rows, the speed-ups at equal accuracy, and the claims on this hardware."""
    claims = [(s.claim, s.finding, s.figure) for s in statements(record)]
    return "\n\n".join(
        [
            f"**{TITLE}**",
            f"{_protocol(record)}",
            markdown_table(_HEAD, _rows(record)),
            "How many times faster ResNet-RS is:",
            markdown_table(_UPS_HEAD, _up_rows(record)),
            markdown_table(("claim", "finding", "figure"), claims),
        ]
    )


def write_page(record: SpeedRecord, path: Path) -> Path:
    """Write the page of the study to `path`."""
    first = record.timings[0] if record.timings else None
    page = StudyPage(
        title=TITLE,
        base=f"measured on {first.device_name if first else 'nothing yet'}; accuracies are published ones",
        headline={
            _CALLED[mode]: str(sum(_latency(record, name, mode) is not None for name in record.names()))
            for mode in MODES
        },
        notes=(_protocol(record),),
        statements=statements(record),
        tables=(),
        listings=(
            Listing(title="How many times faster ResNet-RS is", head=_UPS_HEAD, rows=_up_rows(record)),
            Listing(title="Networks", head=_HEAD, rows=_rows(record)),
        ),
        charts=_charts(record),
        environment={} if first is None else {"torch": first.torch, "threads": str(first.num_threads)},
    )
    storage.write_text(path, render_study_page(page))
    return path


def statements(record: SpeedRecord) -> tuple[Statement, ...]:
    """The paper's claims about speed, as measured on this hardware."""
    return (*(_faster(record, mode) for mode in MODES), *_fewer_macs_can_be_slower(record))


def _faster(record: SpeedRecord, mode: Mode) -> Statement:
    here = [(up.rival, up.here[mode]) for up in speed_ups(record)]
    known = [(name, times) for name, times in here if times is not None]
    claim = f"at equal accuracy ResNet-RS is faster than EfficientNet ({_CALLED[mode]})"
    if not known:
        return Statement(claim=claim, finding="not tried", figure="")
    figure = ", ".join(f"{name}: {_times(times)}" for name, times in known)
    is_seen = all(times > 1 for _, times in known)
    return Statement(claim=claim, finding="seen" if is_seen else "not seen", figure=figure)


def _fewer_macs_can_be_slower(record: SpeedRecord) -> Iterator[Statement]:
    """Whether a network with fewer multiply-adds can be the slower one."""
    found = (record.timing(name, "train") for name in record.names())
    timed = [(t, t.latency_ms) for t in found if t is not None and t.latency_ms is not None]
    pairs = [(a, b) for a in timed for b in timed if a[0].macs < b[0].macs]
    # Clearly slower: the fast repeats of one are slower than the slow repeats of the other.
    wrong = [(a, b) for a, b in pairs if (a[0].latency_ms_p10 or 0.0) > (b[0].latency_ms_p90 or math.inf)]
    if pairs:
        worst = max(wrong, key=lambda pair: pair[0][1] / pair[1][1], default=None)
        most = "" if worst is None else f"; at most: {worst[0][0].name} against {worst[1][0].name}"
        yield Statement(
            claim="multiply-adds do not predict the time of a training step",
            finding="seen" if wrong else "not seen",
            figure=f"in {len(wrong)} of {len(pairs)} pairs the network with fewer is clearly slower{most}",
        )


def _charts(record: SpeedRecord) -> tuple[Chart, ...]:
    found: dict[str, Figure | None] = {}
    for mode in MODES:
        title = f"Published accuracy against the time of {_CALLED[mode]}, here (Figure 4)"
        found[title] = _accuracy_figure(record, mode, ("ResNet-RS", "EfficientNet"))
    path = _timed(record, "train", ("ResNet-200 of 2015", "ResNet-RS"))
    on_path = [p for c, p in path if c.family == "ResNet-200 of 2015" or c.name == "resnet-rs-200-i256"]
    found["From the recipe of 2015 to ResNet-RS and beyond (Figure 1)"] = _accuracy_figure(
        record, "train", ("ResNet-200 of 2015", "ResNet-RS", "EfficientNet"), path=on_path
    )
    smaller = _timed(record, "train", ("EfficientNet", "EfficientNet-RS"))
    found["EfficientNet on its own and on smaller images (Figure 5)"] = points_figure(
        [_point(c, x=float(c.experiment.data.size), y=p.x) for c, p in smaller],
        x=Axis(title="pixels a side", is_log=False),
        y=Axis(title=_MILLISECONDS, is_log=True),
    )
    everything = _timed(record, "train", tuple(dict.fromkeys(c.family for c in networks())))
    found["Time of a training step, here, against multiply-adds"] = points_figure(
        [_point(c, x=float(c.experiment.count_cost().macs), y=p.x) for c, p in everything],
        x=Axis(title="multiply-adds of an image", is_log=True),
        y=Axis(title=_MILLISECONDS, is_log=True),
    )
    notes = {
        "EfficientNet on its own and on smaller images (Figure 5)": "No source gives the accuracies of "
        "EfficientNet-RS, so only what its smaller images save can be shown."
    }
    return tuple(
        Chart(title=title, figure=figure, note=notes.get(title, ""))
        for title, figure in found.items()
        if figure is not None
    )


def _accuracy_figure(
    record: SpeedRecord, mode: Mode, families: tuple[Family, ...], *, path: Sequence[Point] = ()
) -> Figure | None:
    """Published accuracy against latency here, with the Pareto front of each family, or with a path."""
    points = [point for network, point in _timed(record, mode, families) if network.accuracy is not None]
    fronts = [
        Line(
            label=f"front of {family}",
            points=front([(p.x, p.y) for p in points if p.group == family]),
            is_dashed=False,
        )
        for family in families
        if family != "ResNet-200 of 2015" and any(p.group == family for p in points)
    ]
    steps = [(p.x, p.y) for p in sorted(path, key=lambda p: p.y)]
    walked = [Line(label="better training, then SE and ResNet-D", points=steps, is_dashed=True)]
    return points_figure(
        points,
        x=Axis(title=_MILLISECONDS, is_log=True),
        y=Axis(title="accuracy on ImageNet, published, %", is_log=False),
        lines=[*fronts, *(walked if steps else [])],
    )


def _timed(record: SpeedRecord, mode: Mode, families: Sequence[Family]) -> list[tuple[Network, Point]]:
    """The measured networks of some families, each as a point of latency and published accuracy."""
    found: list[tuple[Network, Point]] = []
    for network in networks():
        timing = record.timing(network.name, mode)
        if network.family in families and timing is not None and timing.latency_ms is not None:
            accuracy = math.nan if network.accuracy is None else network.accuracy
            found.append((network, _point(network, x=_per_image(timing), y=accuracy)))
    return found


def _point(network: Network, *, x: float, y: float) -> Point:
    return Point(label=network.name, x=x, y=y, group=network.family)


def _speed_up(
    accuracy: float, rival_ms: float | None, ours: Sequence[tuple[float | None, float | None]]
) -> float | None:
    """The rival's latency over that of our front at its accuracy; None outside the front's range."""
    at = interpolated(front([(ms, t) for t, ms in ours if t is not None and ms is not None]), accuracy)
    return None if at is None or rival_ms is None else rival_ms / at


def _latency(record: SpeedRecord, name: str, mode: Mode) -> float | None:
    timing = record.timing(name, mode)
    return None if timing is None else timing.latency_ms


def _per_image(timing: Timing) -> float:
    return (timing.latency_ms or math.nan) / timing.batch_size


def _protocol(record: SpeedRecord) -> str:
    settings = " ".join(f"{name}={value}" for name, value in record.protocol.items() if value is not None)
    first = record.timings[0] if record.timings else None
    where = "" if first is None else f"; {first.device_name}, {first.num_threads} threads, {first.precision}"
    return f"Protocol: {settings}{where}."


def _rows(record: SpeedRecord) -> list[tuple[str, ...]]:
    known = {network.name: network for network in networks()}
    return [_cells(record, name, known.get(name)) for name in record.names()]


def _cells(record: SpeedRecord, name: str, network: Network | None) -> tuple[str, ...]:
    timings = [record.timing(name, mode) for mode in MODES]
    any_one = next(timing for timing in timings if timing is not None)
    published = () if network is None else (network.accuracy, network.tpu_ms, network.v100_ms)
    return (
        name,
        str(any_one.size),
        f"{any_one.params / 1e6:.1f}",
        f"{any_one.macs / 1e9:.2f}",
        *(cell for timing in timings for cell in _measured(timing)),
        *("" if value is None else f"{value:g}" for value in published or (None, None, None)),
    )


def _measured(timing: Timing | None) -> tuple[str, str]:
    if timing is None:
        return ("", "")
    if timing.error is not None:
        return (timing.error, "")
    memory = "" if timing.peak_memory_mib is None else f"{timing.peak_memory_mib:,.0f}"
    return (f"{_per_image(timing):,.1f}", memory)


def _up_rows(record: SpeedRecord) -> list[tuple[str, ...]]:
    return [
        (
            up.rival,
            f"{up.accuracy}",
            *(_times(up.here[mode]) for mode in MODES),
            _times(up.tpu),
            _times(up.v100),
        )
        for up in speed_ups(record)
    ]


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"
