"""Checkpoints: folders of safetensors and JSON, without pickles, verified whenever they are read.

RUN/checkpoints/step-00001560/
    average.safetensors   weights and statistics of the average: the model to use
    model.safetensors     the raw ones
    momentum.safetensors  the optimizer's
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
from resnet_rs.training.state import TrainState

FORMAT = 1
"""Version of the layout above."""

_FOLDER = "checkpoints"
_INFO = "checkpoint.json"
_STEP = re.compile(r"step-\d{8,}")
_NUM_KEPT = 2
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
"""Errors of reading that speak of the file; others, as too many open files, speak of the moment."""

Weights = Literal["average", "model"]


class NoneValid(storage.Damaged):
    """A run whose checkpoints are all damaged or gone."""

    exit_code = 3


class NotFinite(ValueError):
    """A state that holds a value which is no finite number, and is therefore not saved."""

    exit_code = 5


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where weights come from."""

    experiment: Experiment
    classes: tuple[str, ...]
    seed: int
    split: dict[str, list[str]] | None = None
    """The keys of both halves where the data was split automatically, so that nothing learned from is scored."""
    environment: dict[str, str] = field(default_factory=dict[str, str])
    """Device, precision, threads and versions: the same bits are promised where these are the same."""
    origin: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of weights from elsewhere: file, SHA-256, format, which variables."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Provenance):
    """A verified checkpoint."""

    path: Path
    step: int
    skipped: tuple[int, ...] = ()
    """Recent updates that were taken back because they were not finite."""

    @property
    def weights(self) -> Weights:
        """The weights to use: the average where there is one."""
        return "average" if (self.path / "average.safetensors").is_file() else "model"

    def load_model(self) -> Model:
        """The model of this checkpoint in evaluation mode, on the CPU."""
        file = self.path / f"{self.weights}.safetensors"
        tensors = _load(file)
        # First without memory, for a file that was tampered with may name a network of any size.
        with torch.device("meta"):
            expected = self.experiment.build_model().state_dict()
        _refuse_others(tensors, expected, file)
        model = self.experiment.build_model()
        model.load_state_dict(tensors)
        return model.eval()


def save(run: Path, state: TrainState, provenance: Provenance) -> None:
    """Write `state` below the folder `run`, whole or not at all; then drop checkpoints that two newer ones outlive.

    When this returns, the checkpoint is on the disk. Raises `OSError` if that failed, with the former checkpoints
    untouched, and `NotFinite` for a state that must not be kept.
    """
    path = run / _FOLDER / f"step-{state.step:08d}"
    if path.exists() and not _is_valid(path):
        _set_aside(path)
    if path.is_dir():
        # Whole, but its last flush has failed, or it was saved by an earlier attempt at this run.
        storage.disk.sync_folder(path.parent)
    else:
        storage.write_folder(path, _files(state, provenance))
    # What cannot be removed is in nobody's way, and is tried again after the next save.
    with suppress(OSError):
        _drop_old(run, newest=path)


def write(path: Path, tensors: Mapping[str, Tensor], provenance: Provenance) -> None:
    """Write weights that no run of ours has made to the new checkpoint folder `path`, whole or not at all."""
    info = _info(provenance, step=0, skipped=())
    files = [("model.safetensors", content(tensors, "model")), (_INFO, info)]
    storage.write_folder(path, iter(files))


def has_any(run: Path) -> bool:
    """Whether a run has checkpoints, valid or not."""
    return bool(_folders(run))


def num_bytes(state: TrainState) -> int:
    """About how large a checkpoint of `state` is."""
    sizes = [
        t.numel() * t.element_size() for model in state.models.values() for t in model.state_dict().values()
    ]
    return sum(sizes) + sum(p.numel() * p.element_size() for p in state.model.parameters())


