"""TensorFlow checkpoints are read as TensorFlow 2.15 wrote them, or refused in one line.

Oracle: `tests/assets/tensor-bundle`, written by TensorFlow.
"""

import random
import re
import shutil
import sys
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from resnet_rs.bridges.tensor_bundle import TensorBundle

ASSETS = Path(__file__).parents[1] / "assets" / "tensor-bundle"
CHECKPOINTS = {"v1": "model.ckpt-1234", "v1-sharded": "model.ckpt-1234", "v2": "ckpt-2"}
ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")


def expected(name):
    with np.load(ASSETS / f"{name.removesuffix('-sharded')}.npz") as arrays:
        return dict(arrays)


def contents(path):
    bundle = TensorBundle(path)
    readable = [name for name, entry in bundle.entries.items() if entry.dtype != "string"]
    return dict(bundle.read_many(readable))


def read(bundle, name):
    """One variable."""
    [(_, array)] = bundle.read_many([name])
    return array


def is_same(arrays, others):
    return arrays.keys() == others.keys() and all(
        type(a) is np.ndarray and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in ((arrays[name], others[name]) for name in arrays)
    )


@contextmanager
def refused(pattern, kind=ValueError):
    """Refused in one line that matches."""
    with pytest.raises(kind) as caught:
        yield
    assert re.search(pattern, str(caught.value)), str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 and str(caught.value).endswith(".")


def copied(tmp_path, name):
    return Path(shutil.copytree(ASSETS / name, tmp_path / name))


def packed(path, folder, *, inside="run/"):
    """An archive of a folder; index files last, as the order of a folder may have it."""
    files = sorted(folder.iterdir(), key=lambda file: file.suffix == ".index")
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for file in files:
                opened.write(file, inside + file.name)
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as opened:
            for file in files:
                opened.add(file, inside + file.name)
    return path


# Forged files, with every checksum right.


def varint(number):
    number %= 1 << 64
    return bytes([number % 128 + 128]) + varint(number // 128) if number > 127 else bytes([number])


def message(*fields):
    """A protocol buffer of numbered integers and bytes."""
    return b"".join(
        varint(number << 3 | 2) + varint(len(value)) + value
        if isinstance(value, bytes)
        else varint(number << 3) + varint(value)
        for number, value in fields
    )


def masked(content):
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32)


def entry(*, dtype=1, shape=(2,), shard=0, offset=0, num_bytes=8, content=bytes(8), more=()):
    dims = message(*((2, message((1, size))) for size in shape))
    crc = b"\x35" + masked(content).to_bytes(4, "little")
    return message((1, dtype), (2, dims), (3, shard), (4, offset), (5, num_bytes), *more) + crc


def block(pairs, *, method=0, change=lambda body: body):
    body = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in pairs)
    body = change(body + bytes(4) + (1).to_bytes(4, "little")) + bytes([method])
    return body + masked(body).to_bytes(4, "little")


HEADER = (b"", message((1, 1), (3, message((1, 1)))))


ONE = ((b"a", entry()),)


def forge(folder, pairs=ONE, *, header=HEADER, data=bytes(8), **options):
    """A checkpoint of these keys and entries, each in a block of its own."""
    blocks = [block([pair], **options) for pair in (header, *pairs)]
    starts = [sum(map(len, blocks[:number])) for number in range(len(blocks))]
    handles = [varint(start) + varint(len(b) - 5) for start, b in zip(starts, blocks, strict=True)]
    index = block([(b"%09d" % number, handle) for number, handle in enumerate(handles)])
    at = sum(map(len, blocks))
    footer = varint(0) + varint(0) + varint(at) + varint(len(index) - 5)
    (folder / "model.ckpt.index").write_bytes(b"".join(blocks) + index + footer.ljust(40, b"\0") + MAGIC)
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(data)
    return folder / "model.ckpt"


# What is read.


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_arrays_are_those_that_tensorflow_wrote_to_the_bit(name):
    assert is_same(contents(ASSETS / name), expected(name))


