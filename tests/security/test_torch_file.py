"""PyTorch files become safetensors with the same bits; a file that crashes or fills its reader is an error."""

import io
import json
import os
import subprocess
import sys
import zipfile

import pytest
import safetensors.torch
import timm
import torch

from resnet_rs.bridges import torch_file
from resnet_rs.bridges.torch_file import as_safetensors, convert

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b.running_mean": torch.ones(3)}


def saved(value, *, pickled=None):
    """A file of `torch.save`; `pickled` replaces its pickle."""
    buffer, out = io.BytesIO(), io.BytesIO()
    torch.save(value, buffer)
    if pickled is None:
        return buffer
    with zipfile.ZipFile(buffer) as good, zipfile.ZipFile(out, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, pickled if name.endswith("data.pkl") else good.read(name))
    return out


def read(file, key=None):
    """Tensors, key and prefix in a PyTorch file, read in this process."""
    file.seek(0)
    content = as_safetensors(file, key=key)
    origin = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return safetensors.torch.load(content), origin["key"], origin["prefix"]


def resnet_rs(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-P", "-c", "from resnet_rs.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )


def test_a_converted_network_has_the_same_bits_wherever_it_is_converted(tmp_path):
    # What lies beside the weights is not imported.
    for name in ("torch", "safetensors", "resnet_rs", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("open('canary', 'w').close()")
    state = timm.create_model("resnetrs50", num_classes=3).state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}}, tmp_path / "a.pth")
    result = resnet_rs("to-safetensors", "a.pth", "--out", "a.safetensors", cwd=tmp_path)
    count = sum(t.numel() for n, t in state.items() if t.is_floating_point() and "running_" not in n)
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        f"a.safetensors: {len(state)} tensors, {count:,} parameters, from 'state_dict', "
        "without the prefix 'module.' of all names\n"
    )
    converted = safetensors.torch.load((tmp_path / "a.safetensors").read_bytes())
    assert converted.keys() == state.keys()
    for name, tensor in state.items():
        assert converted[name].dtype == tensor.dtype and torch.equal(converted[name], tensor), name
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("key", torch_file.KEYS)
def test_weights_are_found_under_the_usual_keys(key):
    tensors, found, prefix = read(saved({"epoch": 3, "optimizer": {"lr": 0.1}, key: WEIGHTS}))
    assert (tensors.keys(), found, prefix) == (WEIGHTS.keys(), key, "")


def test_of_several_weights_one_must_be_chosen():
    file = saved({"model": WEIGHTS, "model_ema": {"a": torch.zeros(1)}})
    with pytest.raises(ValueError, match=r"several sets of weights: 'model', 'model_ema'. Choose one"):
        read(file)
    assert read(file, key="model_ema")[0].keys() == {"a"}
    with pytest.raises(ValueError, match=r"no weights under 'ema'. It has: 'model', 'model_ema'"):
        read(file, key="ema")
    with pytest.raises(ValueError, match=r"no weights under 'ema'. Its weights are at the top level"):
        read(saved(WEIGHTS), key="ema")


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["module.a", "module.b"], "module."),
        (["_orig_mod.module.a", "_orig_mod.module.b"], "_orig_mod.module."),
        (["module.a", "b"], ""),
        (["modules.a"], ""),
    ],
)
def test_a_prefix_is_removed_only_if_all_names_have_it(names, prefix):
    tensors, _, found = read(saved({name: torch.ones(1) for name in names}))
    assert found == prefix
    assert sorted(tensors) == sorted(name.removeprefix(prefix) for name in names)


def test_views_and_shared_tensors_get_memory_of_their_own():
    base = torch.arange(12.0).reshape(3, 4)
    given = {"a": base, "tied": base, "b": base.t(), "c": base[1:, ::2], "d": base[:0], "e": torch.tensor(3)}
    found = read(saved(given))[0]
    assert all(torch.equal(found[name], given[name]) for name in given)


def test_types_are_kept():
    for dtype in (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.uint8,
        torch.bool,
        torch.float8_e5m2,
    ):
        assert read(saved({"a": torch.ones(3).to(dtype)}))[0]["a"].dtype == dtype


