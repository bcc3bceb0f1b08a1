"""The page of a run: complete, self-contained, and safe whatever the data calls its classes and files.

The pages are built from the blocks of `Classification`, so its tables and figures are tested here, too.
"""

import base64
import io
import json
import re
import time
from copy import deepcopy
from functools import cache
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs

from resnet_rs import storage
from resnet_rs.report import figures
from resnet_rs.report.blocks import Chart, Gallery, Listing
from resnet_rs.report.page import Edit, RunPage, render_run_page
from resnet_rs.tasks import classification_report
from resnet_rs.tasks.classification import Classification

HOSTILE = "<script>alert(1)</script>\"><img src=x onerror=alert(1)></script><b>x</b>a & b {{ 7 * 7 }} '; alert(1); '"
NAMES = ("cat", "dog", "emu", "fox", "gnu", "hen")
SPEED = {"lr": 0.1, "images_per_second": 800.0, "data_wait": 0.25}
EPOCHS = [
    {"epoch": i, "step": 10 * i, "loss": 2.0 / i, "score_ema": 0.1 * i, "score_model": 0.2 * i, **SPEED}
    for i in (1, 2, 3)
]
TASK = Classification()
PLOTLYJS = get_plotlyjs()


class Reader(HTMLParser):
    """What a browser would see: elements with their attributes, script texts, and the visible text."""

    def __init__(self, page):
        super().__init__()
        self.elements = []
        self.scripts = []
        self.text = ""
        self._open = []
        self.feed(page.replace(PLOTLYJS, ""))

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
    def shown(self):
        return " ".join(self.text.split())

    @property
    def figures(self):
        return [json.loads(text) for kind, text in self.scripts if kind == "application/json"]

    def figure(self, kind):
        return next(figure for figure in self.figures if figure["data"][0]["type"] == kind)

    @property
    def images(self):
        uris = [attributes["src"] for tag, attributes in self.elements if tag == "img"]
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))) for uri in uris]


