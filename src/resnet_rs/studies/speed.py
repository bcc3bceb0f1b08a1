"""Latency and memory of every published configuration on this machine, beside the published accuracies.

The paper claims that ResNet-RS is faster than EfficientNet at equal accuracy, although it computes more. The accuracies
are the published ones on ImageNet. Training steps, as the paper times them, and inference are measured here.

Source: paper, Tables 3 and 7, Figures 1, 4 and 5. No source gives the sizes of EfficientNet-RS. Here they are two
thirds of EfficientNet's, in steps of 32 pixels (ours).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

from resnet_rs import config, paper, storage, zoo
from resnet_rs.deploy.bench import Mode, Protocol, Timing, bench, surroundings
from resnet_rs.processes import Stop
from resnet_rs.studies.record import json_lines, parsed
from resnet_rs.training.experiment import Experiment

RECORD = "speed.jsonl"
TITLE = "Speed and accuracy (Tables 3 and 7, Figures 1, 4 and 5)"
MODES: tuple[Mode, ...] = get_args(Mode)
_VERSION = 1
_STEP = 32
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
    kept = {"arch.drop_path": 0.1, "arch.norm_momentum": 1.0}
    trained = config.edit(replace(ours, arch=dated.arch), kept)
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

    def names(self) -> list[str]:
        """Names of the measured networks, in their order."""
        return list(dict.fromkeys(timing.name for timing in self.timings))

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
            for mode in reversed(MODES):
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
