"""Label a part of a pool: the mean probabilities of one or several teachers, as a part of a table.

Shapes: `B` samples of a batch, `N` samples of a part, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from resnet_rs.data.loader import EvaluationBatches, load, split_range
from resnet_rs.data.sample import Request, Sample, Unreadable
from resnet_rs.data.source import Source, WrappedSource
from resnet_rs.data.target import Target
from resnet_rs.processes import Interrupted, Stop
from resnet_rs.pseudo.table import encode_part
from resnet_rs.tasks.classification import Classification
from resnet_rs.training.checkpoint import Checkpoint
from resnet_rs.training.evaluate import batch_size
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Labeling:
    """How a pool is labeled."""

    flip: bool = False
    """Whether each image is also seen mirrored."""
    sizes: tuple[int, ...] = ()
    """Input sizes at which each image is seen; empty: that of each teacher."""
    top: int | None = None
    """How many of the likeliest classes are stored; None stores all."""

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ValueError(f"top must be 1 or more classes, got {self.top}.")
        if len(set(self.sizes)) != len(self.sizes):
            raise ValueError(f"every size must be listed once, got {', '.join(map(str, self.sizes))}.")


@dataclass(frozen=True)
class Teacher:
    """A trained classifier in evaluation mode, on its device."""

    model: nn.Module
    experiment: Experiment
    order: Int[np.ndarray, " K"]
    """For each class of the table its index among the teacher's."""

    @staticmethod
    def check(saved: Checkpoint, *, classes: Sequence[str]) -> None:
        """Raise `ValueError` for a network that does not give each image one class, or knows other `classes`."""
        task = saved.experiment.task
        if not isinstance(task, Classification):
            raise ValueError(
                f"{saved.path} has the task {type(task).__name__}; expected a teacher that gives every image one class."
            )
        if sorted(saved.classes) != sorted(classes):
            odd = sorted(set(saved.classes) ^ set(classes))
            raise ValueError(
                f"all teachers must know the same classes; {saved.path} and the first one differ in "
                f"{', '.join(odd[:5])}."
            )

    @classmethod
    def load(cls, saved: Checkpoint, *, classes: Sequence[str], machine: Machine) -> Teacher:
        """The teacher of a checkpoint, with its EMA weights if it has any. Classes are matched by name."""
        model = machine.device.place(saved.load_model()).eval()
        order = np.array([saved.classes.index(name) for name in classes])
        return cls(model, saved.experiment, order)

    def probabilities(self, inputs: Tensor, *, machine: Machine) -> Float64[np.ndarray, "B K"]:
        """Of normalized inputs, calibrated as the teacher's own answers."""
        task = self.experiment.task
        assert isinstance(task, Classification)  # noqa: S101 - `check` refuses others
        with machine.device.autocast():
            logits = self.model(inputs)
        shares = (logits.float().cpu().double() / task.temperature).softmax(1)
        return shares.numpy()[:, self.order]


@torch.no_grad()
def label_part(
    teachers: Sequence[Teacher],
    source: Source,
    part: range,
    labeling: Labeling,
    *,
    machine: Machine,
    stop: Stop,
) -> tuple[bytes, int]:
    """The Parquet file of the samples `part` of `source`, and how many of them could not be read.

    Raises `Interrupted` on a stop request.
    """
    count = len(part)
    total, num_views = np.zeros((count, len(teachers[0].order))), 0
    truths, fingerprints = np.full(count, -1), list[bytes | None]([None] * count)
    errors = dict[str, str]()
    for teacher in teachers:
        for size in labeling.sizes or (teacher.experiment.data.size,):
            data = replace(teacher.experiment.data, size=size)
            dataset = EvaluationBatches(_Fingerprinted(source=source), data, collate=_collated)
            ranges = split_range(part.start, count, at_most=batch_size(machine.device))
            num_views += 1 + labeling.flip
            for batch in load(ranges, dataset, workers=machine.workers):
                if stop.is_requested:
                    raise Interrupted
                errors |= {error.key: error.reason for error in batch.unreadable}
                if not len(batch.indices):
                    continue
                inputs = machine.device.layout(data.normalize(machine.device.put(batch.inputs)))
                found = teacher.probabilities(inputs, machine=machine)
                if labeling.flip:
                    found = found + teacher.probabilities(inputs.flip(-1), machine=machine)
                rows = batch.indices.numpy() - part.start
                total[rows] += found
                known = cast(dict[str, Tensor], batch.targets)
                truths[rows] = known["truth"].numpy()
                for row, fingerprint in zip(rows.tolist(), known["fingerprint"].numpy(), strict=True):
                    fingerprints[row] = fingerprint.tobytes()
    keys = [source.key(i) for i in part]
    unreadable = {row: errors[key] for row, key in enumerate(keys) if key in errors} if errors else {}
    content = encode_part(
        keys=keys,
        fingerprints=fingerprints,
        truths=truths,
        probabilities=total / num_views,
        errors=unreadable,
        top=labeling.top,
    )
    return content, len(unreadable)


@dataclass(frozen=True)
class _Known(Target):
    """What a pool knows of an image: its class, -1 if it does not say, and its fingerprint."""

    truth: int
    fingerprint: bytes


@dataclass(frozen=True, kw_only=True)
class _Fingerprinted(WrappedSource):
    """Another source, with `_Known` as targets. So whoever reads the images makes the fingerprints."""

    def read(self, index: int, request: Request) -> Sample:
        sample = self.source.read(index, request)
        fingerprint = self.source.fingerprint(index)
        if fingerprint is None:
            raise Unreadable(sample.key, "it was removed while it was read")
        truth = next(iter(sample.target.class_indices), -1)
        return sample._replace(target=_Known(truth, fingerprint))


def _collated(targets: Sequence[Target]) -> dict[str, Tensor]:
    known = cast(Sequence[_Known], targets)
    fingerprints = np.frombuffer(b"".join(one.fingerprint for one in known), np.uint8).reshape(-1, 16)
    return {
        "truth": torch.tensor([one.truth for one in known]),
        "fingerprint": torch.from_numpy(fingerprints.copy()),
    }
