"""Verbs that compare: study, bench, recommend."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_rs.cli.app import EXIT_STOPPED, app
from resnet_rs.cli.options import AsJson, DeviceName, Edits, MicroBatch, PrecisionName, Workers
from resnet_rs.cli.output import say, say_json

if TYPE_CHECKING:
    from resnet_rs.deploy.bench import Timing
    from resnet_rs.jobs import Runner
    from resnet_rs.processes import Stop
    from resnet_rs.studies.conduct import Plan
    from resnet_rs.studies.planning import Forecast
    from resnet_rs.studies.record import Result

EXIT_FAILED = 1
"""Some trials of a study, or some measurements, have failed; their errors are in the table."""


@app.command()
def study(
    name: Annotated[
        str, typer.Argument(help="A study, a .yaml file of your own, or `list`, which shows all.")
    ],
    edits: Edits = None,
    *,
    base: Annotated[str | None, typer.Option(help="An experiment of the zoo that the trials edit.")] = None,
    data: Annotated[str | None, typer.Option(help="`builtin`, or a folder, as for `train`.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; the same command continues it.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each trial, with the seeds 0, 1, ...")] = 1,
    jobs: Annotated[
        str | None,
        typer.Option(
            help="local:N for N processes at once, ray or ray://HOST:PORT; by default one by one here."
        ),
    ] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Adapt the base's recipe to the data first.")] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Time for the whole study: the costliest trials are left out.")
    ] = None,
    max_macs: Annotated[
        float | None, typer.Option(help="Leave out trials of more multiply-adds for a picture, such as 1e9.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the trials and about how long they take; run nothing.")
    ] = False,
    micro_batch: MicroBatch = None,
    workers: Workers = 0,
    device: DeviceName = None,
) -> None:
    """Run a study of the paper on any base and data, or go on with it; finished trials are never run again.

    A trial that fails is a row with its error (exit code 1 at the end). A signal saves and leaves with exit code 75.
    """
    from resnet_rs import jobs as places
    from resnet_rs.config import parse_assignments
    from resnet_rs.studies import catalog, planning

    if name == "speed":
        given = {"--base": base, "--data": data, "--jobs": jobs, "--minutes": minutes, "--max-macs": max_macs}
        given |= {"--micro-batch": micro_batch, "--fit": fit or None, "--workers": workers or None}
        given |= {"--seeds": seeds if seeds > 1 else None, "--dry-run": dry_run or None}
        _refuse_given(given)
        _measure(edits or [], out=out, device=device)
        return
    if name == "list":
        for label, line in planning.outline().items():
            say(f"{label:<18} {line}")
        return
    catalog.refuse_unknown(name)
    if base is None or data is None or (out is None and not dry_run):
        raise ValueError(f"study {name!r} needs --base EXPERIMENT, --data DATA and --out FOLDER.")
    runner = places.parse(jobs)
    request = planning.Request(
        study=name,
        base=base,
        edits=parse_assignments(edits or []),
        data=data,
        num_seeds=seeds,
        is_fitted=fit,
        minutes=minutes,
        max_macs=max_macs,
        device=device,
        micro_batch=micro_batch,
        workers=workers,
    )
    if out is None or dry_run:
        _foresee(planning.forecast(request), seeds=seeds)
        return
    _conduct(planning.plan(request, folder=out), out, runner)


def _foresee(forecasts: list[Forecast], *, seeds: int) -> None:
    """A line for each trial, and the time of all."""
    from resnet_rs.config import describe

    for trial in forecasts:
        cost = f"{trial.macs / 1e6:,.3g} million multiply-adds, {trial.updates:,} updates, {trial.minutes:.2g} min"
        say(f"{trial.label}: {cost}; {describe(trial.edits) or 'the base itself'}")
    total = seeds * sum(trial.minutes for trial in forecasts)
    say(f"{len(forecasts)} trials, {seeds} seeds: about {total:,.3g} min one after the other, scoring aside")


def _refuse_given(options: Mapping[str, object]) -> None:
    """The study of speed has no base, data or runs, and so none of the options that are about them."""
    odd = next((name for name, value in options.items() if value is not None), None)
    if odd is not None:
        raise ValueError(
            f"study 'speed' has no {odd}: it measures published networks on noise. Its settings are such as "
            "protocol.batch_size=4; protocol.max_seconds=20 bounds each network."
        )


def _measure(edits: list[str], *, out: Path | None, device: str | None) -> None:
    """The study of speed: it has no base and no data, only a protocol."""
    from resnet_rs.config import edit, parse_assignments
    from resnet_rs.deploy.bench import Protocol
    from resnet_rs.processes import listening
    from resnet_rs.studies import reports, speed

    if out is None:
        raise ValueError("study 'speed' needs --out FOLDER.")
    typed = parse_assignments(edits)
    odd = [path for path in typed if not path.startswith("protocol.") or path == "protocol.mode"]
    if odd:
        raise ValueError(
            f"study 'speed' measures both modes, with settings such as protocol.batch_size=4; got {odd[0]}."
        )
    chosen = {path.removeprefix("protocol."): value for path, value in typed.items()}
    protocol = edit(Protocol(batch_size=4, num_repeats=5, device=device), chosen)
    networks = speed.networks()
    say(f"{speed.TITLE}: {len(networks)} networks")
    failed = 0
    with listening() as stop:
        for timing in speed.conduct(out, protocol, networks, stop=stop):
            failed += timing.error is not None
            say(_timed(timing))
    text, page = reports.report(out)
    for line in text.splitlines():
        say(line)
    say(f"page: {page}")
    _leave(stop, f"{failed} measurements" if failed else "")


@app.command()
def reproduce(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Published weights; by default all eleven."),
    ] = None,
    *,
    data: Annotated[str, typer.Option(help="ImageNet: a folder with its pictures for validation.")],
    out: Annotated[Path, typer.Option(help="Folder of the scores; the same command continues it.")],
    workers: Workers = 0,
    device: DeviceName = None,
) -> None:
    """Score published weights by their authors' protocol and by timm's, beside what was published."""
    from resnet_rs.cli.machine import machine as chosen_machine
    from resnet_rs.studies import reproduction

    scores: list[reproduction.Score] = []
    with chosen_machine(device, workers=workers) as machine:
        for score in reproduction.reproduce(names or [], data=data, out=out, machine=machine):
            say(
                f"{score.name} by {score.protocol}: {score.top1:.4f} of {score.count:,} pictures",
                is_error=True,
            )
            scores.append(score)
    if not machine.ranks.is_first:
        return
    for line in reproduction.table(scores).splitlines():
        say(line)


@app.command()
def bench(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Experiments of the zoo.")],
    *,
    is_training: Annotated[
        bool, typer.Option("--train/--infer", help="A training step, or inference.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 8,
    size: Annotated[int | None, typer.Option(help="Pixels per side; by default each network's own.")] = None,
    repeats: Annotated[int, typer.Option(min=2, help="In each round.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that the networks take.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the processor; by default torch's choice.")
    ] = None,
    device: DeviceName = None,
    precision: PrecisionName = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency, throughput and peak memory here, each network in a process of its own."""
    from resnet_rs import verbs
    from resnet_rs.deploy.bench import Protocol, bench

    edits = {} if size is None else {"data.size": size}
    experiments = {name: verbs.experiment(name, edits) for name in names}
    protocol = Protocol(
        mode="train" if is_training else "infer",
        batch_size=batch,
        num_repeats=repeats,
        num_rounds=rounds,
        num_threads=threads,
        device=device,
        precision=precision,
    )
    timings: list[Timing] = []
    for timing in bench(experiments, protocol):
        timings.append(timing)
        if not as_json:
            say(_timed(timing))
    if as_json:
        say_json([asdict(timing) for timing in timings])
    if any(timing.error is not None for timing in timings):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def recommend(
    *,
    data: Annotated[str | None, typer.Option(help="`builtin`, or a folder, as for `train`.")] = None,
    images: Annotated[int | None, typer.Option(help="Training pictures, where there is no data yet.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over them; or give --minutes.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time for the whole training, here.")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Most time for a picture in use, here.")] = None,
    memory_gib: Annotated[float | None, typer.Option(help="Most memory of a training step, here.")] = None,
    device: DeviceName = None,
    as_json: AsJson = False,
) -> None:
    """Name the configuration for your data and limits by the paper's rules and this machine's measurements."""
    from resnet_rs.config import as_typed
    from resnet_rs.studies import recommend as recommending

    wish = recommending.wish_for(
        data,
        num_images=images,
        epochs=epochs,
        minutes=minutes,
        latency_ms=latency_ms,
        memory_gib=memory_gib,
        device=device,
    )
    say("measuring networks on this machine; this takes a minute or two", is_error=True)
    advice = recommending.recommend(wish)
    if as_json:
        say_json(recommending.to_plain(advice))
        return
    for reason in advice.reasons:
        say(reason)
    for name, candidate in (
        ("smaller", advice.smaller),
        ("chosen", advice.chosen),
        ("larger", advice.larger),
    ):
        if candidate is not None:
            say(f"{name}: {recommending.outline(candidate)}")
    edits = " ".join(shlex.quote(f"{path}={as_typed(value)}") for path, value in advice.chosen.edits.items())
    say(
        f"resnet-rs train {recommending.BASE} --data {shlex.quote(data or 'DATA')} --out runs/recommended {edits}"
    )


def _timed(timing: Timing) -> str:
    head = f"{timing.name:<24} {timing.size:>4} px  batch {timing.batch_size} {timing.mode}"
    if timing.error is not None:
        return f"{head}  failed: {timing.error}"
    memory = "" if timing.peak_memory_mib is None else f"  {timing.peak_memory_mib:>7,.0f} MiB"
    spread = f"{timing.latency_ms_p10:,.1f} to {timing.latency_ms_p90:,.1f}"
    return (
        f"{head}  {timing.latency_ms:>9,.1f} ms ({spread})  {timing.images_per_second:>8,.1f} pictures/s{memory}"
        f"  {timing.num_repeats} repeats, {timing.num_threads} threads, {timing.precision}"
    )


def _conduct(plan: Plan, folder: Path, runner: Runner) -> None:
    """Run the plan, a line for each result; then its table and its page."""
    from resnet_rs.config import as_typed
    from resnet_rs.processes import listening
    from resnet_rs.studies import conduct, record, summary

    total, results = len(plan.study.trials) * len(plan.seeds), 0
    say(f"{plan.study.title}: {len(plan.study.trials)} trials, {len(plan.seeds)} seeds, {total} runs")
    for note in plan.study.notes:
        say(f"note: {note}")
    earlier = record.read(folder).results if (folder / record.RECORD).is_file() else ()
    with listening() as stop:
        failed = 0
        for result in conduct.conduct(plan, folder, runner, stop=stop):
            results += 1
            failed += result.error is not None
            when = " (done before)" if result.error is None and result in earlier else ""
            say(f"{results:>4} of {total}  {_described(result)}{when}")
    found = record.read(folder)
    path = summary.write_page(found, folder / summary.PAGE, has_folder=True)
    for line in summary.markdown(found).splitlines():
        say(line)
    say(f"page: {path}")
    best = summary.best(found)
    if best is not None and not stop.is_requested:
        label, edits = best
        typed = " ".join(shlex.quote(f"{path}={as_typed(value)}") for path, value in edits.items())
        say(
            f"highest top-1: {label}; chosen by these test pictures, so a little less is to be expected of others"
        )
        say(
            f"resnet-rs train {plan.setting.base} --data {shlex.quote(plan.data)} --out runs/best {typed}".strip()
        )
    _leave(stop, f"{failed} of {total} runs" if failed else "")


def _leave(stop: Stop, failed: str) -> None:
    """End with the exit code of a study that was stopped, or of which something has failed."""
    if stop.is_requested:
        say(f"stopped by {stop.reason}; the same command continues.", is_error=True)
        raise typer.Exit(EXIT_STOPPED)
    if failed:
        say(f"{failed} failed; the same command tries them again.", is_error=True)
        raise typer.Exit(EXIT_FAILED)


def _described(result: Result) -> str:
    if result.error is not None:
        return f"{result.label}, seed {result.seed}: failed: {result.error}"
    return f"{result.label}, seed {result.seed}: top-1 {result.top1:.4f} in {result.minutes:.1f} min"
