"""The results of the speed study: Pareto fronts, speed-ups at equal accuracy, and Figures 1, 4 and 5.

Latency at an accuracy between two networks is interpolated within the family, linear in accuracy and log latency.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from resnet_rs import storage
from resnet_rs.deploy.bench import Mode, Timing
from resnet_rs.report.blocks import Chart, Listing
from resnet_rs.report.figures import Figure, Point, line, points_figure
from resnet_rs.report.study_page import Statement, StudyPage, render_study_page, statements_table
from resnet_rs.report.table import markdown_table
from resnet_rs.studies.speed import MODES, TITLE, Family, Network, SpeedRecord, networks

_CALLED: Mapping[Mode, str] = {"train": "training step", "infer": "inference"}
_MILLISECONDS = "milliseconds an image, here"
_FASTER = "How many times faster ResNet-RS is"
TPU, V100 = "TPUv3, published", "V100, published"


def speed_ups(record: SpeedRecord) -> list[tuple[Network, dict[str, float | None]]]:
    """Each EfficientNet, and how many times faster ResNet-RS is at its accuracy: here and as published.

    None where the accuracy is outside the range of the measured ResNet-RS.
    """
    known = networks()
    latencies = {
        f"{_CALLED[mode]}, here": {network.name: ms for network, _, ms in _timed(record, mode)}
        for mode in MODES
    }
    latencies[TPU] = {c.name: c.tpu_ms for c in known if c.tpu_ms is not None}
    latencies[V100] = {c.name: 1000 * c.v100_s for c in known if c.v100_s is not None}
    ours = {c.name: c.accuracy for c in known if c.family == "ResNet-RS" and c.accuracy is not None}
    found: list[tuple[Network, dict[str, float | None]]] = []
    for rival in known:
        if rival.family == "EfficientNet" and rival.accuracy is not None:
            times: dict[str, float | None] = {}
            for column, ms in latencies.items():
                points = [(ms[name], accuracy) for name, accuracy in ours.items() if name in ms]
                at, theirs = interpolated(front(points), rival.accuracy), ms.get(rival.name)
                times[column] = None if at is None or theirs is None else theirs / at
            found.append((rival, times))
    return found


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
    parts = [f"**{TITLE}**", _protocol(record), markdown_table(_rows(record))]
    parts += [f"{_FASTER}:", markdown_table(_faster_rows(record)), statements_table(statements(record))]
    return "\n\n".join(parts)


def write_page(record: SpeedRecord, path: Path) -> Path:
    """Write the page of the study to `path`."""
    first = record.timings[0] if record.timings else None
    page = StudyPage(
        title=TITLE,
        base=f"measured on {first.device_name if first else 'nothing yet'}; accuracies are published ones",
        headline={_CALLED[mode]: str(len(_timed(record, mode))) for mode in MODES},
        notes=(_protocol(record),),
        statements=statements(record),
        listings=(_listing(_FASTER, _faster_rows(record)), _listing("Networks", _rows(record))),
        charts=list(_charts(record)),
        environment={} if first is None else {"torch": first.torch, "threads": str(first.num_threads)},
    )
    storage.write_text(path, render_study_page(page))
    return path


def statements(record: SpeedRecord) -> tuple[Statement, ...]:
    """The paper's claims about speed, as measured on this hardware."""
    found = speed_ups(record)
    made: list[Statement] = []
    for called in _CALLED.values():
        claim = f"at equal accuracy ResNet-RS is faster than EfficientNet ({called})"
        known = {rival.name: times for rival, ups in found if (times := ups[f"{called}, here"]) is not None}
        figure = ", ".join(f"{name}: {_times(times)}" for name, times in known.items())
        is_seen = all(times > 1 for times in known.values())
        finding = "not tried" if not known else "seen" if is_seen else "not seen"
        made.append(Statement(claim=claim, finding=finding, figure=figure))
    return (*made, _fewer_macs_can_be_slower(record))


def _fewer_macs_can_be_slower(record: SpeedRecord) -> Statement:
    """Whether a network with fewer multiply-adds can be the slower one."""
    claim = "multiply-adds do not predict the time of a training step"
    timed = _timed(record, "train")
    pairs = [(a, b) for a in timed for b in timed if a[1].macs < b[1].macs]
    if not pairs:
        return Statement(claim=claim)
    # Clearly slower: the fast repeats of one are slower than the slow repeats of the other.
    wrong = [(a, b) for a, b in pairs if (a[1].latency_ms_p10 or 0.0) > (b[1].latency_ms_p90 or math.inf)]
    figure = f"in {len(wrong)} of {len(pairs)} pairs the network with fewer is clearly slower"
    if wrong:
        (few, *_), (many, *_) = max(wrong, key=lambda pair: pair[0][2] / pair[1][2])
        figure += f"; at most: {few.name} against {many.name}"
    return Statement(claim=claim, finding="seen" if wrong else "not seen", figure=figure)


