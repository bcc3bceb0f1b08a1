"""The model card of a checkpoint: `README.md` in a repository of the Hub. Its text is the template `card.md`.

The fields of its metadata follow the Hub's `model-cards` documentation. Unknown values are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from resnet_rs import config, zoo
from resnet_rs.bridges.timm_names import depth_of
from resnet_rs.report.score import Number
from resnet_rs.training.checkpoint import Checkpoint

_CLASSES_SHOWN = 20


def model_card(
    saved: Checkpoint, *, run: Mapping[str, Any], scores: Mapping[str, Any], license: str | None, repo: str
) -> str:
    """The card of `saved`; `run` is the record of its run, `scores` are those of its weights; empty if unknown."""
    nearest = zoo.nearest(saved.experiment)
    base = zoo.experiment(nearest)
    name = nearest if saved.experiment.arch == base.arch else f"{nearest}, edited"
    is_timms = depth_of(saved.experiment.arch) is not None
    metadata: dict[str, Any] = {
        **({} if license is None else {"license": license}),
        "library_name": "timm" if is_timms else "resnet-rs",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "resnet-rs", *(["timm"] if is_timms else [])],
    }
    numbers = _numbers(saved, scores)
    if scores:
        metrics = [{"type": n.name.key, "value": n.value} for n in numbers if n.name.is_share]
        task = {"type": "image-classification"}
        data = {"name": run["data_title"], "type": run["data_title"]}
        metadata["model-index"] = [
            {"name": name, "results": [{"task": task, "dataset": data, "metrics": metrics}]}
        ]
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(plain=_plain, grouped=lambda number: f"{number:,}")
    edits = config.diff(base, saved.experiment)
    temperature = edits.pop("task.temperature", None)
    if "task" in edits:  # of another type
        edits |= {"task": type(saved.experiment.task).__name__}
    return environment.from_string(Path(__file__).with_name("card.md").read_text()).render(
        saved=saved,
        name=name,
        metadata={field: json.dumps(value) for field, value in metadata.items()},  # JSON is YAML
        params=saved.experiment.count_cost().params,
        shown=_CLASSES_SHOWN,
        run=run,
        facts=facts(saved, run=run, scores=scores),
        temperature=temperature,
        edits=[f"{path}={config.as_text(value)}" for path, value in edits.items()],
        scores=scores,
        numbers=numbers,
        is_timms=is_timms,
        repo=repo,
        license=license,
    )


def facts(saved: Checkpoint, *, run: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, str]:
    """Data, recipe and scores in a line each, which a checkpoint made from the Hub folder keeps in its origin."""
    found: dict[str, str] = {}
    if run:
        num_validation, nearest = run.get("num_validation", 0), zoo.nearest(saved.experiment)
        held = f"{num_validation:,} for validation, " if num_validation else ""
        found["data"] = (
            f"{run['data_title']}: {run['num_train']:,} images for training, {held}{run['num_test']:,} for testing"
        )
        found["recipe"] = f"{saved.step:,} updates, seed {saved.seed}, of the experiment {nearest}"
    if scores:
        numbers = (f"{n.name.label} {n.name.text(n.value)} ({n.interval})" for n in _numbers(saved, scores))
        begin = f"of {scores['count']:,} test images, with 95 % intervals over them"
        found["scores"] = f"{begin}: {', '.join(numbers)}"
    return found


def _numbers(saved: Checkpoint, scores: Mapping[str, Any]) -> list[Number]:
    """The measured scores of the checkpoint's task."""
    return [n for n in saved.experiment.task.numbers(scores) if n.value is not None]


def _plain(text: str) -> str:
    """A name as one line of Markdown without markup."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>#|" else letter for letter in line)
