"""Benchmark of image classifiers on this machine: latency, throughput and peak memory of training or inference.

Each network runs in its own process, so the peak memory is its own. Several rounds measure the networks in turn, so a
machine that slows down affects all of them. Only the computation is timed: the images are made before it. A training
step copies them to the device, as in a run.

The paper gives latencies of a *training step* at batch 128, halved until it fits (README of the TF1 release).
"""

from __future__ import annotations

import json
import platform
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from resnet_rs import config
from resnet_rs.data.sample import Batch
from resnet_rs.data.target import Label
from resnet_rs.processes import run_in_child
from resnet_rs.tasks.classification import Classification
from resnet_rs.training.device import Device
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.loop import Loop
from resnet_rs.training.state import new_state

Mode = Literal["train", "infer"]

_FEWEST_REPEATS = 2
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Settings of a measurement; every row contains them."""

    mode: Mode = "infer"
    """`train`: a whole update, with gradients, optimizer, EMA and checks; `infer`: a forward pass."""
    batch_size: int = 8
    """Images per batch."""
    num_warmup: int = 1
    """Uncounted repeats at the start of each round."""
    num_repeats: int = 10
    """Counted repeats in each round."""
    num_rounds: int = 1
    """Rounds over all networks."""
    max_seconds: float | None = None
    """Time limit for one network in one round. A slow network has fewer repeats, but at least two."""
    num_threads: int | None = None
    """CPU threads; None leaves the number to PyTorch."""
    device: str | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode must be {' or '.join(get_args(Mode))}, got {self.mode!r}.")
        # Batch norm needs two images in training.
        least = {
            "batch_size": 2 if self.mode == "train" else 1,
            "num_warmup": 1,
            "num_repeats": _FEWEST_REPEATS,
        }
        for name, bound in {**least, "num_rounds": 1, "num_threads": 1, "max_seconds": 0.001}.items():
            value = getattr(self, name)
            is_left_out = value is None and name in ("num_threads", "max_seconds")
            if not is_left_out and (value is None or not value >= bound):
                raise ValueError(f"{name} must be {bound} or more to {self.mode}, got {value}.")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One measured row. After a failure the measured fields are None, and `error` gives the reason."""

    name: str
    mode: Mode
    size: int
    """Pixels per side."""
    batch_size: int
    params: int
    macs: int
    """Multiply-adds of one image in a forward pass."""
    latency_ms: float | None = None
    """Median over all repeats, of a whole batch."""
    latency_ms_p10: float | None = None
    latency_ms_p90: float | None = None
    images_per_second: float | None = None
    peak_memory_mib: float | None = None
    """CPU: peak resident memory, minus the resident memory before the network was built. CUDA: peak allocated memory.
    MPS: None."""
    num_repeats: int = 0
    num_warmup: int = 0
    num_rounds: int = 0
    num_threads: int | None = None
    precision: str | None = None
    device_name: str = ""
    torch: str = ""
    error: str | None = None


def bench(experiments: Mapping[str, Experiment], protocol: Protocol) -> Iterator[Timing]:
    """Measure each of `experiments` and yield its row, in order, during the last round.

    A network that fails, or whose process is killed for its memory, gives a row with its error. Raises `ValueError` for
    an experiment that does not classify images, and for a device or precision that this machine does not have.
    """
    for name, experiment in experiments.items():
        _refuse_other_inputs(name, experiment)
    surroundings(protocol)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in experiments}
    for i in range(protocol.num_rounds):
        for name, experiment in experiments.items():
            if not any("error" in found for found in rounds[name]):
                rounds[name].append(_in_a_child(experiment, protocol))
            if i == protocol.num_rounds - 1:
                yield _row(name, experiment, protocol, rounds[name])


def measure(experiment: Experiment, protocol: Protocol) -> dict[str, Any]:
    """One round in this process: `seconds` of each repeat, `memory` in MiB, and `surroundings`."""
    if protocol.num_threads is not None:
        torch.set_num_threads(protocol.num_threads)
    device = Device.choose(protocol.device, precision=protocol.precision)
    with suppress(OSError):  # on Linux the peak of a process starts with that of its parent; 5 resets it
        Path("/proc/self/clear_refs").write_text("5")
    before = _resident_peak()
    steps = (_training if protocol.mode == "train" else _inference)(experiment, protocol, device)
    seconds: list[float] = []
    begin = time.perf_counter()
    for i in range(protocol.num_warmup + protocol.num_repeats):
        _wait(device)
        start = time.perf_counter()
        next(steps)
        _wait(device)
        if i >= protocol.num_warmup:
            seconds.append(time.perf_counter() - start)
        is_late = protocol.max_seconds is not None and time.perf_counter() - begin > protocol.max_seconds
        if is_late and len(seconds) >= _FEWEST_REPEATS:
            break
    memory = None if device.name == "mps" else _resident_peak() - before
    if device.is_cuda:
        memory = torch.cuda.max_memory_allocated(device.torch) / _MIB
    return {"seconds": seconds, "memory": memory, **surroundings(protocol)}


