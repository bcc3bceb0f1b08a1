"""Nothing that we read is run: files that plant a canary when they are unpickled, at every door where files come in."""

import builtins
import codecs
import collections
import contextlib
import functools
import gc
import importlib
import io
import logging
import marshal
import operator
import os
import pickle
import runpy
import shutil
import subprocess
import tarfile
import time
import timeit
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sampling import sample

from resnet_rs import storage, verbs
from resnet_rs.bridges.hub_folder import CONFIG, WEIGHTS
from resnet_rs.bridges.torch_file import as_safetensors, convert
from resnet_rs.data.decode import decode
from resnet_rs.data.sample import Request, Unreadable
from resnet_rs.training import checkpoint
from resnet_rs.weights.convert import convert as convert_weights
from resnet_rs.weights.reading import KINDS, SourceCheckpoint
from resnet_rs.weights.share import save_pretrained


class Call:
    """Pickled as a call of `function`, which may be another `Call`; `rest` is what else `__reduce__` may give."""

    def __init__(self, function, *arguments, rest=()):
        self.reduced = (function, arguments, *rest)

    def __reduce__(self):
        return self.reduced

    def __call__(self):
        """Pickle asks that a function can be called."""


def touch(canary):
    return f"touch {canary}"


def write(canary):
    return f"open({str(canary)!r}, 'w').close()"


def evil(canary):
    return Call(os.system, touch(canary))


