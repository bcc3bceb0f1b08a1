"""The page of a run: complete, self-contained, and safe whatever the data calls its classes and files."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from html.parser import HTMLParser
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs

from resnet_rs.report import figures
from resnet_rs.report.page import Edit, Mistake, RunPage, render_run_page
from resnet_rs.report.statistics import reliability_bins, wilson_interval

HOSTILE = "<script>alert(1)</script>"
HEADLINE = {
    "top-1": "78.4% (76.1% to 80.5%)",
    "calibration error": "0.031 (0.024 to 0.041)",
    "pictures scored": "1,980 of 2,000",
    "time": "12.3 min",
    "pictures per second": 812,
    "state": "not finished",
}
SPEED = {"lr": 0.1, "images_per_second": 800.0, "data_wait": 0.25}
EPOCHS = [
    {"epoch": i, "step": 10 * i, "loss": 2.0 / i, "top1_average": 0.1 * i, "top1_model": 0.2 * i, **SPEED}
    for i in (1, 2, 3)
]


class Reader(HTMLParser):
    """Collects what a browser would see: elements with their attributes, script texts, and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_endtag(self, tag):
        if tag in self._open:
            del self._open[len(self._open) - 1 - self._open[::-1].index(tag) :]

    def handle_data(self, data):
        if "script" in self._open:
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        elif "style" not in self._open:
            self.text += data

    @property
    def shown(self) -> str:
        return " ".join(self.text.split())

    @property
    def figures(self) -> list[dict[str, Any]]:
        return [json.loads(text) for kind, text in self.scripts if kind == "application/json"]

    def figure(self, kind: str) -> dict[str, Any]:
        return next(figure for figure in self.figures if figure["data"][0]["type"] == kind)

    @property
    def pictures(self) -> list[np.ndarray]:
        uris = [attributes["src"] for tag, attributes in self.elements if tag == "img"]
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))) for uri in uris]


