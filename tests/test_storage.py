"""Folders are written whole or not at all, and every change to them is found."""

import json
import os

import pytest

from resnet_rs import storage
from resnet_rs.storage import Damaged, read_json, verify, write_folder, write_json


def _write(path):
    write_folder(path, [("weights.bin", bytes(range(256)) * 40), ("info.json", b'{"step": 3}')])
    return path


def test_a_written_folder_is_valid(tmp_path):
    verify(_write(tmp_path / "a"))


def test_every_flipped_bit_is_found(tmp_path):
    folder = _write(tmp_path / "a")
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        for i in range(0, 8 * len(content), max(1, 8 * len(content) // 60)):
            damaged = bytearray(content)
            damaged[i // 8] ^= 1 << (i % 8)
            file.write_bytes(damaged)
            with pytest.raises(Damaged):
                verify(folder)
        file.write_bytes(content)
    verify(folder)


def test_every_truncation_is_found(tmp_path):
    folder = _write(tmp_path / "a")
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        for length in {0, 1, len(content) // 2, len(content) - 1}:
            file.write_bytes(content[:length])
            with pytest.raises(Damaged):
                verify(folder)
        file.write_bytes(content)


@pytest.mark.parametrize("name", ["weights.bin", "info.json", "manifest.json"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = _write(tmp_path / "a")
    (folder / name).unlink()
    with pytest.raises(Damaged, match=name):
        verify(folder)


def test_a_file_that_was_added_is_named(tmp_path):
    folder = _write(tmp_path / "a")
    (folder / "extra.bin").write_bytes(b"")
    with pytest.raises(Damaged, match=r"extra\.bin"):
        verify(folder)


def test_a_doctored_manifest_is_refused(tmp_path):
    folder = _write(tmp_path / "a")
    manifest = json.loads((folder / storage.MANIFEST).read_text())
    (folder / "weights.bin").unlink()
    del manifest["files"]["weights.bin"]
    (folder / storage.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match=r"manifest\.json has changed"):
        verify(folder)


@pytest.mark.parametrize("content", ["", "[]", "null", "3", '{"files": 3, "sha256": "x"}', '{"files": {}}'])
def test_a_manifest_of_any_other_content_is_refused(tmp_path, content):
    folder = _write(tmp_path / "a")
    (folder / storage.MANIFEST).write_text(content)
    with pytest.raises(Damaged):
        verify(folder)


def test_what_is_no_file_is_refused_whatever_the_manifest_says(tmp_path):
    """A pipe would wait for a writer forever."""
    folder = _write(tmp_path / "a")
    (folder / "weights.bin").unlink()
    os.mkfifo(folder / "weights.bin")
    with pytest.raises(Damaged, match=r"weights\.bin is not a file"):
        verify(folder)
    manifest = json.loads((folder / storage.MANIFEST).read_text())
    (folder / storage.MANIFEST).write_bytes(storage.manifest(manifest["files"] | {"weights.bin": None}))
    with pytest.raises(Damaged, match="does not list files"):
        verify(folder)


def test_the_message_says_what_has_changed(tmp_path):
    folder = _write(tmp_path / "a")
    weights, manifest = folder / "weights.bin", folder / storage.MANIFEST
    content, listed = weights.read_bytes(), manifest.read_text()
    weights.write_bytes(content[:-1])
    with pytest.raises(Damaged, match=rf"weights\.bin has {len(content) - 1} bytes, expected {len(content)}"):
        verify(folder)
    weights.write_bytes(content)
    digest = json.loads(listed)["files"]["weights.bin"]["sha256"]
    manifest.write_text(listed.replace(digest, digest[::-1]))
    with pytest.raises(Damaged, match=r"manifest\.json has changed"):
        verify(folder)


def test_an_error_while_writing_leaves_nothing(tmp_path):
    def files():
        yield "weights.bin", b"some"
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_folder(tmp_path / "a", files())
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(tmp_path):
    _write(tmp_path / "a")
    with pytest.raises(FileExistsError, match="exists already"):
        write_folder(tmp_path / "a", [])
    verify(tmp_path / "a")


def test_json_survives_names_of_any_bytes(tmp_path):
    odd = b"caf\xe9 \xff\n".decode("utf-8", "surrogateescape")
    write_json(tmp_path / "a.json", {odd: ["ä", odd]})
    assert read_json(tmp_path / "a.json") == {odd: ["ä", odd]}
