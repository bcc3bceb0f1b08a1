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

from resnet_rs import storage, zoo
from resnet_rs.config import edit
from resnet_rs.data.pool import open_pool
from resnet_rs.jobs import InProcess, Local
from resnet_rs.processes import Interrupted, Stop
from resnet_rs.pseudo import label as labeling
from resnet_rs.pseudo import table
from resnet_rs.pseudo.label import Labeling, Teacher, label_part
from resnet_rs.tasks.classification import Classification
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.machine import Machine
from resnet_rs.training.provenance import Provenance
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


def number_of(key):
    a, b, c = key.removesuffix(".png").replace("deep ", "").split("/")
    return next(i for i in range(len(CLASSES)) if (i % 7, i % 3, i // 21) == tuple(map(int, (a, b, c))))


def rows_of(content, folder):
    (folder / "part").write_bytes(content)
    return table.read_part(folder / "part").to_pylist()


@pytest.mark.parametrize("workers", [0, 2])
def test_every_label_belongs_to_its_image(pool, tmp_path, workers):
    source = open_pool(str(pool), classes=CLASSES)
    found = [
        label_part([READER], source, part, Labeling(), machine=machine(workers), stop=Stop())
        for part in (range(50), range(50, 120))
    ]
    rows = [row for content, _ in found for row in rows_of(content, tmp_path)]
    assert [row["key"] for row in rows] == [source.key(i) for i in range(120)]
    broken = {row["key"] for row in rows if row["error"]}
    assert len(broken) == sum(count for _, count in found) == 6
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
    content, _ = label_part([READER], source, range(2), Labeling(top=3), machine=machine(), stop=Stop())
    row = rows_of(content, tmp_path)[1]
    assert row["classes"][0] == row["label"] and row["classes"][1:] == sorted(row["classes"][1:])
    assert len(row["probabilities"]) == 3 and row["probabilities"][0] == pytest.approx(0.96, abs=0.01)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two teachers with random weights and EMA weights; the classes of the second one have another order."""
    folder = tmp_path_factory.mktemp("teachers")
    for i, classes in enumerate((CLASSES, CLASSES[::-1])):
        models = [EXPERIMENT.build_model(seed=seed) for seed in (i, 10 + i)]
        for model in models:
            for name, buffer in model.named_buffers():  # statistics that differ from those of any batch
                if "running" in name:
                    buffer.copy_(torch.rand(buffer.shape, generator=torch.Generator().manual_seed(i)) + 0.5)
        provenance = Provenance(experiment=EXPERIMENT, classes=classes, seed=0)
        checkpoint.write(folder / str(i), models[0].state_dict(), provenance)
    return folder


def probabilities(content, folder):
    return np.array(
        [row["probabilities"] for row in rows_of(content, folder) if row["error"] is None], np.float64
    )


def test_labels_do_not_depend_on_the_batch_and_the_teacher_does_not_learn(
    weights, pool, tmp_path, monkeypatch
):
    source = open_pool(str(pool), classes=CLASSES)
    saved = checkpoint.read(weights / "0")
    teacher = Teacher.load(saved, classes=CLASSES, machine=machine())
    assert not any(module.training for module in teacher.model.modules())
    before = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    found = []
    for count in (2, 64):
        monkeypatch.setattr(labeling, "batch_size", lambda device, count=count: count)
        content, _ = label_part([teacher], source, range(120), Labeling(), machine=machine(), stop=Stop())
        found.append(probabilities(content, tmp_path))
    assert np.abs(found[0] - found[1]).max() <= 2**-11 * found[0].max()  # the last bit of float16
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.model.state_dict().items())


def test_several_teachers_views_and_sizes_are_averaged_by_class_name(weights, pool, tmp_path):
    source = open_pool(str(pool), classes=CLASSES)
    teachers = [
        Teacher.load(checkpoint.read(weights / str(i)), classes=CLASSES, machine=machine()) for i in (0, 1)
    ]
    each = [
        probabilities(
            label_part([one], source, range(9), Labeling(sizes=(size,)), machine=machine(), stop=Stop())[0],
            tmp_path,
        )
        for one in teachers
        for size in (16, 24)
    ]
    both, _ = label_part(teachers, source, range(9), Labeling(sizes=(16, 24)), machine=machine(), stop=Stop())
    assert np.allclose(probabilities(both, tmp_path), np.mean(each, axis=0), atol=2e-3)
    # An image of one color is its own mirror image.
    flipped, _ = label_part(teachers, source, range(9), Labeling(flip=True), machine=machine(), stop=Stop())
    plain, _ = label_part(teachers, source, range(9), Labeling(), machine=machine(), stop=Stop())
    assert np.allclose(probabilities(flipped, tmp_path), probabilities(plain, tmp_path), atol=1e-3)


def test_a_stop_request_ends_a_part_without_a_file(pool):
    source, stop = open_pool(str(pool), classes=CLASSES), Stop()
    stop.reason = "a test"
    with pytest.raises(Interrupted):
        label_part([READER], source, range(120), Labeling(), machine=machine(), stop=stop)


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
    assert stopped.returncode == 75 and "the same command continues" in stopped.stderr
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
    assert done[0] == done[1] and len(done[0]) == 2


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


def test_teachers_of_other_classes_or_tasks_are_refused(weights, pool, tmp_path, command):
    other = edit(EXPERIMENT, {"task": Classification(num_classes=2)})
    model = other.build_model(seed=0)
    provenance = Provenance(experiment=other, classes=("cat", "dog"), seed=0)
    checkpoint.write(tmp_path / "other", model.state_dict(), provenance)
    words = ("pseudo", "label", weights / "0", tmp_path / "other", "--data", pool, "--out", tmp_path / "out")
    said = command(*words)
    assert said.returncode == 2 and "all teachers must know the same classes" in said.stderr
    assert not (tmp_path / "out").exists()


def test_the_truth_of_a_pool_is_kept_for_reports(tmp_path):
    for path in ("cat/1.png", "dog/cat/2.png", "other/3.png", "4.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / path)
    pool = open_pool(str(tmp_path), classes=("dog", "cat"))
    truths = {pool.key(i): pool.target(i).class_indices for i in range(4)}
    assert truths == {"cat/1.png": (1,), "dog/cat/2.png": (1,), "other/3.png": (), "4.png": ()}
    (tmp_path / "labels.csv").write_text("path,label\ncat/1.png,dog\n4.png,bird\n")
    pool = open_pool(str(tmp_path / "labels.csv"), classes=("dog", "cat"))
    assert [pool.target(i).class_indices for i in range(2)] == [(), (0,)]
    assert len(open_pool("builtin", classes=())) == 10_000


def test_bookkeeping_of_a_large_pool_takes_microseconds_per_row():
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
    assert info["teachers"] == [storage.file_sha256(weights / "0" / "model.safetensors")]