def scored(labels, predicted, names, *, key="test/{}.png", seed=0):
    """The scores of samples with these labels and predictions, of random confidences."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(len(labels), dtype=classification_report.ROW)
    rows["index"] = np.arange(len(labels))
    rows["label"], rows["predicted"] = labels, predicted
    rows["rank"] = np.where(rows["label"] == rows["predicted"], 0, rng.integers(1, 9, len(labels)))
    rows["confidence"], rows["nll"] = rng.random(len(labels)), rng.exponential(size=len(labels))
    return classification_report.scores(rows, names, key.format) | {"unreadable": []}


@cache
def _scores(names, key):
    labels = np.repeat(np.arange(len(names)), 20)
    is_wrong = np.random.default_rng(1).random(len(labels)) < 0.3
    return scored(labels, (labels + is_wrong) % len(names), names, key=key)


def scores(names=NAMES, key="test/{}.png"):
    """Scores of 20 images per class; wrong predictions name the next class."""
    return deepcopy(_scores(tuple(names), key))


def charts(found):
    return {block.title: block.figure for block in TASK.blocks(found) if isinstance(block, Chart)}


def image(height=6, width=8, channels=3):
    return np.random.default_rng(channels).integers(0, 256, (height, width, channels), dtype=np.uint8)


def page(found=None, **changes):
    found = found or scores()
    parts = {
        "title": "resnet-rs-50-i160 on fashion",
        "headline": {"top-1": "78.4% (76.1% to 80.5%)", "time": "12.3 min", "images per second": "812"},
        "score": TASK.headline,
        "epochs": EPOCHS,
        "is_finished": True,
        "numbers": TASK.numbers(found),
        "blocks": TASK.blocks(found),
        "images": {i: image() for i in range(found["count"])},
        "unreadable": [{"key": "test/a/broken.jpg", "reason": "image file is truncated"}],
        "augmented": [image()] * 3,
        "experiment": {
            "type": "resnet_rs.training.experiment.Experiment",
            "arch": {"type": "resnet_rs.models.resnet.ResNetArch", "blocks": [3, 4, 6, 3], "stem": "deep"},
            "data": {"size": 28, "randaugment": {"type": "resnet_rs.methods.RandAugment", "n": 2}},
            "task": {"dropout": 0.25},
            "recipe": {"ema_decay": None, "is_odd": True},
        },
        "edits": [
            Edit(path="data.size", before="160", after="28", reason="the images are small"),
            Edit(path="recipe.ema_decay", before="0.9999", after="none"),
        ],
        "environment": {"torch": "2.14.0", "device": "cpu"},
    }
    return render_run_page(RunPage(**{**parts, **changes}))


EMPTY = {"headline": {}, "epochs": [], "numbers": [], "blocks": [], "images": {}, "unreadable": []}
EMPTY |= {"augmented": [], "experiment": {}, "edits": [], "environment": {}}


def dense(stored):
    """A matrix from its nonzero entries, as the script of the page fills it."""
    matrix = np.zeros(int(np.prod(stored["shape"])))
    matrix[np.cumsum(stored["steps"], dtype=int)] = stored["values"]
    return matrix.reshape(stored["shape"])


def test_nothing_is_fetched():
    """No address outside of the text of plotly.js, no element that would load one, and a policy that forbids it."""
    text = page()
    assert text.count(PLOTLYJS) == 1
    without = text.replace(PLOTLYJS, "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|\bfetch\(|XMLHttpRequest|import\(", without)
    elements = Reader(text).elements
    for tag, attributes in elements:
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "srcset", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
    (policy,) = [a["content"] for _, a in elements if a.get("http-equiv")]
    assert policy.startswith("default-src 'none';")


def test_hostile_names_are_text_everywhere():
    """Titles, classes, files, edits, fields and environment: no element, attribute or script comes from a name."""
    hostile = Reader(
        page(
            scores([HOSTILE, "dog"], key=HOSTILE.replace("{", "{{").replace("}", "}}")),
            title=HOSTILE,
            headline={HOSTILE: HOSTILE},
            unreadable=[{"key": HOSTILE, "reason": HOSTILE}],
            edits=[Edit(path=HOSTILE, before=HOSTILE, after=HOSTILE, reason=HOSTILE)],
            experiment={HOSTILE: {HOSTILE: HOSTILE}},
            environment={HOSTILE: HOSTILE},
        )
    )
    harmless = Reader(page(scores(["cat", "dog"])))
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in harmless.elements}
    assert not any(name.startswith("on") for _, attributes in hostile.elements for name in attributes)
    assert len(hostile.scripts) == len(harmless.scripts)
    tiles = sum(a.get("class") == "tile" for _, a in hostile.elements)
    # Title (twice), headline 2, confusions 2, classes 1, unreadable 2, edit 4, experiment 3, environment 2.
    assert hostile.shown.count(" ".join(HOSTILE.split())) >= 18 + 2 * tiles


def test_plotly_gets_names_without_tags_formulas_or_twins():
    """It reads tags and dollar signs in labels, and merges what has the same name on an axis."""
    names = ["<script>alert(1)</script>", "$x$", "crane", "crane", "__proto__"]
    reader = Reader(page(scores(names)))
    assert not any("<" in text for kind, text in reader.scripts if kind == "application/json")
    for figure in (reader.figure("bar"), reader.figure("heatmap")):
        trace, axis = figure["data"][0], figure["layout"]["yaxis"]
        for text in (*trace["y"], *axis["ticktext"]):
            assert not set("<>$") & set(text)
        assert len(set(trace["y"])) == len(names)
        assert "__proto__" not in trace["y"]


def test_every_number_is_shown_with_its_interval():
    found = scores() | {"top1": 0.784, "top1_low": 0.761, "top1_high": 0.8049, "nll": 0.61234}
    found |= {"nll_low": None, "top5": float("nan")}
    shown = Reader(page(found)).shown
    for text in ("top-178.4% (76.1% to 80.5%)", "time12.3 min", "images per second812"):
        assert text in shown
    assert "top-178.4%76.1% to 80.5%" in shown and "negative log-likelihood0.6123" in shown
    assert "top-5" not in shown and "nan" not in shown
    assert "1 image could not be read and is not scored test/a/broken.jpgimage file is truncated" in shown


def test_edits_are_shown_with_their_reason_and_marked_in_the_experiment():
    reader = Reader(page())
    assert "data.size160 28the images are small" in reader.shown
    assert "recipe.ema_decay0.9999 none" in reader.shown
    assert sum(attributes.get("class") == "edited" for _, attributes in reader.elements) == 2
    assert "arch ResNetArch" in reader.shown and "data.randaugment.typeRandAugment" in reader.shown
    assert "arch.blocks[3, 4, 6, 3]" in reader.shown and "recipe.is_oddtrue" in reader.shown


def test_an_empty_page_says_what_is_missing_and_carries_no_plotlyjs():
    text = page(is_finished=False, **EMPTY)
    shown = Reader(text).shown
    for sentence in ("Nothing has been evaluated yet.", "The run is not finished", "As in the zoo."):
        assert sentence in shown
    for heading in ("Worst mistakes", "Training images", "Environment"):
        assert heading not in shown
    assert len(text) < 20_000


@pytest.mark.parametrize("part", EMPTY)
def test_any_part_may_be_missing(part):
    reader = Reader(page(**{part: EMPTY[part]}))
    assert "resnet-rs-50-i160 on fashion" in reader.shown
    assert len(reader.figures) == 7 - {"epochs": 4, "blocks": 3}.get(part, 0)


def test_tables_come_before_figures_and_images():
    shown = Reader(page()).shown
    titles = ["Scores", "Most frequent confusions", "All 6 classes", "Recall of each class", "Calibration"]
    titles += ["Confusion matrix", "Worst mistakes", "Curves"]
    assert [shown.index(title) for title in titles] == sorted(shown.index(title) for title in titles)


def test_figures_with_the_same_title_are_both_shown():
    losses = [figures.run_figures(EPOCHS[:n], TASK.headline)["Training loss"] for n in (1, 2)]
    blocks = [Chart(title="twin", figure=loss, is_wide=loss is losses[0]) for loss in losses]
    reader = Reader(page(blocks=blocks, epochs=[]))
    assert [len(figure["data"][0]["x"]) for figure in reader.figures] == [1, 2]
    assert sum(attributes.get("class") == "wide" for _, attributes in reader.elements) == 1


def test_worst_mistakes_come_in_the_order_that_the_heading_says():
    """The highest confidence first, without images that are not at hand."""
    found = scores()
    (gallery,) = [block for block in TASK.blocks(found) if isinstance(block, Gallery)]
    worst = found["worst"]
    assert all(NAMES[item["index"] // 20] == item["truth"] != item["predicted"] for item in worst)
    confidences = [item["confidence"] for item in worst]
    assert len(confidences) == 24 and confidences == sorted(confidences, reverse=True)
    kept = {tile.index: image() for tile in gallery.tiles[1::2]}
    shown = Reader(page(found, images=kept)).shown.partition("Worst mistakes")[2]
    assert "highest confidence" in shown
    keys = [f"test/{tile.index}.png" for tile in gallery.tiles]
    assert re.findall(r"test/\d+\.png", shown) == keys[1::2]


def test_the_most_frequent_confusion_comes_first_and_the_lowest_recall():
    pairs = {(0, 0): 8, (0, 1): 2, (1, 1): 10, (2, 0): 5, (2, 2): 5}
    labels, predicted = np.repeat(np.array(list(pairs)), list(pairs.values()), axis=0).T
    found = scored(labels, predicted, ["cat", "dog", "emu", "fox"])
    confusions, classes = [block for block in TASK.blocks(found) if isinstance(block, Listing)]
    assert confusions.rows == [("emu → cat", "5", "50.0%"), ("cat → dog", "2", "20.0%")]
    assert [row[:3] for row in classes.rows] == [
        ("emu", "10", "50.0%"),
        ("cat", "10", "80.0%"),
        ("dog", "10", "100.0%"),
        ("fox", "0", ""),
    ]
    assert "fox" not in "".join(charts(found)["Recall of each class"]["data"][0]["y"])


def test_scores_of_no_image_have_no_figure():
    nothing = np.empty(0, dtype=np.int64)
    found = scored(nothing, nothing, NAMES)
    epochs = [EPOCHS[0] | {"loss": float("nan"), "score_model": None, "data_wait": float("nan")}]
    reader = Reader(page(found, epochs=epochs))
    assert len(reader.figures) == 3 and "nan" not in reader.shown


@pytest.mark.parametrize("num_classes", [2, 17, 51, 101])
def test_figures_are_valid_and_arrive_whole(num_classes):
    """Oracle: plotly's own validator refuses an unknown or misspelled setting. Each size is drawn in another way."""
    found = scores([str(i) for i in range(num_classes)])
    drawn = [*charts(found).values(), *figures.run_figures(EPOCHS, TASK.headline).values()]
    assert all(len(go.Figure(figure).data) == len(figure["data"]) for figure in drawn)
    confusion = np.zeros((num_classes, num_classes))
    places, counts = (found["confusion"]["rows"], found["confusion"]["columns"]), found["confusion"]["counts"]
    confusion[places] = counts
    trace = Reader(page(found)).figure("heatmap")["data"][0]
    assert (dense(trace["customdata"]) == confusion).all()
    assert np.abs(dense(trace["z"]) - confusion / confusion.sum(1, keepdims=True)).max() <= 5.001e-5


