"""The results of the study at a path: its table with verdicts, and its page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from resnet_rs import config, storage, zoo
from resnet_rs.paper import IMAGENET_IMAGES
from resnet_rs.report.blocks import Chart
from resnet_rs.report.comparison import Difference, Values, compare, mean_score
from resnet_rs.report.figures import curves_figure, dots_figure
from resnet_rs.report.study_page import Statement, StudyPage, render_study_page, statements_table
from resnet_rs.report.table import Row, Table, duration_text
from resnet_rs.studies import scaling, speed, training_methods
from resnet_rs.studies.claim import Claim, judge
from resnet_rs.studies.record import RECORD, Record, read
from resnet_rs.studies.study import Trial
from resnet_rs.training.experiment import Experiment

PAGE = "page.html"
_CLAIMS: dict[str, Callable[[Record], list[Claim]]] = {
    "training-methods": training_methods.additive_claims,
    "weight-decay": training_methods.decay_claims,
    "scaling": scaling.claims,
}
"""Study -> the paper's claims that it tests."""


def is_study(path: Path) -> bool:
    """Whether `path` is the folder of a study, or a file of its results."""
    return path.suffix == ".jsonl" or any((path / name).is_file() for name in (RECORD, speed.RECORD))


def report(path: Path, *, out: Path | None = None) -> tuple[str, Path | None]:
    """The study's tables as Markdown, and the path of its page.

    The page is written to `out`, by default into the study's folder; for a single file only with `out`.
    """
    page = out or (path / PAGE if path.is_dir() else None)
    if _is_speed(path):
        timed = speed.read(path)
        return speed.markdown(timed), page and speed.write_page(timed, page)
    found = read(path)
    return markdown(found), page and write_page(found, page, has_folder=path.is_dir() and out is None)


def _is_speed(path: Path) -> bool:
    if path.is_dir():
        return (path / speed.RECORD).is_file()
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as lines:
        return '"study": "speed"' in lines.readline(10_000)


def tabulate(record: Record, *, has_folder: bool = False) -> Table:
    """The trials with their scores, each compared with its baseline on the same samples and seeds.

    All comparisons of the table are corrected for their number. With `has_folder` the rows link to their runs.
    """
    differences = _differences(record)
    return Table(
        title=f"{record.study.title}: {describe_context(record)}",
        score=record.context.score,
        rows=tuple(
            _row(record, trial, differences.get(trial.label), has_folder=has_folder)
            for trial in record.study.trials
        ),
    )


def _differences(record: Record) -> dict[str, Difference]:
    """The difference of each trial from its baseline, over the seeds that both have."""
    pairs: dict[str, tuple[Values, Values]] = {}
    for trial in record.study.trials:
        if trial.baseline and (seeds := record.seeds(trial.label, trial.baseline)):
            pairs[trial.label] = record.values(trial.label, seeds), record.values(trial.baseline, seeds)
    found = dict(zip(pairs, compare(list(pairs.values())), strict=True))
    if record.context.score.is_share:
        return {label: difference.clipped(1.0) for label, difference in found.items()}
    return found


def _row(record: Record, trial: Trial, difference: Difference | None, *, has_folder: bool) -> Row:
    score, results = record.context.score, record.finished(trial.label)
    before = next((other.paper for other in record.study.trials if other.label == trial.baseline), None)
    minutes = [result.minutes for result in results if result.minutes is not None]
    values = record.values(trial.label) if results else None
    return Row(
        label=trial.label,
        edits=config.describe(trial.edits),
        score=None if values is None else mean_score(values, is_share=score.is_share),
        baseline=trial.baseline,
        difference=difference,
        verdict=None if difference is None else difference.verdict(is_higher_better=score.is_higher_better),
        paper=trial.paper,
        paper_difference=None if trial.paper is None or before is None else trial.paper - before,
        minutes=mean(minutes) if minutes else None,
        errors=tuple(
            f"seed {result.seed}: {result.error}"
            for result in record.results
            if result.label == trial.label and result.error is not None
        ),
        links=tuple(
            (f"seed {r.seed}", f"{trial.run_folder(r.seed)}/page.html") for r in results if has_folder
        ),
    )


