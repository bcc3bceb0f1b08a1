"""What a person can ask for, one function per verb: the command line prints what these return, Python calls them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_rs import config, storage, zoo
from resnet_rs.bridges import torch_file
from resnet_rs.data.folders import automatic_split
from resnet_rs.data.opening import open_data, open_test
from resnet_rs.data.source import Source, Splits, match_classes
from resnet_rs.deploy.predictor import Predictor
from resnet_rs.fit import Change, fit, measure_speed, refuse_unfit
from resnet_rs.models.backbone import Model
from resnet_rs.paper import RELEASED
from resnet_rs.processes import Stop, listening
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.evaluate import evaluate as score_models
from resnet_rs.training.evaluate import scores as final_scores
from resnet_rs.training.events import Event, Finished, Stopped
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.job import DEFAULT_MICRO_BATCH, Job
from resnet_rs.training.machine import Machine
from resnet_rs.training.page import write_page
from resnet_rs.training.ranks import ALONE, Ranks
from resnet_rs.training.run import run
from resnet_rs.weights import pull

_NUM_CLASSES_SHOWN = 50


def experiment(name: str, edits: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of the zoo called `name`, with `edits` such as `{"recipe.epochs": 100}`."""
    return config.edit(zoo.experiment(name), edits or {})


def list_models(pattern: str = "*") -> list[str]:
    """Names of the zoo that match `pattern`, such as `resnet-rs-*`."""
    return zoo.names(pattern)


def create_model(
    name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    pretrained: bool | str | Path = False,
    features_only: bool = False,
) -> nn.Module:
    """A network of the zoo, with fresh weights, drawn from torch's generator, or with `pretrained` ones.

    It turns normalized pictures [B, C, H, W] into logits [B, K]; with `features_only` into their `Pyramid`. Its batch
    norm has momentum 0.1, since a training loop of your own may keep no average of the statistics. `pretrained=True`
    fetches the published weights once (extra `convert`); a path of a run or checkpoint is read, and no network is
    touched. A classifier of another number of classes is fresh.
    """
    edits: dict[str, Any] = {"task.num_classes": num_classes}
    if in_channels != zoo.experiment(name).data.channels:
        edits |= {"data.mean": (0.5,) * in_channels, "data.std": (0.25,) * in_channels}
    if zoo.experiment(name).arch.needs_average:
        edits |= {"arch.norm_momentum": 0.1}
    chosen, seed = experiment(name, edits), int(torch.randint(2**31, ()))
    if pretrained:
        saved = checkpoint.read(pull.pretrained(name) if pretrained is True else Path(pretrained))
        model = _with_weights(chosen, saved, seed=seed)
    else:
        model = chosen.build_model(seed=seed)
    return model.backbone if features_only else model


def _with_weights(chosen: Experiment, saved: checkpoint.Checkpoint, *, seed: int) -> Model:
    """The network of `chosen` with the weights of a checkpoint; a classifier of other classes stays as drawn.

    What a shape does not tell (an activation, a padding, an epsilon) is the checkpoint's; what acts in training alone
    is that of `chosen`.
    """
    with torch.device("meta"):
        mine = chosen.build_model().state_dict()
    theirs = saved.load_model().state_dict()
    odd = sorted(name for name in mine.keys() | theirs.keys() if _shape(mine, name) != _shape(theirs, name))
    lost = [name for name in odd if not name.startswith("head.")]
    if lost or type(chosen.arch) is not type(saved.experiment.arch):
        difference = (
            f": {lost[0]} is {_shape(theirs, lost[0])} there and {_shape(mine, lost[0])} here" if lost else ""
        )
        raise ValueError(
            f"the weights of {saved.path} do not fit this network{difference}. Take the experiment and the number of "
            "channels that they are of."
        )
    changes = config.diff(saved.experiment.arch, chosen.arch)
    kept = {name: value for name, value in changes.items() if name in ("drop_path", "norm_momentum")}
    model = replace(chosen, arch=config.edit(saved.experiment.arch, kept)).build_model(seed=seed)
    fresh = {name: tensor for name, tensor in model.state_dict().items() if name in odd}
    model.load_state_dict({**{n: t for n, t in theirs.items() if n not in odd}, **fresh})
    return model


