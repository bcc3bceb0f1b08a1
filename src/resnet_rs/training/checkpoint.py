"""Checkpoints: folders of safetensors and JSON, without pickles, verified on every read.

RUN/checkpoints/step-00001560/
    ema.safetensors       EMA weights and statistics: the model to use
    model.safetensors     raw weights and statistics
    momentum.safetensors  momentum of the optimizer
    checkpoint.json       step, seed, class names, experiment, updates that were skipped, environment
    manifest.json         size and SHA-256 of every file
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors
from torch import Tensor

from resnet_rs import storage
from resnet_rs.config import from_plain, to_plain
from resnet_rs.models.backbone import Model
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.split_record import recorded_split, split_digest
from resnet_rs.training.state import TrainState

FORMAT = 1
"""Version of the layout above."""

_FOLDER = "checkpoints"
_INFO = "checkpoint.json"
_STEP = re.compile(r"step-\d{8,}")
_NUM_KEPT = 2
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
"""Read errors that mean a damaged file. Others, such as too many open files, are temporary."""

Weights = Literal["ema", "model"]


class NoneValid(storage.Damaged):
    """All checkpoints of the run are damaged or missing."""

    exit_code = 3


class NotFinite(ValueError):
    """The state has a value that is not finite, so it is not saved."""

    exit_code = 5


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The origin of weights: experiment, classes, seed, split and environment."""

    experiment: Experiment
    classes: tuple[str, ...]
    seed: int
    split: dict[str, list[str]] | None = None
    """The keys of both parts if the data was split automatically, so that training images are never scored. They are in
    `run.json`; the checkpoint has their digest."""
    environment: dict[str, str] = field(default_factory=dict[str, str])
    """Device, precision, threads and versions. The same environment gives the same bits."""
    origin: Mapping[str, str] = field(default_factory=dict[str, str])
    """For converted weights: file, SHA-256, format and kind of variables."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Provenance):
    """A verified checkpoint."""

    path: Path
    step: int
    split_digest: str | None = None
    skipped: tuple[int, ...] = ()
    """Recent updates that were skipped because they were not finite."""

    @property
    def is_split_lost(self) -> bool:
        """Whether an automatic split is known by its digest alone, because its run is missing."""
        return self.split_digest is not None and self.split is None

    @property
    def weights(self) -> Weights:
        """The weights to use: the EMA weights if there are any."""
        return "ema" if (self.path / "ema.safetensors").is_file() else "model"

    def load_model(self) -> Model:
        """The model of this checkpoint in evaluation mode, on the CPU."""
        file = self.path / f"{self.weights}.safetensors"
        tensors = _load(file)
        # First on the meta device, because a manipulated file may ask for a network of any size.
        with torch.device("meta"):
            expected = self.experiment.build_model().state_dict()
        _refuse_others(tensors, expected, file)
        model = self.experiment.build_model()
        model.load_state_dict(tensors)
        return model.eval()


def save(run: Path, state: TrainState, provenance: Provenance) -> None:
    """Write `state` below the folder `run`, atomically; then remove all but the two newest valid checkpoints.

    When this returns, the checkpoint is on the disk. Raises `OSError` if that failed, and `NotFinite` for a state with
    values that are not finite. Earlier checkpoints are then unchanged.
    """
    path = run / _FOLDER / f"step-{state.step:08d}"
    if path.exists() and not _is_valid(path):
        _set_aside(path)
    if path.is_dir():
        # It is complete, but its last flush failed, or an earlier attempt at this run saved it.
        storage.disk.sync_folder(path.parent)
    else:
        storage.write_folder(path, _files(state, provenance))
    # An old checkpoint that cannot be removed does no harm. The next save tries again.
    with suppress(OSError):
        _drop_old(run, newest=path)


def write(path: Path, tensors: Mapping[str, Tensor], provenance: Provenance) -> None:
    """Write converted weights to the new checkpoint folder `path`, atomically."""
    info = _info(provenance, step=0, skipped=())
    files = [("model.safetensors", content(tensors, "model")), (_INFO, info)]
    storage.write_folder(path, iter(files))


def has_any(run: Path) -> bool:
    """Whether a run has checkpoints, valid or not."""
    return bool(_folders(run))


def num_bytes(state: TrainState) -> int:
    """Approximate size of a checkpoint of `state`."""
    sizes = [
        t.numel() * t.element_size() for model in state.models.values() for t in model.state_dict().values()
    ]
    return sum(sizes) + sum(p.numel() * p.element_size() for p in state.model.parameters())


def recover(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint of a run, None before the first save; and a notice per damaged newer one.

    Damaged ones are renamed to `damaged-step-...`. Raises `NoneValid` if there are checkpoints and none is valid.
    """
    storage.remove_leftovers(run)
    storage.remove_leftovers(run / _FOLDER)
    found, damaged = _newest_valid(run)
    return found, [f"{reason} It was renamed to {_set_aside(path)}." for path, reason in damaged]


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`: a checkpoint folder, or the newest valid one of a run folder.

    Raises `FileNotFoundError` if there is none, and `storage.Damaged` if its files have changed. Warns if a newer
    checkpoint of the run is damaged.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is no folder; expected a run folder of `resnet-rs train`, or a checkpoint in it."
        )
    if (path / _FOLDER).is_dir():
        found, damaged = _newest_valid(path)
        if found is None:
            raise FileNotFoundError(f"{path} holds no checkpoint yet: its run stopped before the first one.")
        for _, reason in damaged:
            warnings.warn(f"{reason} {found.path.name} is used instead.", stacklevel=2)
        return found
    if not (path / _INFO).is_file() and not (path / storage.MANIFEST).is_file():
        raise FileNotFoundError(
            f"{path} holds neither checkpoints/ nor {_INFO}; expected a folder of `resnet-rs train`."
        )
    return _read_folder(path)


def _newest_valid(run: Path) -> tuple[Checkpoint | None, list[tuple[Path, str]]]:
    """The newest valid checkpoint, and the damaged newer ones with the reason for each."""
    damaged: dict[Path, str] = {}
    while folders := [path for path in _folders(run) if path not in damaged]:
        try:
            return _read_folder(folders[-1]), list(damaged.items())
        except storage.Damaged as error:
            # An active run may have removed it in the meantime; then there are newer ones.
            if folders[-1].exists():
                damaged[folders[-1]] = str(error)
    if damaged:
        reasons = " ".join(damaged.values())
        raise NoneValid(
            f"{run} has no valid checkpoint: {reasons} Restore one from a backup, or start a new run in another folder."
        )
    return None, []


def _read_folder(path: Path) -> Checkpoint:
    try:
        storage.verify(path)
        info = storage.read_json(
            path / _INFO, needs=("format", "step", "seed", "classes", "experiment", "split")
        )
    except OSError as error:
        raise _judged(error, path) from None
    classes, digest = _names(info, "classes", path), info["split"]
    if digest is not None and not (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)):
        raise storage.Damaged(f"{path / _INFO} has no SHA-256 under 'split'.")
    split = None if digest is None else recorded_split(path.parent.parent, digest)
    experiment = _experiment(info, path)
    if not _suits(experiment, classes):
        raise storage.Damaged(f"{path / _INFO} has {len(classes)} class names, which do not match its task.")
    step = _int(info, "step", path)
    if re.fullmatch(r"step-\d+", path.name) and int(path.name.removeprefix("step-")) != step:
        raise storage.Damaged(f"{path} is the checkpoint of step {step} under another name.")
    return Checkpoint(
        path=path,
        step=step,
        seed=_int(info, "seed", path),
        classes=classes,
        experiment=experiment,
        split=split,
        split_digest=digest,
        # The oldest checkpoints of this format do not have these fields.
        skipped=_skipped(info, path),
        environment=_texts(info, "environment", path),
        origin=_texts(info, "origin", path),
    )


def _files(state: TrainState, provenance: Provenance) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a checkpoint's files, one at a time because they may be large."""
    for name, model in state.models.items():
        yield f"{name}.safetensors", content(model.state_dict(), name)
    yield "momentum.safetensors", content(state.momenta(), "momentum")
    yield _INFO, _info(provenance, step=state.step, skipped=state.skipped)


def _info(provenance: Provenance, *, step: int, skipped: tuple[int, ...]) -> bytes:
    info = {
        "format": FORMAT,
        "step": step,
        "seed": provenance.seed,
        "classes": list(provenance.classes),
        "experiment": to_plain(provenance.experiment),
        "split": None if provenance.split is None else split_digest(provenance.split),
        "skipped": list(skipped),
        "environment": provenance.environment,
        **({"origin": dict(provenance.origin)} if provenance.origin else {}),
    }
    return storage.as_json(info).encode("utf-8", "surrogateescape")


def content(tensors: Mapping[str, Tensor], name: str) -> bytes:
    """Tensors as the content of a safetensors file. Raises `NotFinite` with `name`, such as `model`."""
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NotFinite(f"{key} of the {name} has a value that is not finite, so it is not saved.")
    return as_safetensors(_contiguous(tensors))


def _drop_old(run: Path, *, newest: Path) -> None:
    """Remove checkpoints older than the two newest valid ones; `newest` was just written."""
    folders = _folders(run)
    num_valid = 0
    for i in reversed(range(len(folders))):
        if num_valid == _NUM_KEPT:
            storage.remove_tree(folders[i])
        elif i:  # the oldest is kept in any case
            num_valid += folders[i] == newest or _is_valid(folders[i])


def _is_valid(path: Path) -> bool:
    try:
        storage.verify(path)
    except (storage.Damaged, OSError):
        return False
    return True


def restore(state: TrainState, checkpoint: Checkpoint) -> None:
    """Load `checkpoint` into `state`."""
    for name, model in state.models.items():
        _fill(model, checkpoint.path / f"{name}.safetensors")
    file = checkpoint.path / "momentum.safetensors"
    momenta = _load(file)
    if momenta:  # empty before the first update
        trained = {name: p for name, p in state.model.named_parameters() if p.requires_grad}
        _refuse_others(momenta, trained, file)
    state.set_momenta(momenta)
    state.step = checkpoint.step
    state.skipped = checkpoint.skipped


def _fill(model: Model, file: Path) -> None:
    """Copy the tensors of `file` into `model`; their names and shapes must be the same."""
    tensors = _load(file)
    _refuse_others(tensors, model.state_dict(), file)
    model.load_state_dict(tensors)


def _refuse_others(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], file: Path) -> None:
    """Raise `storage.Damaged` if names, shapes or types of the tensors differ from `wanted`."""
    given, expected = ({name: (t.shape, t.dtype) for name, t in kind.items()} for kind in (tensors, wanted))
    different = sorted(n for n in given.keys() | expected.keys() if given.get(n) != expected.get(n))
    if different:
        names = ", ".join(repr(name[:100]) for name in different[:5])
        raise storage.Damaged(f"{file} does not hold the weights of its experiment; these differ: {names}.")


def _load(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise storage.Damaged(f"{file} cannot be read: {error}.") from None
    except OSError as error:
        raise _judged(error, file) from None


def _judged(error: OSError, path: Path) -> OSError | storage.Damaged:
    """`storage.Damaged` if the file is broken or missing; the error itself if the system lacks a resource."""
    if error.errno in (None, *_DAMAGE):
        return storage.Damaged(f"{path} cannot be read: {error}.")
    return error


def _set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it no longer counts as one; the new path."""
    aside = path.with_name(f"damaged-{path.name}")
    storage.remove_tree(aside)
    storage.disk.rename(path, aside)
    return aside


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _folders(run: Path) -> list[Path]:
    """Checkpoint folders of a run, by step."""
    try:
        names = os.listdir(run / _FOLDER)
    except FileNotFoundError:
        return []
    steps = sorted((int(name.removeprefix("step-")), name) for name in names if _STEP.fullmatch(name))
    return [run / _FOLDER / name for _, name in steps]


def _experiment(info: dict[str, Any], path: Path) -> Experiment:
    found = _int(info, "format", path)
    if found != FORMAT:
        raise ValueError(
            f"{path} has format {found}, this version reads {FORMAT}. Update resnet-rs to read it."
        )
    try:
        return from_plain(info["experiment"], kinds=(Experiment,))
    except ValueError as error:  # not damaged: a newer version may have more types and fields
        raise ValueError(f"{path / _INFO} has no experiment that this version can read: {error}") from None


def _suits(experiment: Experiment, classes: tuple[str, ...]) -> bool:
    try:
        return experiment.with_classes(classes) == experiment
    except ValueError:
        return False


def _int(info: dict[str, Any], name: str, path: Path) -> int:
    value = info.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        raise storage.Damaged(f"{path / _INFO} has no whole number of 0 or more under {name!r}.")
    return value


def _names(info: dict[str, Any], name: str, path: Path) -> tuple[str, ...]:
    value = info.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise storage.Damaged(f"{path / _INFO} has no list of names under {name!r}.")
    return tuple(value)


def _skipped(info: dict[str, Any], path: Path) -> tuple[int, ...]:
    value = info.get("skipped", [])
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise storage.Damaged(f"{path / _INFO} has no list of whole numbers under 'skipped'.")
    return tuple(value)


def _texts(info: dict[str, Any], name: str, path: Path) -> dict[str, str]:
    value = info.get(name, {})
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise storage.Damaged(f"{path / _INFO} has no object of texts under {name!r}.")
    return value
