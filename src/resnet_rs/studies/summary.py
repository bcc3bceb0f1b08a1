"""From a record to what may be said: the table with its verdicts, and the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from jaxtyping import Bool

from resnet_rs import config, storage, zoo
from resnet_rs.paper import IMAGENET_IMAGES
from resnet_rs.report.comparison import holm, mean_of_hits, paired_differences, verdict
from resnet_rs.report.study_figures import curves_figure, dots_figure
from resnet_rs.report.study_page import Chart, Statement, StudyPage, render_study_page
from resnet_rs.report.table import Link, Row, Table, markdown_table
from resnet_rs.studies import methods_report, scaling_report
from resnet_rs.studies.claim import Claim, judge
from resnet_rs.studies.record import Record
from resnet_rs.studies.study import Trial
from resnet_rs.training.experiment import Experiment

PAGE = "page.html"
_NOT_COMPARABLE = "; not comparable with the paper's ImageNet"

_CLAIMS: dict[str, Callable[[Record], list[Claim]]] = {
    "training-methods": methods_report.additive_claims,
    "weight-decay": methods_report.decay_claims,
    "scaling": scaling_report.claims,
}
"""Study -> the paper's claims that it puts to the test."""

Hits = Bool[np.ndarray, "S N"]


def tabulate(record: Record, *, has_folder: bool = False) -> Table:
    """The trials with their scores, each compared with the one it names on the same pictures and seeds.

    All comparisons of the table are corrected for each other (Holm). With `has_folder` the rows lead to their runs.
    """
    pairs = {trial.label: pair for trial in record.study.trials for pair in _pair(record, trial)}
    compared = dict(zip(pairs, paired_differences(list(pairs.values())), strict=True))
    adjusted = dict(zip(compared, holm([found.p for found in compared.values()]), strict=True))
    papers = {trial.label: trial.paper for trial in record.study.trials}
    rows: list[Row] = []
    for trial in record.study.trials:
        results = record.of(trial.label)
        found, p = compared.get(trial.label), adjusted.get(trial.label)
        before = papers.get(trial.versus) if trial.versus is not None else None
        minutes = [result.minutes for result in results if result.minutes is not None]
        rows.append(
            Row(
                label=trial.label,
                edits=config.describe(trial.edits),
                top1=mean_of_hits(record.hits(trial.label, record.seeds(trial.label))) if results else None,
                versus=trial.versus,
                difference=found,
                adjusted_p=p,
                verdict=verdict(found.value, p) if found is not None and p is not None else None,
                paper=trial.paper,
                paper_difference=trial.paper - before
                if trial.paper is not None and before is not None
                else None,
                minutes=mean(minutes) if minutes else None,
                errors=tuple(
                    f"seed {result.seed}: {result.error}"
                    for result in record.results
                    if result.label == trial.label and result.error is not None
                ),
                links=tuple(_link(trial, result.seed) for result in results) if has_folder else (),
            )
        )
    return Table(title=f"{record.study.title}: {describe_setting(record)}", rows=tuple(rows))


def markdown(record: Record) -> str:
    """The table, and what may be said of the paper's claims."""
    parts = [tabulate(record).markdown()]
    statements = [(s.claim, s.finding, s.figure) for s in _statements(record)]
    if statements:
        parts.append(markdown_table(("claim", "finding", "figure"), statements))
    return "\n\n".join(parts)


def best(record: Record) -> tuple[str, dict[str, Any]] | None:
    """The trial of the highest mean top-1, with the edits that lead to it from the experiment of the zoo."""
    rows = [(row.top1.value, row.label) for row in tabulate(record).rows if row.top1 is not None]
    if not rows:
        return None
    label = max(rows, key=lambda row: row[0])[1]
    base = config.from_plain(record.setting.experiment, kinds=(Experiment,))
    edits = config.diff(zoo.experiment(record.setting.base), record.study.of(base)[label])
    return label, {path: value for path, value in edits.items() if path != "task.num_classes"}  # the data's


def describe_setting(record: Record) -> str:
    """Base and data in a line."""
    setting = record.setting
    data = "the built-in pictures" if setting.data == "builtin" else setting.data
    edits = f" with {setting.edits}" if setting.edits else ""
    lost = len(record.unscored())
    left_out = f", of which {lost:,} are left out since some run could not read them" if lost else ""
    unread = max((result.num_unread for result in record.results), default=0)
    unreadable = f", of which {unread:,} could not be read" if unread else ""
    sizes = f"{setting.num_train:,} to train{unreadable}, {setting.num_test:,} to test{left_out}"
    return f"{setting.base}{edits} on {data} ({sizes})"


def write_page(record: Record, path: Path, *, has_folder: bool) -> Path:
    """Write the page of a study to `path`."""
    table = tabulate(record, has_folder=has_folder)
    done, failed = (
        sum(r.error is None for r in record.results),
        sum(r.error is not None for r in record.results),
    )
    seeds = sorted({result.seed for result in record.results})
    minutes = sum(result.minutes or 0.0 for result in record.results)
    is_imagenet = record.setting.num_train == IMAGENET_IMAGES
    is_grid = record.study.name == "scaling" and bool(record.results)
    page = StudyPage(
        title=record.study.title,
        base=f"{describe_setting(record)}{'' if is_imagenet else _NOT_COMPARABLE}",
        headline={
            "runs": f"{done} of {len(record.study.trials) * max(1, len(seeds))}",
            **({"failed": str(failed)} if failed else {}),
            "seeds": str(len(seeds)),
            "time of the runs": f"{minutes:,.0f} min",
        },
        notes=record.study.notes,
        statements=_statements(record),
        tables=(replace(table, title="Trials"),),
        charts=(*_charts(record, table), *(scaling_report.charts(record) if is_grid else ())),
        environment=next((r.environment for r in record.results if r.environment), {}),
    )
    storage.write_text(path, render_study_page(page))
    return path


def _charts(record: Record, table: Table) -> tuple[Chart, ...]:
    dots = dots_figure(table)
    curves = {trial.label: _mean_curve(record, trial.label) for trial in record.study.trials}
    lines = curves_figure(
        {label: curve for label, curve in curves.items() if curve}, x_title="epoch", y_title="test top-1"
    )
    found = {
        "Top-1 with 95 % intervals over seeds and pictures": dots,
        "Test top-1 during training, mean over seeds": lines,
    }
    return tuple(Chart(title=title, figure=figure) for title, figure in found.items() if figure is not None)


def _mean_curve(record: Record, label: str) -> list[tuple[float, float]]:
    curves = [result.curve for result in record.of(label)]
    if not curves or len({len(curve) for curve in curves}) > 1:
        return []
    return [(points[0][0], mean(top1 for _, top1 in points)) for points in zip(*curves, strict=True)]


def _pair(record: Record, trial: Trial) -> Iterator[tuple[Hits, Hits]]:
    """The hits of a trial and of the one it is compared with, over the seeds that both have; nothing without them."""
    if trial.versus is None:
        return
    seeds = record.seeds(trial.label, trial.versus)
    if seeds:
        yield record.hits(trial.label, seeds), record.hits(trial.versus, seeds)


def _link(trial: Trial, seed: int) -> Link:
    return Link(text=f"seed {seed}", href=f"trials/{trial.folder_name}/seed-{seed}/page.html")


def _statements(record: Record) -> tuple[Statement, ...]:
    statements = judge(_CLAIMS.get(record.study.name, _no_claims)(record))
    if record.study.name == "scaling":
        statements = (*statements, *scaling_report.flops_mislead(record))
    return statements


def _no_claims(record: Record) -> list[Claim]:
    return []
