"""HDF5 files of Keras that are damaged or forged: nothing but a sentence comes out, and at once."""

import math
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from resnet_rs.bridges.keras import H5File

ASSETS = Path(__file__).parents[1] / "assets/foreign"


def test_damaged_keras_files_are_refused(tmp_path):
    """Flipped in the parts that say where things are, and cut; nothing but a sentence comes out."""
    content = (ASSETS / "keras.h5").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(200):
        bad = bytearray(content)
        for place in rng.integers(0, len(bad), 40):
            bad[place] ^= int(rng.integers(1, 256))
        (tmp_path / "bad.h5").write_bytes(bad if i % 4 else bad[: int(rng.integers(1, len(bad)))])
        try:
            file = H5File(tmp_path / "bad.h5")
            for _, array in file.read_many(file.shapes):
                assert math.prod(array.shape) < 1e7
        except ValueError as error:
            assert "bad.h5" in str(error) and "\n" not in str(error)
            refused += 1
    assert 50 < refused < 200, "some get behind the head of the file"


def forged(path, content):
    """A Keras file to which `content` adds something."""
    import h5py

    shutil.copy(ASSETS / "keras.h5", path)
    with h5py.File(path, "a") as opened:
        content(opened)
    return path


def many_folders(opened):
    group = opened
    for _ in range(8):
        inner = group.create_group("a")
        for i in range(20):
            group[f"b{i}"] = inner
        group = inner


def test_forged_keras_files_are_refused_at_once(tmp_path):
    import h5py

    def large_chunks(opened):
        opened.create_dataset("x", (4,), chunks=(1 << 27,), maxshape=(None,), dtype="f4", compression="gzip")

    contents = {
        "not a plain array": large_chunks,
        "is damaged": lambda o: o.update({"nothing": h5py.Empty("f4")}),
    }
    for i, (said, content) in enumerate(contents.items()):
        begin = time.process_time()
        with pytest.raises(ValueError, match=said):
            H5File(forged(tmp_path / f"{i}.h5", content))
        assert time.process_time() - begin < 5, "processor time, since other tests may run"


def test_links_are_not_followed_and_many_paths_to_one_array_are_one(tmp_path):
    import h5py

    def deep(opened):
        for _ in range(300):
            opened = opened.create_group("a")

    with pytest.raises(ValueError, match="nested too deeply"):
        H5File(forged(tmp_path / "deep.h5", deep))
    shapes = H5File(ASSETS / "keras.h5").shapes
    links = {"a": h5py.ExternalLink(ASSETS / "keras.h5", "/"), "b": h5py.SoftLink("/")}
    for i, content in enumerate((many_folders, lambda opened: opened.update(links))):
        assert H5File(forged(tmp_path / f"{i}.h5", content)).shapes == shapes