def legacy(value):
    """A file of `torch.save` as before version 1.6: pickles one after the other."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def zipped(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def array(canary):
    buffer = io.BytesIO()
    np.save(buffer, np.array([evil(canary)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


OS = Call(importlib.import_module, "os")
OBJECTS = {
    "os.system": evil,
    "os.popen": lambda c: Call(os.popen, touch(c)),
    "os.open": lambda c: Call(os.open, str(c), os.O_CREAT),
    "os.mkdir": lambda c: Call(os.mkdir, str(c)),
    "os.spawnlp": lambda c: Call(os.spawnlp, os.P_WAIT, "touch", "touch", str(c)),
    "eval": lambda c: Call(eval, write(c)),
    "exec": lambda c: Call(exec, write(c)),
    "open": lambda c: Call(open, str(c), "w"),
    "Path.touch": lambda c: Call(Path.touch, c),
    "ZipFile": lambda c: Call(zipfile.ZipFile, str(c), "w"),
    "FileHandler": lambda c: Call(logging.FileHandler, str(c)),
    "copyfile": lambda c: Call(shutil.copyfile, os.devnull, str(c)),
    "subprocess.call": lambda c: Call(subprocess.call, ["touch", str(c)]),
    "subprocess.Popen": lambda c: Call(subprocess.Popen, ["touch", str(c)]),
    "subprocess.getoutput": lambda c: Call(subprocess.getoutput, touch(c)),
    "getattr chain": lambda c: Call(Call(getattr, OS, "system"), touch(c)),
    "getattr of builtins": lambda c: Call(
        Call(getattr, Call(importlib.import_module, "builtins"), "exec"), write(c)
    ),
    "__import__": lambda c: Call(Call(getattr, Call(builtins.__import__, "os"), "system"), touch(c)),
    "attrgetter": lambda c: Call(Call(operator.attrgetter("system"), OS), touch(c)),
    "methodcaller": lambda c: Call(operator.methodcaller("system", touch(c)), OS),
    "partial": lambda c: Call(functools.partial(os.system, touch(c))),
    "map": lambda c: Call(list, Call(map, os.system, [touch(c)])),
    "runpy": lambda c: Call(runpy._run_code, write(c), {}),
    "timeit": lambda c: Call(timeit.timeit, write(c), "pass", timeit.default_timer, 1),
    "codecs": lambda c: Call(exec, Call(codecs.decode, write(c).encode().hex().encode(), "hex")),
    "marshal": lambda c: Call(exec, Call(marshal.loads, marshal.dumps(compile(write(c), "payload", "exec")))),
    "pickle in a pickle": lambda c: Call(pickle.loads, pickle.dumps(evil(c))),
    "_load_from_bytes": lambda c: Call(torch.storage._load_from_bytes, legacy(evil(c))),
    "_load_from_bytes in itself": lambda c: Call(
        torch.storage._load_from_bytes, legacy(Call(torch.storage._load_from_bytes, legacy(evil(c))))
    ),
    "torch.load": lambda c: Call(
        functools.partial(torch.load, weights_only=False), io.BytesIO(legacy(evil(c)))
    ),
    "numpy.load": lambda c: Call(functools.partial(np.load, allow_pickle=True), io.BytesIO(array(c))),
    "torch.fx": lambda c: Call(torch.fx.graph_module._exec_with_source, write(c), {}),
    "a function that torch trusts": lambda c: Call(
        torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (touch(c),), {}
    ),
    "in a state": lambda c: Call(collections.OrderedDict, rest=(evil(c),)),
    "in an item": lambda c: Call(collections.OrderedDict, rest=(None, None, iter([("a", evil(c))]))),
    "in a list": lambda c: [[[evil(c)]]],
    "beside weights": lambda c: {"state_dict": {"a": torch.ones(2)}, "args": evil(c)},
    "among weights": lambda c: {"a": torch.ones(2), "b": evil(c)},
    "as a name": lambda c: {evil(c): torch.ones(2)},
}
"""Values whose pickle runs something."""

STREAMS = {
    "by hand, REDUCE": lambda c: b"cos\nsystem\n(S'" + touch(c).encode() + b"'\ntR.",
    "by hand, INST": lambda c: b"(S'" + touch(c).encode() + b"'\nios\nsystem\n.",
    "by hand, OBJ": lambda c: b"(cos\nsystem\nS'" + touch(c).encode() + b"'\no.",
    "protocol 0": lambda c: pickle.dumps(evil(c), protocol=0),
    "protocol 2": lambda c: pickle.dumps(evil(c), protocol=2),
    "protocol 5": lambda c: pickle.dumps(evil(c), protocol=5),
}
"""Pickles, with nothing around them."""


def archive(entries, *, compression=zipfile.ZIP_STORED):
    """A file of `torch.save` with some of its entries, and others, replaced: pairs of names and contents."""
    buffer = io.BytesIO()
    names = {name for name, _ in entries}
    with zipfile.ZipFile(io.BytesIO(zipped({"a": torch.ones(2)}))) as good:
        kept = [(name, good.read(name)) for name in good.namelist() if name not in names]
    with zipfile.ZipFile(buffer, "w", compression) as bad, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names may come twice
        for name, content in [*kept, *entries]:
            bad.writestr(name, content)
    return buffer.getvalue()


def tarred(canary):
    """The oldest format: a tar archive of pickles."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(0, protocol=2) + pickle.dumps(evil(canary), protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def script(canary):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such archives are on their way out, but they are around
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), buffer)
    return buffer.getvalue()


def legacy_part(canary, *, number):
    """The second oldest format with one of its five pickles replaced."""
    parts = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}, {}, []]
    parts[number] = evil(canary)
    return b"".join(pickle.dumps(part, protocol=2) for part in parts)


def twice(canary, *, evil_first):
    evil_one, good_one = pickle.dumps(evil(canary), protocol=2), pickle.dumps({}, protocol=2)
    order = [evil_one, good_one] if evil_first else [good_one, evil_one]
    return archive([("archive/data.pkl", content) for content in order])


