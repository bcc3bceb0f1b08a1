"""The model card of a checkpoint: `README.md` in a repository of the Hub.

Fields of its head: the Hub's `model-cards` documentation. What is not known is not said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet_rs import config, zoo
from resnet_rs.bridges.timm_names import depth_of
from resnet_rs.report.statistics import is_telling
from resnet_rs.training.checkpoint import Checkpoint
from resnet_rs.training.experiment import Experiment

_SCORES = {"top1": "top-1", "top5": "top-5", "ece": "calibration error", "nll": "negative log-likelihood"}
_CLASSES_SHOWN = 20


def model_card(
    saved: Checkpoint,
    *,
    run: Mapping[str, Any] | None,
    scores: Mapping[str, Any] | None,
    license: str | None,
    repo: str,
) -> str:
    """The card of `saved`; `run` is what its run has written down of itself, `scores` those of its weights."""
    parts = [
        *_head(saved, run, scores, license),
        *_what(saved),
        *_data(saved, run),
        *_recipe(saved, run),
        *_scores(scores),
        *_use(saved, repo),
        *_origin(saved),
        *_license(license),
    ]
    return "\n".join(parts) + "\n"


def facts(
    saved: Checkpoint, *, run: Mapping[str, Any] | None, scores: Mapping[str, Any] | None
) -> dict[str, str]:
    """Data, recipe and scores in a line each: what a checkpoint that is made of the folder says of its origin."""
    said = {"data": _data_line(run), "recipe": _recipe_line(saved, run), "scores": _scores_line(scores)}
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
        metrics = [
            {"type": name, "value": scores[name]}
            for name in ("top1", "top5")
            if scores.get(name) is not None and is_telling(name, len(scores["classes"]))
        ]
        task = {"type": "image-classification"}
        data = {"name": _data_name(run), "type": _data_name(run)}
        results = [{"task": task, "dataset": data, "metrics": metrics}]
        fields["model-index"] = [{"name": _name(saved), "results": results}]
    yield "---"
    for name, value in fields.items():
        yield f"{name}: {json.dumps(value)}"  # JSON is YAML, whatever a name holds
    yield "---"


def _what(saved: Checkpoint) -> Iterator[str]:
    experiment = saved.experiment
    yield f"# {_name(saved)}"
    yield ""
    yield (
        f"A classifier of {len(saved.classes):,} classes for pictures of {experiment.data.size} pixels with "
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
        yield "The split was made automatically, by the hash of each picture's name."


def _data_line(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return ""
    return f"{_data_name(run)}: {run['num_train']:,} pictures for training, {run['num_test']:,} for testing"


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
        yield f"- `{path}={config.as_typed(value)}`"


def _recipe_line(saved: Checkpoint, run: Mapping[str, Any] | None) -> str:
    if run is None:
        return ""
    return f"{saved.step:,} updates, seed {saved.seed}, of the experiment {zoo.nearest(saved.experiment)}"


def _scores_line(scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return ""
    found = ", ".join(
        f"{title} {value:.4f} ({low:.4f} to {high:.4f})" for title, value, low, high in _numbers(scores)
    )
    return f"of {scores['count']:,} test pictures, with 95 % intervals over them: {found}"


def _numbers(scores: Mapping[str, Any]) -> Iterator[tuple[str, float, float, float]]:
    """Title, value and interval of the scores that say something."""
    for name, title in _SCORES.items():
        if scores.get(name) is not None and is_telling(name, len(scores["classes"])):
            yield title, scores[name], scores[f"{name}_low"], scores[f"{name}_high"]


def _scores(scores: Mapping[str, Any] | None) -> Iterator[str]:
    if scores is None:
        return
    yield from ("", "## Scores", "")
    yield f"Of {scores['count']:,} test pictures, with the weights of the {scores['weights']}; one training run."
    if scores["unreadable"]:
        yield f"{len(scores['unreadable']):,} pictures could not be read and are not counted."
    yield from ("", "| score | value | 95 % interval over the pictures |", "|---|---|---|")
    for title, value, low, high in _numbers(scores):
        yield f"| {title} | {value:.4f} | {low:.4f} to {high:.4f} |"


def _use(saved: Checkpoint, repo: str) -> Iterator[str]:
    yield from ("", "## Use", "", "```python", "import resnet_rs as rs", "")
    yield f'model = rs.from_pretrained("{repo}")  # normalized pictures -> logits'
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
    for name, said in saved.origin.items():
        if name != "license":  # it has a part of its own
            yield f"- {_plain(name)}: {_plain(said)}"


def _license(license: str | None) -> Iterator[str]:
    yield from ("", "## License", "")
    yield "None was given." if license is None else f"{_plain(license)}"


def _name(saved: Checkpoint) -> str:
    """What the network is called: the experiment that it is, or is nearest to."""
    name = zoo.nearest(saved.experiment)
    arch_alone: Experiment = zoo.experiment(name)
    return name if saved.experiment.arch == arch_alone.arch else f"{name}, edited"


def _data_name(run: Mapping[str, Any]) -> str:
    """What the data is called, without the folders above it, which are nobody's business."""
    return "Fashion-MNIST, a part" if run["data"] == "builtin" else Path(run["data"]).name


def _plain(text: str) -> str:
    """A name as one line of Markdown that is no markup."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>#|" else letter for letter in line)