def _charts(record: SpeedRecord) -> Iterator[Chart]:
    for mode in MODES:
        title = f"Published accuracy against the time of {_CALLED[mode]}, here (Figure 4)"
        yield Chart(title=title, figure=_accuracy_figure(record, mode, ("ResNet-RS", "EfficientNet")))
    title = "From the recipe of 2015 to ResNet-RS and beyond (Figure 1)"
    families = ("ResNet-RS", "EfficientNet", "ResNet-200 of 2015")
    yield Chart(title=title, figure=_accuracy_figure(record, "train", families))
    timed = _timed(record, "train")
    rivals = ("EfficientNet", "EfficientNet-RS")
    by_size = [_point(network, x=float(t.size), y=ms) for network, t, ms in timed if network.family in rivals]
    yield Chart(
        title="EfficientNet on its own and on smaller images (Figure 5)",
        figure=points_figure(by_size, x_title="pixels a side", y_title=_MILLISECONDS, log="y"),
        note="No source gives the accuracies of EfficientNet-RS, so only what its smaller images save can be shown.",
    )
    by_macs = [_point(network, x=float(t.macs), y=ms) for network, t, ms in timed]
    figure = points_figure(by_macs, x_title="multiply-adds of an image", y_title=_MILLISECONDS, log="xy")
    yield Chart(title="Time of a training step, here, against multiply-adds", figure=figure)


def _accuracy_figure(record: SpeedRecord, mode: Mode, families: Sequence[Family]) -> Figure:
    """Published accuracy against latency here, with the Pareto front of each family.

    With the ResNet of 2015 it has the path of Figure 1 in place of that family's front.
    """
    points = [
        _point(network, x=ms, y=network.accuracy)
        for network, _, ms in _timed(record, mode)
        if network.family in families and network.accuracy is not None
    ]
    lines: list[dict[str, Any]] = []
    for family in families:
        own = [(p.x, p.y) for p in points if p.group == family]
        if family == "ResNet-200 of 2015":
            ours = [(p.x, p.y) for p in points if p.label == "resnet-rs-200-i256"]
            path = sorted([*own, *ours], key=lambda point: point[1])
            if path:
                lines.append(line(path, name="better training, then SE and ResNet-D", dash="dash"))
        elif own:
            lines.append(line(front(own), name=f"front of {family}"))
    accuracy = "accuracy on ImageNet, published, %"
    return points_figure(points, x_title=_MILLISECONDS, y_title=accuracy, log="x", lines=lines)


def _timed(record: SpeedRecord, mode: Mode) -> list[tuple[Network, Timing, float]]:
    """The measured networks, each with its timing and its milliseconds for an image."""
    timings = ((network, record.timing(network.name, mode)) for network in networks())
    return [(network, t, t.latency_ms / t.batch_size) for network, t in timings if t and t.latency_ms]


def _point(network: Network, *, x: float, y: float) -> Point:
    return Point(label=network.name, x=x, y=y, group=network.family)


def _protocol(record: SpeedRecord) -> str:
    settings = " ".join(f"{name}={value}" for name, value in record.protocol.items() if value is not None)
    first = record.timings[0] if record.timings else None
    where = "" if first is None else f"; {first.device_name}, {first.num_threads} threads, {first.precision}"
    return f"Protocol: {settings}{where}."


def _listing(title: str, rows: Sequence[Mapping[str, str]]) -> Listing:
    return Listing(title=title, head=list(rows[0]) if rows else [], rows=[list(row.values()) for row in rows])


def _rows(record: SpeedRecord) -> list[dict[str, str]]:
    """A row for each measured network."""
    known = {network.name: network for network in networks()}
    rows: list[dict[str, str]] = []
    for name in record.names():
        first = next(timing for timing in record.timings if timing.name == name)
        row = {
            "": name,
            "size": str(first.size),
            "parameters, M": f"{first.params / 1e6:.1f}",
            "multiply-adds, G": f"{first.macs / 1e9:.2f}",
        }
        for mode, called in _CALLED.items():
            timing = record.timing(name, mode)
            ms = timing and timing.latency_ms and timing.latency_ms / timing.batch_size
            memory = timing and timing.peak_memory_mib
            error = (timing and timing.error) or ""
            row[f"{called}: ms an image"] = error if ms is None else f"{ms:,.1f}"
            row[f"{called}: MiB"] = "" if memory is None else f"{memory:,.0f}"
        network = known.get(name)
        row["published accuracy, %"] = _figure(network and network.accuracy)
        row["published TPUv3, ms"] = _figure(network and network.tpu_ms)
        row["published V100, ms"] = _figure(network and network.v100_s and 1000 * network.v100_s)
        rows.append(row)
    return rows


def _faster_rows(record: SpeedRecord) -> list[dict[str, str]]:
    """A row for each EfficientNet."""
    return [
        {"at the accuracy of": rival.name, "accuracy, %": f"{rival.accuracy}"}
        | {column: _times(times) for column, times in ups.items()}
        for rival, ups in speed_ups(record)
    ]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"
