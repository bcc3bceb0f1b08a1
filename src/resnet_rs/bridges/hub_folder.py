"""Folders as the Hugging Face Hub holds them: `config.json` in timm's fields, `model.safetensors`, `README.md`.

A network that timm has is stored under timm's names, so that timm loads it without resnet-rs. Any other network is
stored under our names as architecture `resnet_rs`, which `import resnet_rs.bridges.timm` registers in timm. The key
`resnet_rs` of `config.json` holds the whole experiment. Source: timm 1.0 (`timm/models/_hub.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resnet_rs import config, storage
from resnet_rs.bridges.timm_names import FIRST_AND_LAST, depth_of, input_facts
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
_DATA_FIELDS = {"interpolation": "resampling", "crop_pct": "crop_ratio", "mean": "mean", "std": "std"}
"""timm's names of our fields of `Data`."""
_UNDERSTOOD = ("num_classes", "in_chans", "global_pool", "drop_rate", "drop_path_rate", "arch")
"""timm's arguments for a network that we accept. Any other may change what it computes, so it is refused."""
_FIRST_AND_LAST_OF_TIMM = {"first_conv": "conv1.0", "classifier": "fc"}


class HubConfig(NamedTuple):
    """The content of `config.json`."""

    architecture: str
    inputs: dict[str, Any]
    """Preprocessing in timm's fields."""
    arch: Arch | None
    """Only if the architecture is our `resnet_rs`."""
    experiment: Experiment | None
    """Only in folders that resnet-rs wrote."""
    origin: dict[str, str]
    """Where the initial weights came from, in folders that resnet-rs wrote."""
    classes: tuple[str, ...] | None
    """Class names, if there are any."""
    license: str | None