def _shape(state_dict: Mapping[str, Tensor], name: str) -> list[int] | None:
    return list(state_dict[name].shape) if name in state_dict else None


def show(name: str, edits: Mapping[str, Any]) -> dict[str, Any]:
    """All that is known of an experiment before it is trained, as JSON."""
    chosen = experiment(name, edits)
    num_images = zoo.num_images(name)
    plan = chosen.recipe.plan(num_images)
    published = RELEASED.get(name)
    slots = config.to_plain(chosen)
    return {
        "name": name,
        "edits": {path: config.to_plain(v) for path, v in config.diff(zoo.experiment(name), chosen).items()},
        **asdict(chosen.count_cost()),
        "steps": plan.total_steps,
        "warmup_steps": round(plan.warmup_steps),
        "peak_lr": plan.peak_lr,
        "num_images": num_images,
        **{slot: slots[slot] for slot in ("arch", "data", "task", "recipe")},
        "published": None if published is None else asdict(published),
    }


def outline(name: str) -> dict[str, Any]:
    """A line of the list: name, size, parameters and multiply-adds."""
    chosen = zoo.experiment(name)
    return {"name": name, "size": chosen.data.size, **asdict(chosen.count_cost())}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An experiment made ready for a data set."""

    name: str
    """Of the experiment of the zoo that it was made from."""
    experiment: Experiment
    splits: Splits
    data: str
    """As typed: `builtin`, or a folder."""
    typed: frozenset[str] = frozenset()
    """Fields that a person has set; nothing else may change them."""
    is_fitted: bool = False
    minutes: float | None = None
    """The time budget of the fit."""
    changes: tuple[Change, ...] = ()
    """What the fit changed, with its reasons."""


def prepare(
    name: str, edits: Mapping[str, Any], *, data: str, run_folder: Path | None = None, ranks: Ranks = ALONE
) -> Prepared:
    """The experiment `name` with `edits` for the classes of `data`; the split of a run in `run_folder` is kept."""
    splits = open_data(data, split=_recorded_split(data, _stored(run_folder, ranks)))
    suited = experiment(name, edits).suited_to(splits.train.classes)
    lost = config.diff(suited, config.edit(suited, {path: v for path, v in edits.items() if "." in path}))
    if lost:
        raise ValueError(
            f"the data has {len(splits.train.classes)} classes, which contradicts {config.describe(lost)}. "
            "Leave that edit out."
        )
    return Prepared(name=name, experiment=suited, splits=splits, data=data, typed=frozenset(edits))


def fitted(
    prepared: Prepared, *, minutes: float | None, machine: Machine, run_folder: Path | None = None
) -> Prepared:
    """`prepared` with a recipe that suits its data and, if given, a time budget.

    A run that has begun in `run_folder` keeps the fit it began with: speed is measured once, so that the same command
    continues the same run.
    """
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes must be above 0, got {minutes}.")
    stored = _stored(run_folder, machine.ranks)
    if stored is not None:
        return _fitted_before(prepared, minutes, stored, run_folder)
    chosen, changes = fit(
        prepared.experiment,
        prepared.splits.train,
        minutes=minutes,
        speed=partial(_speed, source=prepared.splits.train, machine=machine),
        typed=prepared.typed,
    )
    return replace(prepared, experiment=chosen, changes=tuple(changes), is_fitted=True, minutes=minutes)


def _speed(chosen: Experiment, *, source: Source, machine: Machine) -> float:
    """Pictures per second that all ranks reach together, measured side by side; the same number on each of them."""
    mine = measure_speed(
        chosen,
        source,
        device=machine.device,
        micro_batch=machine.micro_batch or DEFAULT_MICRO_BATCH,
        workers=machine.workers,
    )
    return sum(float(text) for text in machine.ranks.gather(repr(mine).encode()))


def _fitted_before(
    prepared: Prepared, minutes: float | None, stored: Mapping[str, Any], run_folder: Path | None
) -> Prepared:
    if not stored["is_fitted"] or stored["minutes"] != minutes:
        before = "without --fit" if not stored["is_fitted"] else f"with --minutes {stored['minutes']}"
        raise ValueError(
            f"{run_folder} holds a run that began {before}, now --minutes {minutes}. "
            "Use a new folder for `--out`, or the same command to continue that run."
        )
    changes = tuple(Change(**change) for change in stored["changes"])
    edits = {change.path: change.after for change in changes if change.path not in prepared.typed}
    chosen = config.edit(prepared.experiment, edits)
    return replace(prepared, experiment=chosen, changes=changes, is_fitted=True, minutes=minutes)


def training(
    prepared: Prepared,
    *,
    out: Path,
    seed: int = 0,
    machine: Machine | None = None,
    save_every: int | None = None,
    stop: Stop | None = None,
) -> Iterator[Event]:
    """Train, or continue to train, in the folder `out`; yields what happens.

    A checkpoint is saved every `save_every` updates; by default at every evaluation, and every ten minutes.
    """
    machine = machine or Machine()
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be 1 update or more, got {save_every}.")
    refuse_unfit(prepared.experiment, len(prepared.splits.train))
    job = Job(
        experiment=prepared.experiment,
        splits=prepared.splits,
        folder=out,
        seed=seed,
        machine=machine,
        micro_batch=machine.micro_batch or _usual_micro_batch(prepared, out, machine.ranks),
        save_every=save_every,
        stop=stop or Stop(),
        origin=_origin(prepared),
    )
    for event in run(job):
        if isinstance(event, Finished) and machine.ranks.is_first:
            write_page(out, prepared.splits)
        yield event


def train(
    chosen: str | Experiment,
    *,
    data: str,
    out: str | Path,
    seed: int = 0,
    minutes: float | None = None,
    machine: Machine | None = None,
) -> dict[str, Any]:
    """Train an experiment, or continue to, in the folder `out`; the scores of its final weights.

    With `minutes` the recipe is fitted to the data and to that time, as `resnet-rs train --fit --minutes` does; the
    fields in which an `Experiment` differs from the zoo stay as they are. For what happens meanwhile, see `training`.
    Interrupted (Ctrl-C), it saves and raises `KeyboardInterrupt`; the same call continues.
    """
    machine, out = machine or Machine(), Path(out)
    name = chosen if isinstance(chosen, str) else zoo.nearest(chosen)
    edits = {} if isinstance(chosen, str) else config.diff(zoo.experiment(name), chosen)
    prepared = prepare(name, edits, data=data, run_folder=out)
    if minutes is not None:
        prepared = fitted(prepared, minutes=minutes, machine=machine, run_folder=out)
    scores: dict[str, Any] = {}
    with listening() as stop:
        for event in training(prepared, out=out, seed=seed, machine=machine, stop=stop):
            if isinstance(event, Stopped):
                raise KeyboardInterrupt(
                    f"stopped and saved after update {event.step}; the same call continues."
                )
            if isinstance(event, Finished):
                scores = event.scores
    return scores


def _usual_micro_batch(prepared: Prepared, out: Path, ranks: Ranks) -> int:
    """As many samples as the run in `out` computes at once; of a new run, up to 128, so that every rank has some."""
    stored = _stored(out, ranks)
    if stored is not None:
        return int(stored["micro_batch"])
    return max(2, min(DEFAULT_MICRO_BATCH, prepared.experiment.recipe.batch_size // ranks.count))


def evaluate(path: str | Path, *, data: str, machine: Machine | None = None) -> dict[str, Any]:
    """Scores of a checkpoint, or of a run's newest, on the test half of `data`; classes are matched by name.

    Of a folder without halves all pictures are scored, unless it is the one that was split for training, wherever it
    lies by now: then its recorded test half is scored, so that nothing learned from is.
    """
    machine = machine or Machine()
    saved = checkpoint.read(Path(path))
    source = open_test(data)
    if saved.split is not None and _is_of_split(source, saved.split):
        source = open_test(data, split=saved.split)
    source = match_classes(source, saved.classes)
    models = {saved.weights: machine.device.place(saved.load_model())}
    result = score_models(models, source, saved.experiment, machine=machine)
    return final_scores(result, source)


def _is_of_split(source: Source, split: Mapping[str, Sequence[str]]) -> bool:
    """Whether `source` holds at least half of the files of a recorded split.

    A few names such as `cat/1.jpg` are in every folder; half of them are only in the same one.
    """
    recorded = {*split["train"], *split["test"]}
    found = sum(source.key(i) in recorded for i in range(len(source)))
    return 2 * found >= len(recorded)


def load(path: str | Path, *, device: str | None = None) -> Predictor:
    """The predictor of a checkpoint folder, or of a run's newest checkpoint."""
    return Predictor(checkpoint.read(Path(path)), device=Device.choose(device))


