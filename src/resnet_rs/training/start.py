"""`Start`: the weights that a fine-tuning run begins with, taken from pretrained ones as far as they fit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from resnet_rs import storage
from resnet_rs.text import listed
from resnet_rs.training import checkpoint
from resnet_rs.training.checkpoint import Checkpoint
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.provenance import Provenance

FOLDER = "start"
"""Where a run keeps its start weights, so that it can continue without the place they came from."""
_FILES = ("model.safetensors", "checkpoint.json", storage.MANIFEST)
_HEAD = "head."


@dataclass(frozen=True, kw_only=True)
class Start:
    """The complete weights before the first update."""

    tensors: Mapping[str, Tensor]
    sha256: str
    """Of the tensors: part of a run's identity."""
    summary: str
    """What was taken from the trained weights and what is fresh, in one sentence."""
    provenance: Provenance


def begin(
    saved: Checkpoint, experiment: Experiment, *, classes: tuple[str, ...], name: str, seed: int
) -> Start:
    """The start of a run of `experiment` for `classes` from the trained weights `saved`, which the user calls `name`.

    - The backbone must fit by name and shape, else this raises `ValueError`. The first convolution is adapted to the
      number of channels: from three to one, its kernel is summed over them; from one to three, it is copied to each and
      divided by three. A gray image gives the same output, if mean and std are the same in all channels.
    - The head is kept if the task finds every class of the data among those of the weights by name.
    """
    theirs = saved.load_model().state_dict()
    mine = experiment.build_model(seed=seed).state_dict()
    mended = _with_channels(theirs, mine)
    backbone = {name: tensor for name, tensor in mended.items() if not name.startswith(_HEAD)}
    _refuse_other_backbone(backbone, mine, name)
    head: Mapping[str, Tensor] | None = None
    if type(saved.experiment.task) is type(experiment.task):
        given = {name: tensor for name, tensor in theirs.items() if name.startswith(_HEAD)}
        head = experiment.task.start_head(given, before=saved.classes, after=classes)
        if head and any(mine[key].shape != tensor.shape for key, tensor in head.items() if key in mine):
            head = None  # of another width, say
    tensors = {**mine, **backbone, **(head or {})}
    file = storage.file_sha256(saved.path / f"{saved.weights}.safetensors")
    # What is known of the split of the weights says nothing about this run's own.
    origin = {f"before: {key}": text for key, text in saved.origin.items() if key != "split"}
    origin |= {"source": f"training that began with {name}", "start": name, "start_sha256": file}
    changed = mended.keys() - {key for key, tensor in mended.items() if tensor is theirs[key]}
    return Start(
        tensors=tensors,
        sha256=_sha256(tensors),
        summary=_summary(name, file, saved, head, changed),
        provenance=Provenance(experiment=experiment, classes=classes, seed=seed, origin=origin),
    )


def write(run: Path, start: Start) -> None:
    """Write the start weights into the folder of a run that has not begun."""
    checkpoint.write(run / FOLDER, start.tensors, start.provenance)


def leftover(run: Path) -> tuple[str, ...]:
    """The name of the folder of start weights, if `run` has one; a folder with other files does not count."""
    return (FOLDER,) if all((run / FOLDER / name).is_file() for name in _FILES) else ()


def remove(run: Path) -> None:
    """Remove the start weights from the folder of a run that has not begun."""
    for name in leftover(run):
        storage.remove_tree(run / name)


def read(run: Path, *, summary: str) -> Start:
    """The start weights of a run, verified."""
    saved = checkpoint.read(run / FOLDER)
    tensors = saved.load_model().state_dict()
    return Start(tensors=tensors, sha256=_sha256(tensors), summary=summary, provenance=saved)


def awaited(experiment: Experiment, *, sha256: str, summary: str) -> Start:
    """The start of a rank that gets the tensors from the first one; until then they are zero."""
    provenance = Provenance(experiment=experiment, classes=(), seed=0)
    shapes = experiment.expected_tensors()
    tensors = {name: torch.zeros_like(tensor, device="cpu") for name, tensor in shapes.items()}
    return Start(tensors=tensors, sha256=sha256, summary=summary, provenance=provenance)


def _with_channels(theirs: Mapping[str, Tensor], mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors, with the first convolution for our number of channels."""
    found = dict(theirs)
    for name, tensor in theirs.items():
        wanted = mine[name].shape if name in mine else tensor.shape
        is_conv = tensor.dim() in (4, 5) and len(wanted) == tensor.dim() and not name.startswith(_HEAD)
        if is_conv and (wanted[0], *wanted[2:]) == (tensor.shape[0], *tensor.shape[2:]):
            before, after = tensor.shape[1], wanted[1]
            if after == 1 < before:
                found[name] = tensor.sum(1, keepdim=True)
            elif before == 1 < after:
                found[name] = tensor.expand(wanted).clone() / after
    return found


def _refuse_other_backbone(given: Mapping[str, Tensor], mine: Mapping[str, Tensor], name: str) -> None:
    wanted = {key: tensor.shape for key, tensor in mine.items() if not key.startswith(_HEAD)}
    unfit = [
        key for key in wanted.keys() | given.keys() if key not in given or wanted.get(key) != given[key].shape
    ]
    if unfit:
        raise ValueError(
            f"the weights of {name} do not fit this network: {len(unfit)} of {len(wanted)} backbone tensors differ in "
            f"name or shape, such as {listed(sorted(unfit), at_most=2)}. Name the experiment of the weights, or remove "
            "your edits of `arch`."
        )


def _summary(
    name: str, file: str, saved: Checkpoint, head: Mapping[str, Tensor] | None, changed: set[str]
) -> str:
    kind = "EMA weights" if saved.weights == "ema" else "weights"
    parts = "backbone and head" if head is not None else "backbone only; the head is newly initialized"
    channels = f"; adapted to the number of channels: {', '.join(sorted(changed))}" if changed else ""
    return f"initialized from the {kind} of {name} (SHA-256 {file[:12]}): {parts}{channels}"


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu", memory_format=torch.contiguous_format)
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