def markdown(record: Record) -> str:
    """The table, and the findings about the paper's claims."""
    parts = [tabulate(record).markdown()]
    statements = _statements(record)
    if statements:
        parts.append(statements_table(statements, figure="figure (95 %, corrected)"))
    return "\n\n".join(parts)


def best(record: Record) -> tuple[str, dict[str, Any]] | None:
    """The trial of the best mean score, with the edits that lead to it from the experiment of the zoo."""
    means = {row.label: row.score.value for row in tabulate(record).rows if row.score is not None}
    if not means:
        return None
    choose = max if record.context.score.is_higher_better else min
    label = choose(means, key=means.__getitem__)
    base = config.from_plain(record.context.experiment, kinds=(Experiment,))
    edits = config.diff(zoo.experiment(record.context.base), record.study.experiments(base)[label])
    return label, {path: value for path, value in edits.items() if path != "task.num_classes"}  # the data's


def describe_context(record: Record) -> str:
    """Base and data in a line."""
    context = record.context
    edits = f" with {context.edits}" if context.edits else ""
    num_unscored = len(record.unscored())
    left_out = f", without {num_unscored:,} that a run could not read" if num_unscored else ""
    num_unread = max((result.num_unread for result in record.results), default=0)
    unreadable = f", without {num_unread:,} that could not be read" if num_unread else ""
    sizes = f"{context.num_train:,} to train{unreadable}, {context.num_test:,} to test{left_out}"
    return f"{context.base}{edits} on {context.data} ({sizes})"


def write_page(record: Record, path: Path, *, has_folder: bool) -> Path:
    """Write the page of a study to `path`."""
    table = tabulate(record, has_folder=has_folder)
    num_failed = sum(result.error is not None for result in record.results)
    num_seeds = len({result.seed for result in record.results})
    minutes = sum(result.minutes or 0.0 for result in record.results)
    comparable = (
        "" if record.context.num_train == IMAGENET_IMAGES else "; not comparable with the paper's ImageNet"
    )
    is_grid = record.study.name == "scaling" and bool(record.results)
    page = StudyPage(
        title=record.study.title,
        base=f"{describe_context(record)}{comparable}",
        headline={
            "runs": f"{len(record.results) - num_failed} of {len(record.study.trials) * max(1, num_seeds)}",
            **({"failed": str(num_failed)} if num_failed else {}),
            "seeds": str(num_seeds),
            "time of the runs": duration_text(minutes),
        },
        notes=record.study.notes,
        statements=_statements(record),
        tables=(replace(table, title="Trials"),),
        charts=(*_charts(record, table), *(scaling.charts(record) if is_grid else ())),
        environment=next((r.environment for r in record.results if r.environment), {}),
    )
    storage.write_text(path, render_study_page(page))
    return path


def _charts(record: Record, table: Table) -> tuple[Chart, ...]:
    label = record.context.score.label
    curves = {trial.label: _mean_curve(record, trial.label) for trial in record.study.trials}
    drawn = {name: curve for name, curve in curves.items() if curve}
    lines = curves_figure(drawn, x_title="epoch", y_title=f"test {label}")
    return (
        Chart(title=f"Test {label} with 95 % intervals over seeds and samples", figure=dots_figure(table)),
        Chart(title=f"Test {label} during training, mean over seeds", figure=lines),
    )


def _mean_curve(record: Record, label: str) -> list[tuple[float, float]]:
    curves = [result.curve for result in record.finished(label)]
    if not curves or len({len(curve) for curve in curves}) > 1:
        return []
    return [(points[0][0], mean(score for _, score in points)) for points in zip(*curves, strict=True)]


def _statements(record: Record) -> tuple[Statement, ...]:
    find = _CLAIMS.get(record.study.name)
    statements = () if find is None else judge(find(record), record.context.score)
    if record.study.name == "scaling":
        statements = (*statements, scaling.fewer_macs_can_be_better(record))
    return statements