def data_edits(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """timm's fields of preprocessing as edits of `Data`, which checks their values.

    Raises `ValueError` for images or crops that are not square, which resnet-rs does not have.
    """
    size, crop_mode = inputs.get("input_size", [3, 224, 224]), inputs.get("crop_mode", "center")
    is_square = isinstance(size, list) and [type(n) for n in size] == 3 * [int] and size[1] == size[2]
    if not is_square or crop_mode != "center":
        raise ValueError(
            f"{CONFIG} has input_size {size!r:.50} and crop_mode {crop_mode!r:.50}; expected a square "
            "[channels, pixels, pixels] and 'center'."
        )
    mean, interpolation = inputs.get("mean", 3 * [0.0]), inputs.get("interpolation", "bicubic")
    if not isinstance(mean, list) or len(mean) != size[0] or interpolation not in ("bicubic", "bilinear"):
        raise ValueError(
            f"{CONFIG} has {size[0]} channels, mean {mean!r:.80} and interpolation {interpolation!r:.50}; expected "
            "a mean for each channel, and bicubic or bilinear."
        )
    edits = {f"data.{ours}": inputs[theirs] for theirs, ours in _DATA_FIELDS.items() if theirs in inputs}
    if "input_size" in inputs:
        edits["data.size"] = size[1]
    return {"data.resampling": "bicubic", "data.crop_first": False, **edits}


def as_config(
    experiment: Experiment,
    classes: Sequence[str],
    origin: Mapping[str, str],
    *,
    num_features: int,
    license: str | None,
) -> dict[str, Any]:
    """`config.json` of a classifier."""
    described, depth = _described(experiment), depth_of(experiment.arch)
    return {
        **described,
        "num_features": num_features,
        "global_pool": "avg",
        "label_names": list(classes),
        **({"model_args": {"arch": config.to_plain(experiment.arch)}} if depth is None else {}),
        "pretrained_cfg": {
            **described["pretrained_cfg"],
            **(FIRST_AND_LAST if depth is None else _FIRST_AND_LAST_OF_TIMM),
            **({} if license is None else {"license": license}),
            "paper_ids": "arXiv:2103.07579",
        },
        _OURS: {"format": FORMAT, "experiment": config.to_plain(experiment), "origin": dict(origin)},
    }


def _described(experiment: Experiment) -> dict[str, Any]:
    """What timm's fields tell of an experiment, as JSON."""
    depth, num_classes = depth_of(experiment.arch), getattr(experiment.task, "num_classes", None)
    inputs = {**json.loads(json.dumps(input_facts(experiment.data))), "num_classes": num_classes}
    architecture = _OURS if depth is None else f"resnetrs{depth}"
    return {"architecture": architecture, "num_classes": num_classes, "pretrained_cfg": inputs}


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
    inputs = found.get("pretrained_cfg", found)  # timm's first folders had no field of that name
    arguments = found.get("model_args") or {}
    for name, value in (("pretrained_cfg", inputs), ("model_args", arguments)):
        if not isinstance(value, dict):
            raise ValueError(f"{path} has no object under {name!r}; expected timm's fields.")
    _refuse_other_network(found, arguments, path)
    if found["architecture"] == _OURS and "arch" not in arguments:
        raise ValueError(
            f"{path} has no arch under model_args. Save the network by "
            'save_for_hf(..., model_args={"arch": resnet_rs.config.to_plain(arch)}).'
        )
    arch = _stored(arguments.get("arch"), Arch, path) if found["architecture"] == _OURS else None
    names, license = found.get("label_names", inputs.get("label_names")), inputs.get("license")
    if names is not None and not _is_texts(names, list):
        raise ValueError(f"{path} has no list of texts under 'label_names'.")
    ours = found.get(_OURS)
    experiment, origin = (None, {}) if ours is None else _experiment(ours, path)
    if experiment is not None:
        _refuse_contradictions(experiment, found, inputs, arch, path)
    return HubConfig(
        architecture=str(found["architecture"])[:100],
        inputs=inputs,
        arch=arch,
        experiment=experiment,
        origin=origin,
        classes=None if names is None else tuple(names),
        license=license if isinstance(license, str) else None,
    )


def _experiment(ours: Any, path: Path) -> tuple[Experiment, dict[str, str]]:  # noqa: ANN401 - any JSON
    """The experiment and the origin that resnet-rs wrote."""
    if not isinstance(ours, dict) or ours.get("format") != FORMAT:
        raise ValueError(f"{path} was written by another version of resnet-rs. Update it to read the folder.")
    experiment, origin = _stored(ours.get("experiment"), Experiment, path), ours.get("origin", {})
    if not _is_texts(origin, dict):
        raise ValueError(f"{path} has no object of texts under 'origin'.")
    return experiment, origin


def _refuse_other_network(found: dict[str, Any], arguments: dict[str, Any], path: Path) -> None:
    """Refuse arguments with which timm computes something else from the same weights."""
    for name in arguments:
        if name not in _UNDERSTOOD:
            raise ValueError(
                f"{path} has {name!r:.50} under model_args; expected only {', '.join(_UNDERSTOOD)}."
            )
    for pool in (found.get("global_pool"), arguments.get("global_pool")):
        if pool not in (None, "avg"):
            raise ValueError(f"{path} has global_pool {pool!r:.50}; expected 'avg'.")


def _refuse_contradictions(
    experiment: Experiment, found: dict[str, Any], inputs: dict[str, Any], arch: Arch | None, path: Path
) -> None:
    """Refuse a folder whose fields for timm contradict its experiment."""
    expected = _described(experiment)
    pairs = {name: (found.get(name), expected[name]) for name in ("architecture", "num_classes")}
    pairs["arch"] = (arch, None if arch is None else experiment.arch)
    for name, value in expected["pretrained_cfg"].items():
        given = inputs.get(name, value) if name == "num_classes" else inputs.get(name)
        pairs[f"{name} of pretrained_cfg"] = (given, value)
    for name, (given, value) in pairs.items():
        if given != value:
            raise ValueError(
                f"{path} has {name} {given!r:.80} for timm, and {value!r:.80} in its experiment. Push the network "
                "again, or make the two equal."
            )


def _stored(plain: Any, kind: type, path: Path) -> Any:  # noqa: ANN401 - any JSON
    try:
        return config.from_plain(plain, kinds=(kind,))
    except ValueError as error:
        raise ValueError(
            f"{path} holds no {kind.__name__.lower()} of this version: {error} Save the network again by rs.save and "
            '`resnet-rs push`, or by save_for_hf(..., model_args={"arch": resnet_rs.config.to_plain(arch)}).'
        ) from None


def _is_texts(value: Any, kind: type) -> bool:  # noqa: ANN401 - any JSON
    texts = value.values() if isinstance(value, dict) else value
    return isinstance(value, kind) and all(isinstance(text, str) for text in texts)
