"""The model card of a checkpoint: `README.md` in a repository of the Hub.

The fields of its metadata follow the Hub's `model-cards` documentation. Unknown values are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from resnet_rs import config, zoo
from resnet_rs.bridges.timm_names import depth_of
from resnet_rs.report.score import Number
from resnet_rs.training.checkpoint import Checkpoint
from resnet_rs.training.experiment import Experiment

_CLASSES_SHOWN = 20


def model_card(
    saved: Checkpoint,
    *,
    run: Mapping[str, Any] | None,
    scores: Mapping[str, Any] | None,
    license: str | None,
    repo: str,
) -> str:
    """The card of `saved`; `run` is the record of its run, `scores` are those of its weights."""
    parts = [
        *_head(saved, run, scores, license),
        *_summary(saved),
        *_data(saved, run),
        *_recipe(saved, run),
        *_scores(saved, scores),
        *_use(saved, repo),
        *_origin(saved),
        *_license(license),
    ]
    return "\n".join(parts) + "\n"


def facts(
    saved: Checkpoint, *, run: Mapping[str, Any] | None, scores: Mapping[str, Any] | None
) -> dict[str, str]:
    """Data, recipe and scores in a line each: what a checkpoint that is made of the folder says of its origin."""
    said = {
        "data": _data_line(run),
        "recipe": _recipe_line(saved, run),
        "scores": _scores_line(saved, scores),
    }
    return {name: line for name, line in said.items() if line}


def _head(
    saved: Checkpoint, run: Mapping[str, Any] | None, scores: Mapping[str, Any] | None, license: str | None
) -> Iterator[str]:
    known = depth_of(saved.experiment.arch) is not None
    fields: dict[str, Any] = {
        **({} if license is None else {"license": license}),
        "library_name": "timm" if known else "resnet-rs",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "resnet-rs", *(["timm"] if known else [])],
    }
    if run is not None and scores is not None:
        metrics = [{"type": n.name.key, "value": n.value} for n in _numbers(saved, scores) if n.name.is_share]
        task = {"type": "image-classification"}
        data = {"name": run["data_title"], "type": run["data_title"]}
        results = [{"task": task, "dataset": data, "metrics": metrics}]
        fields["model-index"] = [{"name": _name(saved), "results": results}]
    yield "---"
    for name, value in fields.items():
        yield f"{name}: {json.dumps(value)}"  # JSON is YAML, whatever a name holds
    yield "---"


def _summary(saved: Checkpoint) -> Iterator[str]:
    experiment = saved.experiment
    yield f"# {_name(saved)}"
    yield ""
    yield (
        f"A classifier of {len(saved.classes):,} classes for images of {experiment.data.size} pixels with "
        f"{experiment.count_cost().params:,} parameters, of the family of *Revisiting ResNets: Improved Training and "
        "Scaling Strategies* (Bello et al., 2021, arXiv:2103.07579)."
    )
    shown = ", ".join(_plain(name) for name in saved.classes[:_CLASSES_SHOWN])
    rest = len(saved.classes) - _CLASSES_SHOWN
    yield ""
    yield f"Classes: {shown}" + (f" and {rest:,} more, in `config.json`." if rest > 0 else ".")


def _data(saved: Checkpoint, run: Mapping[str, Any] | None) -> Iterator[str]:
    if run is None:
        return
    yield from ("", "## Data", "", f"{_plain(_data_line(run))}.")
    if saved.split is not None:
        yield "The split was made automatically, by the hash of each image's name."


def _data_line(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return ""
    return f"{run['data_title']}: {run['num_train']:,} images for training, {run['num_test']:,} for testing"


def _recipe(saved: Checkpoint, run: Mapping[str, Any] | None) -> Iterator[str]:
    if run is None:
        return
    edits = config.diff(zoo.experiment(zoo.nearest(saved.experiment)), saved.experiment)
    below = ", with the edits below" if edits else ""
    yield from ("", "## Recipe", "")
    yield f"{_recipe_line(saved, run)}{below}. All of its values are in `config.json`."
    if edits:
        yield ""
    for path, value in edits.items():
        yield f"- `{path}={config.as_text(value)}`"


def _recipe_line(saved: Checkpoint, run: Mapping[str, Any] | None) -> str:
    if run is None:
        return ""
    return f"{saved.step:,} updates, seed {saved.seed}, of the experiment {zoo.nearest(saved.experiment)}"


def _scores_line(saved: Checkpoint, scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return ""
    found = ", ".join(f"{n.name.label} {_value(n)} ({n.interval})" for n in _numbers(saved, scores))
    return f"of {scores['count']:,} test images, with 95 % intervals over them: {found}"


def _numbers(saved: Checkpoint, scores: Mapping[str, Any]) -> list[Number]:
    """The measured scores of the checkpoint's task."""
    return [n for n in saved.experiment.task.numbers(scores) if n.value is not None]


def _value(number: Number) -> str:
    return number.name.text(number.value)


def _scores(saved: Checkpoint, scores: Mapping[str, Any] | None) -> Iterator[str]:
    if scores is None:
        return
    yield from ("", "## Scores", "")
    yield f"Of {scores['count']:,} test images, with the weights of the {scores['weights']}; one training run."
    if scores["unreadable"]:
        yield f"{len(scores['unreadable']):,} images could not be read and are not counted."
    yield from ("", "| score | value | 95 % interval over the images |", "|---|---|---|")
    for number in _numbers(saved, scores):
        yield f"| {number.name.label} | {_value(number)} | {number.interval} |"


def _use(saved: Checkpoint, repo: str) -> Iterator[str]:
    yield from ("", "## Use", "", "```python", "import resnet_rs as rs", "")
    yield f'model = rs.from_pretrained("{repo}")  # normalized images -> logits'
    yield from ("```", "", "```python", "import timm")
    if depth_of(saved.experiment.arch) is None:
        yield "import resnet_rs.bridges.timm  # makes the architecture known to timm"
    yield ""
    yield f'model = timm.create_model("hf-hub:{repo}", pretrained=True).eval()'
    yield "```"


def _origin(saved: Checkpoint) -> Iterator[str]:
    if not saved.origin:
        return
    yield from ("", "## Where the weights come from", "")
    for name, text in saved.origin.items():
        if name != "license":  # it has its own section
            yield f"- {_plain(name)}: {_plain(text)}"


def _license(license: str | None) -> Iterator[str]:
    yield from ("", "## License", "")
    yield "None was given." if license is None else f"{_plain(license)}"


def _name(saved: Checkpoint) -> str:
    """The name of the nearest experiment."""
    name = zoo.nearest(saved.experiment)
    arch_alone: Experiment = zoo.experiment(name)
    return name if saved.experiment.arch == arch_alone.arch else f"{name}, edited"


def _plain(text: str) -> str:
    """A name as one line of Markdown without markup."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>#|" else letter for letter in line)