def test_shapes_and_types_are_listed_without_reading():
    bundle = TensorBundle(ASSETS / "v1")
    assert list(bundle.shapes) == sorted(expected("v1"))
    assert bundle.shapes["resnet/empty"] == (0, 3)
    assert bundle.shapes["global_step"] == ()
    assert bundle.entries["resnet/bfloat16"].dtype == "bfloat16"
    assert TensorBundle(ASSETS / "v2").entries["_CHECKPOINTABLE_OBJECT_GRAPH"].dtype == "string"


def test_one_variable_is_read_alone_and_may_be_changed():
    step = read(TensorBundle(ASSETS / "v1"), "global_step")
    step += 1
    assert step == (1 << 40) + 1


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("ending", ["", ".index"])
def test_a_prefix_and_its_index_name_the_same_checkpoint(name, ending):
    assert is_same(contents(ASSETS / name / (CHECKPOINTS[name] + ending)), expected(name))


def test_a_folder_of_one_checkpoint_needs_no_text_file(tmp_path):
    folder = copied(tmp_path, "v1")
    (folder / "checkpoint").unlink()
    assert is_same(contents(folder), expected("v1"))


@pytest.mark.parametrize("written", ["ckpt-1", "/home/someone/run/ckpt-1", r"C:\\run\\ckpt-1"])
def test_of_several_the_text_file_names_one_and_its_folder_is_ignored(tmp_path, written):
    folder = copied(tmp_path, "v2")
    (folder / "checkpoint").write_text(
        f'model_checkpoint_path: "{written}"\nall_model_checkpoint_paths: "b"\n'
    )
    assert TensorBundle(folder).prefix == "ckpt-1"


@pytest.mark.parametrize(
    "text", [None, "", "model_checkpoint_path: ckpt-1", 'model_checkpoint_path: "../ckpt-9"']
)
def test_several_without_a_choice_are_refused_and_listed(tmp_path, text):
    folder = copied(tmp_path, "v2")
    (folder / "checkpoint").unlink() if text is None else (folder / "checkpoint").write_text(text)
    with refused("holds several checkpoints: 'ckpt-1', 'ckpt-2'. Give one of them"):
        TensorBundle(folder)


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_archive_is_read_in_place(tmp_path, name, ending):
    path = packed(tmp_path / f"released{ending}", ASSETS / name)
    bundle = TensorBundle(path)
    assert bundle.prefix == f"run/{CHECKPOINTS[name]}"
    assert is_same(contents(path), expected(name))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", [".tar.gz", ".zip"])
def test_files_that_a_mac_puts_into_archives_are_no_checkpoints(tmp_path, ending):
    folder = copied(tmp_path, "v1")
    (folder / "._model.ckpt-1234.index").write_bytes(b"attributes")
    assert is_same(contents(packed(tmp_path / f"a{ending}", folder)), expected("v1"))


def test_variables_come_one_at_a_time(tmp_path):
    folder = copied(tmp_path, "v1")
    bundle = TensorBundle(folder)
    arrays = bundle.read_many(bundle.shapes)
    first, _ = next(arrays)
    file = next(folder.glob("*.data*"))
    file.write_bytes(file.read_bytes()[:8])
    assert first == "global_step"
    with refused("cannot read 'resnet/bfloat16' of .*data-00000-of-00001: it is cut off"):
        list(bundle.read_many(bundle.shapes))


def test_names_are_not_ascii_only_and_keys_fill_several_blocks(tmp_path):
    pairs = [(f"größe/{n:04d}".encode(), entry(offset=n, content=bytes(8))) for n in range(300)]
    bundle = TensorBundle(forge(tmp_path, pairs, data=bytes(400)))
    assert len(bundle.shapes) == 300
    assert is_same({"": read(bundle, "größe/0299")}, {"": np.zeros(2, np.float32)})


