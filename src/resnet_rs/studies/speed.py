"""Latency and memory of every published configuration on this machine, beside the published accuracies.

The paper claims that ResNet-RS is faster than EfficientNet at equal accuracy, although it computes more. The accuracies
are the published ones on ImageNet. Training steps, as the paper times them, and inference are measured here. Latency at
an accuracy between two networks is interpolated within the family, linear in accuracy and log latency.

Source: paper, Tables 3 and 7, Figures 1, 4 and 5. No source gives the sizes of EfficientNet-RS. Here they are two
thirds of EfficientNet's, in steps of 32 pixels (ours).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

from resnet_rs import config, paper, storage, zoo
from resnet_rs.deploy.bench import Mode, Protocol, Timing, bench, surroundings
from resnet_rs.processes import Stop
from resnet_rs.report.blocks import Chart, Listing
from resnet_rs.report.figures import Figure, Point, line, points_figure
from resnet_rs.report.study_page import Statement, StudyPage, render_study_page, statements_table
from resnet_rs.report.table import markdown_table
from resnet_rs.studies.record import json_lines, parsed
from resnet_rs.training.experiment import Experiment

RECORD = "speed.jsonl"
TITLE = "Speed and accuracy (Tables 3 and 7, Figures 1, 4 and 5)"
_VERSION = 1
_STEP = 32
_CALLED: dict[Mode, str] = {"train": "training step", "infer": "inference"}
_MILLISECONDS = "milliseconds an image, here"
_FASTER = "How many times faster ResNet-RS is"
Family = Literal["ResNet-RS", "EfficientNet", "EfficientNet-RS", "ResNet-200 of 2015"]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A configuration to measure, and its published figures."""

    name: str
    family: Family
    experiment: Experiment
    accuracy: float | None = None
    """Published accuracy on ImageNet, in percent; EfficientNet-RS has none."""
    tpu_ms: float | None = None
    v100_s: float | None = None
    """Latency of a training step as published, on a TPUv3 and a V100."""


def networks() -> list[Network]:
    """All configurations, each family from its smallest to its largest."""
    found: list[Network] = []
    for name, published in {**paper.RELEASED, **paper.RIVALS}.items():
        # The README's 82.2 of 152 at 224 is doubtful, so all accuracies are those of the released weights.
        is_ours = isinstance(published, paper.Released)
        found.append(
            Network(
                name=name,
                family="ResNet-RS" if is_ours else "EfficientNet",
                experiment=zoo.experiment(name),
                accuracy=published.accuracy_reevaluated if is_ours else published.accuracy,
                tpu_ms=published.tpu_ms,
                v100_s=published.v100_s,
            )
        )
    rivals = [network for network in found if network.family == "EfficientNet"]
    return [*found, *map(_smaller, rivals), *_path()]


def _smaller(rival: Network) -> Network:
    """The same network on smaller images, with RandAugment by size (paper, section 7.2)."""
    size = round(rival.experiment.data.size * 2 / 3 / _STEP) * _STEP
    edits = {"data.size": size, "data.randaugment.magnitude": zoo.magnitude_for(size)}
    return Network(
        name=f"{rival.name.replace('efficientnet', 'efficientnet-rs')}-i{size}",
        family="EfficientNet-RS",
        experiment=config.edit(rival.experiment, edits),
    )


def _path() -> list[Network]:
    """The start of the path of Figure 1: ResNet-200 with the recipe of 2015, and with all training methods."""
    dated, ours = zoo.experiment("resnet-200-2015"), zoo.experiment("resnet-rs-200-i256")
    arch = config.edit(dated.arch, {"drop_path": 0.1, "norm_momentum": 1.0})
    trained = replace(ours, arch=arch)
    first = Network(
        name="resnet-200-2015",
        family="ResNet-200 of 2015",
        experiment=dated,
        accuracy=paper.TABLE_1[0],
    )
    name = "resnet-200-2015, trained as ResNet-RS"
    return [first, replace(first, name=name, experiment=trained, accuracy=paper.TABLE_1[8])]


@dataclass(frozen=True, kw_only=True)
class SpeedRecord:
    """The protocol, and the timings so far."""

    protocol: Mapping[str, Any]
    """Settings of both modes."""
    timings: tuple[Timing, ...] = ()
    """One for each network, mode and round, in the order of measurement."""

    def timing(self, name: str, mode: str) -> Timing | None:
        """The timing of a network over its rounds: median latency, smallest p10, largest p90, largest memory.

        If a round failed, the timing with its error; None if the network was not measured.
        """
        rounds = [t for t in self.timings if (t.name, t.mode) == (name, mode)]
        failed = next((t for t in rounds if t.error is not None), None)
        if failed is not None or not rounds:
            return failed
        latency, low, high, memory = (
            [value for t in rounds if (value := getattr(t, name)) is not None]
            for name in ("latency_ms", "latency_ms_p10", "latency_ms_p90", "peak_memory_mib")
        )
        return replace(
            rounds[0],
            latency_ms=median(latency),
            latency_ms_p10=min(low),
            latency_ms_p90=max(high),
            images_per_second=1000 * rounds[0].batch_size / median(latency),
            peak_memory_mib=max(memory, default=None),
            num_repeats=sum(t.num_repeats for t in rounds),
            num_rounds=len(rounds),
        )

    def write(self, folder: Path) -> None:
        """Write it to `folder` atomically."""
        head = {"version": _VERSION, "study": "speed", "protocol": dict(self.protocol)}
        storage.write_text(folder / RECORD, json_lines(head, map(asdict, self.timings)))


