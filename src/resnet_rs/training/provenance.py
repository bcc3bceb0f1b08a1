"""`Provenance`: where weights come from, and `checkpoint.json`, the file that says so."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_rs import storage
from resnet_rs.config import from_plain, to_plain
from resnet_rs.training.experiment import Experiment

INFO = "checkpoint.json"
FORMAT = 1
"""Version of the layout of a checkpoint."""


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


def split_digest(split: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of the keys of both parts of an automatic split."""
    text = json.dumps([list(split["train"]), list(split["test"])])
    return hashlib.sha256(text.encode()).hexdigest()


def info_of(provenance: Provenance, *, step: int, skipped: tuple[int, ...]) -> bytes:
    """The content of `checkpoint.json`."""
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


def read_info(folder: Path) -> tuple[dict[str, Any], Experiment]:
    """The fields of `checkpoint.json` in `folder`, checked, and its experiment.

    Raises `storage.Damaged` for other fields than expected, and `ValueError` for those of a newer version.
    """
    path = folder / INFO
    needs = ["experiment", *(name for name in _FIELDS if name not in _DEFAULTS)]
    info: dict[str, Any] = _DEFAULTS | storage.read_json(path, needs=needs)
    for name, (form, is_form) in _FIELDS.items():
        if not is_form(info[name]):
            raise storage.Damaged(f"{path} has no {form} under {name!r}.")
        if name == "format" and info[name] != FORMAT:  # the other fields may have other forms there
            raise ValueError(
                f"{folder} has format {info[name]}, this version reads {FORMAT}. Update resnet-rs to read it."
            )
    try:
        experiment = from_plain(info["experiment"], kinds=(Experiment,))
    except ValueError as error:  # not damaged: a newer version may have more types and fields
        raise ValueError(f"{path} has no experiment that this version can read: {error}") from None
    with suppress(ValueError):
        if experiment.with_classes(tuple(info["classes"])) == experiment:
            return info, experiment
    raise storage.Damaged(f"{path} has {len(info['classes'])} class names, which do not match its task.")


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _is_sha256(value: object) -> bool:
    return value is None or isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))


_Form = tuple[str, Callable[[object], bool]]
"""What a field must be, in words and as a check."""
_COUNT: _Form = ("whole number of 0 or more", lambda value: type(value) is int and 0 <= value < 2**63)
_TEXTS: _Form = (
    "object of texts",
    lambda value: isinstance(value, dict) and _is_list([*value.values()], str),
)
_DEFAULTS: dict[str, Any] = {"skipped": [], "environment": {}, "origin": {}}
"""The oldest checkpoints of this format do not have these fields."""
_FIELDS: dict[str, _Form] = {
    "format": _COUNT,
    "step": _COUNT,
    "seed": _COUNT,
    "classes": ("list of names", lambda value: _is_list(value, str)),
    "split": ("SHA-256", _is_sha256),
    "skipped": ("list of whole numbers", lambda value: _is_list(value, int)),
    "environment": _TEXTS,
    "origin": _TEXTS,
}
