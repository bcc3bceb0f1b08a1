"""A study of one's own, as a small YAML file of edits.

title: Does the crop matter?
alternatives:                     # or `additive`: each trial keeps the edits of those above it
  whole picture: {data.min_area: 1.0}
  half of it: {data.min_area: 0.5, versus: whole picture, paper: 77.7}

A trial is compared with the first one, or in `additive` with the one above it, unless it says `versus`; `paper` is the
top-1 of a published row, in percent.

title: How large a rate, how large a batch?
grid:                             # every combination
  recipe.base_lr: [0.05, 0.1, 0.2]
  recipe.batch_size: [64, 128]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from resnet_rs.studies.study import Step, Study, Trial, additive, alternatives, grid
from resnet_rs.training.experiment import Experiment

_MAX_BYTES = 1 << 20
_KINDS: dict[str, Callable[[Sequence[Step]], tuple[Trial, ...]]] = {
    "additive": additive,
    "alternatives": alternatives,
}


_FORM = "one of additive, alternatives or grid, and a title if you like"


def read(path: Path, base: Experiment) -> Study:
    """The study in the file at `path`, whose every trial `base` must take."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a YAML file of trials.")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a study has at most {_MAX_BYTES:,}.")
    try:
        content = _parsed(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}.") from None
    try:
        study = _study(path.stem, content)
        study.of(base)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None
    return study


def _parsed(text: str) -> Any:  # noqa: ANN401 - whatever the file holds
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Plain values alone; names as they are written, where YAML makes True of `on`, and each of them once."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.YAMLError(f"{node.value!r} is called a mapping and is none")
        if not all(isinstance(name, yaml.ScalarNode) for name, _ in node.value):
            raise yaml.YAMLError("a name in it is a list or a mapping; names are words")
        names = [name.value for name, _ in node.value]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise yaml.YAMLError(f"{double!r} stands in it twice")
        return {
            # A label that is referred to is a word, too.
            name.value: value.value
            if name.value == "versus" and isinstance(value, yaml.ScalarNode)
            else self.construct_object(value, deep=True)
            for name, value in node.value
        }


def _study(name: str, content: Any) -> Study:  # noqa: ANN401 - whatever the file holds
    if not isinstance(content, Mapping):
        raise ValueError(f"expected {_FORM}, as in docs/STUDIES.md, got {content!r}.")
    entries = {str(entry): body for entry, body in content.items()}
    title = str(entries.pop("title", name))
    odd = next((entry for entry in entries if entry not in (*_KINDS, "grid")), None)
    if odd is not None:
        raise ValueError(f"expected {_FORM}, got {odd!r}.")
    if len(entries) != 1:
        raise ValueError(f"expected {_FORM}, got {' and '.join(entries) or 'nothing of the three'}.")
    ((kind, body),) = entries.items()
    if not isinstance(body, Mapping) or not body:
        below = "fields with lists of values" if kind == "grid" else "labels with their edits"
        raise ValueError(f"below `{kind}` must stand {below}, got {body!r}.")
    if kind == "grid":
        trials = grid({path: _list(path, values) for path, values in body.items()})
    else:
        trials = _KINDS[kind]([_step(label, edits) for label, edits in body.items()])
    return Study(name=name, title=title, trials=trials)


def _step(label: str, edits: Any) -> Step:  # noqa: ANN401 - whatever the file holds
    if not isinstance(edits, Mapping | None):
        raise ValueError(f"trial {label!r} must be edits such as {{recipe.epochs: 10}}, got {edits!r}.")
    fields: dict[str, Any] = {**(edits or {})}
    paper, versus = fields.pop("paper", None), fields.pop("versus", None)
    is_number = isinstance(paper, int | float) and not isinstance(paper, bool)
    if not (paper is None or is_number) or not isinstance(versus, str | None):
        raise ValueError(f"`paper` of trial {label!r} must be a number and `versus` a label.")
    paper = None if paper is None else float(paper)
    if paper is not None and not math.isfinite(paper):
        raise ValueError(f"`paper` of trial {label!r} must be a number, got {paper}.")
    return Step(label=label, edits=fields, paper=paper, versus=versus)


def _list(path: object, values: Any) -> list[Any]:  # noqa: ANN401 - whatever the file holds
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path} must be a list of values, got {values!r}.")
    return values
