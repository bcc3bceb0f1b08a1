"""A selection follows its rules whatever the order of rows, and accounts for each of them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from resnet_rs.data.near_duplicates import near, perceptual_hashes
from resnet_rs.data.pool import open_pool
from resnet_rs.pseudo import table
from resnet_rs.pseudo.select import Selection, copies

CLASSES = ("cat", "dog", "owl")


def taken(selection, labels, confidences, *, entropies=None, hashes=None, left_out=None):
    count = len(labels)
    return copies(
        selection,
        labels=np.array(labels),
        confidences=np.array(confidences, dtype=np.float32),
        entropies=np.zeros(count) if entropies is None else np.array(entropies),
        hashes=np.arange(count, dtype=np.uint64) if hashes is None else hashes,
        left_out=np.zeros(count, dtype=bool) if left_out is None else left_out,
    ).tolist()


def test_the_most_confident_rows_of_each_class_are_taken():
    labels, confidences = [0, 0, 0, 1, 1, 2], [0.9, 0.5, 0.7, 0.4, 0.95, 0.2]
    assert taken(Selection(), labels, confidences) == [1] * 6
    assert taken(Selection(min_confidence=0.5), labels, confidences) == [1, 1, 1, 0, 1, 0]
    assert taken(Selection(per_class=1), labels, confidences) == [1, 0, 0, 0, 1, 1]
    assert taken(Selection(max_entropy=0.3), labels, confidences, entropies=[0, 1, 0.3, 1, 0, 0]) == [
        1,
        0,
        1,
        0,
        1,
        1,
    ]
    assert taken(Selection(), labels, confidences, left_out=np.array([True] + 5 * [False])) == [
        0,
        1,
        1,
        1,
        1,
        1,
    ]


def test_rows_of_small_classes_are_repeated():
    labels, confidences = [0, 0, 0, 1, 1, 2], [0.9, 0.5, 0.7, 0.4, 0.95, 0.2]
    assert taken(Selection(balance=True), labels, confidences) == [1, 1, 1, 1, 2, 3]
    assert taken(Selection(balance=True, per_class=5), labels, confidences) == [2, 1, 2, 2, 3, 5]
    assert taken(Selection(balance=True, per_class=2), labels, confidences) == [1, 0, 1, 1, 1, 2]


@given(
    arrays.arrays(np.int64, 30, elements=st.integers(0, 4)),
    arrays.arrays(np.float32, 30, elements=st.sampled_from([0.25, 0.5, 1.0])),
    st.permutations(range(30)),
    st.builds(
        Selection,
        min_confidence=st.sampled_from([0.0, 0.5]),
        per_class=st.none() | st.integers(1, 9),
        balance=st.booleans(),
    ),
)
def test_the_order_of_rows_does_not_matter_even_with_ties(labels, confidences, order, selection):
    hashes = np.random.default_rng(0).permutation(30).astype(np.uint64)
    found = np.array(taken(selection, labels, confidences, hashes=hashes))
    again = taken(selection, labels[order], confidences[order], hashes=hashes[order])
    assert again == found[order].tolist()
    totals = np.bincount(labels, weights=found, minlength=5)
    allowed = np.bincount(labels[confidences >= selection.min_confidence], minlength=5)
    most = selection.per_class or allowed.max()
    expected = np.where(allowed > 0, most, 0) if selection.balance else np.minimum(allowed, most)
    assert totals.tolist() == expected.tolist()


@pytest.fixture
def made(tmp_path):
    """A table of 40 images of noise, two of them unreadable, and its pool."""
    rng = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "pool" / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((96, 96)).save(path)
    pool = open_pool(str(tmp_path / "pool"), classes=CLASSES)
    shares = rng.dirichlet([0.4, 0.4, 0.05], 40)
    content = table.encode_part(
        keys=[pool.key(i) for i in range(40)],
        fingerprints=[bytes(16)] * 40,
        truths=np.full(40, -1),
        probabilities=shares,
        errors={3: "broken", 7: "broken"},
        top=None,
    )
    folder = tmp_path / "table"
    folder.mkdir()
    table.part_file(folder, 0).write_bytes(content)
    info = {"classes": list(CLASSES), "num_samples": 40, "data": str(tmp_path / "pool")}
    (folder / table.INFO).write_text(json.dumps(info))
    return tmp_path


def test_every_row_is_accounted_for(made, command):
    said = command(
        "pseudo",
        "select",
        made / "table",
        "--out",
        made / "out",
        "--min-confidence",
        "0.6",
        "--per-class",
        "9",
    )
    assert said.returncode == 0, said.stderr
    rows = table.read_part(table.part_file(made / "table", 0)).to_pylist()
    kept = table.read_part(table.part_file(made / "out", 0)).to_pylist()
    sure = [row for row in rows if row["confidence"] is not None and row["confidence"] >= 0.6]
    by_class = [
        sorted((row for row in sure if row["label"] == i), key=lambda row: -row["confidence"])[:9]
        for i in range(3)
    ]
    assert sorted(row["key"] for row in kept) == sorted(row["key"] for rows in by_class for row in rows)
    assert all({**row, "copies": 1} in kept for rows in by_class for row in rows)
    beyond = len(sure) - len(kept)
    assert (
        f"40 images = {len(kept)} kept + {38 - len(sure)} not sure + {beyond} beyond the limit of a class + "
        "0 near test images + 2 unreadable" in said.stdout
    )
    info = json.loads((made / "out" / table.INFO).read_text())
    assert info["selection"]["min_confidence"] == 0.6 and info["num_rows"] == [len(kept)]


def test_images_near_test_images_are_left_out(made, command):
    for i, path in enumerate(sorted((made / "pool").iterdir())[10:14]):
        for part in ("train", "val"):
            target = made / "data" / part / ("cat", "dog")[i % 2] / f"{i}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).resize((70, 64)).save(target, quality=70)
    said = command("pseudo", "select", made / "table", "--out", made / "out", "--apart-from", made / "data")
    assert said.returncode == 0 and "+ 4 near test images + 2 unreadable" in said.stdout, said.stderr
    kept = {row["key"] for row in table.read_part(table.part_file(made / "out", 0)).to_pylist()}
    assert len(kept) == 34 and not kept & {f"{i}.png" for i in range(10, 14)}


def test_hashes_of_different_images_are_far_apart_and_unreadable_ones_near_nothing(made):
    (made / "pool" / "00.png").write_bytes(b"broken")
    pool = open_pool(str(made / "pool"), classes=())
    hashes = perceptual_hashes(pool, range(40))
    assert hashes[0] == 0 and len(np.unique(hashes)) == 40
    assert near(hashes, hashes, max_distance=0).tolist() == [False] + [True] * 39
    assert not near(hashes[:20], hashes[20:], max_distance=4).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--min-confidence", "1"), "these rules leave no row of"),
        (("--min-confidence", "2"), "min_confidence must be in [0, 1], got 2"),
        (("--max-entropy", "-1"), "max_entropy must be in [0, inf) or none"),
        (("--apart-from", "typo"), "does not exist"),
    ],
)
def test_wrong_rules_are_one_sentence(made, options, message, command):
    said = command("pseudo", "select", made / "table", "--out", made / "out", *options)
    assert said.returncode == 2 and message in said.stderr and not (made / "out").exists()


def test_unfinished_damaged_and_changed_tables_are_refused(made, command):
    words = ("pseudo", "select", made / "table", "--out", made / "out")
    part = table.part_file(made / "table", 0)
    content = part.read_bytes()
    (made / "pool" / "00.png").unlink()
    said = command(*words, "--apart-from", "builtin")
    assert said.returncode == 2 and "no longer has the images of the table" in said.stderr
    part.unlink()
    said = command(*words)
    assert said.returncode == 2 and "is not complete" in said.stderr
    damaged = bytearray(content)
    damaged[100] ^= 1
    part.write_bytes(damaged)
    said = command(*words)
    assert said.returncode == 2 and "cannot be read" in said.stderr
    part.write_bytes(content)
    assert command(*words).returncode == 0
    again = command(*words)
    assert again.returncode == 2 and "is not empty" in again.stderr