def surroundings(protocol: Protocol) -> dict[str, Any]:
    """Hardware and software of a measurement: `num_threads`, `precision`, `device_name` and `torch` of a row."""
    device = Device.choose(protocol.device, precision=protocol.precision)
    described = device.describe()
    return {
        "num_threads": protocol.num_threads or int(described["threads"]),
        "precision": device.precision,
        "device_name": described["device"] if device.name != "cpu" else described["processor"],
        "torch": described["torch"],
    }


def _inference(experiment: Experiment, protocol: Protocol, device: Device) -> Iterator[None]:
    """A forward pass at each step."""
    model = device.place(experiment.build_model()).eval()
    batch = _batch(experiment, protocol.batch_size)
    inputs = device.layout(experiment.data.normalize(device.put(batch.inputs)))
    with torch.inference_mode():
        while True:
            with device.autocast():
                model(inputs)
            yield


def _training(experiment: Experiment, protocol: Protocol, device: Device) -> Iterator[None]:
    """An update at each step, as in a run."""
    experiment = config.edit(experiment, {"recipe.batch_size": protocol.batch_size})
    timetable = replace(experiment.recipe.timetable(protocol.batch_size), total_steps=2**31, warmup_steps=0.0)
    loop = Loop(experiment=experiment, timetable=timetable, device=device, seed=0, micro_batches=1)
    state = new_state(experiment, device, seed=0)
    for _ in loop.updates(state, repeat(_batch(experiment, protocol.batch_size))):
        yield


def _refuse_other_inputs(name: str, experiment: Experiment) -> None:
    """Raise `ValueError` unless `experiment` classifies single images: `_batch` makes nothing else."""
    task, frames = experiment.task, experiment.data.frames
    if not isinstance(task, Classification) or task.num_views != 1 or frames is not None:
        given = f"the task {type(task).__name__}" if frames is None else f"clips of {frames.count} frames"
        raise ValueError(
            f"bench measures classifiers of images, and {name!r} has {given}. Use an experiment with the task "
            "Classification and data.frames=none."
        )


def _batch(experiment: Experiment, batch_size: int) -> Batch:
    """Images of noise, all labeled with class 0."""
    size, channels = experiment.data.size, experiment.data.channels
    places = torch.arange(batch_size)
    pixels = torch.randint(0, 256, (batch_size, channels, size, size), dtype=torch.uint8)
    targets = experiment.task.collate([Label(0)] * batch_size)
    return Batch(inputs=pixels, targets=targets, indices=places, global_indices=places)


def _wait(device: Device) -> None:
    if device.name != "cpu":
        torch.accelerator.synchronize(device.torch)


def _resident_peak() -> float:
    """Largest resident memory so far, in MiB."""
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MIB if platform.system() == "Darwin" else peak / 1024


def _in_a_child(experiment: Experiment, protocol: Protocol) -> dict[str, Any]:
    """One round in a new process: the result of `measure`, or an `error`."""
    answer = run_in_child(_measured, experiment, protocol)
    if isinstance(answer, int):
        return {"error": f"its process ended with exit code {answer}; the memory may be too small"}
    return json.loads(answer)


def _measured(experiment: Experiment, protocol: Protocol) -> bytes:
    try:
        found = measure(experiment, protocol)
    except Exception as error:  # any error goes into the row of this network
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    return json.dumps(found).encode()


def _row(name: str, experiment: Experiment, protocol: Protocol, rounds: list[dict[str, Any]]) -> Timing:
    cost = experiment.count_cost()
    failed = next(({"error": found["error"]} for found in rounds if "error" in found), None)
    return Timing(
        name=name,
        mode=protocol.mode,
        size=experiment.data.size,
        batch_size=protocol.batch_size,
        params=cost.params,
        macs=cost.macs,
        **(failed or _pooled(rounds, protocol)),
    )


def _pooled(rounds: list[dict[str, Any]], protocol: Protocol) -> dict[str, Any]:
    """The measured fields of a row, over all rounds."""
    seconds = [value for found in rounds for value in found["seconds"]]
    low, median, high = 1000 * np.quantile(seconds, [0.1, 0.5, 0.9])
    memory = [found["memory"] for found in rounds]
    return {
        "latency_ms": float(median),
        "latency_ms_p10": float(low),
        "latency_ms_p90": float(high),
        "images_per_second": float(1000 * protocol.batch_size / median),
        "peak_memory_mib": None if None in memory else max(memory),
        "num_repeats": len(seconds),
        "num_warmup": protocol.num_warmup,
        "num_rounds": protocol.num_rounds,
        **{key: rounds[-1][key] for key in ("num_threads", "precision", "device_name", "torch")},
    }
