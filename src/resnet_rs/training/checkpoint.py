"""Checkpoints: folders of safetensors and JSON, without pickles, verified whenever they are read.

RUN/checkpoints/step-00001560/
    average.safetensors   weights and statistics of the average: the model to use
    model.safetensors     the raw ones
    momentum.safetensors  the optimizer's
    checkpoint.json       step, seed, class names, experiment
    manifest.json         size and SHA-256 of every file
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
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
_NUM_KEPT = 2

Weights = Literal["average", "model"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where weights come from."""

    experiment: Experiment
    classes: tuple[str, ...]
    seed: int
    split: dict[str, list[str]] | None = None
    """The keys of both halves where the data was split automatically, so that nothing learned from is scored."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Provenance):
    """A verified checkpoint."""

    path: Path
    step: int

    @property
    def weights(self) -> Weights:
        """The weights to use: the average where there is one."""
        return "average" if (self.path / "average.safetensors").is_file() else "model"

    def load_model(self) -> Model:
        """The model of this checkpoint in evaluation mode, on the CPU."""
        model = self.experiment.build_model()
        _fill(model, self.path / f"{self.weights}.safetensors")
        return model.eval()


def save(run: Path, state: TrainState, provenance: Provenance) -> Path:
    """Write `state` below the folder `run`, whole or not at all; then drop all but the newest checkpoints."""
    path = run / _FOLDER / f"step-{state.step:08d}"
    info = {
        "format": FORMAT,
        "step": state.step,
        "seed": provenance.seed,
        "classes": list(provenance.classes),
        "experiment": to_plain(provenance.experiment),
        "split": provenance.split,
    }
    with storage.new_folder(path) as folder:
        for name, model in state.models.items():
            save_file(_contiguous(model.state_dict()), folder / f"{name}.safetensors")
        save_file(_contiguous(state.momenta()), folder / "momentum.safetensors")
        storage.write_json(folder / _INFO, info)
    for old in _folders(run)[:-_NUM_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def newest(run: Path) -> Checkpoint | None:
    """The newest checkpoint of a run; none if it has not saved yet.

    Raises `storage.Damaged` if it is not what was written.
    """
    folders = _folders(run)
    if not folders:
        return None
    try:
        return read(folders[-1])
    except storage.Damaged as error:
        cure = f" To go on from {folders[-2].name}, remove {folders[-1]}." if len(folders) > 1 else ""
        raise storage.Damaged(f"{error}{cure}") from None


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`: a checkpoint folder, or a run folder, whose newest is taken.

    Raises `FileNotFoundError` if there is none, `storage.Damaged` if it is not what was written.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is no folder; expected a run folder of `resnet-rs train`, or a checkpoint in it."
        )
    if (path / _FOLDER).is_dir():
        folders = _folders(path)
        if not folders:
            raise FileNotFoundError(f"{path} holds no checkpoint yet: its run stopped before the first one.")
        return read(folders[-1])
    if not (path / _INFO).is_file() and not (path / storage.MANIFEST).is_file():
        raise FileNotFoundError(
            f"{path} holds neither checkpoints/ nor {_INFO}; expected a folder of `resnet-rs train`."
        )
    storage.verify(path)
    info = storage.read_json(path / _INFO, needs=("format", "step", "seed", "classes", "experiment", "split"))
    return Checkpoint(
        path=path,
        step=_int(info, "step", path),
        seed=_int(info, "seed", path),
        classes=tuple(str(name) for name in info["classes"]),
        experiment=_experiment(info, path),
        split=info["split"],
    )


def restore(state: TrainState, checkpoint: Checkpoint) -> None:
    """Make `state` what it was when `checkpoint` was saved."""
    for name, model in state.models.items():
        _fill(model, checkpoint.path / f"{name}.safetensors")
    state.set_momenta(_load(checkpoint.path / "momentum.safetensors"))
    state.step = checkpoint.step


def _fill(model: Model, file: Path) -> None:
    """Copy the tensors of `file` into `model`; their names and shapes must be the same."""
    tensors = _load(file)
    wanted = model.state_dict()
    odd = sorted(tensors.keys() ^ wanted.keys())
    odd += sorted(n for n in tensors.keys() & wanted.keys() if tensors[n].shape != wanted[n].shape)
    if odd:
        raise storage.Damaged(
            f"{file} does not hold the weights of its experiment; these differ: {', '.join(odd[:5])}."
        )
    model.load_state_dict(tensors)


def _load(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise storage.Damaged(f"{file} cannot be read: {error}.") from None


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _folders(run: Path) -> list[Path]:
    """Checkpoint folders of a run, by step."""
    return sorted(path for path in (run / _FOLDER).glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))


def _experiment(info: dict[str, Any], path: Path) -> Experiment:
    if info.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {info.get('format')}, this version reads {FORMAT}. Update resnet-rs to read it."
        )
    experiment = from_plain(info["experiment"])
    if not isinstance(experiment, Experiment):
        raise storage.Damaged(f"{path / _INFO} holds no experiment.")
    return experiment


def _int(info: dict[str, Any], name: str, path: Path) -> int:
    if not isinstance(info.get(name), int):
        raise storage.Damaged(f"{path / _INFO} has no whole number under {name!r}.")
    return info[name]