FILES = {
    **{name: lambda c, make=make: zipped(make(c)) for name, make in OBJECTS.items()},
    **STREAMS,
    **{
        f"{name}, in an archive": lambda c, make=make: archive([("archive/data.pkl", make(c))])
        for name, make in STREAMS.items()
    },
    "legacy": lambda c: legacy({"a": evil(c)}),
    **{f"legacy, in place of part {i}": functools.partial(legacy_part, number=i) for i in (1, 2, 3, 4)},
    "tar": tarred,
    "two pickles, the first evil": functools.partial(twice, evil_first=True),
    "two pickles, the second evil": functools.partial(twice, evil_first=False),
    "a compressed archive": lambda c: archive(
        [("archive/data.pkl", pickle.dumps(evil(c), protocol=2))], compression=zipfile.ZIP_DEFLATED
    ),
    "a small zip bomb": lambda c: archive(
        [("archive/data/0", bytes(8 << 20))], compression=zipfile.ZIP_DEFLATED
    ),
    "an archive that leaves its folder": lambda c: archive([(str(c), b""), (f"../../{c.name}", b"")]),
    "a script archive": script,
    "an array of objects": array,
    "safetensors with a pickle for its header": lambda c: b"".join(
        [(100).to_bytes(8, "little"), pickle.dumps(evil(c)).ljust(100)]
    ),
    "a module": lambda c: zipped(torch.nn.Linear(2, 2)),
    "nested 100,000 deep": lambda c: archive([("archive/data.pkl", b"]" * 100_000 + b"a" * 99_999 + b".")]),
}
HARMLESS_AS_IT_IS = {
    "two pickles, the first evil",
    "two pickles, the second evil",
    "a small zip bomb",
    "an archive that leaves its folder",
    "a script archive",
    "an array of objects",
    "safetensors with a pickle for its header",
    "a module",
    "nested 100,000 deep",
}
"""These do nothing to `torch.load`, trusting as it is; another reader may be less lucky."""


@pytest.fixture
def canary(tmp_path):
    """A path at which nothing may ever be."""
    return tmp_path / "canary"


@pytest.fixture(params=sample(FILES, of=4))
def payload(request, canary):
    content = FILES[request.param](canary)
    yield content
    assert not canary.exists()


def test_there_are_enough_of_them():
    assert len(FILES) >= 60


@pytest.mark.filterwarnings("ignore")  # files that a payload leaves open
@pytest.mark.parametrize("name", sample([name for name in FILES if name not in HARMLESS_AS_IT_IS], of=4))
def test_a_reader_that_trusts_them_runs_them(name, canary, tmp_path):
    content = FILES[name](canary)
    (tmp_path / "file").write_bytes(content)
    with contextlib.suppress(Exception):
        torch.load(tmp_path / "file", weights_only=False)
    if name in STREAMS:
        pickle.loads(content)
    deadline = time.monotonic() + 5
    while not canary.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert canary.exists()
    # What it has left open is closed here, where that is no error; a child that has not ended yet keeps its pipes.
    gc.collect()
    while subprocess._active:
        subprocess._cleanup()
        time.sleep(0.01)
    gc.collect()


def test_the_converter_refuses_them(payload, tmp_path):
    (tmp_path / "file").write_bytes(payload)
    with pytest.raises(ValueError) as error, (tmp_path / "file").open("rb") as opened:
        as_safetensors(opened)
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["ema", "model"])
def test_in_place_of_weights_they_are_damage(payload, name, folder, reseal):
    for kept in folder.glob("*.safetensors"):
        kept.unlink()
    (folder / f"{name}.safetensors").write_bytes(payload)
    with pytest.raises(storage.Damaged):
        verbs.load(folder)
    with pytest.raises(storage.Damaged):
        verbs.evaluate(folder, data="builtin")
    reseal(folder)
    with pytest.raises(storage.Damaged, match=rf"{name}\.safetensors cannot be read"):
        verbs.load(folder)


@pytest.mark.parametrize("name", ["checkpoint.json", storage.MANIFEST])
def test_in_place_of_what_describes_weights_they_are_damage(payload, name, folder, reseal):
    (folder / name).write_bytes(payload)
    with pytest.raises(storage.Damaged):
        verbs.load(folder)
    if name != storage.MANIFEST:
        reseal(folder)
        with pytest.raises(storage.Damaged, match=name):
            verbs.load(folder)