def test_parameters_are_tensors_and_old_formats_are_read():
    buffer = io.BytesIO()
    module = torch.nn.Linear(2, 3)
    torch.save(dict(module.named_parameters()), buffer, _use_new_zipfile_serialization=False)
    assert torch.equal(read(buffer)[0]["weight"], module.weight)


@pytest.mark.filterwarnings("ignore")  # of sparse tensors
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "it holds a int"),
        (torch.ones(1), "it holds a Tensor"),
        ({}, "expected names with tensors, but there are none"),
        ({"a": torch.ones(1), "epoch": 3, "lr": None}, "'epoch' is of type int; 'lr' is of type NoneType"),
        ({"state_dict": {"a": {"b": torch.ones(1)}}}, "'a' is of type dict"),
        ({3: torch.ones(1)}, "'3' is of type Tensor"),
        ({"a" * 1000: 3}, f"'{'a' * 100}' is of type int"),
        ({"\ud800": torch.ones(1)}, "it is damaged"),
        ({"a": torch.ones(3, device="meta")}, "it is damaged"),
        ({"a": torch.eye(3).to_sparse()}, "it is damaged"),
        ({"a": torch.ones(1).expand(10**6, 10**7)}, "it asks for more memory"),
    ],
)
def test_anything_but_named_tensors_is_refused(value, message):
    with pytest.raises(ValueError) as error:
        read(saved(value))
    assert message in str(error.value)


def test_bad_paths_are_refused_by_name_before_anything_is_read(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"")
    (tmp_path / "b.safetensors").write_bytes(b"kept")
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth does not exist"):
        convert(tmp_path / "nothing.pth", tmp_path / "c.safetensors")
    with pytest.raises(FileNotFoundError, match="does not exist or is no file"):
        convert(tmp_path, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match=r"must end in \.safetensors, got .*c\.pth\. Try .*c\.safetensors"):
        convert(tmp_path / "a.pth", tmp_path / "c.pth")
    with pytest.raises(FileExistsError, match=r"b\.safetensors exists already"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    with pytest.raises(FileNotFoundError, match="deep is not a folder"):
        convert(tmp_path / "a.pth", tmp_path / "deep" / "c.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == b"kept"


class Evil:
    def __reduce__(self):
        return os.system, ("touch canary",)


def test_a_refusal_on_the_command_line_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "a.pth").write_bytes(saved({"state_dict": WEIGHTS, "args": Evil()}).getvalue())
    result = resnet_rs("to-safetensors", "a.pth", "--out", "a.safetensors", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: cannot convert a.pth: it asks for posix.system, which is")
    assert result.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "its reader ended with SIGSEGV"),
        ("exit 1", "its reader ended with exit code 1"),
        ("exec sleep 60", "takes more than 1 seconds"),
    ],
)
def test_a_reader_that_crashes_or_hangs_is_an_error(tmp_path, monkeypatch, script, message):
    reader = tmp_path / "reader"
    reader.write_text(f"#!/bin/sh\n{script}\n")
    reader.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(reader))
    monkeypatch.setattr(torch_file, "_SECONDS", 1)
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"cannot convert .*a\.pth: .*{message}"):
        convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")
def test_a_small_file_that_fills_the_memory_is_an_error(tmp_path):
    # 4 GiB: less than this machine has, but far more than the file.
    (tmp_path / "a.pth").write_bytes(saved({"a": torch.ones(1).expand(1 << 30)}).getvalue())
    with pytest.raises(ValueError, match=r"cannot convert .*a\.pth: it asks for more memory"):
        convert(tmp_path / "a.pth", tmp_path / "a.safetensors")


def test_a_tensor_named_like_safetensors_own_header_is_refused(tmp_path):
    torch.save({"__metadata__": torch.ones(2)}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="`__metadata__`, which safetensors keeps for itself"):
        torch_file.convert(tmp_path / "model.pth", tmp_path / "model.safetensors")


def test_the_child_sees_no_token(monkeypatch, tmp_path):
    """Whatever a file makes of its reader, it finds no secret in the environment."""
    seen = []
    original = torch_file.subprocess.run

    def run(command, **options):
        seen.append(options["env"])
        return original(command, **options)

    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(torch_file.subprocess, "run", run)
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pth")
    torch_file.convert(tmp_path / "model.pth", tmp_path / "model.safetensors")
    assert "PATH" in seen[0] and "HF_TOKEN" not in seen[0]
