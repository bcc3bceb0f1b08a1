"""The page of a study: what stands in it, what must not, and its figures."""

import json
import math
import re

import pytest
from plotly.offline import get_plotlyjs

from resnet_rs.report.blocks import Chart
from resnet_rs.report.comparison import Difference, Mean, Verdict
from resnet_rs.report.figures import Point, curves_figure, dots_figure, line, points_figure
from resnet_rs.report.score import ScoreName
from resnet_rs.report.study_page import Statement, StudyPage, render_study_page
from resnet_rs.report.table import Row, Table, duration_text, p_text
from resnet_rs.text import macs_text

EVIL = "</script><script>alert('evil')</script>"
SCORE = ScoreName(key="top1", label="top-1")
MEAN = Mean(value=0.805, low=0.79, high=0.82, standard_deviation=0.01, num_seeds=3)
STEP = Difference(value=0.02, low=0.01, high=0.03, p_value=0.002, num_seeds=3)
ROWS = (
    Row(label="plain", edits="", score=MEAN, paper=79.0),
    Row(
        label="+ dropout",
        edits="task.dropout=0.25",
        score=MEAN,
        baseline="plain",
        difference=STEP,
        verdict=Verdict.BETTER,
        paper=80.4,
        paper_difference=1.4,
        minutes=3.25,
        links=(("seed 0", "trials/dropout/seed-0/page.html"),),
    ),
    Row(label="failed", edits="", score=None, errors=(f"seed 0: {EVIL}",)),
    Row(label=EVIL, edits=EVIL, score=MEAN, verdict=Verdict.NOT_SIGNIFICANT),
)
TABLE = Table(title="Trials", score=SCORE, rows=ROWS)


def page(**changes):
    fields = {
        "title": "Training methods",
        "base": "resnet-rs-tiny on my photos; not comparable with the paper's ImageNet",
        "headline": {"runs": "3 of 4"},
        "notes": ["made by hand"],
        "statements": [Statement(claim="methods add up", finding="seen", figure="+2.00 points")],
        "tables": [TABLE],
        "charts": [Chart(title="Top-1", figure=dots_figure(TABLE), note="with intervals")],
        "environment": {"torch": "2"},
    }
    return render_study_page(StudyPage(**{**fields, **changes}))


def test_title_and_heading_carry_base_and_data():
    text = page()
    title = re.search(r"<title>(.*?)</title>", text).group(1)
    assert "Training methods" in title and "resnet-rs-tiny on my photos; not comparable" in title
    assert "resnet-rs-tiny on my photos" in text.partition("</header>")[0].partition("<h1>")[2]


def test_what_stands_in_a_row_is_shown():
    text = page()
    assert "80.50" in text and "79.00 to 82.00" in text
    assert "+2.00" in text and "0.002" in text and "3.25 min" in text
    assert 'href="trials/dropout/seed-0/page.html"' in text
    assert '<td class="number paper">80.4</td>' in text and "+1.4" in text


def test_a_verdict_that_is_none_has_not_the_color_of_one():
    text = page()
    assert '<td class="finding better">better</td>' in text
    assert '<td class="finding not-significant">not significant</td>' in text


def test_what_others_wrote_is_escaped_everywhere():
    text = page()
    assert "alert('evil')</script>" not in text and "<script>alert" not in text
    assert "seed 0: &lt;/script&gt;" in text


