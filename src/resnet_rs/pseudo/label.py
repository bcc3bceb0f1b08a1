"""Label a part of a pool: the mean probabilities of one or several teachers, as a part of a table.

Shapes: `B` samples of a batch, `N` samples of a part, `K` classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float64, Int, UInt8
from torch import Tensor, nn

from resnet_rs.data.files import ImageFiles
from resnet_rs.data.loader import EvaluationBatches, load, split_range
from resnet_rs.data.pipeline import Data
from resnet_rs.data.sample import Batch, Request, Sample, Unreadable
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
    def check(saved: Checkpoint, labeling: Labeling, *, classes: Sequence[str]) -> None:
        """Raise `ValueError` for a network that does not give each image one class, knows other `classes`, or cannot
        see images as `labeling` says.
        """
        task = saved.experiment.task
        if type(task) is not Classification:
            raise ValueError(
                f"{saved.path} has the task {type(task).__name__}; expected a teacher that gives every image one class."
            )
        if sorted(saved.classes) != sorted(classes):
            different = sorted(set(saved.classes) ^ set(classes))
            raise ValueError(
                f"all teachers must know the same classes; {saved.path} and the first one differ in "
                f"{', '.join(different[:5])}."
            )
        for size in labeling.sizes:
            replace(saved.experiment.data, size=size)  # which refuses a size that is out of its range

    @classmethod
    def load(cls, saved: Checkpoint, *, classes: Sequence[str], machine: Machine) -> Teacher:
        """The teacher of a checkpoint, with its EMA weights if it has any. Classes are matched by name."""
        model = machine.device.place(saved.load_model()).eval()
        order = np.array([saved.classes.index(name) for name in classes])
        return cls(model, saved.experiment, order)

    def probabilities(self, inputs: Tensor, *, machine: Machine) -> Float64[np.ndarray, "B K"]:
        """Of normalized inputs, calibrated as the teacher's own answers."""
        task = cast(Classification, self.experiment.task)  # `check` refuses others
        with machine.device.autocast():
            logits = self.model(inputs)
        shares = (logits.float().cpu().double() / task.temperature).softmax(1)
        return shares.numpy()[:, self.order]


@torch.no_grad()
def label_part(  # noqa: PLR0913 - what is labeled, and how
    teachers: Sequence[Teacher],
    source: Source,
    part: range,
    labeling: Labeling,
    *,
    classes: Sequence[str],
    machine: Machine,
    stop: Stop,
) -> bytes:
    """The Parquet file of the samples `part` of `source`; `classes` are those of the table.

    A sample that cannot be labeled is a row with the reason. Raises `Interrupted` on a stop request, and `OSError` if
    not one file of a folder is there any more, which is more likely an outage of the disk.
    """
    seen = _Seen(np.zeros((len(part), len(classes))), [None] * len(part), {})
    num_views = 0
    for teacher in teachers:
        for size in labeling.sizes or (teacher.experiment.data.size,):
            num_views += 1 + labeling.flip
            for batch, data in _batches(teacher, size, source, part, machine):
                if stop.is_requested:
                    raise Interrupted
                seen.errors.update((error.key, error.reason) for error in batch.unreadable)
                if len(batch.indices):
                    inputs = machine.device.layout(data.normalize(machine.device.put(batch.inputs)))
                    found = teacher.probabilities(inputs, machine=machine)
                    if labeling.flip:
                        found = found + teacher.probabilities(inputs.flip(-1), machine=machine)
                    seen.add(batch.indices.numpy() - part.start, found, cast(Tensor, batch.targets).numpy())
    keys, places = [source.key(i) for i in part], {name: i for i, name in enumerate(classes)}
    errors = {row: reason for row, key in enumerate(keys) if (reason := seen.reason(row, key)) is not None}
    is_listed = isinstance(source, ImageFiles) and source.are_labels_in_paths
    if is_listed and len(errors) == len(part) and all(source.fingerprint(i) is None for i in part):
        raise OSError(f"not one of {len(part):,} files could be read; the first: {keys[0]!r}: {errors[0]}.")
    return encode_part(
        keys=[_as_text(key) for key in keys],
        fingerprints=seen.fingerprints,
        truths=np.array([_truth(source, i, places) for i in part]),
        probabilities=np.nan_to_num(seen.total / num_views),
        errors=errors,
        top=labeling.top,
    )


def _batches(
    teacher: Teacher, size: int, source: Source, part: range, machine: Machine
) -> Iterator[tuple[Batch, Data]]:
    """The images of a part as a teacher sees them at a size, with the fingerprints of their files as targets."""
    data = replace(teacher.experiment.data, size=size)
    dataset = EvaluationBatches(_Fingerprinted(source=source), data, collate=_collated)
    ranges = split_range(part.start, len(part), at_most=batch_size(machine.device))
    for batch in load(ranges, dataset, workers=machine.workers):
        yield batch, data


@dataclass(frozen=True)
class _Seen:
    """What the teachers have said of the samples of a part so far."""

    total: Float64[np.ndarray, "N K"]
    """Sums of probabilities."""
    fingerprints: list[bytes | None]
    errors: dict[str, str]
    """Reasons by key."""

    def add(
        self,
        rows: Int[np.ndarray, " B"],
        probabilities: Float64[np.ndarray, "B K"],
        fingerprints: UInt8[np.ndarray, "B 16"],
    ) -> None:
        """Add the probabilities of some rows. Those of a file that has changed become NaN."""
        self.total[rows] += probabilities
        for row, fingerprint in zip(rows.tolist(), fingerprints, strict=True):
            before, now = self.fingerprints[row], fingerprint.tobytes()
            if before is not None and before != now:
                self.total[row] = np.nan
            self.fingerprints[row] = now

    def reason(self, row: int, key: str) -> str | None:
        """Why a sample has no label; None if it has one."""
        if key in self.errors:
            return self.errors[key]
        if _as_text(key) != key:
            return "its name is not UTF-8"
        if not np.isfinite(self.total[row]).all():
            return "its file changed meanwhile, or the output of a teacher is not finite"
        return None


def _as_text(key: str) -> str:
    """A key as UTF-8 text; bytes of file names that are none are escaped."""
    return key.encode("utf-8", "backslashreplace").decode()


def _truth(source: Source, index: int, places: Mapping[str, int]) -> int:
    """The class that the pool names, as its place among those of the table; -1 if it names none of them, or several."""
    target = source.target(index)
    named = () if target is None else target.class_indices
    return places.get(source.classes[named[0]], -1) if len(named) == 1 else -1


@dataclass(frozen=True)
class _Fingerprint(Target):
    content: bytes


@dataclass(frozen=True, kw_only=True)
class _Fingerprinted(WrappedSource):
    """Another source, with fingerprints as targets, made where the images are read."""

    def read(self, index: int, request: Request) -> Sample:
        before, fingerprint = self.source.stamp(index), self.source.fingerprint(index)
        sample = self.source.read(index, request)
        if fingerprint is None or self.source.stamp(index) != before:
            raise Unreadable(sample.key, "its file changed while it was read")
        return sample._replace(target=_Fingerprint(fingerprint))


def _collated(targets: Sequence[Target]) -> Tensor:
    """Fingerprints [B, 16], uint8."""
    joined = b"".join(one.content for one in cast(Sequence[_Fingerprint], targets))
    return torch.from_numpy(np.frombuffer(joined, np.uint8).reshape(-1, 16).copy())