def convert(weights: str | Path, out: str | Path, *, key: str | None = None) -> torch_file.Conversion:
    """Write the weights in a file of `torch.save` to `out`, a new safetensors file, without running what is in it."""
    return torch_file.convert(Path(weights), Path(out), key=key)


def describe_scores(scores: Mapping[str, Any]) -> Iterator[str]:
    """Scores as lines of text."""
    for name, value in scores.items():
        if f"{name}_low" in scores and value is not None:
            yield f"{name:<6} {value:.4f}  (95 %: {scores[f'{name}_low']:.4f} to {scores[f'{name}_high']:.4f})"
    yield f"scored {scores['count']:,} pictures with the weights of the {scores['weights']}"
    for item in scores["unreadable"]:
        yield f"not scored: {item['key']!r}: {item['reason']}"
    for item in scores.get("classes", [])[:_NUM_CLASSES_SHOWN]:
        if item["recall"] is not None:
            interval = f"{item['recall_low']:.1%} to {item['recall_high']:.1%}"
            yield f"  {item['name']:<24} recall {item['recall']:>6.1%} ({interval}) of {item['count']:,}"


def report(run_folder: str | Path) -> Path:
    """Write the page of a run anew, finished or not, and return its path."""
    folder = Path(run_folder)
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no run; expected a folder that `resnet-rs train --out` made."
        )
    data = storage.read_json(folder / "run.json", needs=("data",))["data"]
    try:
        splits = open_data(data, split=_recorded_split(data, _stored(folder, ALONE)))
    except (FileNotFoundError, ValueError):
        splits = None  # the data has moved away; the page goes without its pictures
    return write_page(folder, splits)