@pytest.mark.parametrize("num_classes", [3, 60])
def test_bars_rise_from_the_lowest_recall_and_their_intervals_are_the_given_ones(num_classes):
    found = scores([str(i) for i in range(num_classes)])
    trace = charts(found)["Recall of each class"]["data"][0]
    recalls, errors = (trace["x"], trace["error_x"]) if num_classes == 3 else (trace["y"], trace["error_y"])
    assert recalls == sorted(entry["recall"] for entry in found["classes"])
    for name, sign in (("array", 1), ("arrayminus", -1)):
        bound = "recall_high" if sign > 0 else "recall_low"
        expected = sorted(entry[bound] for entry in found["classes"])
        assert sorted(np.array(recalls) + sign * np.array(errors[name])) == pytest.approx(expected, abs=1e-4)


def test_curves_skip_what_was_not_measured():
    epochs = [EPOCHS[0], EPOCHS[1] | {"score_ema": None}, {"epoch": 3, "loss": float("nan")}]
    found = figures.run_figures(epochs, TASK.headline)
    ema, model = found["Test top-1"]["data"]
    assert (ema["x"], ema["y"]) == ([1], [0.1])
    assert (model["x"], model["y"]) == ([1, 2], [0.2, 0.4])
    assert found["Training loss"]["data"][0]["x"] == [1, 2]
    assert list(figures.run_figures([{"epoch": 1, "loss": 1.0}], TASK.headline)) == ["Training loss"]