def test_in_place_of_what_describes_a_run_they_are_refused(payload, run_folder):
    for name in ("experiment.json", "run.json", "scores.json"):
        content = (run_folder / name).read_bytes()
        (run_folder / name).write_bytes(payload)
        with pytest.raises(storage.Damaged, match=name):
            verbs.report(run_folder)
        (run_folder / name).write_bytes(content)


@pytest.mark.parametrize("name", ["protocol 0", "os.system", "legacy", "tar"])
def test_in_place_of_a_log_they_are_an_empty_log(name, run_folder, canary):
    (run_folder / "log.jsonl").write_bytes(FILES[name](canary))
    verbs.report(run_folder)
    assert not canary.exists()


def test_in_place_of_a_folder_they_are_refused(payload, tmp_path):
    (tmp_path / "file").write_bytes(payload)
    for door in (checkpoint.read, verbs.load, verbs.report):
        with pytest.raises(OSError):
            door(tmp_path / "file")
    with pytest.raises((ValueError, OSError)):
        verbs.evaluate(tmp_path / "file", data=str(tmp_path / "file"))


@pytest.mark.parametrize("channels", [1, 3])
def test_as_an_image_they_are_unreadable(payload, channels):
    with pytest.raises(Unreadable):
        decode(payload, key="image", request=Request(channels))


def test_among_images_they_are_named_and_left_out(tmp_path, canary, pristine):
    names = list(FILES)
    for name in ("cat", "dog", "owl"):
        (tmp_path / "others" / name).mkdir(parents=True)
        Image.new("L", (16, 16), 99).save(tmp_path / "others" / name / "good.png")
    for i, name in enumerate(names):
        ending = ("png", "jpg", "npy", "webp")[i % 4]
        (tmp_path / "others" / "cat" / f"{i}.{ending}").write_bytes(FILES[name](canary))
    scores = verbs.evaluate(pristine, data=str(tmp_path / "others"))
    assert (scores["count"], len(scores["unreadable"])) == (3, len(names))
    predictions = verbs.load(pristine).predict(sorted((tmp_path / "others").rglob("*.*")))
    assert sum(prediction.unreadable is None for prediction in predictions) == 3
    assert not canary.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_none_runs_when_it_is_taken_for_somebody_elses_weights(kind, tmp_path, canary):
    """Each payload under every file name that the kind treats differently.

    PyTorch files are read in a child process, which takes seconds to start: two payloads are tried there.
    """
    is_torch = kind in ("timm", "torchvision", "efficientnet-lite")
    endings = (".pth", ".safetensors") if is_torch else (".h5", ".index", ".tar.gz", ".zip")
    for name in ("os.system", "legacy") if is_torch else FILES:
        for ending in endings:
            file = tmp_path / f"evil{ending}"
            file.write_bytes(FILES[name](canary))
            with pytest.raises((ValueError, FileNotFoundError)):
                convert_weights(SourceCheckpoint(path=file, kind=kind), tmp_path / "out")
            file.unlink()
    assert not canary.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sample(FILES, of=4))
def test_none_runs_in_a_folder_of_the_hub(name, pristine, tmp_path, canary):
    """In place of the weights, of the configuration, and of both."""
    for spoilt in ({WEIGHTS}, {CONFIG}, {WEIGHTS, CONFIG}):
        folder = save_pretrained(pristine, tmp_path / "hub")
        for file in spoilt:
            (folder / file).write_bytes(FILES[name](canary))
        with pytest.raises((ValueError, storage.Damaged)):
            convert_weights(SourceCheckpoint(path=folder, kind="hub"), tmp_path / "out")
        shutil.rmtree(folder)
    assert not canary.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["os.system", "legacy"])
def test_the_whole_converter_refuses_them_in_one_sentence_and_writes_nothing(name, tmp_path, canary):
    (tmp_path / "evil.pth").write_bytes(FILES[name](canary))
    with pytest.raises(ValueError, match=r"cannot convert .*evil\.pth: it asks for posix\.system"):
        convert(tmp_path / "evil.pth", tmp_path / "out.safetensors")
    assert not canary.exists() and not (tmp_path / "out.safetensors").exists()
