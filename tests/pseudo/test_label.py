"""A table has one row for every sample of the pool, with the label of that sample, whatever happens meanwhile."""

import json
import os
import signal
import time
from hashlib import blake2b

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from resnet_rs import storage, zoo
from resnet_rs.config import edit
from resnet_rs.data.pool import open_pool
from resnet_rs.jobs import InProcess, Local
from resnet_rs.processes import Interrupted, Stop
from resnet_rs.pseudo import label as labeling
from resnet_rs.pseudo import table
from resnet_rs.pseudo.label import Labeling, Teacher, label_part
from resnet_rs.tasks.classification import Classification
from resnet_rs.tasks.classification_multi_label import MultiLabel
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.machine import Machine
from resnet_rs.training.provenance import Provenance
from resnet_rs.training.state import new_state
from resnet_rs.verbs import pseudo

CLASSES = tuple(f"class {i}" for i in range(120))
SMALL = {"data.size": 16, "arch.width": 0.125, "data.mean": (0.0,), "data.std": (1.0,)}
EXPERIMENT = edit(zoo.experiment("resnet-rs-tiny"), SMALL).with_classes(CLASSES)


def machine(workers=0):
    return Machine(device=Device.choose("cpu"), workers=workers)


class ReadsTheNumber(torch.nn.Module):
    """The likeliest class is the gray value of the image, over 2."""

    def forward(self, inputs):
        numbers = (inputs.mean((1, 2, 3)) * 255 / 2).round().long()
        return 8.0 * torch.nn.functional.one_hot(numbers, len(CLASSES)).float()


READER = Teacher(ReadsTheNumber(), EXPERIMENT, np.arange(len(CLASSES)))


@pytest.fixture
def pool(tmp_path):
    """An image for each class, whose gray value is twice its number; six of them are broken. Base names repeat."""
    for i in range(len(CLASSES)):
        path = tmp_path / "pool" / f"{i % 7}" / f"deep {i % 3}" / f"{i // 21}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 2 * i).save(path)
        if i % 20 == 3:
            path.write_bytes(b"no image")
    return tmp_path / "pool"


def labeled(teachers, source, part, labeling=Labeling(), *, workers=0, stop=None):  # noqa: B008 - it is frozen
    return label_part(
        teachers, source, part, labeling, classes=CLASSES, machine=machine(workers), stop=stop or Stop()
    )