# What is refused.


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        (
            "text",
            "cannot read 'text' of .*not-read/model.ckpt: it holds string; expected one of bfloat16, bool",
        ),
        ("complex", "'complex' .* holds complex64"),
        ("partitioned", "'partitioned' .* is stored in 2 slices"),
    ],
)
def test_what_cannot_be_read_is_listed_and_refused_by_name(name, pattern):
    bundle = TensorBundle(ASSETS / "not-read")
    assert set(bundle.shapes) == {"complex", "partitioned", "text", "whole"}
    assert read(bundle, "whole").tolist() == [1, 2]
    with refused(pattern):
        next(bundle.read_many(["whole", name]))


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"shape": (-1, -2)}, "the shape of 'a' is unknown or has more than 32"),
        ({"shape": (1,) * 33 + (2,)}, "the shape of 'a' is unknown or has more than 32"),
        ({"shape": (1 << 62, 1 << 62, 4)}, "gives 'a' 8 bytes; shape .* need"),
        ({"shape": (3,)}, "gives 'a' 8 bytes; shape .3,. and type float32 need 12"),
        ({"num_bytes": -8}, "places 'a' at bytes 0 to -8 of data file 0 of 1, which cannot be"),
        ({"offset": -1}, "places 'a' at bytes -1 to 7"),
        ({"shard": 1}, "of data file 1 of 1"),
        ({"shard": -1}, "of data file -1 of 1"),
        ({"offset": 1}, "data-00000-of-00001 has 8 bytes, but 'a' in it ends at 9"),
        ({"shape": (1 << 40,), "num_bytes": 1 << 42}, "has 8 bytes, but 'a' in it ends at"),
        ({"more": ((6, b""), (1, b"x"))}, "damaged: it has no number in field 1. Fetch"),
        ({"more": ((2, 7),)}, "damaged: it has no message in field 2. Fetch"),
        ({"more": ((2, b"\x18\x01"),)}, "the shape of 'a' is unknown"),
        ({"more": ((2, b"\x12\x09\x08"),)}, "damaged: it has a message that is cut off"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(tmp_path, changes, pattern):
    with refused(pattern):
        TensorBundle(forge(tmp_path, [(b"a", entry(**changes))]))


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"method": 1}, "index: it is compressed .snappy."),
        ({"method": 9}, "index: it is compressed .method 9."),
        ({"header": (b"", message((1, 1), (2, 1)))}, "index: it was written on a big-endian machine"),
        ({"header": (b"", message((1, 0)))}, "its first entry is not the header"),
        ({"header": (b"", message((1, 1 << 40)))}, "its first entry is not the header"),
        ({"header": (b"x", message((1, 1)))}, "its first entry is not the header"),
        ({"header": (b"", message((1, 1), (3, message((2, 2)))))}, "needs a reader of version 2"),
        ({"pairs": [(b"b", entry()), (b"a", entry())]}, "damaged: it has keys out of order"),
        ({"pairs": [(b"a", entry()), (b"a", entry())]}, "damaged: it has keys out of order"),
        ({"pairs": [(b"\xff", entry())]}, "is not a name in UTF-8"),
        ({"pairs": [(b"n" * 1001, entry())]}, "a key or value that is too long"),
        ({"pairs": [(b"a", b"\x08" + b"\x80" * 10 + b"\x01")]}, "a number that is cut off or too long"),
        ({"pairs": [(b"a", b"\x0b")]}, "a value of an unknown kind"),
        ({"change": lambda body: body[:-4] + b"\xff" * 4}, "a block that is too short"),
        ({"change": lambda body: b"\x01" + body[1:]}, "a key or value that is too long"),
        ({"change": lambda body: b""}, "a block that is too short"),
    ],
)
def test_an_index_that_cannot_be_is_refused(tmp_path, options, pattern):
    with refused(pattern):
        TensorBundle(forge(tmp_path, **options))


def test_a_type_of_the_future_is_listed_and_refused_when_read(tmp_path):
    bundle = TensorBundle(forge(tmp_path, [(b"a", entry(dtype=99))]))
    assert bundle.entries["a"].dtype == "type 99"
    with refused("cannot read 'a' of .*: it holds type 99; expected one of"):
        read(bundle, "a")


