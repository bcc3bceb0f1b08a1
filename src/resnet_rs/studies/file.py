"""A study as a small YAML file of edits.

title: Does the crop matter?
alternatives:                     # or `additive`: each trial keeps the edits of those above it
  whole image: {data.min_area: 1.0}
  half of it: {data.min_area: 0.5, baseline: whole image, paper: 77.7}

A trial is compared with the first one, or in `additive` with the one above it; `baseline` names another. `paper` is a
published score, in percent.

title: How large a rate, how large a batch?
grid:                             # every combination
  recipe.base_lr: [0.05, 0.1, 0.2]
  recipe.batch_size: [64, 128]
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from resnet_rs.studies.study import Study, Trial, additive, alternatives, grid
from resnet_rs.training.experiment import Experiment

_MAX_BYTES = 1 << 20
_KINDS: dict[str, Callable[[Sequence[Trial]], tuple[Trial, ...]]] = {
    "additive": additive,
    "alternatives": alternatives,
}
_FORM = "one of additive, alternatives or grid, and a title if you like"


def read(path: Path, base: Experiment) -> Study:
    """The study in the file at `path`; refuses edits that `base` does not take."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a YAML file of trials.")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a study has at most {_MAX_BYTES:,}.")
    try:
        content = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    try:
        study = _study(path.stem, content)
        study.experiments(base)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None
    return study


class _Loader(yaml.SafeLoader):
    """Plain values only. Names stay as written (YAML reads `on` as True), and a repeated name is an error."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            # A few hundred bytes of nested aliases stand for gigabytes.
            raise yaml.YAMLError("aliases (`*name`) are not allowed; write the value out")
        return super().compose_node(parent, index)  # pyright: ignore[reportArgumentType] - the stubs ask for an int, yaml gives None

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.YAMLError(f"{node.value!r} is tagged as a mapping and is not one")
        if not all(isinstance(name, yaml.ScalarNode) for name, _ in node.value):
            raise yaml.YAMLError("a name is a list or a mapping; names must be words")
        names = [name.value for name, _ in node.value]
        for name, count in Counter(names).items():
            if count > 1:
                raise yaml.YAMLError(f"{name!r} appears twice")
        return {
            # The label of a baseline is a name, too.
            name.value: value.value
            if name.value == "baseline" and isinstance(value, yaml.ScalarNode)
            else self.construct_object(value, deep=True)
            for name, value in node.value
        }


def _study(name: str, content: Any) -> Study:  # noqa: ANN401 - whatever the file holds
    if not isinstance(content, Mapping):
        raise ValueError(f"expected {_FORM}, as in docs/STUDIES.md, got {content!r:.100}.")
    entries = {str(entry): body for entry, body in content.items()}
    title = str(entries.pop("title", name))
    kind, body = next(iter(entries.items()), ("", None))
    if len(entries) != 1 or kind not in (*_KINDS, "grid"):
        raise ValueError(f"expected {_FORM}, got {' and '.join(map(repr, entries)) or 'none of the three'}.")
    if not isinstance(body, Mapping) or not body:
        below = "fields with lists of values" if kind == "grid" else "labels with their edits"
        raise ValueError(f"`{kind}` must hold {below}, got {body!r:.100}.")
    if kind == "grid":
        for path, values in body.items():
            if not isinstance(values, list) or not values:
                raise ValueError(f"{path} must be a list of values, got {values!r}.")
        trials = grid(body)
    else:
        trials = _KINDS[kind]([_trial(label, edits) for label, edits in body.items()])
    return Study(name=name, title=title, trials=trials)


def _trial(label: str, edits: Any) -> Trial:  # noqa: ANN401 - whatever the file holds
    if not isinstance(edits, Mapping | None):
        raise ValueError(f"trial {label!r} must be edits such as {{recipe.epochs: 10}}, got {edits!r}.")
    fields: dict[str, Any] = {**(edits or {})}
    paper, baseline = fields.pop("paper", None), fields.pop("baseline", None)
    if paper is not None and (type(paper) not in (int, float) or not math.isfinite(paper)):
        raise ValueError(f"`paper` of trial {label!r} must be a number, got {paper!r}.")
    if not isinstance(baseline, str | None):
        raise ValueError(f"`baseline` of trial {label!r} must be a label, got {baseline!r}.")
    return Trial(label=label, edits=fields, paper=None if paper is None else float(paper), baseline=baseline)
