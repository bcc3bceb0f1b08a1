"""Checkpoints: folders of safetensors and JSON, without pickles, verified on every read.

RUN/checkpoints/step-00001560/
    ema.safetensors       EMA weights and statistics: the model to use
    model.safetensors     raw weights and statistics
    momentum.safetensors  momentum of the optimizer
    checkpoint.json       step, seed, class names, experiment, updates that were skipped, environment
    manifest.json         size and SHA-256 of every file

RUN/final/ has the same form, without the raw weights and the momentum. It is written at the end of a run with
validation images: the best weights, and an experiment whose task is calibrated.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors
from torch import Tensor

from resnet_rs import storage
from resnet_rs.models.backbone import Model
from resnet_rs.training.provenance import INFO, Provenance, info_of, read_info, split_digest
from resnet_rs.training.state import TrainState

FINAL = "final"
"""Folder of the weights that a run with validation images has chosen."""
_FOLDER = "checkpoints"
_STEP = re.compile(r"step-\d{8,}")
_NUM_KEPT = 2

Weights = Literal["ema", "model"]


class NoneValid(storage.Damaged):
    """All checkpoints of the run are damaged or missing."""

    exit_code = 3


class NotFinite(ValueError):
    """The state has a value that is not finite, so it is not saved."""

    exit_code = 5


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Provenance):
    """A verified checkpoint."""

    path: Path
    step: int
    split_digest: str | None = None
    skipped: tuple[int, ...] = ()
    """Updates that were left out because they were not finite."""

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
        tensors = _load(file, self.experiment.expected_tensors())
        model = self.experiment.build_model()
        model.load_state_dict(tensors)
        return model.eval()


def save(run: Path, state: TrainState, provenance: Provenance, *, best: int | None = None) -> None:
    """Write `state` below the folder `run`; then remove all but the two newest valid checkpoints and that of `best`.

    When this returns, the checkpoint is on the disk. Raises `OSError` if that failed, and `NotFinite`. Earlier
    checkpoints are then unchanged.
    """
    path = folder_of(run, state.step)
    if _is_valid(path):
        # Its last flush failed, or an earlier attempt at this run saved it.
        storage.disk.sync_folder(path.parent)
    else:
        if path.exists():
            _set_aside(path)
        storage.write_folder(path, _files(state, provenance))
    # An old checkpoint that cannot be removed does no harm. The next save tries again.
    with suppress(OSError):
        _drop_old(run, newest=path, best=best)


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    provenance: Provenance,
    *,
    weights: Weights = "model",
    step: int = 0,
) -> None:
    """Write weights alone to the new checkpoint folder `path`, atomically."""
    info = info_of(provenance, step=step, skipped=())
    storage.write_folder(path, [(f"{weights}.safetensors", content(tensors, weights)), (INFO, info)])


def _recorded_split(run: Path, digest: str) -> dict[str, list[str]] | None:
    """The split with this digest in the folder `run`; None if the folder has no such split."""
    try:
        split = storage.read_json(run / "run.json", needs=("split",))["split"]
        found = {half: [str(key) for key in split[half]] for half in ("train", "test")}
    except (OSError, storage.Damaged, TypeError, KeyError):
        return None
    return found if split_digest(found) == digest else None


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of update `step` is, if it was saved."""
    return run / _FOLDER / f"step-{step:08d}"


def num_bytes(state: TrainState) -> int:
    """Approximate size of a checkpoint of `state`."""
    tensors = [tensor for model in state.models.values() for tensor in model.state_dict().values()]
    return sum(tensor.nbytes for tensor in [*tensors, *state.model.parameters()])


