"""Commands that compare: study, reproduce, bench."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from resnet_rs.cli.app import EXIT_PARTLY, app, exit_unfinished
from resnet_rs.cli.options import AsJson, DeviceName, MicroBatch, PrecisionName, Workers, edits_argument
from resnet_rs.cli.output import say, say_json, say_lines, say_report, train_command
from resnet_rs.cli.ranks import with_ranks
from resnet_rs.config import describe, edit, parse_assignments
from resnet_rs.text import macs_text

if TYPE_CHECKING:
    from resnet_rs.deploy.bench import Timing
    from resnet_rs.jobs import Runner
    from resnet_rs.studies.planning import Options, ResolvedStudy
    from resnet_rs.studies.record import Result


class _StudyGroup(TyperGroup):
    """`study NAME` is short for `study run NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["run", *args])


study = typer.Typer(
    cls=_StudyGroup,
    help="Run a study of the paper, or your own.\n\nUse `study list`, `study NAME`, `study speed`.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"ignore_unknown_options": True},  # options may stand before NAME
)
app.add_typer(study, name="study")

_OUT = "Folder of the study; the same command continues it."


@study.command("list")
def study_list() -> None:
    """List the studies."""
    from resnet_rs.studies import catalog

    say_lines(f"{label:<18} {line}" for label, line in catalog.OUTLINE.items())


@study.command("run")
def study_run(
    name: Annotated[
        str, typer.Argument(metavar="STUDY", help="A name of `study list`, or a .yaml file of your own.")
    ],
    edits: Annotated[
        list[str] | None,
        edits_argument("Changes to the base, such as recipe.epochs=100, and settings of the study."),
    ] = None,
    *,
    base: Annotated[str | None, typer.Option(help="An experiment of the zoo that the trials edit.")] = None,
    data: Annotated[str | None, typer.Option(help="`builtin`, or a folder, as for `train`.")] = None,
    out: Annotated[Path | None, typer.Option(help=_OUT)] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each trial, with the seeds 0, 1, ...")] = 1,
    jobs: Annotated[
        str | None,
        typer.Option(
            help="local:N for N processes at once, ray or ray://HOST:PORT; default: one run at a time."
        ),
    ] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Adapt the base's recipe to the data first.")] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Time for the whole study: the costliest trials are left out.")
    ] = None,
    max_macs: Annotated[
        float | None, typer.Option(help="Leave out trials of more multiply-adds per image, such as 1e9.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the trials and how long they take; run nothing.")
    ] = False,
    micro_batch: MicroBatch = None,
    workers: Annotated[
        int, typer.Option(help="Processes of each trial that read images; a core is reserved for each.")
    ] = 0,
    device: DeviceName = None,
) -> None:
    """Run or continue a study on any base and data.

    `study NAME` is short for `study run NAME`. A failed trial is a row with its error, and the exit code is then 1. A
    signal saves and exits with code 75.
    """
    from resnet_rs import jobs as places
    from resnet_rs.studies import catalog, planning

    catalog.refuse_unknown(name)
    if base is None or data is None or (out is None and not dry_run):
        raise ValueError(f"study {name!r} needs --base EXPERIMENT, --data DATA and --out FOLDER.")
    runner = places.parse(jobs)
    options = planning.Options(
        study=name,
        base=base,
        edits=parse_assignments(edits or []),
        data=data,
        num_seeds=seeds,
        is_adapted=fit,
        minutes=minutes,
        max_macs=max_macs,
        device=device,
        micro_batch=micro_batch,
        workers=workers,
    )
    if out is None or dry_run:
        _show_forecast(options)
        return
    _run(planning.resolve(options, folder=out), out, runner)


@study.command("speed")
def study_speed(
    edits: Annotated[
        list[str] | None,
        edits_argument("Settings of the measurement, such as protocol.batch_size=4 protocol.num_repeats=5."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help=_OUT)],
    device: DeviceName = None,
) -> None:
    """Measure latency and memory of all published networks.

    The images are noise.
    """
    from resnet_rs.deploy.bench import Protocol, surroundings
    from resnet_rs.processes import listening
    from resnet_rs.studies import speed

    typed = parse_assignments(edits or [])
    unexpected = [path for path in typed if not path.startswith("protocol.") or path == "protocol.mode"]
    if unexpected:
        raise ValueError(
            f"study 'speed' has settings such as protocol.batch_size=4 and measures both modes; got {unexpected[0]}."
        )
    chosen = {path.removeprefix("protocol."): value for path, value in typed.items()}
    protocol = edit(Protocol(batch_size=4, num_repeats=5, device=device), chosen)
    surroundings(protocol)  # refuses a device that is not there, before anything is written
    networks = speed.networks()
    say(f"{speed.TITLE}: {len(networks)} networks")
    failed = 0
    with listening() as stop:
        for timing in speed.measure(out, protocol, networks, stop=stop):
            failed += timing.error is not None
            say(_timed(timing))
    say_report(out)
    exit_unfinished(stop, f"{failed} measurements" if failed else "")


@app.command()
def reproduce(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Published weights; by default all eleven."),
    ] = None,
    *,
    data: Annotated[str, typer.Option(help="The validation images of ImageNet, as a folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the scores; the same command continues it.")],
    workers: Workers = None,
    device: DeviceName = None,
) -> None:
    """Compare the scores of published weights with the paper.

    Each is scored by its authors' protocol and by timm's, and stands beside the published accuracy.
    """
    from resnet_rs import verbs
    from resnet_rs.studies import reproduction

    scores: list[reproduction.Score] = []
    with with_ranks(verbs.Machine(device=verbs.Device.choose(device), workers=workers)) as machine:
        for score in reproduction.reproduce(names or [], data=data, out=out, machine=machine):
            number = score.numbers[0]
            shown = f"{number.name.label} {number.name.text(number.value)} of {score.count:,} images"
            say(f"{score.name} by {score.protocol}: {shown}", is_error=True)
            scores.append(score)
    say_lines(reproduction.table(scores).splitlines())


@app.command()
def bench(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Experiments of the zoo.")],
    *,
    is_training: Annotated[
        bool, typer.Option("--train/--infer", help="A training step or inference.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    size: Annotated[int | None, typer.Option(help="Pixels per side; by default each network's own.")] = None,
    repeats: Annotated[int, typer.Option(min=2, help="Repeats in each round.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds over all networks.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default torch's.")] = None,
    device: DeviceName = None,
    precision: PrecisionName = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency and memory of networks on this machine.

    Each network is measured in its own process. The output also has the throughput.
    """
    from resnet_rs import zoo
    from resnet_rs.deploy.bench import Protocol, bench

    edits = {} if size is None else {"data.size": size}
    experiments = {name: zoo.experiment(name, edits) for name in names}
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
        raise typer.Exit(EXIT_PARTLY)


def _timed(timing: Timing) -> str:
    head = f"{timing.name:<24} {timing.size:>4} px  batch {timing.batch_size} {timing.mode}"
    if timing.error is not None:
        return f"{head}  failed: {timing.error}"
    memory = "" if timing.peak_memory_mib is None else f"  {timing.peak_memory_mib:>7,.0f} MiB"
    interval = f"{timing.latency_ms_p10:,.1f} to {timing.latency_ms_p90:,.1f}"
    return (
        f"{head}  {timing.latency_ms:>9,.1f} ms ({interval})  {timing.images_per_second:>8,.1f} images/s{memory}"
        f"  {timing.num_repeats} repeats, {timing.num_threads} threads, {timing.precision}"
    )


def _show_forecast(options: Options) -> None:
    """A line for each trial, the trials that are left out, and the time of all."""
    from resnet_rs.report.table import duration_text
    from resnet_rs.studies import planning

    resolved, costs = planning.forecast(options)
    trials, left_out = resolved.study.trials, resolved.context.left_out
    for trial in trials:
        cost = costs[trial.label]
        needs = f"{macs_text(cost.macs)}, {cost.updates:,} updates, {duration_text(cost.minutes)}"
        say(f"{trial.label}: {needs}; {describe(trial.edits) or 'the base itself'}")
    if left_out:
        say(f"left out, beyond {options.limits}: {len(left_out)} of {len(costs)} trials")
        say_lines(f"  {label}" for label in left_out)
    minutes = options.num_seeds * sum(costs[trial.label].minutes for trial in trials)
    say(
        f"{len(trials)} trials, {options.num_seeds} seeds: about {duration_text(minutes)} one after the other, without "
        "evaluation"
    )


def _run(resolved: ResolvedStudy, folder: Path, runner: Runner) -> None:
    """Run the study with a line for each result, then print its table and write its page."""
    from resnet_rs.processes import listening
    from resnet_rs.studies import record, summary
    from resnet_rs.studies.run import run

    num_trials, num_seeds, failed = len(resolved.study.trials), len(resolved.seeds), 0
    total = num_trials * num_seeds
    say(f"{resolved.study.title}: {num_trials} trials, {num_seeds} seeds, {total} runs")
    say_lines(f"note: {note}" for note in resolved.study.notes)
    earlier = record.read(folder).results if (folder / record.RECORD).is_file() else ()
    with listening() as stop:
        for count, result in enumerate(run(resolved, folder, runner, stop=stop), start=1):
            failed += result.error is not None
            when = " (done before)" if result.error is None and result in earlier else ""
            say(f"{count:>4} of {total}  {_described(result, resolved)}{when}")
    say_report(folder)
    best = summary.best(record.read(folder))
    if best is not None and not stop.is_requested:
        label, edits = best
        score = resolved.context.score.label
        say(f"best {score}: {label}. These test images chose it, so expect slightly less on others.")
        say(train_command(resolved.options.base, edits, data=resolved.options.data, out="runs/best"))
    exit_unfinished(stop, f"{failed} of {total} runs" if failed else "")


def _described(result: Result, resolved: ResolvedStudy) -> str:
    from resnet_rs.report.table import duration_text

    if result.error is not None:
        return f"{result.label}, seed {result.seed}: failed: {result.error}"
    score = resolved.context.score
    time = "" if result.minutes is None else f" in {duration_text(result.minutes)}"
    return f"{result.label}, seed {result.seed}: {score.label} {score.text(result.score)}{time}"
