"""`Record`: a study and its results, as lines of JSON that need no other file.

The first line is the study: its base, its data, its score, its trials. Each further line is a result: one trial with
one seed. It holds the values of all test samples, so trials can be compared sample by sample.

Shapes: `S` seeds, `N` test samples that every finished run has scored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from resnet_rs import storage
from resnet_rs.report.score import PerSample, ScoreName
from resnet_rs.studies.study import Study, Trial

R = TypeVar("R")

RECORD = "record.jsonl"
_MAX_TEST = 10**8
"""A record's values are read into arrays of this many numbers, so a damaged one must not claim more."""
_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a study is run on."""

    base: str
    """Name of the experiment in the zoo."""
    edits: str
    """From that experiment to the study's base, as typed; changes made by `--fit` are included."""
    experiment: Mapping[str, Any]
    score: ScoreName
    data: str
    """Title of the data set: a folder's own name, without the folders above it."""
    num_train: int
    num_test: int
    train_digest: str
    test_digest: str
    micro_batch: int | None = None
    """As given; None lets each run choose."""
    limits: str = ""
    """The limits that leave trials out, as typed."""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """One trial with one seed, finished or failed."""

    label: str
    seed: int
    error: str | None = None
    count: int = 0
    score: float | None = None
    per_sample: PerSample | None = None
    """The value of each test sample; None where the task has no such values."""
    unscored: tuple[int, ...] = ()
    """Indices of test samples that could not be read."""
    num_unread: int = 0
    """Number of training samples that could not be read, and were skipped."""
    curve: tuple[tuple[float, float], ...] = ()
    """Epoch and headline score of each evaluation."""
    minutes: float | None = None
    images_per_second: float | None = None
    """In training, median over evaluations, of one process among those that ran at once."""
    params: int | None = None
    macs: int | None = None
    """Multiply-adds of one image."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class Record:
    """A study, its context and its results so far."""

    study: Study
    context: Context
    results: tuple[Result, ...] = ()

    def finished(self, label: str) -> list[Result]:
        """The finished results of a trial, by seed."""
        found = [r for r in self.results if r.label == label and r.error is None]
        return sorted(found, key=lambda result: result.seed)

    def values(self, label: str, seeds: Iterable[int] | None = None) -> Float[np.ndarray, "S N"]:
        """The per-sample values of a trial with each of `seeds`, for the samples that every finished run has scored.

        By default with all finished seeds. Where the task has no per-sample values, the headline scores, [S, 1].
        """
        by_seed = {result.seed: result for result in self.finished(label)}
        chosen = [by_seed[seed] for seed in (by_seed if seeds is None else seeds)]
        if any(r.per_sample is None for r in self.results if r.error is None):
            return np.array([[result.score] for result in chosen], dtype=np.float64)
        rows = [r.per_sample.dense(self.context.num_test) for r in chosen if r.per_sample is not None]
        return np.delete(np.stack(rows), self.unscored(), axis=1)

    def unscored(self) -> list[int]:
        """Indices of the test samples that at least one finished run could not read. They count for no run."""
        return sorted({index for r in self.results if r.error is None for index in r.unscored})

    def seeds(self, *labels: str) -> tuple[int, ...]:
        """The seeds with which all of `labels` are finished."""
        finished = [{result.seed for result in self.finished(label)} for label in labels]
        return tuple(sorted(set.intersection(*finished))) if finished else ()

    def text(self) -> str:
        """As lines of JSON."""
        study = asdict(self.study.with_plain_edits())
        head = {"version": _VERSION, "study": study.pop("name"), **study, **asdict(self.context)}
        return json_lines(head, (_plain(result) for result in self.results))

    def write(self, folder: Path) -> None:
        """Write it to `folder` atomically."""
        storage.write_text(folder / RECORD, self.text())


def read(path: Path) -> Record:
    """The record at `path`: the folder of a study, or a file of results."""
    cure = "Move it away and repeat the command of the study: it reads the finished runs again."
    return parsed(path, RECORD, _record, version=_VERSION, cure=cure)


def json_lines(head: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> str:
    """`head` and `lines`, each as a line of JSON."""
    return "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in (head, *lines))


def parsed(path: Path, name: str, build: Callable[[Any, list[Any]], R], *, version: int, cure: str) -> R:
    """The value that `build` makes from the first line and the further lines of a file of JSON.

    `path` is the file, or the folder that holds it as `name`. A file that is damaged or of another version raises
    `ValueError` with the `cure`.
    """
    path = path / name if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; expected the folder of a study, or a file such as results/NAME.jsonl."
        )
    try:
        head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if head["version"] != version:
            raise ValueError(f"its version is {head['version']!r}, and this program reads version {version}")
        return build(head, lines)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no record of a study: {type(error).__name__}: {error}. {cure}") from None


def _record(head: Mapping[str, Any], lines: list[Mapping[str, Any]]) -> Record:
    trials = tuple(Trial(**trial) for trial in head["trials"])
    study = Study(name=head["study"], title=head["title"], trials=trials, notes=tuple(head["notes"]))
    values: dict[str, Any] = {name: head[name] for name in Context.__dataclass_fields__}
    values |= {"left_out": tuple(head["left_out"]), "score": ScoreName(**head["score"])}
    context = Context(**values)
    if not 0 <= int(context.num_test) <= _MAX_TEST:
        raise ValueError(
            f"its number of test samples is {context.num_test}, and 0 to {_MAX_TEST:,} can be read"
        )
    return Record(study=study, context=context, results=tuple(_result(line, context) for line in lines))


def _result(line: Mapping[str, Any], context: Context) -> Result:
    unscored = tuple(int(index) for index in line["unscored"])
    per_sample = None if line["per_sample"] is None else PerSample.from_plain(line["per_sample"])
    last = int(context.num_test) - 1
    for index in (*unscored, *(per_sample.indices if per_sample else ())):
        if not 0 <= index <= last:
            raise ValueError(f"it has a value for test sample {index}, and they are 0 to {last}")
    curve = tuple((float(epoch), float(score)) for epoch, score in line["curve"])
    values: dict[str, Any] = {**line, "per_sample": per_sample, "unscored": unscored, "curve": curve}
    return Result(**values)


def _plain(result: Result) -> dict[str, Any]:
    per_sample = None if result.per_sample is None else result.per_sample.to_plain()
    return {**asdict(result), "per_sample": per_sample}
