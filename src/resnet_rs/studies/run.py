"""Run a study: every trial with every seed, each in a folder of its own.

    OUT/record.jsonl              the study and its results so far      OUT/page.html     the same as a page
    OUT/trials/LABEL/seed-0/      the run, as `train --out` makes it

A trial is an ordinary run, so an interrupted one continues bit for bit. A finished one is never run again, even if its
folder is gone. A failed one is a result with its error, and the next call tries it again. Trials and seeds may be
added to a study; results are never dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from resnet_rs import config, storage, verbs, zoo
from resnet_rs import jobs as places
from resnet_rs.data import dataset
from resnet_rs.jobs import Runner
from resnet_rs.processes import Interrupted, Stop, listening
from resnet_rs.report.score import PerSample
from resnet_rs.report.table import Table
from resnet_rs.studies import summary
from resnet_rs.studies.planning import Options, ResolvedStudy, resolve
from resnet_rs.studies.record import RECORD, Context, Record, Result, read
from resnet_rs.studies.study import Study
from resnet_rs.training.device import Device
from resnet_rs.training.events import Finished, Stopped
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.log import read_log
from resnet_rs.training.machine import Machine


def study(
    chosen: str | Study,
    *,
    base: str | Experiment,
    data: str,
    out: str | Path,
    num_seeds: int = 1,
    jobs: str | None = None,
) -> Table:
    """The table of a study, with a verdict for each comparison; runs or continues it in the folder `out`.

    `chosen` is the name of a study of the paper, a .yaml file, or a `Study`. `jobs` is such as `local:2`; a script that
    uses it needs `if __name__ == "__main__":`. A failed trial is a row with its error, and the same call tries it
    again. Ctrl-C saves the current run and raises `KeyboardInterrupt`; the same call continues. For limits of cost and
    time, see `planning.Options`.
    """
    folder, runner = Path(out), places.parse(jobs)
    name = base if isinstance(base, str) else zoo.nearest(base)
    edits = {} if isinstance(base, str) else config.diff(zoo.experiment(name), base)
    options = Options(study=chosen, base=name, edits=edits, data=data, num_seeds=num_seeds)
    resolved = resolve(options, folder=folder)
    with listening() as stop:
        for _ in run(resolved, folder, runner, stop=stop):
            pass
    record = read(folder)
    summary.write_page(record, folder / summary.PAGE, has_folder=True)
    if stop.is_requested:
        raise KeyboardInterrupt(f"stopped by {stop.reason} and saved. The same call continues.")
    return summary.tabulate(record, has_folder=True)


def run(resolved: ResolvedStudy, folder: Path, runner: Runner, *, stop: Stop) -> Iterator[Result]:
    """The results of the study, earlier ones first; runs what is not finished.

    Raises `ValueError` if `folder` holds anything else, and `storage.InUse` if another process runs the study.
    """
    options, context = resolved.options, resolved.context
    if not (folder / RECORD).is_file() and not storage.is_vacant(folder, but=("trials", summary.PAGE)):
        raise ValueError(f"{folder} is not empty and holds no study. Choose a new folder for `--out`.")
    experiments = resolved.study.experiments(resolved.base)
    planned = {
        (trial.label, seed): _Run(
            trial.label, seed, experiments[trial.label], folder / trial.run_folder(seed)
        )
        for seed in resolved.seeds
        for trial in resolved.study.trials
    }
    storage.make_folders(folder)
    with storage.locked(folder):
        record = _collected(resolved, planned.values(), folder)
        for result in record.results:
            if result.error is None and planned.pop((result.label, result.seed), None):
                yield result
        missing = {str(run.folder): run for run in planned.values()}
        orders = {path: _order(options, run) for path, run in missing.items()}
        record.write(folder)
        gpus = int((options.device or "").startswith("cuda"))
        for outcome in runner.run(work, orders, stop=stop, cores=1 + options.workers, gpus=gpus):
            ended = missing[outcome.key]
            result = Result(label=ended.label, seed=ended.seed, error=outcome.error)
            if outcome.error is None:
                result = _read_or_failed(context, ended)
            record = _with(record, result)
            record.write(folder)
            yield result


class _Run(NamedTuple):
    """A trial with one seed."""

    label: str
    seed: int
    experiment: Experiment
    folder: Path


def work(payload: str, num_threads: int | None, stop: Stop) -> None:
    """Train one trial; the payload is an order of `run`."""
    order = json.loads(payload)
    device = Device.choose(order["device"])
    if num_threads is not None:
        device.limit_threads(num_threads)
    experiment = config.from_plain(order["experiment"], kinds=(Experiment,))
    folder, name = Path(order["folder"]), order["base"]
    # The trial decides on channels, also where they are the zoo's: nothing may adapt them to the data once more.
    channels = {"data.mean": experiment.data.mean, "data.std": experiment.data.std}
    edits = config.diff(zoo.experiment(name), experiment) | channels
    resolved = verbs.resolve(name, edits, data=order["data"], run_folder=folder)
    machine = Machine(device=device, micro_batch=order["micro_batch"], workers=order["workers"])
    is_finished = False
    for event in verbs.training(resolved, out=folder, seed=order["seed"], machine=machine, stop=stop):
        is_finished = is_finished or isinstance(event, Finished)
        if isinstance(event, Stopped):
            raise Interrupted
    if not is_finished:
        raise RuntimeError(f"the run in {folder} ended before it was finished.")


def _order(options: Options, run: _Run) -> str:
    return json.dumps(
        {
            "base": options.base,
            "experiment": config.to_plain(run.experiment),
            # A node of a cluster works in a directory of its own.
            "data": dataset.find(options.data).name,
            "folder": str(run.folder.resolve()),
            "seed": run.seed,
            "device": options.device,
            "micro_batch": options.micro_batch,
            "workers": options.workers,
        }
    )


def _collected(resolved: ResolvedStudy, planned: Iterable[_Run], folder: Path) -> Record:
    """The record in `folder`, with the finished runs that it lacks. Refuses the record of another study."""
    record = Record(study=resolved.study, context=resolved.context)
    if (folder / RECORD).is_file():
        before = read(folder)
        _refuse_another(resolved, before, folder)
        record = replace(record, results=before.results)
    done = {(result.label, result.seed) for result in record.results if result.error is None}
    for run in planned:
        if (run.label, run.seed) not in done and (run.folder / "scores.json").is_file():
            record = _with(record, _read_or_failed(resolved.context, run))
    return record


def _refuse_another(resolved: ResolvedStudy, before: Record, folder: Path) -> None:
    """Refuse the folder of another study, or of this one with another base, data or trial; trials may be added."""
    cure = "Use a new folder for `--out`, or repeat the command of that study to continue it."
    if before.study.name != resolved.study.name:
        raise ValueError(
            f"{folder} holds the study {before.study.name!r}, not {resolved.study.name!r}. {cure}"
        )
    old = config.from_plain(before.context.experiment, kinds=(Experiment,))
    changed = config.describe(config.diff(old, resolved.base))
    now = {trial.label: trial.edits for trial in resolved.study.trials}
    differing = [trial.label for trial in before.study.trials if now.get(trial.label) != trial.edits]
    # Data that was moved is the same if its names and classes are.
    was = before.context
    moved = replace(resolved.context, data=was.data, limits=was.limits, left_out=was.left_out)
    if changed:
        what = changed
    elif was != moved:
        what = "other data" if was.micro_batch == moved.micro_batch else "another --micro-batch"
    elif differing:
        what = f"another trial {differing[0]!r}" if differing[0] in now else f"no trial {differing[0]!r}"
    else:
        return
    raise ValueError(f"{folder} holds this study with other settings; now: {what}. {cure}")


def _read_or_failed(context: Context, run: _Run) -> Result:
    """The result of a finished run, or an error where its files are damaged."""
    try:
        return Result(label=run.label, seed=run.seed, **_read_run(context, run))
    except (OSError, KeyError, TypeError, ValueError) as error:
        message = f"{run.folder} cannot be read: {type(error).__name__}: {error}"
        return Result(label=run.label, seed=run.seed, error=message)


def _read_run(context: Context, run: _Run) -> dict[str, Any]:
    """The fields of the result of a run. Refuses a run of anything else."""
    needs = ("environment", "classes", "seed", "train_digest", "test_digest")
    info: dict[str, Any] = storage.read_json(run.folder / "run.json", needs=needs)
    with_classes = run.experiment.with_classes(tuple(info["classes"]))
    found = info | {"experiment": storage.read_json(run.folder / "experiment.json")}
    expected = {
        "experiment": config.to_plain(with_classes),
        "seed": run.seed,
        "train_digest": context.train_digest,
        "test_digest": context.test_digest,
    }
    for name, value in expected.items():
        if found[name] != value:
            raise ValueError(f"it is a run of another {name}; move it away")
    key = context.score.key
    needs = (key, "count", "per_sample", "unreadable", "weights")
    scores: dict[str, Any] = storage.read_json(run.folder / "scores.json", needs=needs)
    log = read_log(run.folder / "log.jsonl")
    evaluations = [line for line in log if line["kind"] == "evaluation"]
    if not evaluations:
        raise ValueError("its log holds no evaluation")
    cost, weights = with_classes.count_cost(), scores["weights"]
    # The first speed is unknown if the run was interrupted during an evaluation.
    speeds = [line["images_per_second"] for line in evaluations if line["images_per_second"]]
    return {
        "count": scores["count"],
        "score": scores[key],
        "per_sample": PerSample.from_plain(scores["per_sample"])
        if scores["per_sample"] is not None
        else None,
        "unscored": tuple(item["index"] for item in scores["unreadable"]),
        "num_unread": len({line["key"] for line in log if line["kind"] == "unreadable"}),
        "curve": tuple((line["epoch"], round(line["summaries"][weights][key], 6)) for line in evaluations),
        "minutes": round(evaluations[-1]["seconds"] / 60, 3),
        "images_per_second": round(median(speeds), 1) if speeds else None,
        "params": cost.params,
        "macs": cost.macs,
        "environment": {**info["environment"], "resnet_rs": version("resnet-rs")},
    }


def _with(record: Record, result: Result) -> Record:
    """`record` with `result`, which replaces an earlier one of the same trial and seed; in a fixed order."""
    places = {trial.label: i for i, trial in enumerate(record.study.trials)}
    others = [r for r in record.results if (r.label, r.seed) != (result.label, result.seed)]
    ordered = sorted([*others, result], key=lambda r: (places[r.label], r.seed))
    return replace(record, results=tuple(ordered))
