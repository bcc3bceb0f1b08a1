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
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        # First on the meta device, because a manipulated file may ask for a network of any size.
        with torch.device("meta"):
            expected = self.experiment.build_model().state_dict()
        tensors = _load(file, expected)
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


def split_digest(split: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of the keys of both parts of an automatic split."""
    text = json.dumps([list(split["train"]), list(split["test"])])
    return hashlib.sha256(text.encode()).hexdigest()


def _recorded_split(run: Path, digest: str) -> dict[str, list[str]] | None:
    """The split with this digest in the folder `run`; None if the folder has no such split."""
    try:
        split = storage.read_json(run / "run.json", needs=("split",))["split"]
        found = {half: [str(key) for key in split[half]] for half in ("train", "test")}
    except (OSError, storage.Damaged, TypeError, KeyError):
        return None
    return found if split_digest(found) == digest else None


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
        needs = ["experiment", *(name for name in _FIELDS if name not in _DEFAULTS)]
        info = _DEFAULTS | storage.read_json(path / _INFO, needs=needs)
    except OSError as error:
        raise _judged(error, path) from None
    for name, (form, is_form) in _FIELDS.items():
        if not is_form(info[name]):
            raise storage.Damaged(f"{path / _INFO} has no {form} under {name!r}.")
        if name == "format" and info[name] != FORMAT:  # the other fields may have other forms there
            raise ValueError(
                f"{path} has format {info[name]}, this version reads {FORMAT}. Update resnet-rs to read it."
            )
    classes, digest, experiment = tuple(info["classes"]), info["split"], _experiment(info, path)
    if not _suits(experiment, classes):
        raise storage.Damaged(f"{path / _INFO} has {len(classes)} class names, which do not match its task.")
    if re.fullmatch(r"step-\d+", path.name) and int(path.name.removeprefix("step-")) != info["step"]:
        raise storage.Damaged(f"{path} is the checkpoint of step {info['step']} under another name.")
    return Checkpoint(
        path=path,
        step=info["step"],
        seed=info["seed"],
        classes=classes,
        experiment=experiment,
        split=None if digest is None else _recorded_split(path.parent.parent, digest),
        split_digest=digest,
        skipped=tuple(info["skipped"]),
        environment=info["environment"],
        origin=info["origin"],
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
    return as_safetensors(
        {
            name: tensor.detach().to("cpu", memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
    )


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
        model.load_state_dict(_load(checkpoint.path / f"{name}.safetensors", model.state_dict()))
    # There is no momentum before the first update.
    trained = {name: p for name, p in state.model.named_parameters() if p.requires_grad}
    state.set_momenta(_load(checkpoint.path / "momentum.safetensors", trained, may_be_empty=True))
    state.step = checkpoint.step
    state.skipped = checkpoint.skipped


def _load(file: Path, wanted: Mapping[str, Tensor], *, may_be_empty: bool = False) -> dict[str, Tensor]:
    """The tensors of `file`. Raises `storage.Damaged` if names, shapes or types differ from `wanted`."""
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise storage.Damaged(f"{file} cannot be read: {error}.") from None
    except OSError as error:
        raise _judged(error, file) from None
    given, expected = ({name: (t.shape, t.dtype) for name, t in kind.items()} for kind in (tensors, wanted))
    different = sorted(n for n in given.keys() | expected.keys() if given.get(n) != expected.get(n))
    if different and (tensors or not may_be_empty):
        names = ", ".join(repr(name[:100]) for name in different[:5])
        raise storage.Damaged(f"{file} does not hold the weights of its experiment; these differ: {names}.")
    return tensors


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


def _folders(run: Path) -> list[Path]:
    """Checkpoint folders of a run, by step."""
    try:
        names = os.listdir(run / _FOLDER)
    except FileNotFoundError:
        return []
    steps = sorted((int(name.removeprefix("step-")), name) for name in names if _STEP.fullmatch(name))
    return [run / _FOLDER / name for _, name in steps]


def _experiment(info: dict[str, Any], path: Path) -> Experiment:
    try:
        return from_plain(info["experiment"], kinds=(Experiment,))
    except ValueError as error:  # not damaged: a newer version may have more types and fields
        raise ValueError(f"{path / _INFO} has no experiment that this version can read: {error}") from None


def _suits(experiment: Experiment, classes: tuple[str, ...]) -> bool:
    try:
        return experiment.with_classes(classes) == experiment
    except ValueError:
        return False


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _is_sha256(value: object) -> bool:
    return value is None or isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and _is_list(list(value.values()), str)


_DEFAULTS: dict[str, Any] = {"skipped": [], "environment": {}, "origin": {}}
"""The oldest checkpoints of this format do not have these fields."""
_FIELDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "format": ("whole number of 0 or more", _is_count),
    "step": ("whole number of 0 or more", _is_count),
    "seed": ("whole number of 0 or more", _is_count),
    "classes": ("list of names", lambda value: _is_list(value, str)),
    "split": ("SHA-256", _is_sha256),
    "skipped": ("list of whole numbers", lambda value: _is_list(value, int)),
    "environment": ("object of texts", _are_texts),
    "origin": ("object of texts", _are_texts),
}
"""The form of each field of `checkpoint.json`, in words and as a check."""