def recover(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint of a run, None before the first save; and a notice per damaged newer one.

    Damaged ones are renamed to `damaged-step-...`. Raises `NoneValid` if there are checkpoints and none is valid.
    """
    storage.remove_leftovers(run)
    storage.remove_leftovers(run / _FOLDER)
    found, damaged = _newest_valid(run)
    return found, [f"{reason} It was renamed to {_set_aside(path)}." for path, reason in damaged]


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`: a checkpoint folder; or of a run folder the final weights, else the newest valid one.

    Raises `FileNotFoundError` if there is none, and `storage.Damaged` if its files have changed. Warns if the final
    weights or a newer checkpoint of the run are damaged.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is no folder; expected a run folder of `resnet-rs train`, or a checkpoint in it."
        )
    if (path / _FOLDER).is_dir():
        return _read_run(path)
    if not (path / INFO).is_file() and not (path / storage.MANIFEST).is_file():
        raise FileNotFoundError(
            f"{path} holds neither checkpoints/ nor {INFO}; expected a folder of `resnet-rs train`."
        )
    return _read_folder(path)


def _read_run(path: Path) -> Checkpoint:
    """The final weights of a run, else its newest valid checkpoint."""
    reasons = list[str]()
    if (path / FINAL).is_dir():
        try:
            return _read_folder(path / FINAL)
        except storage.Damaged as error:
            reasons.append(str(error))
    elif _is_final_lost(path):
        reasons.append(f"{path / FINAL} is missing, the final weights of this run.")
    found, damaged = _newest_valid(path)
    if found is None:
        raise FileNotFoundError(f"{path} holds no checkpoint yet: its run stopped before the first one.")
    for reason in (*reasons, *(reason for _, reason in damaged)):
        warnings.warn(f"{reason} {found.path.name} is used instead.", stacklevel=2)
    return found


def _is_final_lost(run: Path) -> bool:
    """Whether the scores of a run are those of final weights that are gone."""
    try:
        return "step" in storage.read_json(run / "scores.json")
    except (OSError, storage.Damaged, TypeError):
        return False


def _newest_valid(run: Path) -> tuple[Checkpoint | None, list[tuple[Path, str]]]:
    """The newest valid checkpoint, and the damaged newer ones with the reason for each."""
    damaged: dict[Path, str] = {}
    while undamaged := [path for path in folders(run) if path not in damaged]:
        try:
            return _read_folder(undamaged[-1]), list(damaged.items())
        except storage.Damaged as error:
            # An active run may have removed it in the meantime; then there are newer ones.
            if undamaged[-1].exists():
                damaged[undamaged[-1]] = str(error)
    if damaged:
        reasons = " ".join(damaged.values())
        raise NoneValid(
            f"{run} has no valid checkpoint: {reasons} Restore one from a backup, or start a new run in another folder."
        )
    return None, []


def _read_folder(path: Path) -> Checkpoint:
    try:
        storage.verify(path)
        info, experiment = read_info(path)
    except OSError as error:
        raise _judged(error, path) from None
    if re.fullmatch(r"step-\d+", path.name) and int(path.name.removeprefix("step-")) != info["step"]:
        raise storage.Damaged(f"{path} is the checkpoint of step {info['step']} under another name.")
    run = path.parent if path.name == FINAL else path.parent.parent
    digest = info["split"]
    return Checkpoint(
        path=path,
        experiment=experiment,
        split=None if digest is None else _recorded_split(run, digest),
        split_digest=digest,
        classes=tuple(info["classes"]),
        skipped=tuple(info["skipped"]),
        step=info["step"],
        seed=info["seed"],
        environment=info["environment"],
        origin=info["origin"],
    )


def _files(state: TrainState, provenance: Provenance) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a checkpoint's files, one at a time because they may be large."""
    for name, model in state.models.items():
        yield f"{name}.safetensors", content(model.state_dict(), name)
    yield "momentum.safetensors", content(state.momenta(), "momentum")
    yield INFO, info_of(provenance, step=state.step, skipped=state.skipped)


def content(tensors: Mapping[str, Tensor], name: str) -> bytes:
    """Tensors as the content of a safetensors file. Raises `NotFinite` with `name`, such as `model`."""
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NotFinite(f"{key} of the {name} has a value that is not finite, so it is not saved.")
    cpu = {key: t.detach().to("cpu", memory_format=torch.contiguous_format) for key, t in tensors.items()}
    return as_safetensors(cpu)


def _drop_old(run: Path, *, newest: Path, best: int | None) -> None:
    """Remove checkpoints older than the two newest valid ones, not that of step `best`. `newest` was just written."""
    num_valid = 0
    for path in reversed(folders(run)):
        if num_valid < _NUM_KEPT:
            num_valid += path == newest or _is_valid(path)
        elif best is None or path != folder_of(run, best):
            storage.remove_tree(path)


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
    is_damage = error.errno in (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
    return storage.Damaged(f"{path} cannot be read: {error}.") if is_damage else error


def _set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it no longer counts as one; the new path."""
    aside = path.with_name(f"damaged-{path.name}")
    storage.remove_tree(aside)
    storage.disk.rename(path, aside)
    return aside


def folders(run: Path) -> list[Path]:
    """Checkpoint folders of a run, valid or not, by step."""
    try:
        names = os.listdir(run / _FOLDER)
    except FileNotFoundError:
        return []
    steps = sorted((int(name.removeprefix("step-")), name) for name in names if _STEP.fullmatch(name))
    return [run / _FOLDER / name for _, name in steps]
