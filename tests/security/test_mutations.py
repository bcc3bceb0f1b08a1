"""Damaged and doctored checkpoints: rot is always found, and a doctored one is loaded or refused, never more.

Half of the mutations rot a file, half doctor it and seal it anew.
"""

import json
import random
import re
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from sampling import IS_FULL

from resnet_rs import storage, verbs
from resnet_rs.training import checkpoint

NUM_CASES = 10_000 if IS_FULL else 600
NAME = "head.classifier.weight"
PARTS = 10
"""Tests that the cases are spread over."""
MEBIBYTE = 1 << 20
WORDS = [
    b"null",
    b"-1",
    b"1e999",
    b"NaN",
    b'"',
    b"{",
    b"[" * 2000,
    b"9" * 5000,
    b"\x00",
    b"\xff",
    b"\\ud800",
    b"true",
]
"""What breaks parsers."""
PROCESS = Path("/proc/self")
READ = ("ema.safetensors", "checkpoint.json")
"""What is read to load a model."""
NUMBERS = (0, 1, 7, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def flip(rng, content):
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 8))):
        found[position(rng, content)] ^= 1 << rng.randrange(8)
    return bytes(found)


def overwrite(rng, content):
    start, length = position(rng, content), rng.randint(1, 64)
    filling = rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length))
    return content[:start] + filling + content[start + length :]


def truncate(rng, content):
    return content[: position(rng, content)]


def insert(rng, content):
    start = position(rng, content)
    return content[:start] + rng.choice([*WORDS, rng.randbytes(rng.randint(1, 40))]) + content[start:]


def duplicate(rng, content):
    start, length = position(rng, content), rng.randint(1, 200)
    return content[: start + length] + content[start:]


def remove(rng, content):
    start = position(rng, content)
    return content[:start] + content[start + rng.randint(1, 200) :]


def change_length(rng, content):
    """Another length of the header, in the first eight bytes of safetensors."""
    length = int.from_bytes(content[:8], "little")
    near = rng.choice((length + rng.randint(-9, 9), len(content) - 8, len(content), *NUMBERS))
    return near.to_bytes(8, "little", signed=False) + content[8:] if near >= 0 else content[8:]


def change_digits(rng, content):
    """Another number, of the JSON at the beginning."""
    numbers = list(re.finditer(rb"[0-9.]+", content[8:4000]))
    if not numbers:
        return content + b"0"
    start, end = (8 + edge for edge in rng.choice(numbers).span())
    number = rng.choice((*NUMBERS, -1, 0.5, 16, 100, 10**4, 10**6))
    return content[:start] + str(number).encode() + content[end:]


KINDS = (
    flip,
    flip,
    overwrite,
    truncate,
    insert,
    duplicate,
    remove,
    change_length,
    change_digits,
    change_digits,
)


def position(rng, content):
    """A place in a file; text and headers come first, and are hit more often."""
    return rng.randrange(min(len(content), rng.choice((16, 400, 4000, len(content)))))