def test_an_empty_variable_of_absurd_shape_is_refused_when_read(tmp_path):
    shape = (0, 1 << 62)
    bundle = TensorBundle(forge(tmp_path, [(b"a", entry(shape=shape, num_bytes=0, content=b""))]))
    with refused("'a' of .*: its shape is .* expected at most 4,294,967,296 bytes"):
        read(bundle, "a")


def test_a_missing_data_file_is_named(tmp_path):
    folder = copied(tmp_path, "v1-sharded")
    (folder / "model.ckpt-1234.data-00001-of-00002").unlink()
    with refused("data-00001-of-00002 is missing, which holds 'resnet", FileNotFoundError):
        TensorBundle(folder)


def test_other_paths_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.h5").write_bytes(b"")
    with refused("nowhere is no TensorFlow checkpoint. Expected a prefix", FileNotFoundError):
        TensorBundle(tmp_path / "nowhere")
    with refused(
        "empty holds no TensorFlow checkpoint: expected a file that ends in .index", FileNotFoundError
    ):
        TensorBundle(tmp_path / "empty")
    with refused("model.h5 is no TensorFlow checkpoint"):
        TensorBundle(tmp_path / "model.h5")


def test_the_missing_library_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with refused(
        r"needs google_crc32c, which is not installed. Install it with `pip install 'resnet-rs\[convert\]'`"
    ):
        TensorBundle(ASSETS / "v1")


# Damage and forgery.


@pytest.mark.parametrize("name", ["v1", "v1-sharded"])
def test_every_changed_byte_of_data_is_noticed_at_its_variable(tmp_path, name):
    folder = copied(tmp_path, name)
    bundle = TensorBundle(folder)
    for file in folder.glob("*.data*"):
        whole = file.read_bytes()
        for place in range(0, len(whole), 7):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
            with refused(f"cannot read '.*' of .*{file.name}: its checksum is wrong"):
                list(bundle.read_many(bundle.shapes))
        file.write_bytes(whole)


def changes(whole, *, num_changes):
    """A file with flipped bits, cut off, or with a piece missing or filled."""
    rng = random.Random(0)
    for number in range(num_changes):
        at, length = rng.randrange(len(whole)), rng.randrange(1, 20)
        yield [
            whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :],
            whole[:at],
            whole[:at] + whole[at + length :],
            whole[:at] + rng.choice([b"\0", b"\xff"]) * length + whole[at + length :],
        ][number % 4]


@pytest.mark.parametrize("ending", ["", *ENDINGS])
def test_a_damaged_file_is_refused_or_gives_the_same(tmp_path, ending):
    folder = copied(tmp_path, "v1-sharded")
    path = packed(tmp_path / f"a{ending}", folder) if ending else folder
    file = path if ending else folder / "model.ckpt-1234.index"
    num_refused = 0
    for changed in changes(file.read_bytes(), num_changes=120):
        file.write_bytes(changed)
        try:
            found = contents(path)
        except (ValueError, FileNotFoundError) as error:
            assert len(str(error).splitlines()) == 1 and str(tmp_path) in str(error)
            num_refused += 1
        else:
            assert is_same(found, expected("v1"))
    assert num_refused > 30


def test_a_forged_index_gives_arrays_or_a_refusal(tmp_path):
    pairs = [(b"a", entry()), (b"b", entry(dtype=10, shape=(2, 2), num_bytes=4, content=bytes(4)))]
    rng, num_refused = random.Random(0), 0

    def change(body):
        at = rng.randrange(len(body))
        return body[:at] + bytes([rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])]) + body[at + 1 :]

    for _ in range(150):
        path = forge(tmp_path, pairs, change=change)
        try:
            contents(path)
        except (ValueError, FileNotFoundError) as error:
            assert len(str(error).splitlines()) == 1
            num_refused += 1
    assert num_refused > 75