def recover(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint of a run, none if it has not saved yet; and why newer ones were passed over.

    Those are set aside as `damaged-step-...`. Raises `NoneValid` if there are checkpoints and none is valid.
    """
    storage.remove_leftovers(run)
    storage.remove_leftovers(run / _FOLDER)
    found, damaged = _newest_valid(run)
    return found, [f"{reason} It was set aside as {_set_aside(path)}." for path, reason in damaged]


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`: a checkpoint folder, or a run folder, whose newest valid one is taken.

    Raises `FileNotFoundError` if there is none, `storage.Damaged` if it is not what was written. Warns if a newer one
    of the run was passed over.
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
    """The newest valid checkpoint, and the newer ones with what is wrong with them."""
    damaged: dict[Path, str] = {}
    while folders := [path for path in _folders(run) if path not in damaged]:
        try:
            return _read_folder(folders[-1]), list(damaged.items())
        except storage.Damaged as error:
            # A run that goes on may have dropped it while it was read; then there are newer ones.
            if folders[-1].exists():
                damaged[folders[-1]] = str(error)
    if damaged:
        reasons = " ".join(damaged.values())
        raise NoneValid(
            f"{run} has no valid checkpoint: {reasons} Put one back from a copy, or train anew in another folder."
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
    classes, split = _names(info, "classes", path), info["split"]
    if split is not None:
        if not isinstance(split, dict) or split.keys() != {"train", "test"}:
            raise storage.Damaged(f"{path / _INFO} has no split into 'train' and 'test'.")
        split = {half: list(_names(split, half, path)) for half in split}
    experiment = _experiment(info, path)
    if not _suits(experiment, classes):
        raise storage.Damaged(f"{path / _INFO} has {len(classes)} class names, which do not suit its task.")
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
        # The first checkpoints of this format lack these.
        skipped=_skipped(info, path),
        environment=_texts(info, "environment", path),
        origin=_texts(info, "origin", path),
    )


def _files(state: TrainState, provenance: Provenance) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a checkpoint's files, one at a time, for they may be large."""
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
        "split": provenance.split,
        "skipped": list(skipped),
        "environment": provenance.environment,
        **({"origin": dict(provenance.origin)} if provenance.origin else {}),
    }
    return storage.as_json(info).encode("utf-8", "surrogateescape")


def content(tensors: Mapping[str, Tensor], name: str) -> bytes:
    """Tensors as a file of safetensors; `NotFinite` if the `name`, as `model`, holds what is no finite number."""
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NotFinite(
                f"{key} of the {name} holds a value that is no finite number, so it is not saved."
            )
    return as_safetensors(_contiguous(tensors))


def _drop_old(run: Path, *, newest: Path) -> None:
    """Remove the checkpoints that are older than the two newest valid ones; `newest` has just been written."""
    folders = _folders(run)
    num_valid = 0
    for i in reversed(range(len(folders))):
        if num_valid == _NUM_KEPT:
            storage.remove_tree(folders[i])
        elif i:  # the oldest is kept, whatever it is
            num_valid += folders[i] == newest or _is_valid(folders[i])


def _is_valid(path: Path) -> bool:
    try:
        storage.verify(path)
    except (storage.Damaged, OSError):
        return False
    return True


def restore(state: TrainState, checkpoint: Checkpoint) -> None:
    """Make `state` what it was when `checkpoint` was saved."""
    for name, model in state.models.items():
        _fill(model, checkpoint.path / f"{name}.safetensors")
    file = checkpoint.path / "momentum.safetensors"
    momenta = _load(file)
    if momenta:  # there is none before the first update
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
    """Refuse tensors of other names, shapes or types than those that are wanted."""
    given, expected = ({name: (t.shape, t.dtype) for name, t in kind.items()} for kind in (tensors, wanted))
    odd = sorted(name for name in given.keys() | expected.keys() if given.get(name) != expected.get(name))
    if odd:
        names = ", ".join(repr(name[:100]) for name in odd[:5])
        raise storage.Damaged(f"{file} does not hold the weights of its experiment; these differ: {names}.")


def _load(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise storage.Damaged(f"{file} cannot be read: {error}.") from None
    except OSError as error:
        raise _judged(error, file) from None


def _judged(error: OSError, path: Path) -> OSError | storage.Damaged:
    """Damage, if what cannot be read is broken or gone; the error itself, if the system is short of something."""
    if error.errno in (None, *_DAMAGE):
        return storage.Damaged(f"{path} cannot be read: {error}.")
    return error


def _set_aside(path: Path) -> Path:
    """Give a damaged checkpoint a name by which nobody takes it for one."""
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
    except ValueError as error:  # no damage: a newer version may know more types and fields
        raise ValueError(f"{path / _INFO} holds no experiment of this version: {error}") from None


def _suits(experiment: Experiment, classes: tuple[str, ...]) -> bool:
    try:
        return experiment.suited_to(classes) == experiment
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
