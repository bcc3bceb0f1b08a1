"""The tables and the page of the study at a path."""

from __future__ import annotations

from pathlib import Path

from resnet_rs.studies import record as records
from resnet_rs.studies import speed, speed_report, summary


def is_study(path: Path) -> bool:
    """Whether `path` is the folder of a study, or a file of its results."""
    return path.suffix == ".jsonl" or any((path / name).is_file() for name in (records.RECORD, speed.RECORD))


def report(path: Path, *, out: Path | None = None) -> tuple[str, Path | None]:
    """The study's tables as Markdown, and the path of its page.

    The page is written to `out`, by default into the study's folder; for a single file only with `out`.
    """
    page = out or (path / summary.PAGE if path.is_dir() else None)
    if _is_speed(path):
        timed = speed.read(path)
        return speed_report.markdown(timed), None if page is None else speed_report.write_page(timed, page)
    found = records.read(path)
    written = (
        None if page is None else summary.write_page(found, page, has_folder=path.is_dir() and out is None)
    )
    return summary.markdown(found), written


def _is_speed(path: Path) -> bool:
    if path.is_dir():
        return (path / speed.RECORD).is_file()
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as lines:
        return '"study": "speed"' in lines.readline(10_000)