def read(path: Path) -> SpeedRecord:
    """The record at `path`: a folder of the study, or a file of its lines."""
    cure = "Measure anew in a new folder."
    return parsed(path, RECORD, _record, version=_VERSION, cure=cure)


def _record(head: Mapping[str, Any], lines: list[Mapping[str, Any]]) -> SpeedRecord:
    return SpeedRecord(protocol=head["protocol"], timings=tuple(Timing(**line) for line in lines))


def measure(folder: Path, protocol: Protocol, chosen: Sequence[Network], *, stop: Stop) -> Iterator[Timing]:
    """Timings of inference and training steps of `chosen`, in rounds; earlier timings first.

    A measured network is not measured again unless it failed. On a stop request it ends after the current network,
    whose timing is dropped: the signal may have reached it. Raises `ValueError` if `folder` has another protocol.
    """
    own = {name: value for name, value in asdict(protocol).items() if name != "mode"}
    if not (folder / RECORD).is_file() and not storage.is_vacant(folder):
        raise ValueError(f"{folder} is not empty and holds no speed study. Choose a new folder for `--out`.")
    storage.make_folders(folder)
    with storage.locked(folder):
        record = _begun(folder, SpeedRecord(protocol=own), surroundings(protocol))
        yield from record.timings
        for round_index in range(protocol.num_rounds):
            for mode in reversed(_CALLED):
                rounds = Counter(t.name for t in record.timings if t.mode == mode)
                failed = {t.name for t in record.timings if t.mode == mode and t.error is not None}
                missing = {
                    c.name: c.experiment
                    for c in chosen
                    if c.name not in failed and rounds[c.name] <= round_index
                }
                for timing in bench(missing, replace(protocol, mode=mode, num_rounds=1)):
                    if stop.is_requested:
                        return
                    record = replace(record, timings=(*record.timings, timing))
                    record.write(folder)
                    yield timing


def _begun(folder: Path, new: SpeedRecord, here: Mapping[str, Any]) -> SpeedRecord:
    """The earlier timings in `folder` without failures; refuses those of another protocol or machine."""
    if not (folder / RECORD).is_file():
        return new
    before = read(folder)
    if before.protocol != new.protocol:
        raise ValueError(
            f"{folder} was measured with another protocol: {json.dumps(before.protocol)}. Use a new folder."
        )
    kept = tuple(timing for timing in before.timings if timing.error is None)
    for timing in kept:
        for name, value in here.items():
            if (was := getattr(timing, name)) != value:
                raise ValueError(f"{folder} was measured with {name} {was}, now {value}. Use a new folder.")
    return replace(before, timings=kept)


def speed_ups(record: SpeedRecord) -> list[tuple[Network, dict[str, float | None]]]:
    """Each EfficientNet, and how many times faster ResNet-RS is at its accuracy: here and as published.

    None where the accuracy is outside the range of the measured ResNet-RS.
    """
    known = networks()
    latencies = {
        f"{_CALLED[mode]}, here": {network.name: ms for network, _, ms in _timed(record, mode)}
        for mode in _CALLED
    }
    latencies["TPUv3, published"] = {c.name: c.tpu_ms for c in known if c.tpu_ms is not None}
    latencies["V100, published"] = {c.name: 1000 * c.v100_s for c in known if c.v100_s is not None}
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
        headline={_CALLED[mode]: str(len(_timed(record, mode))) for mode in _CALLED},
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
    for mode in _CALLED:
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
        if family == "ResNet-200 of 2015":
            through = [p for p in points if p.group == family or p.label == "resnet-rs-200-i256"]
            ends = [(p.x, p.y) for p in sorted(through, key=lambda p: p.y)]
            drawn = line(ends, name="better training, then SE and ResNet-D", dash="dash")
        else:
            ends = front([(p.x, p.y) for p in points if p.group == family])
            drawn = line(ends, name=f"front of {family}")
        lines += [drawn] if ends else []
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
    where = [f"; {t.device_name}, {t.num_threads} threads, {t.precision}" for t in record.timings[:1]]
    return f"Protocol: {settings}{''.join(where)}."


def _listing(title: str, rows: Sequence[Mapping[str, str]]) -> Listing:
    return Listing(title=title, head=list(rows[0]) if rows else [], rows=[list(row.values()) for row in rows])


def _rows(record: SpeedRecord) -> list[dict[str, str]]:
    """A row for each measured network."""
    known = {network.name: network for network in networks()}
    rows: list[dict[str, str]] = []
    for name in dict.fromkeys(timing.name for timing in record.timings):
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
        c = known.get(name)
        published = {
            "accuracy, %": c and c.accuracy,
            "TPUv3, ms": c and c.tpu_ms,
            "V100, ms": c and c.v100_s and 1000 * c.v100_s,
        }
        rows.append(row | {f"published {key}": f"{v:g}" if v else "" for key, v in published.items()})
    return rows


def _faster_rows(record: SpeedRecord) -> list[dict[str, str]]:
    """A row for each EfficientNet."""
    return [
        {"at the accuracy of": rival.name, "accuracy, %": f"{rival.accuracy}"}
        | {column: _times(times) for column, times in ups.items()}
        for rival, ups in speed_ups(record)
    ]


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"