def scores(names: list[str], *, per_class: int = 20, seed: int = 0) -> dict[str, Any]:
    """Scores as the evaluator gives them; most mistakes take a class for the next one."""
    rng = np.random.default_rng(seed)
    hits = rng.integers(per_class // 2, per_class + 1, len(names))
    confusion = np.diag(hits)
    confusion[np.arange(len(names)), (np.arange(len(names)) + 1) % len(names)] += per_class - hits
    confidences = rng.random(per_class * len(names))
    bins = reliability_bins(confidences, rng.random(len(confidences)) < confidences)
    classes = [
        {
            "name": name,
            "count": per_class,
            "recall": hit / per_class,
            "recall_low": wilson_interval(int(hit), per_class).low,
            "recall_high": wilson_interval(int(hit), per_class).high,
            "precision": 0.5,
        }
        for name, hit in zip(names, hits, strict=True)
    ]
    return {
        "count": per_class * len(names),
        **{"top1": 0.784, "top1_low": 0.761, "top1_high": 0.805},
        **{"top5": 0.95, "top5_low": 0.94, "top5_high": 0.96},
        **{"ece": 0.0312, "ece_low": 0.024, "ece_high": 0.041},
        "nll": 0.6123,
        "unreadable": [{"key": "test/a/broken.jpg", "reason": "image file is truncated"}],
        "classes": classes,
        "confusion": confusion.tolist(),
        "reliability": [bin._asdict() for bin in bins],
    }


def picture(height: int = 6, width: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (height, width, channels), dtype=np.uint8)


def mistake(**changes: Any) -> Mistake:
    parts = {"key": "test/cat/7.png", "truth": "cat", "predicted": "dog", "confidence": 0.987}
    return Mistake(**{**parts, "picture": picture(), **changes})


def full_page(names: list[str] | None = None, **changes: Any) -> RunPage:
    parts: dict[str, Any] = {
        "title": "resnet-rs-50-i160 on fashion",
        "headline": HEADLINE,
        "epochs": EPOCHS,
        "scores": scores(names or ["cat", "dog", "emu", "fox", "gnu", "hen"]),
        "worst": [mistake()],
        "augmented": [picture()] * 3,
        "experiment": {
            "type": "resnet_rs.training.experiment.Experiment",
            "arch": {"type": "resnet_rs.models.resnet.ResNetArch", "blocks": [3, 4, 6, 3], "stem": "deep"},
            "data": {
                "size": 28,
                "randaugment": {"type": "resnet_rs.methods.randaugment.RandAugment", "n": 2},
            },
            "task": {"dropout": 0.25},
            "recipe": {"ema_decay": None, "is_odd": True},
        },
        "edits": [
            Edit(path="data.size", before="160", after="28", reason="the pictures are small"),
            Edit(path="recipe.ema_decay", before=0.9999, after=None),
        ],
        "environment": {"torch": "2.14.0", "device": "cpu"},
    }
    return RunPage(**{**parts, **changes})


def empty_page() -> RunPage:
    nothing = {"headline": {}, "scores": None, "experiment": {}, "environment": {}}
    return RunPage(title="nothing yet", epochs=[], worst=[], augmented=[], edits=[], **nothing)


def without_plotlyjs(page: str) -> str:
    assert page.count(get_plotlyjs()) == 1
    return page.replace(get_plotlyjs(), "")


def dense(stored: dict[str, Any]) -> np.ndarray:
    """A matrix from its nonzero entries, as the script of the page fills it."""
    matrix = np.zeros(int(np.prod(stored["shape"])))
    matrix[np.cumsum(stored["steps"], dtype=int)] = stored["values"]
    return matrix.reshape(stored["shape"])


def test_nothing_is_fetched():
    """No address outside of the text of plotly.js, no element that would load one, and a policy that forbids it."""
    page = without_plotlyjs(render_run_page(full_page()))
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|\bfetch\(|XMLHttpRequest|import\(", page)
    for tag, attributes in Reader(page).elements:
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "srcset", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
    policies = [a["content"] for tag, a in Reader(page).elements if a.get("http-equiv")]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none';")


@pytest.mark.parametrize(
    "name",
    [
        HOSTILE,
        '"><img src=x onerror=alert(1)>',
        "</script><b>x</b>",
        "a & b",
        "{{ 7 * 7 }}",
        "'; alert(1); '",
    ],
)
def test_a_hostile_name_is_text_wherever_it_stands(name):
    page = full_page(
        [name, "dog"],
        title=name,
        headline={name: name},
        worst=[mistake(key=name, truth=name, predicted=name)],
        edits=[Edit(path=name, before=name, after=name, reason=name)],
        experiment={name: {name: name}},
        environment={name: name},
    )
    page.scores["unreadable"] = [{"key": name, "reason": name}]
    harmless, hostile = Reader(render_run_page(full_page(["cat", "dog"]))), Reader(render_run_page(page))
    kinds = {tag for tag, _ in harmless.elements}
    assert {tag for tag, _ in hostile.elements} <= kinds
    assert not any(
        attribute.startswith("on") for _, attributes in hostile.elements for attribute in attributes
    )
    assert len(hostile.scripts) == len(harmless.scripts)
    assert hostile.shown.count(" ".join(name.split())) >= 14


def test_plotly_gets_names_without_tags_formulas_or_twins():
    """It reads tags and dollar signs in labels, and merges what has the same name on an axis."""
    names = [HOSTILE, "$x$", "crane", "crane", "__proto__"]
    page = render_run_page(full_page(names))
    assert "<script>alert" not in without_plotlyjs(page)
    assert not any("<" in text for kind, text in Reader(page).scripts if kind == "application/json")
    for figure in (Reader(page).figure("bar"), Reader(page).figure("heatmap")):
        trace, axis = figure["data"][0], figure["layout"]["yaxis"]
        for text in (*trace["y"], *axis["ticktext"]):
            assert not set("<>$") & set(text)
        assert len(set(trace["y"])) == len(names)
        assert "__proto__" not in trace["y"]


def test_every_headline_number_is_on_the_page():
    shown = Reader(render_run_page(full_page())).shown
    for label, value in HEADLINE.items():
        assert f"{label} {value}" in shown or f"{label}{value}" in shown


def test_every_score_is_shown_with_its_interval():
    shown = Reader(render_run_page(full_page())).shown
    for text in ("78.4%76.1% to 80.5%", "95.0%94.0% to 96.0%", "0.03120.024 to 0.041", "0.6123", "120"):
        assert text in shown
    assert "1 picture could not be read and is not scored" in shown
    assert "test/a/broken.jpgimage file is truncated" in shown


def test_top5_is_left_out_where_it_says_nothing():
    assert "top-5" in Reader(render_run_page(full_page())).shown
    assert "top-5" not in Reader(render_run_page(full_page(["cat", "dog", "emu", "fox", "gnu"]))).shown


def test_edits_are_shown_with_their_reason_and_marked_in_the_experiment():
    reader = Reader(render_run_page(full_page()))
    assert "data.size160 28the pictures are small" in reader.shown
    assert "recipe.ema_decay0.9999 none" in reader.shown
    assert sum(attributes.get("class") == "edited" for _, attributes in reader.elements) == 2
    assert "arch ResNetArch" in reader.shown and "data.randaugment.typeRandAugment" in reader.shown
    assert "arch.blocks[3, 4, 6, 3]" in reader.shown and "recipe.is_oddtrue" in reader.shown


def test_an_empty_page_says_what_is_missing_and_carries_no_plotlyjs():
    page = render_run_page(empty_page())
    shown = Reader(page).shown
    for text in (
        "Nothing has been evaluated yet.",
        "The run is not finished",
        "Just as it stands in the zoo.",
    ):
        assert text in shown
    for heading in ("Worst mistakes", "What it was trained on", "Environment"):
        assert heading not in shown
    assert len(page) < 20_000


@pytest.mark.parametrize(
    "part", ["headline", "epochs", "scores", "worst", "augmented", "experiment", "edits", "environment"]
)
def test_any_part_may_be_missing(part):
    empty = None if part == "scores" else type(getattr(full_page(), part))()
    reader = Reader(render_run_page(full_page(**{part: empty})))
    assert full_page().title in reader.shown
    assert len(reader.figures) == 7 - {"epochs": 4, "scores": 3}.get(part, 0)


def test_scores_of_another_task_are_shown_without_a_confusion_matrix():
    other = {"mean_iou": 0.4567, "mean_iou_low": 0.41, "mean_iou_high": 0.5, "count": 12}
    reader = Reader(render_run_page(full_page(scores=other)))
    assert "mean_iou0.45670.41 to 0.5" in reader.shown
    assert "This task has no confusion matrix." in reader.shown
    assert len(reader.figures) == 4


def test_a_run_that_scored_no_picture_has_a_page():
    nothing = scores(["cat", "dog"])
    gone = {"recall": None, "recall_low": None, "recall_high": None, "precision": None, "count": 0}
    nothing |= {
        "classes": [entry | gone for entry in nothing["classes"]],
        "confusion": [[0, 0], [0, 0]],
        "reliability": [bin._asdict() for bin in reliability_bins(np.empty(0), np.empty(0, dtype=bool))],
        "top1": None,
        "nll": float("nan"),
    }
    epochs = [EPOCHS[0] | {"loss": float("nan"), "top1_model": None, "data_wait": float("nan")}]
    reader = Reader(render_run_page(full_page(scores=nothing, epochs=epochs)))
    assert "No picture was scored." in reader.shown and "nan" not in reader.shown
    assert len(reader.figures) == 3


def test_a_class_without_test_pictures_is_left_out_of_the_bars_only():
    found = scores(["cat", "dog", "emu"])
    found["classes"][1] |= {
        "recall": None,
        "recall_low": None,
        "recall_high": None,
        "precision": None,
        "count": 0,
    }
    reader = Reader(render_run_page(full_page(scores=found)))
    assert len(reader.figure("bar")["data"][0]["y"]) == 2
    assert "All 3 classes" in reader.shown


def test_a_thousand_classes_render_within_3_seconds_and_stay_small():
    page = full_page([f"class {i}, with a longer synonym" for i in range(1000)])
    start = time.perf_counter()
    text = render_run_page(page)
    assert time.perf_counter() - start < 3
    assert len(without_plotlyjs(text).encode()) < 1_000_000


@pytest.mark.parametrize("num_classes", [2, 17, 51, 101, 1000])
def test_the_confusion_matrix_arrives_whole(num_classes):
    found = scores([str(i) for i in range(num_classes)])
    confusion = np.array(found["confusion"])
    trace = Reader(render_run_page(full_page(scores=found))).figure("heatmap")["data"][0]
    assert (dense(trace["customdata"]) == confusion).all()
    assert np.abs(dense(trace["z"]) - confusion / confusion.sum(1, keepdims=True)).max() <= 5.001e-5


def test_the_most_frequent_confusion_comes_first():
    found = scores(["cat", "dog", "emu"])
    found["confusion"] = [[8, 2, 0], [0, 10, 0], [5, 0, 5]]
    shown = Reader(render_run_page(full_page(scores=found))).shown
    assert "emucat550.0% catdog220.0%" in shown
    assert "emudog" not in shown


@pytest.mark.parametrize("num_classes", [2, 51, 1000])
def test_figures_are_what_plotly_knows(num_classes):
    """Oracle: plotly's own validator refuses an unknown or misspelled setting."""
    found = scores([str(i) for i in range(num_classes)])
    drawn = [
        figures.loss_figure(EPOCHS),
        figures.top1_figure(EPOCHS),
        figures.lr_figure(EPOCHS),
        figures.speed_figure(EPOCHS),
        figures.confusion_figure([str(i) for i in range(num_classes)], np.array(found["confusion"])),
        figures.recall_figure(found["classes"]),
        figures.reliability_figure(found["reliability"]),
    ]
    assert all(len(go.Figure(figure).data) == len(figure["data"]) for figure in drawn)


@pytest.mark.parametrize("num_classes", [3, 60])
def test_bars_rise_from_the_lowest_recall_and_their_intervals_are_the_given_ones(num_classes):
    classes = scores([str(i) for i in range(num_classes)])["classes"]
    trace = figures.recall_figure(classes)["data"][0]
    recalls, errors = (trace["x"], trace["error_x"]) if num_classes == 3 else (trace["y"], trace["error_y"])
    assert recalls == sorted(entry["recall"] for entry in classes)
    lows = sorted(round(entry["recall_low"], 3) for entry in classes)
    assert sorted(np.round(np.array(recalls) - errors["arrayminus"], 3)) == pytest.approx(lows, abs=0.0011)


def test_curves_skip_what_was_not_measured():
    epochs = [EPOCHS[0], EPOCHS[1] | {"top1_average": None}, {"epoch": 3, "loss": float("nan")}]
    average, model = figures.top1_figure(epochs)["data"]
    assert (average["x"], average["y"]) == ([1], [0.1])
    assert (model["x"], model["y"]) == ([1, 2], [0.2, 0.4])
    assert figures.loss_figure(epochs)["data"][0]["x"] == [1, 2]
    assert figures.top1_figure([{"epoch": 1, "loss": 1.0}]) is None


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, np.s_[:, :, 0]), (2, np.s_[:, :, 0]), (3, np.s_[:]), (6, np.s_[:, :, :3])]
)
def test_pictures_of_any_number_of_channels_are_embedded_exactly(channels, expected):
    shown = picture(channels=channels)
    page = full_page(worst=[mistake(picture=shown)], augmented=[shown])
    reader = Reader(render_run_page(page))
    assert len(reader.pictures) == 2
    assert all((found == shown[expected]).all() for found in reader.pictures)
    assert [a.get("class") for tag, a in reader.elements if tag == "img"] == ["small", "small"]


def test_large_pictures_are_shrunk_in_proportion():
    page = full_page(worst=[mistake(picture=picture(200, 400))], augmented=[])
    reader = Reader(render_run_page(page))
    assert reader.pictures[0].shape == (72, 144, 3)
    assert [a.get("class") for tag, a in reader.elements if tag == "img"] == [None]


def test_a_file_name_that_is_no_unicode_can_be_written():
    text = render_run_page(full_page(worst=[mistake(key="test/caf\udce9.jpg")]))
    assert "test/caf?.jpg" in text.encode("utf-8").decode("utf-8")