def _stored(run_folder: Path | None, ranks: Ranks) -> dict[str, Any] | None:
    """What the run in `run_folder` has written down of itself, if there is one. Only the first rank reads it."""
    if run_folder is None:
        return None
    stored = None
    if ranks.is_first and (run_folder / "experiment.json").is_file():
        needs = ("data", "split", "micro_batch", "changes", "is_fitted", "minutes")
        stored = storage.read_json(run_folder / "run.json", needs=needs)
    return json.loads(ranks.gather(json.dumps(stored).encode())[0])


def _recorded_split(data: str, stored: Mapping[str, Any] | None) -> dict[str, list[str]] | None:
    """The automatic split that a run has written down, if it was one of the data set `data`."""
    if data == "builtin" or stored is None:
        return None
    return stored["split"] if stored["data"] == str(Path(data).resolve()) else None


def _origin(prepared: Prepared) -> dict[str, Any]:
    """What the run's folder says of where its experiment comes from."""
    base = zoo.experiment(prepared.name)
    there, back = config.diff(base, prepared.experiment), config.diff(prepared.experiment, base)
    is_builtin = prepared.data == "builtin"
    return {
        "name": prepared.name,
        "edits": {path: [config.to_plain(back[path]), config.to_plain(there[path])] for path in there},
        "is_fitted": prepared.is_fitted,
        "minutes": prepared.minutes,
        "changes": [asdict(change) for change in prepared.changes],
        "data": "builtin" if is_builtin else str(Path(prepared.data).resolve()),
        "num_train": len(prepared.splits.train),
        "num_test": len(prepared.splits.test),
        "classes": list(prepared.splits.train.classes),
        "split": None if is_builtin else automatic_split(prepared.splits),
    }
