"""A selection follows its rules whatever the order of rows, and accounts for each of them."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from resnet_rs.data.near_duplicates import look_alike, perceptual_hashes
from resnet_rs.data.pool import open_pool
from resnet_rs.pseudo import table
from resnet_rs.pseudo.select import Selection, copies

CLASSES = ("cat", "dog", "owl")


def taken(selection, labels, confidences, *, entropies=None, hashes=None):
    count = len(labels)
    confidences = np.array(confidences, dtype=np.float32)
    entropies = np.zeros(count, np.float32) if entropies is None else np.array(entropies, np.float32)
    return copies(
        selection,
        labels=np.array(labels),
        confidences=confidences,
        hashes=np.arange(count, dtype=np.uint64) if hashes is None else hashes,
        allowed=selection.is_sure(confidences, entropies),
    ).tolist()


def test_the_most_confident_rows_of_each_class_are_taken():
    labels, confidences = [0, 0, 0, 1, 1, 2], [0.9, 0.5, 0.7, 0.4, 0.95, 0.2]
    assert taken(Selection(), labels, confidences) == [1] * 6
    assert taken(Selection(min_confidence=0.5), labels, confidences) == [1, 1, 1, 0, 1, 0]
    assert taken(Selection(per_class=1), labels, confidences) == [1, 0, 0, 0, 1, 1]
    found = taken(Selection(max_entropy=0.25), labels, confidences, entropies=[0, 1, 0.25, 1, 0, 0])
    assert found == [1, 0, 1, 0, 1, 1]
    assert taken(Selection(min_confidence=1.0), labels, confidences) == [0] * 6


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
def made(tmp_path, monkeypatch):
    """A table of 40 images of noise in three parts, two of them unreadable, and its pool."""
    monkeypatch.setattr(table, "_SMALLEST_PART", 15)
    rng = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "pool" / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((96, 96)).save(path)
        if i in (3, 20):
            path.write_bytes(b"no image")
    pool = open_pool(str(tmp_path / "pool"), classes=CLASSES)
    shares, folder = rng.dirichlet([0.4, 0.4, 0.05], 40), tmp_path / "table"
    shares[30:] = 1 / 3  # a part of which nothing is left above a confidence of 0.4
    folder.mkdir()
    for number, part in enumerate(table.part_ranges(40)):
        content = table.encode_part(
            keys=[pool.key(i) for i in part],
            fingerprints=[pool.fingerprint(i) for i in part],
            truths=np.full(len(part), -1),
            probabilities=shares[part.start : part.stop],
            errors={i - part.start: "broken" for i in part if i in (3, 20)},
            top=None,
        )
        table.part_file(folder, number).write_bytes(content)
    info = {"classes": list(CLASSES), "num_samples": 40, "data": str(tmp_path / "pool")}
    info |= {"pool": pool.digest(), "max_pixels": pool.max_pixels}
    (folder / table.INFO).write_text(json.dumps(info))
    return tmp_path


def rows_of(folder):
    parts = sorted(folder.glob("part-*.parquet"))
    assert len(parts) == 3
    return [row for part in parts for row in table.read_part(part).to_pylist()]


def select(command, made, *options):
    return command("pseudo", "select", made / "table", "--out", made / "out", *options)


@pytest.mark.parametrize("is_balanced", [False, True])
def test_every_row_is_accounted_for(made, command, is_balanced):
    more = ("--balance",) if is_balanced else ()
    said = select(command, made, "--min-confidence", "0.6", "--per-class", "9", *more)
    assert said.returncode == 0, said.stderr
    rows, kept = rows_of(made / "table"), rows_of(made / "out")
    sure = [row for row in rows if row["confidence"] is not None and row["confidence"] >= 0.6]
    by_class = [
        sorted((row for row in sure if row["label"] == i), key=lambda row: -row["confidence"])[:9]
        for i in range(3)
    ]
    assert sorted(row["key"] for row in kept) == sorted(row["key"] for rows in by_class for row in rows)
    counts = {row["key"]: row.pop("copies") for row in kept}
    assert all(row in kept for rows in by_class for row in rows)
    for chosen in by_class:
        total = sum(counts[row["key"]] for row in chosen)
        assert total == (9 if is_balanced and chosen else len(chosen))
    assert (
        f"40 images = {len(kept)} kept + {38 - len(sure)} not sure + {len(sure) - len(kept)} beyond the limit of a "
        "class + 0 like test images + 2 without label" in said.stdout
    )
    assert f"at most {max(counts.values())} copies" in said.stdout
    assert json.loads((made / "out" / table.INFO).read_text())["selection"]["min_confidence"] == 0.6


def test_images_like_test_images_are_left_out(made, command):
    for i, path in enumerate(sorted((made / "pool").iterdir())[10:14]):
        for part in ("train", "val"):
            target = made / "data" / part / ("cat", "dog")[i % 2] / f"{i}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).resize((70, 64)).save(target, quality=70)
    (made / "data" / "val" / "cat" / "broken.jpg").write_bytes(b"no image")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        said = select(command, made, "--apart-from", made / "data")
    assert said.returncode == 0 and "+ 4 like test images + 2 without label" in said.stdout, said.stderr
    assert "1 of 5 test images of data cannot be read" in said.stderr
    kept = {row["key"] for row in rows_of(made / "out")}
    assert len(kept) == 34 and not kept & {f"{i}.png" for i in range(10, 14)}


def test_hashes_of_different_images_are_far_apart(made):
    pool = open_pool(str(made / "pool"), classes=())
    found = list(perceptual_hashes(pool, range(40)))
    assert [i for i, value in enumerate(found) if value is None] == [3, 20]
    hashes = np.array([value for value in found if value is not None], dtype=np.uint64)
    assert look_alike(hashes, hashes, max_distance=0).all()
    assert not look_alike(hashes[:19], hashes[19:], max_distance=4).any()
    assert look_alike(hashes[:1], hashes[:1] ^ np.uint64(0b1111), max_distance=4).all()
    assert not look_alike(hashes[:1], hashes[:1] ^ np.uint64(0b11111), max_distance=4).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--min-confidence", "1"), "these rules leave no row of"),
        (("--apart-from", "POOL"), "38 look like test images"),
        (("--min-confidence", "2"), "min_confidence must be in [0, 1], got 2"),
        (("--max-entropy", "-1"), "max_entropy must be in [0, inf) or none"),
        (("--apart-from", "typo"), "does not exist"),
    ],
)
def test_wrong_rules_are_one_sentence(made, options, message, command):
    for i in set(range(40)) - {3, 20}:
        path = made / "same" / ("cat", "dog")[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(made / "pool" / path.name)
    options = [str(made / "same") if option == "POOL" else option for option in options]
    said = select(command, made, *options)
    assert said.returncode == 2 and message in said.stderr and not (made / "out").exists(), said.stderr


def test_unfinished_damaged_and_changed_tables_are_refused(made, command):
    part = table.part_file(made / "table", 1)
    content, image = part.read_bytes(), made / "pool" / "00.png"
    pixels = image.read_bytes()
    Image.new("L", (9, 9)).save(image)
    said = select(command, made, "--apart-from", "builtin")
    assert said.returncode == 2 and "is not the image that was labeled" in said.stderr
    image.unlink()
    said = select(command, made, "--apart-from", "builtin")
    assert said.returncode == 2 and "no longer has the images of the table" in said.stderr
    image.write_bytes(pixels)
    part.unlink()
    said = select(command, made)
    assert said.returncode == 2 and "is not complete" in said.stderr
    damaged = bytearray(content)
    damaged[100] ^= 1
    part.write_bytes(damaged)
    said = select(command, made)
    assert said.returncode == 2 and "cannot be read" in said.stderr and not (made / "out").exists()
    part.write_bytes(content)
    assert select(command, made).returncode == 0
    again = select(command, made)
    assert again.returncode == 2 and "exists already" in again.stderr
    twice = command("pseudo", "select", made / "out", "--out", made / "twice")
    assert twice.returncode == 2 and "is a selection already" in twice.stderr