def test_nothing_is_fetched():
    text = page().replace(get_plotlyjs(), "")
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|@import|url\(|\bfetch\(|XMLHttpRequest|import\(", text)


def test_empty_parts_and_empty_columns_are_left_out():
    rows = (Row(label="only", edits="", score=MEAN),)
    text = page(
        headline={},
        notes=[],
        statements=[],
        charts=[],
        environment={},
        tables=[Table(title="T", score=SCORE, rows=rows)],
    )
    for absent in (
        "<h2>Figures",
        "Claims of the paper",
        "Environment",
        "<h2>Notes",
        "baseline</th>",
        "paper: top-1, %",
    ):
        assert absent not in text
    assert len(text) < 50_000, "without figures their library is left out"


def test_dots_carry_their_intervals_in_the_order_of_the_rows():
    figure = dots_figure(TABLE)
    (trace,) = figure["data"]
    assert len(trace["x"]) == 3 and trace["x"][0] == pytest.approx(80.5)
    assert trace["error_x"]["array"][0] == pytest.approx(1.5)
    assert trace["error_x"]["arrayminus"][0] == pytest.approx(1.5)
    assert trace["customdata"][0] == "79.00 to 82.00, 3 seeds"
    assert figure["layout"]["yaxis"]["autorange"] == "reversed"
    assert "<" not in trace["y"][2]
    assert dots_figure(Table(title="", score=SCORE, rows=(ROWS[2],)))["data"] == []


def test_a_curve_for_each_trial():
    figure = curves_figure(
        {"a": [(1.0, 0.5), (2.0, 0.6)], EVIL: [(1.0, 0.4)]}, x_title="epoch", y_title="top-1"
    )
    assert [trace["x"] for trace in figure["data"]] == [[1.0, 2.0], [1.0]]
    assert "<script>" not in json.dumps(figure)
    assert curves_figure({}, x_title="", y_title="")["data"] == []


def test_points_stand_in_groups_on_the_axes_they_were_given():
    dots = [
        Point(label="one", x=10.0, y=5.0, low=4.0, high=7.0, group="a"),
        Point(label="two", x=100.0, y=3.0, group="b"),
    ]
    law = line([(10.0, 5.0), (100.0, 3.0)], name="law", dash="dash")
    figure = points_figure(dots, x_title="cost", y_title="error", log="x", lines=[law])
    drawn, first, second = figure["data"]
    assert drawn["line"]["dash"] == "dash" and drawn["x"] == [10.0, 100.0]
    assert (first["text"], first["error_y"]["array"], first["error_y"]["arrayminus"]) == (
        ["one"],
        [2.0],
        [1.0],
    )
    assert "error_y" not in second
    assert figure["layout"]["xaxis"]["type"] == "log" and "type" not in figure["layout"]["yaxis"]
    assert points_figure([], x_title="", y_title="", log="xy")["data"] == []


def test_a_table_in_markdown_keeps_ours_and_the_papers_apart():
    lines = TABLE.markdown().splitlines()
    cells = [cell.strip() for cell in lines[5].split("|")[1:-1]]
    assert cells == [
        "+ dropout",
        "80.50 (79.00 to 82.00)",
        "3",
        "1.00",
        "plain",
        "+2.00 (+1.00 to +3.00)",
        "0.002",
        "better",
        "80.4",
        "+1.4",
    ]


def test_columns_without_anything_in_them_are_left_out_of_markdown():
    alone = Table(title="t", score=SCORE, rows=(Row(label="a", edits="", score=None),))
    assert alone.markdown().splitlines()[2] == "|  | top-1, % (95 %) | seeds |"


def test_what_is_not_known_is_an_empty_cell():
    assert SCORE.cell(None) == SCORE.text(None) == ""
    assert p_text(0.0001) == "< 0.001"


def test_units_fit_the_value():
    assert [duration_text(minutes) for minutes in (0.004, 0.5, 3.25, 120.0, 180.0)] == [
        "0.24 s",
        "30 s",
        "3.25 min",
        "120 min",
        "3 h",
    ]
    assert [macs_text(macs) for macs in (3_200_000, 2_284_000_000)] == [
        "3.2 million multiply-adds",
        "2.28 billion multiply-adds",
    ]


def test_a_score_that_is_no_share_has_neither_percent_nor_points():
    error = ScoreName(key="rmse", label="error, m", is_share=False, is_higher_better=False)
    assert (error.cell(1.2345), error.change(0.5)) == ("1.234", "+0.5")
    unknown = Mean(value=1.2, low=-math.inf, high=math.inf, standard_deviation=None, num_seeds=1)
    table = Table(title="t", score=error, rows=(Row(label="a", edits="", score=unknown),))
    assert "| a | 1.2 (unknown) | 1 |" in table.markdown()
    assert json.dumps(dots_figure(table), allow_nan=False)