def number_of(key):
    a, b, c = key.removesuffix(".png").replace("deep ", "").split("/")
    return next(i for i in range(len(CLASSES)) if (i % 7, i % 3, i // 21) == tuple(map(int, (a, b, c))))


def rows_of(content, folder):
    (folder / "part").write_bytes(content)
    return table.read_part(folder / "part").to_pylist()


@pytest.mark.parametrize("workers", [0, 2])
def test_every_label_belongs_to_its_image(pool, tmp_path, workers):
    source = open_pool(str(pool), classes=CLASSES)
    found = [labeled([READER], source, part, workers=workers) for part in (range(50), range(50, 120))]
    rows = [row for content in found for row in rows_of(content, tmp_path)]
    assert [row["key"] for row in rows] == [source.key(i) for i in range(120)]
    broken = {row["key"] for row in rows if row["error"]}
    assert len(broken) == 6
    for row in rows:
        if row["key"] in broken:
            assert row["label"] is row["probabilities"] is row["confidence"] is row["fingerprint"] is None
        else:
            number = number_of(row["key"])
            assert row["label"] == number and row["probabilities"][number] == max(row["probabilities"])
            content = (pool / row["key"]).read_bytes()
            assert row["fingerprint"] == blake2b(content, digest_size=16).digest()
    entropies = [row["entropy"] for row in rows if not row["error"]]
    shares = np.array([np.e**8] + [1.0] * 119) / (np.e**8 + 119)
    assert entropies == pytest.approx([-(shares * np.log(shares)).sum()] * 114, rel=1e-5)


def test_only_the_likeliest_classes_are_stored_on_request(pool, tmp_path):
    source = open_pool(str(pool), classes=CLASSES)
    row = rows_of(labeled([READER], source, range(2), Labeling(top=3)), tmp_path)[1]
    assert row["classes"][0] == row["label"] and row["classes"][1:] == sorted(row["classes"][1:])
    assert len(row["probabilities"]) == 3 and row["probabilities"][0] == pytest.approx(0.96, abs=0.01)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two runs with random weights and others as EMA weights; the classes of the second one have another order."""
    folder = tmp_path_factory.mktemp("teachers")
    for i, classes in enumerate((CLASSES, CLASSES[::-1])):
        state = new_state(EXPERIMENT, Device.choose("cpu"), seed=i)
        for number, model in enumerate(state.models.values()):
            generator = torch.Generator().manual_seed(10 * i + number)
            for name, tensor in model.state_dict().items():
                if "running_var" in name:  # statistics that differ from those of any batch
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
                elif "running_mean" in name:
                    tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
                elif name.startswith("head.") and tensor.dim() == 2:  # probabilities that differ
                    tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
        checkpoint.save(folder / str(i), state, Provenance(experiment=EXPERIMENT, classes=classes, seed=0))
    return folder


def teacher_of(weights, number):
    saved = checkpoint.read(weights / str(number))
    return Teacher.load(saved, classes=CLASSES, machine=machine())


def column(content, folder, name):
    rows = [row[name] for row in rows_of(content, folder) if row["error"] is None]
    return np.array(rows, np.float64)


def test_a_teacher_labels_in_evaluation_mode_with_its_ema_weights(weights, pool, tmp_path, monkeypatch):
    source, teacher = open_pool(str(pool), classes=CLASSES), teacher_of(weights, 0)
    assert not any(module.training for module in teacher.model.modules())
    saved = checkpoint.read(weights / "0")
    ema = load_file(saved.path / "ema.safetensors")
    assert saved.weights == "ema" and not torch.equal(
        ema["head.classifier.weight"], load_file(saved.path / "model.safetensors")["head.classifier.weight"]
    )
    found = []
    for count in (1, 64):
        monkeypatch.setattr(labeling, "batch_size", lambda device, count=count: count)
        found.append(column(labeled([teacher], source, range(120)), tmp_path, "confidence"))
    assert np.abs(found[0] - found[1]).max() <= 1e-6 and found[0].std() > 0.01
    state = teacher.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in ema.items())


def test_several_teachers_and_sizes_are_averaged_by_class_name(weights, pool, tmp_path):
    source, teachers = open_pool(str(pool), classes=CLASSES), [teacher_of(weights, i) for i in (0, 1)]
    each = [
        column(labeled([one], source, range(9), Labeling(sizes=(size,))), tmp_path, "probabilities")
        for one in teachers
        for size in (16, 24)
    ]
    both = column(labeled(teachers, source, range(9), Labeling(sizes=(16, 24))), tmp_path, "probabilities")
    assert np.abs(both - np.mean(each, axis=0)).max() < 1e-3
    assert min(np.abs(both - one).max() for one in each) > 1e-2


class SeesTheBrighterSide(torch.nn.Module):
    def forward(self, inputs):
        is_left = inputs[..., :8].mean((1, 2, 3)) > inputs[..., 8:].mean((1, 2, 3))
        return 20.0 * torch.nn.functional.one_hot(is_left.long(), len(CLASSES)).float()


def test_a_flipped_image_is_seen_from_both_sides(tmp_path):
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, :8] = 255
    Image.fromarray(pixels).save(tmp_path / "left.png")
    source = open_pool(str(tmp_path), classes=CLASSES)
    teacher = Teacher(SeesTheBrighterSide(), EXPERIMENT, np.arange(len(CLASSES)))
    (plain,) = rows_of(labeled([teacher], source, range(1)), tmp_path)
    (both,) = rows_of(labeled([teacher], source, range(1), Labeling(flip=True)), tmp_path)
    assert plain["confidence"] == pytest.approx(1) and plain["label"] == 1
    assert both["probabilities"][:2] == [0.5, 0.5] and both["label"] == 0


def test_images_that_change_or_have_odd_names_are_rows_with_the_reason(pool, tmp_path, monkeypatch):
    source = open_pool(str(pool), classes=CLASSES)
    object.__setattr__(source, "files", (*source.files[:-1], "odd-\udcff.png"))
    os.rename(
        os.fsencode(pool / open_pool(str(pool), classes=()).key(119)), os.fsencode(pool) + b"/odd-\xff.png"
    )
    changing = pool / source.key(7)
    real, calls = labeling.Teacher.probabilities, []

    def probabilities(*args, **options):
        if not calls:  # between the passes of two teachers
            Image.new("L", (20, 20), 99).save(changing)
        calls.append(1)
        return real(*args, **options)

    monkeypatch.setattr(labeling.Teacher, "probabilities", probabilities)
    rows = rows_of(labeled([READER, READER], source, range(120)), tmp_path)
    assert "changed" in rows[7]["error"] and rows[7]["label"] is None
    assert rows[119]["key"] == "odd-\\udcff.png" and rows[119]["error"] == "its name is not UTF-8"
    assert sum(row["error"] is not None for row in rows) == 8


def test_an_outage_is_no_row(pool):
    source = open_pool(str(pool), classes=CLASSES)
    pool.rename(pool.with_name("away"))
    with pytest.raises(OSError, match="not one of 120 files could be read"):
        labeled([READER], source, range(120))


def test_a_part_of_broken_images_alone_is_rows(pool, tmp_path):
    source = open_pool(str(pool), classes=CLASSES)
    broken = next(i for i in range(120) if number_of(source.key(i)) == 3)
    (row,) = rows_of(labeled([READER], source, range(broken, broken + 1)), tmp_path)
    assert row["error"] and row["label"] is None


def test_a_stop_request_ends_a_part_without_a_file(pool):
    source, stop = open_pool(str(pool), classes=CLASSES), Stop()
    stop.reason = "a test"
    with pytest.raises(Interrupted):
        labeled([READER], source, range(120), stop=stop)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if path.name != "lock"}


def label(command, weights, pool, out, *more):
    return command("pseudo", "label", weights / "0", "--data", pool, "--out", out, *more)


def test_a_stopped_command_continues_to_the_same_bytes(weights, pool, tmp_path, command, monkeypatch):
    monkeypatch.setattr(table, "_SMALLEST_PART", 25)
    whole = label(command, weights, pool, tmp_path / "whole", "--max-unreadable", "0.1")
    assert whole.returncode == 0, whole.stderr
    assert (
        "120 images = 114 labeled + 6 unreadable" in whole.stdout and "5 of 5 parts labeled" in whole.stdout
    )
    write, calls = storage.write_bytes, []

    def stopping(path, content):
        calls.append(path)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        write(path, content)

    out = tmp_path / "out"
    monkeypatch.setattr(pseudo.storage, "write_bytes", stopping)
    stopped = label(command, weights, pool, out)
    assert stopped.returncode == 75 and "The same command continues" in stopped.stderr
    monkeypatch.setattr(pseudo.storage, "write_bytes", write)
    num_before = len(list(out.glob("part-*")))
    assert 1 <= num_before < 5
    part = sorted(out.glob("part-*"))[0]
    part.write_bytes(part.read_bytes()[:-9])  # a damaged part is made again
    again = label(command, weights, pool, out)
    assert again.returncode == 1 and "more than 1.0% of the images are unreadable" in again.stderr
    assert files(out) == files(tmp_path / "whole")
    assert label(command, weights, pool, out, "--max-unreadable", "0.1").returncode == 0


def test_processes_and_workers_give_the_same_bytes(weights, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "_SMALLEST_PART", 40)
    done = []
    for runner, workers in ((Local(2), 0), (InProcess(), 1)):
        out = tmp_path / str(len(done))
        list(
            pseudo.label_pool(
                [weights / "0", weights / "1"],
                data=str(pool),
                out=out,
                labeling=Labeling(flip=True),
                machine=machine(workers),
                runner=runner,
                stop=Stop(),
            )
        )
        done.append(files(out))
    assert done[0] == done[1] and len(done[0]) == 4


def test_wrong_input_is_one_sentence(weights, pool, tmp_path, command):
    out = tmp_path / "out"
    assert label(command, weights, pool, out).returncode == 1
    before = files(out)
    for options, message in (
        (("--flip",), "holds the labels of other options"),
        (("--top", "3"), "holds the labels of other options"),
    ):
        said = label(command, weights, pool, out, *options)
        assert said.returncode == 2 and message in said.stderr, said.stderr
    Image.new("L", (20, 20)).save(pool / "new.png")
    said = label(command, weights, pool, out)
    assert said.returncode == 2 and "another pool, or this pool with other images" in said.stderr
    said = command("pseudo", "label", weights / "1", "--data", pool, "--out", out)
    assert said.returncode == 2 and "holds the labels of" in said.stderr
    said = command("pseudo", "label", weights / "0", "--data", tmp_path / "typo", "--out", out)
    assert said.returncode == 2 and "is no folder" in said.stderr
    (tmp_path / "empty").mkdir()
    said = command("pseudo", "label", weights / "0", "--data", tmp_path / "empty", "--out", tmp_path / "new")
    assert said.returncode == 2 and "holds no images" in said.stderr and not (tmp_path / "new").exists()
    said = label(command, weights, pool, pool)
    assert said.returncode == 2 and "is not empty and contains no table" in said.stderr
    assert files(out) == before


@pytest.mark.parametrize(
    ("edits", "classes", "message"),
    [
        ({"task": Classification(num_classes=2)}, ("cat", "dog"), "all teachers must know the same classes"),
        ({"task": MultiLabel(num_classes=120)}, CLASSES, "has the task MultiLabel"),
    ],
)
def test_teachers_of_other_classes_or_tasks_are_refused(
    weights, pool, tmp_path, command, edits, classes, message
):
    other = edit(EXPERIMENT, edits)
    provenance = Provenance(experiment=other, classes=classes, seed=0)
    checkpoint.write(tmp_path / "other", other.build_model(seed=0).state_dict(), provenance)
    words = ("pseudo", "label", weights / "0", tmp_path / "other", "--data", pool, "--out", tmp_path / "out")
    said = command(*words)
    assert said.returncode == 2 and message in said.stderr
    said = label(command, weights, pool, tmp_path / "out", "--size", "4")
    assert said.returncode == 2 and "size must be 8 to 4096" in said.stderr
    assert not (tmp_path / "out").exists()


def test_a_pool_that_changes_meanwhile_is_no_mixture(weights, pool, tmp_path, command, monkeypatch):
    monkeypatch.setattr(table, "_SMALLEST_PART", 25)
    real = pseudo._prepared

    def late(*args):
        Image.new("L", (20, 20)).save(pool / "0" / "new.png")
        real.cache_clear()
        return real(*args)

    late.cache_clear = real.cache_clear
    monkeypatch.setattr(pseudo, "_prepared", late)
    said = label(command, weights, pool, tmp_path / "out")
    assert said.returncode == 1 and said.stdout.count("changed while it was labeled") == 5
    assert not list((tmp_path / "out").glob("part-*"))


def test_the_truth_of_a_pool_is_kept_for_reports(tmp_path):
    for path in ("cat/1.png", "dog/cat/2.png", "other/3.png", "4.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / path)
    truths = truths_of(tmp_path)
    assert truths == {"cat/1.png": 1, "dog/cat/2.png": 1, "other/3.png": -1, "4.png": -1}
    (tmp_path / "labels.csv").write_text(
        "path,label,split\ncat/1.png,dog,train\n4.png,bird,\ngone.png,,train\nother/3.png,cat|dog,train\nx.png,cat,test\n".replace(
            ",bird,\n", ",bird,train\n"
        )
    )
    assert truths_of(tmp_path / "labels.csv") == {
        "cat/1.png": 0,
        "4.png": -1,
        "gone.png": -1,
        "other/3.png": -1,
    }
    (tmp_path / "paths.csv").write_text("path\ncat/1.png\n4.png\n")
    assert truths_of(tmp_path / "paths.csv") == {"cat/1.png": -1, "4.png": -1}
    assert len(open_pool("builtin", classes=())) == 10_000


def truths_of(path):
    pool = open_pool(str(path), classes=("dog", "cat"))
    return {pool.key(i): labeling._truth(pool, i, {"dog": 0, "cat": 1}) for i in range(len(pool))}


def test_writing_a_large_table_takes_microseconds_per_row():
    columns = {
        "keys": [f"folder/{i}.jpg" for i in range(10_000)],
        "fingerprints": [bytes(16)] * 10_000,
        "truths": np.zeros(10_000, int),
        "probabilities": np.full((10_000, 10), 0.1),
    }
    times = []
    for _ in range(4):
        begin = time.process_time()
        table.encode_part(**columns, errors={}, top=None)
        times.append(time.process_time() - begin)
    assert min(times) / 10_000 < 5e-6
    parts = table.part_ranges(2_000_000)
    assert len(parts) == 200 and [len(table.part_ranges(n)) for n in (1, 500, 501, 9750, 20_000)] == [
        1,
        1,
        2,
        20,
        40,
    ]


def test_the_record_of_a_table_says_what_decides_on_its_labels(weights, pool, tmp_path, command):
    label(command, weights, pool, tmp_path / "out", "--size", "16", "--size", "24")
    info = json.loads((tmp_path / "out" / "table.json").read_text())
    assert (
        info["data"] == str(pool.resolve())
        and info["num_samples"] == 120
        and info["classes"] == list(CLASSES)
    )
    assert info["options"] == {"flip": False, "sizes": [16, 24], "top": None}
    (teacher,) = info["teachers"]
    ema = checkpoint.read(weights / "0").path / "ema.safetensors"
    assert teacher["kind"] == "ema" and teacher["weights"] == storage.file_sha256(ema)
