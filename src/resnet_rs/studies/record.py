"""`Record`: what a study was and what came out of it, as lines of JSON that stand for themselves.

The first line is the study: its base, its data, its trials. Each further line is a result: a trial with one seed. Which
test pictures were missed is part of it, so that trials can be compared picture by picture wherever the file lies.

Shapes: `S` seeds, `N` pictures that every finished run has scored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from resnet_rs import config, storage
from resnet_rs.studies.study import Study, Trial

RECORD = "record.jsonl"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Setting:
    """On what a study is run."""

    base: str
    """Name of the experiment of the zoo."""
    edits: str
    """Those that lead from it to the study's base, as typed; with `fit` these are its changes, too."""
    experiment: Mapping[str, Any]
    """The base itself, as JSON."""
    data: str
    """`builtin`, or the name of the folder."""
    num_train: int
    num_test: int
    train_digest: str
    test_digest: str
    micro_batch: int | None = None
    """As given; None lets each run choose."""
    limits: str = ""
    """Those beyond which trials were left out, as typed."""
    left_out: tuple[str, ...] = ()
    """Their labels."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One trial with one seed, finished or failed."""

    label: str
    seed: int
    error: str | None = None
    count: int = 0
    """Test pictures that were scored."""
    missed: tuple[int, ...] = ()
    """Places in the test split of the pictures whose class was not named first."""
    unscored: tuple[int, ...] = ()
    """Places of those that could not be read."""
    num_unread: int = 0
    """Training pictures that could not be read, and were left out."""
    top1: float | None = None
    curve: tuple[tuple[float, float], ...] = ()
    """Epoch and top-1 of each evaluation."""
    minutes: float | None = None
    """Of the whole run, with its evaluations."""
    images_per_second: float | None = None
    """In training, median over evaluations, of one process among those that ran at once."""
    params: int | None = None
    macs: int | None = None
    """Multiply-adds of one picture."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class Record:
    """A study, on what it was run, and its results so far."""

    study: Study
    setting: Setting
    results: tuple[Result, ...] = ()

    def of(self, label: str) -> list[Result]:
        """The finished results of a trial, by seed."""
        found = [r for r in self.results if r.label == label and r.error is None]
        return sorted(found, key=lambda result: result.seed)

    def hits(self, label: str, seeds: Iterable[int]) -> Bool[np.ndarray, "S N"]:
        """Which pictures each of `seeds` got right in a trial, of those that every finished run has scored."""
        by_seed = {result.seed: result for result in self.of(label)}
        chosen = [by_seed[seed] for seed in seeds]
        hits = np.ones((len(chosen), self.setting.num_test), dtype=bool)
        for row, result in zip(hits, chosen, strict=True):
            row[list(result.missed)] = False
        return np.delete(hits, self.unscored(), axis=1)

    def unscored(self) -> list[int]:
        """Places of the test pictures that at least one finished run could not read, which count in none."""
        return sorted({place for r in self.results if r.error is None for place in r.unscored})

    def seeds(self, *labels: str) -> tuple[int, ...]:
        """The seeds with which all of `labels` are finished."""
        finished = [{result.seed for result in self.of(label)} for label in labels]
        return tuple(sorted(set.intersection(*finished))) if finished else ()

    def text(self) -> str:
        """As lines of JSON."""
        study = self.study
        head = {
            "version": _VERSION,
            "study": study.name,
            "title": study.title,
            "notes": study.notes,
            "trials": [_plain(trial) for trial in study.trials],
            **asdict(self.setting),
        }
        lines = [head, *(asdict(result) for result in self.results)]
        return "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in lines)

    def write(self, folder: Path) -> None:
        """Write it to `folder`, whole or not at all."""
        storage.write_text(folder / RECORD, self.text())


def read(path: Path) -> Record:
    """The record at `path`: a study's folder, or a file of its lines."""
    path = path / RECORD if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; expected the folder of a study, or a file such as results/NAME.jsonl."
        )
    try:
        head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return _record(head, lines)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no record of a study: {type(error).__name__}: {error}. "
            "Move it away and give the command that made it: it is made anew from the runs beside it."
        ) from None


def _record(head: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> Record:
    if head["version"] != _VERSION:
        raise ValueError(f"its version is {head['version']!r}, and this is for version {_VERSION}")
    names = Setting.__dataclass_fields__
    study = Study(
        name=head["study"],
        title=head["title"],
        trials=tuple(Trial(**trial) for trial in head["trials"]),
        notes=tuple(head["notes"]),
    )
    values: dict[str, Any] = {**{name: head[name] for name in names}, "left_out": tuple(head["left_out"])}
    setting = Setting(**values)
    num_test = int(setting.num_test)
    return Record(study=study, setting=setting, results=tuple(_result(line, num_test) for line in lines))


def _result(line: Mapping[str, Any], num_test: int) -> Result:
    missed, unscored = (tuple(int(place) for place in line[name]) for name in ("missed", "unscored"))
    odd = next((place for place in (*missed, *unscored) if not 0 <= place < num_test), None)
    if odd is not None:
        raise ValueError(f"it names test picture {odd} of {num_test}")
    curve = tuple((float(epoch), float(top1)) for epoch, top1 in line["curve"])
    values: dict[str, Any] = {**line, "missed": missed, "unscored": unscored, "curve": curve}
    return Result(**values)


def _plain(trial: Trial) -> dict[str, Any]:
    return {**asdict(trial), "edits": {path: config.to_plain(value) for path, value in trial.edits.items()}}
