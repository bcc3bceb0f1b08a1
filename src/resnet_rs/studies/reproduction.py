"""Scores of the released weights by their authors' protocol and by timm's, beside the published accuracies.

Every score is stored at once, so an interrupted command continues where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_rs import storage, verbs, zoo
from resnet_rs.data import dataset, imagenet
from resnet_rs.data.source import match_classes
from resnet_rs.paper import RELEASED, TIMM
from resnet_rs.report.score import Number, ScoreName
from resnet_rs.report.table import markdown_table, with_interval
from resnet_rs.training.machine import Machine

_NUM_VALIDATION = 50_000
"""Images behind the published figures."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One network by one protocol."""

    name: str
    protocol: str
    """`own`, that of the release, or `timm`."""
    count: int
    num_unreadable: int
    numbers: tuple[Number, ...]
    """The scores of its task, the headline first."""
    digest: str
    """Of the images' names and classes; all scores of a table have the same."""
    computed: str
    """Device, precision and version."""


def reproduce(names: Sequence[str], *, data: str, out: Path, machine: Machine) -> Iterator[Score]:
    """Scores of `names` (by default all released weights) on `data`, by each protocol that they have.

    Scores in the folder `out` are read. Raises `ValueError` if they belong to other images or another machine, and if
    the classes of `data` are not ImageNet's.
    """
    chosen = list(names) or list(RELEASED)
    for name in chosen:
        if name not in RELEASED:
            raise ValueError(f"{name!r} has no published weights; these have: {', '.join(RELEASED)}.")
    source = dataset.find(data).open_test()
    match_classes(source, imagenet.classes())
    facts, digest = machine.device.describe(), source.digest()
    computed = f"{facts['device']}, {facts['precision']}, torch {facts['torch']}"
    # Only the first rank reads and writes; it tells the others which scores are there.
    is_first = machine.ranks.is_first
    stored = _stored(out, digest, computed) if is_first else {}
    for name in chosen:
        for protocol in ("own", "timm") if name in TIMM else ("own",):
            path = out / f"{name}.{protocol}.json"
            if not machine.ranks.from_first(path in stored):
                found = verbs.evaluate(name, data=data, machine=machine, protocol=protocol)
                stored[path] = Score(
                    name=name,
                    protocol=protocol,
                    count=found["count"],
                    num_unreadable=len(found["unreadable"]),
                    numbers=tuple(zoo.experiment(name).task.numbers(found)),
                    digest=digest,
                    computed=computed,
                )
                if is_first:
                    storage.write_json(path, asdict(stored[path]))
            if is_first:
                yield stored[path]


def _stored(out: Path, digest: str, computed: str) -> dict[Path, Score]:
    """The scores in the folder `out`, which is made if needed."""
    storage.make_folders(out)
    paths = (path for name in RELEASED for path in sorted(out.glob(f"{name}.*.json")))
    return {path: _read(path, digest, computed) for path in paths}


def _read(path: Path, digest: str, computed: str) -> Score:
    stored: dict[str, Any] = storage.read_json(path, needs=tuple(Score.__dataclass_fields__))
    if stored["digest"] != digest:
        raise ValueError(f"{path} belongs to other images than --data. Use a new folder for --out.")
    if stored["computed"] != computed:
        raise ValueError(
            f"{path} was computed on {stored['computed']}, now {computed}. Use a new folder for --out."
        )
    try:
        numbers: list[dict[str, Any]] = [n | {"name": ScoreName(**n["name"])} for n in stored["numbers"]]
        known: dict[str, Any] = {name: stored[name] for name in Score.__dataclass_fields__}
        known["numbers"] = tuple(Number(**n) for n in numbers)
        return Score(**known)
    except (KeyError, TypeError) as error:
        raise storage.Damaged(
            f"{path} holds no scores of this version: {error}. Use a new folder for --out."
        ) from None


def table(scores: Iterable[Score]) -> str:
    """Scores as a table of Markdown."""
    found = list(scores)
    shown = markdown_table([_cells(score) for score in found])
    if found:
        shown += f"\n\nComputed on {found[0].computed}."
    if any(score.count != _NUM_VALIDATION for score in found):
        shown += f"\n\nThe published figures belong to all {_NUM_VALIDATION:,} images of ImageNet's validation set."
    return shown


def _cells(score: Score) -> dict[str, str]:
    """The cells of a row by the names of their columns."""
    number, *others = score.numbers
    released, is_own = RELEASED[score.name], score.protocol == "own"
    unreadable = f", {score.num_unreadable:,} unreadable" if score.num_unreadable else ""
    return {
        "network": score.name,
        "protocol": "release" if is_own else score.protocol,
        "published": f"{released.accuracy_readme if is_own else TIMM[score.name].accuracy:.1f}",
        "evaluated by others": f"{released.accuracy_reevaluated:.1f}" if is_own else "",
        f"{number.name.title}, here (95 %)": with_interval(number.name.cell, number),
        **{other.name.title: other.name.cell(other.value) for other in others},
        "images": f"{score.count:,}{unreadable}",
    }
