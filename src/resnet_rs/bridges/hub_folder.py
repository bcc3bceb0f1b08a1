"""Folders as the Hugging Face Hub holds them: `config.json` in timm's fields, `model.safetensors`, `README.md`.

A network that timm has is stored under timm's names, so that timm loads it without resnet-rs. Any other network is
stored under our names as architecture `resnet_rs`, which `import resnet_rs.bridges.timm` registers in timm. The key
`resnet_rs` of `config.json` holds the whole experiment. Source: timm 1.0 (`timm/models/_hub.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from resnet_rs import config, storage
from resnet_rs.bridges.timm_config import input_facts
from resnet_rs.bridges.timm_names import depth_of, to_timm
from resnet_rs.models.backbone import Arch
from resnet_rs.training.checkpoint import Checkpoint
from resnet_rs.training.experiment import Experiment

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
FORMAT = 1
"""Version of the value of the key `resnet_rs`."""

SPLIT_LOST = "automatic; which images were trained on is recorded in the run alone"
"""`split` in the origin of weights that were exported from their run."""

_OURS = "resnet_rs"
_MOST_CHANNELS = 1024
"""A `config.json` must not take more memory than a network that exists."""
_UNDERSTOOD = ("num_classes", "in_chans", "global_pool", "drop_rate", "drop_path_rate", "arch")
"""timm's arguments for a network that we accept. Any other may change what it computes, so it is refused."""
_IN_OURS = {"first_conv": "backbone.stem.0", "classifier": "head.classifier"}
_IN_TIMM = {"first_conv": "conv1.0", "classifier": "fc"}


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """The content of `config.json`."""

    architecture: str
    arch: Arch | None
    """Only if the architecture is our `resnet_rs`."""
    classes: tuple[str, ...] | None
    """Class names, if there are any."""
    experiment: Experiment | None
    """Only in folders that resnet-rs wrote."""
    origin: Mapping[str, str]
    """Where the initial weights came from, in folders that resnet-rs wrote."""
    license: str | None
    inputs: Mapping[str, Any]
    """Preprocessing in timm's fields."""

    def edits(self) -> dict[str, Any]:
        """Edits of `Data` for `inputs`. Raises `ValueError` for preprocessing that resnet-rs does not have."""
        self._refuse_other_images()
        interpolation = self.inputs.get("interpolation", "bicubic")
        if interpolation not in ("bicubic", "bilinear"):
            raise ValueError(
                f"{CONFIG} has interpolation {interpolation!r:.50}; expected bicubic or bilinear."
            )
        fields: dict[str, Any] = {
            "data.resampling": "bicubic" if interpolation == "bicubic" else "bilinear",
            "data.crop_first": False,
        }
        if "input_size" in self.inputs:
            fields["data.size"] = self.inputs["input_size"][-1]
        names = {"crop_pct": "crop_ratio", "mean": "mean", "std": "std"}
        for theirs, ours in names.items():
            if theirs in self.inputs:
                value = self.inputs[theirs]
                fields[f"data.{ours}"] = tuple(value) if isinstance(value, list) else value
        return fields

    def _refuse_other_images(self) -> None:
        """Refuse malformed fields, and crops and shapes that resnet-rs does not have."""
        size, ratio = self.inputs.get("input_size", [3, 224, 224]), self.inputs.get("crop_pct", 0.875)
        is_shape = isinstance(size, list) and len(size) == 3 and all(type(n) is int for n in size)
        if not is_shape or size[1] != size[2]:
            raise ValueError(
                f"{CONFIG} has input_size {size!r:.50}; expected [channels, pixels, pixels], square."
            )
        if type(ratio) not in (int, float):
            raise ValueError(f"{CONFIG} has crop_pct {ratio!r:.50}; expected a number.")
        if not 1 <= size[0] <= _MOST_CHANNELS:
            raise ValueError(f"{CONFIG} has {size[0]} channels; expected 1 to {_MOST_CHANNELS}.")
        means = self.inputs.get("mean", [0.0] * size[0])
        if not isinstance(means, list) or len(means) != size[0]:
            raise ValueError(
                f"{CONFIG} has mean {means!r:.50}; expected one number for each of {size[0]} channels."
            )
        if self.inputs.get("crop_mode", "center") != "center":
            raise ValueError(f"{CONFIG} has crop_mode {self.inputs['crop_mode']!r:.50}; expected 'center'.")