def test_a_page_of_21841_classes_stays_usable():
    """ImageNet-21k. With a dense confusion matrix, `scores.json` would have 477 million numbers."""
    num_classes, count = 21_841, 10_000
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(num_classes, size=(2, count))
    start = time.process_time()
    found = scored(
        labels, np.where(rng.random(count) < 0.4, labels, guesses), [str(i) for i in range(num_classes)]
    )
    scored_at = time.process_time()
    text = page(found, images={})
    assert scored_at - start < 4 and time.process_time() - scored_at < 4
    assert len(storage.as_json(found)) < 9e6 and len(text) < 12e6
    assert "All 21,841 classes" in text and "Confusion matrix" not in text


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, np.s_[:, :, 0]), (2, np.s_[:, :, 0]), (3, np.s_[:]), (6, np.s_[:, :, :3])]
)
def test_images_of_any_number_of_channels_are_embedded_exactly(channels, expected):
    shown, index = image(channels=channels), scores()["worst"][0]["index"]
    reader = Reader(page(images={index: shown}, augmented=[shown]))
    assert len(reader.images) == 2
    assert all((found == shown[expected]).all() for found in reader.images)
    assert [a.get("class") for tag, a in reader.elements if tag == "img"] == ["small", "small"]


def test_large_images_are_shrunk_in_proportion():
    reader = Reader(page(images={}, augmented=[image(200, 400)]))
    assert reader.images[0].shape == (72, 144, 3)
    assert [a.get("class") for tag, a in reader.elements if tag == "img"] == [None]


def test_a_file_name_that_is_no_unicode_can_be_written():
    text = page(scores(key="test/caf\udce9-{}.jpg"))
    assert "test/caf?-" in text.encode("utf-8").decode("utf-8")