def mutation(rng, files, *, among):
    """What is to be written over which of the files `among`, not all of it as before."""
    changed = {}
    while all(files[name] == content for name, content in changed.items()):
        name = rng.choice(sorted(among))
        other = rng.choice(sorted(files))
        swapped = {name: files[other], other: files[name]}
        changed = swapped if rng.random() < 0.05 else {name: rng.choice(KINDS)(rng, files[name])}
    return changed


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def peak(*, reset=False):
    """Resident memory at its highest, in bytes, since it was last reset; 0 where the system does not tell."""
    if reset and (PROCESS / "clear_refs").exists():
        (PROCESS / "clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text()) if PROCESS.exists() else None
    return 1024 * int(found[1]) if found else 0


@pytest.mark.parametrize("part", range(PARTS))
def test_all_rot_is_found(folder, part):
    files = contents(folder)
    for case in range(part, NUM_CASES // 2, PARTS):
        changed = mutation(random.Random(case), files, among=files)
        for name, content in changed.items():
            (folder / name).write_bytes(content)
        with pytest.raises(storage.Damaged):
            checkpoint.read(folder)
            pytest.fail(f"case {case} was not found")
        for name in changed:
            (folder / name).write_bytes(files[name])
    checkpoint.read(folder).load_model()


@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_doctored_is_loaded_as_it_should_be_or_refused(folder, reseal, part):
    files = contents(folder)
    wanted = {name: (t.shape, t.dtype) for name, t in load(files["ema.safetensors"]).items()}
    for case in range(part, NUM_CASES // 2, PARTS):
        changed = mutation(random.Random(10**6 + case), files, among=READ)
        for name, content in changed.items():
            (folder / name).write_bytes(content)
        reseal(folder)
        before, begin = peak(reset=True), time.monotonic()
        try:
            model = checkpoint.read(folder).load_model()
            assert {name: (t.shape, t.dtype) for name, t in model.state_dict().items()} == wanted
        except (ValueError, FileNotFoundError) as error:
            assert folder.name in str(error), f"case {case}: {error}"
        except Exception as error:
            pytest.fail(f"case {case}, {sorted(changed)}: {type(error).__name__}: {str(error)[:300]}")
        size = sum(len(content) for content in changed.values())
        assert peak() - before <= size + 100 * MEBIBYTE, f"case {case}"
        assert time.monotonic() - begin < 10, f"case {case}"
        for name in changed:
            (folder / name).write_bytes(files[name])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: {**m, "extra": torch.ones(1)}, "extra"),
        (lambda m: {n: t for n, t in m.items() if n != NAME}, NAME),
        (lambda m: {**m, NAME: m[NAME][:1].clone()}, NAME),
        (lambda m: {**m, NAME: torch.ones(5)}, NAME),
        (lambda m: {**m, NAME: m[NAME].double()}, NAME),
    ],
)
def test_momentum_of_another_network_is_refused_by_name(run_folder, folder, photos, reseal, change, named):
    file = folder / "momentum.safetensors"
    file.write_bytes(save(change(load(file.read_bytes()))))
    reseal(folder)
    with pytest.raises(storage.Damaged, match=rf"momentum\.safetensors .*{named}"):
        verbs.train(checkpoint.read(folder).experiment, data=str(photos), out=run_folder)


@pytest.fixture
def weights(folder):
    return load((folder / "ema.safetensors").read_bytes())


def put(folder, weights, reseal):
    (folder / "ema.safetensors").write_bytes(save(weights))
    reseal(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: {**w, "extra": torch.ones(1)}, "extra"),
        (lambda w: {n: t for n, t in w.items() if n != NAME}, NAME),
        (lambda w: {**w, NAME: w[NAME][:2].clone()}, NAME),
        (lambda w: {**w, NAME: w[NAME].t().contiguous()}, NAME),
        (lambda w: {**w, NAME: w[NAME].flatten()}, NAME),
        (lambda w: {**w, NAME: w[NAME][None].clone()}, NAME),
        (lambda w: {**w, NAME: w[NAME].double()}, NAME),
        (lambda w: {**w, NAME: w[NAME].half()}, NAME),
        (lambda w: {**w, NAME: w[NAME].long()}, NAME),
        (lambda w: {n.removeprefix("head."): t for n, t in w.items()}, NAME),
        (lambda w: {f"module.{n}": t for n, t in w.items()}, "backbone"),
        (lambda w: {}, NAME.partition(".")[0]),
    ],
)
def test_weights_of_another_network_are_refused_by_name(folder, weights, reseal, change, named):
    put(folder, change(weights), reseal)
    with pytest.raises(storage.Damaged, match=r"ema\.safetensors does not hold .*differ: .*") as error:
        verbs.load(folder)
    if len(change(weights)) > 1:
        assert named in str(error.value)


@pytest.mark.parametrize(
    "edits",
    [
        {"arch": {"width": 4.0, "blocks": [3, 4, 6, 3]}},
        {"arch": {"blocks": [10**9] * 4}},
        {"arch": {"blocks": [10**400] * 4}},
        {"task": {"num_classes": 10**12}},
        {"task": {"num_classes": 10**30}},
        {"data": {"mean": [0.5] * 10**5, "std": [0.5] * 10**5}},
    ],
    ids=lambda edits: str(edits)[:60],
)
def test_a_network_too_large_for_its_file_is_refused_before_it_takes_memory(folder, reseal, edits):
    info = json.loads((folder / "checkpoint.json").read_text())
    for slot, values in edits.items():
        info["experiment"][slot] |= values
    (folder / "checkpoint.json").write_text(json.dumps(info))
    reseal(folder)
    before, begin = peak(reset=True), time.monotonic()
    with pytest.raises(ValueError, match=folder.name):
        verbs.load(folder)
    assert peak() - before < 100 * MEBIBYTE
    assert time.monotonic() - begin < 10