def tensors_as_stored(arch: Arch, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the names of the folder: timm's for a network that timm has, else ours."""
    return tensors if depth_of(arch) is None else to_timm(tensors)


def as_config(
    experiment: Experiment,
    classes: Sequence[str],
    origin: Mapping[str, str],
    *,
    num_features: int,
    license: str | None,
) -> dict[str, Any]:
    """`config.json` of a classifier."""
    depth = depth_of(experiment.arch)
    return {
        "architecture": _OURS if depth is None else f"resnetrs{depth}",
        "num_classes": len(classes),
        "num_features": num_features,
        "global_pool": "avg",
        "label_names": list(classes),
        **({"model_args": {"arch": config.to_plain(experiment.arch)}} if depth is None else {}),
        "pretrained_cfg": {
            **_inputs(experiment),
            "num_classes": len(classes),
            **(_IN_OURS if depth is None else _IN_TIMM),
            **({} if license is None else {"license": license}),
            "paper_ids": "arXiv:2103.07579",
        },
        _OURS: {"format": FORMAT, "experiment": config.to_plain(experiment), "origin": dict(origin)},
    }


def _inputs(experiment: Experiment) -> dict[str, Any]:
    """Preprocessing in timm's fields, as JSON."""
    return json.loads(json.dumps(input_facts(experiment.data)))


def as_begun(saved: Checkpoint) -> dict[str, str]:
    """Where the weights of a checkpoint come from, for a copy outside of its run."""
    has_split = saved.split is not None or saved.is_split_lost
    return {**saved.origin, **({"split": SPLIT_LOST} if has_split else {})}


def is_hub_folder(path: Path) -> bool:
    """Whether `path` is a folder in the Hub's layout, and not a checkpoint."""
    return (path / CONFIG).is_file() and not (path / "checkpoint.json").is_file()


def read_config(folder: Path) -> HubConfig:
    """The `config.json` of a Hub folder. Raises `ValueError` if it is no classifier that resnet-rs can build."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; expected a folder in the Hub's layout.")
    found = storage.read_json(path, needs=("architecture",))
    facts = found.get("pretrained_cfg", found)  # timm's first folders had no field of that name
    if not isinstance(facts, dict):
        raise ValueError(f"{path} has no object under 'pretrained_cfg'; expected timm's fields.")
    _refuse_other_network(found, path)
    names = found.get("label_names", facts.get("label_names"))
    ours, license = found.get(_OURS), facts.get("license")
    known = HubConfig(
        architecture=str(found["architecture"])[:100],
        arch=_arch(found, path),
        classes=None if names is None else _texts(names, path),
        experiment=None if ours is None else _experiment(ours, path),
        origin={} if ours is None else _origin(ours, path),
        license=license if isinstance(license, str) else None,
        inputs=facts,
    )
    if known.experiment is not None:
        _refuse_contradictions(found, known, known.experiment, path)
    return known


def _refuse_other_network(found: dict[str, Any], path: Path) -> None:
    """Refuse arguments with which timm computes something else from the same weights."""
    arguments = found.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise ValueError(f"{path} has no object under 'model_args'; expected timm's arguments.")
    for name in arguments:
        if name not in _UNDERSTOOD:
            raise ValueError(
                f"{path} has {name!r:.50} under model_args; expected only {', '.join(_UNDERSTOOD)}."
            )
    for pool in (found.get("global_pool"), arguments.get("global_pool")):
        if pool not in (None, "avg"):
            raise ValueError(f"{path} has global_pool {pool!r:.50}; expected 'avg'.")


def _refuse_contradictions(
    found: dict[str, Any], known: HubConfig, experiment: Experiment, path: Path
) -> None:
    """Refuse a folder whose fields for timm contradict its experiment."""
    classes = getattr(experiment.task, "num_classes", None)
    depth = depth_of(experiment.arch)
    expected = _inputs(experiment) | {
        "architecture": _OURS if depth is None else f"resnetrs{depth}",
        "arch": experiment.arch if depth is None else None,
        "num_classes": classes,
        "num_classes of pretrained_cfg": classes,
    }
    given = {
        **known.inputs,
        "architecture": known.architecture,
        "arch": known.arch,
        "num_classes": found.get("num_classes"),
        "num_classes of pretrained_cfg": known.inputs.get("num_classes", classes),
    }
    for name, value in expected.items():
        if given.get(name) != value:
            raise ValueError(
                f"{path} has {name} {given.get(name)!r:.80} for timm, and {value!r:.80} in its experiment. Push the "
                "network again, or make the two equal."
            )


def _arch(found: dict[str, Any], path: Path) -> Arch | None:
    """The arch in timm's arguments for `resnet_rs`."""
    arguments = found.get("model_args") or {}
    if found["architecture"] != _OURS:
        return None
    if "arch" not in arguments:
        raise ValueError(
            f"{path} has no arch under model_args. Save the network again: save_for_hf(..., "
            'model_args={"arch": resnet_rs.config.to_plain(arch)}), or rs.save and `resnet-rs push`.'
        )
    try:
        return config.from_plain(arguments["arch"], kinds=(Arch,))
    except ValueError as error:
        raise ValueError(f"{path} holds no arch of this version: {error}") from None


def _experiment(ours: Any, path: Path) -> Experiment:  # noqa: ANN401 - any JSON
    if not isinstance(ours, dict) or ours.get("format") != FORMAT:
        raise ValueError(f"{path} was written by another version of resnet-rs. Update it to read the folder.")
    try:
        return config.from_plain(ours.get("experiment"), kinds=(Experiment,))
    except ValueError as error:
        raise ValueError(f"{path} holds no experiment of this version: {error}") from None


def _origin(ours: dict[str, Any], path: Path) -> dict[str, str]:
    found = ours.get("origin", {})
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError(f"{path} has no object of texts under 'origin'.")
    return found


def _texts(names: Any, path: Path) -> tuple[str, ...]:  # noqa: ANN401 - any JSON
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} has no list of texts under 'label_names'.")
    return tuple(names)
