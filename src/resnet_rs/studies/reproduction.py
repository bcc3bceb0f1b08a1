"""What the released weights score by their authors' protocol and by timm's, beside what was published.

Every score is stored as soon as it is there, so an interrupted command goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from resnet_rs import storage, verbs
from resnet_rs.data import imagenet
from resnet_rs.data.opening import open_test
from resnet_rs.data.source import match_classes
from resnet_rs.paper import RELEASED, TIMM
from resnet_rs.report.table import markdown_table, percent
from resnet_rs.training.machine import Machine

_NUM_VALIDATION = 50_000
"""Pictures of which the published figures are."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One network by one protocol."""

    name: str
    protocol: str
    """`own`, that of the release, or `timm`."""
    count: int
    """Pictures that were scored."""
    num_unreadable: int
    top1: float
    top1_low: float
    top1_high: float
    top5: float
    digest: str
    """Of the pictures' names and classes: scores of one table are of one set."""
    computed: str
    """On what, in which precision, by which version."""

    @property
    def published(self) -> float:
        """Top-1 as published for these weights and this protocol, in percent."""
        return TIMM[self.name].top1 if self.protocol == "timm" else RELEASED[self.name].top1_readme

    @property
    def evaluated_by_others(self) -> float | None:
        """Top-1 that a third party found with the released weights, in percent."""
        return RELEASED[self.name].top1_weights if self.protocol == "own" else None


def reproduce(names: Sequence[str], *, data: str, out: Path, machine: Machine) -> Iterator[Score]:
    """Scores of `names` (of none: all released ones), fetched by name, on `data`, by each protocol there is for them.

    Those that are in the folder `out` already are read. Raises `ValueError` if they are of other pictures.
    """
    chosen = list(names) or list(RELEASED)
    unknown = [name for name in chosen if name not in RELEASED]
    if unknown:
        raise ValueError(f"no weights of {unknown[0]!r} are published, but of {', '.join(RELEASED)}.")
    digest, computed = _digest(data), _computed(machine)
    if machine.ranks.is_first:
        _make_ready(out, digest, computed)
    for name in chosen:
        for protocol in ("own", "timm") if name in TIMM else ("own",):
            path = out / f"{name}.{protocol}.json"
            # The first rank alone reads and writes; what it finds, all know.
            is_there = machine.ranks.is_first and path.is_file()
            if not any(json.loads(said) for said in machine.ranks.gather(json.dumps(is_there).encode())):
                found = verbs.evaluate(name, data=data, machine=machine, protocol=protocol)
                score = Score(
                    name=name,
                    protocol=protocol,
                    num_unreadable=len(found["unreadable"]),
                    digest=digest,
                    computed=computed,
                    **{field: found[field] for field in ("count", "top1", "top1_low", "top1_high", "top5")},
                )
                if machine.ranks.is_first:
                    storage.write_json(path, asdict(score))
            if machine.ranks.is_first:
                yield _read(path, digest, computed)


def _digest(data: str) -> str:
    """What tells these pictures from others. Raises `ValueError` if they are of other classes than ImageNet's."""
    source = open_test(data)
    match_classes(source, imagenet.classes())
    return source.digest()


def _make_ready(out: Path, digest: str, computed: str) -> None:
    """Make the folder of scores, and refuse those that are there if they are others, before anything is fetched."""
    storage.make_folders(out)
    for name in RELEASED:
        for path in sorted(out.glob(f"{name}.*.json")):
            _read(path, digest, computed)


def _computed(machine: Machine) -> str:
    facts = machine.device.describe()
    return f"{facts['device']}, {facts['precision']}, torch {facts['torch']}"


def _read(path: Path, digest: str, computed: str) -> Score:
    names = tuple(Score.__dataclass_fields__)
    stored = storage.read_json(path, needs=names)
    if stored["digest"] != digest:
        raise ValueError(f"{path} is of other pictures than those of --data. Use a new folder for --out.")
    if stored["computed"] != computed:
        raise ValueError(
            f"{path} was computed on {stored['computed']}, now {computed}. Use a new folder for --out."
        )
    return Score(**{name: stored[name] for name in names})


def table(scores: Iterable[Score]) -> str:
    """Scores as a table of Markdown, in percent."""
    found = list(scores)
    head = ("network", "protocol", "published", "evaluated by others", "here (95 %)", "top-5", "pictures")
    rows = [
        (
            score.name,
            "release" if score.protocol == "own" else score.protocol,
            f"{score.published:.1f}",
            "" if score.evaluated_by_others is None else f"{score.evaluated_by_others:.1f}",
            f"{percent(score.top1)} ({percent(score.top1_low)} to {percent(score.top1_high)})",
            percent(score.top5),
            f"{score.count:,}" + (f", {score.num_unreadable:,} unreadable" if score.num_unreadable else ""),
        )
        for score in found
    ]
    shown = markdown_table(head, rows) + f"\n\nComputed on {found[0].computed}." if found else ""
    if any(score.count != _NUM_VALIDATION for score in found):
        shown += (
            f"\n\nThe published figures are of all {_NUM_VALIDATION:,} pictures of ImageNet's validation set."
        )
    return shown
