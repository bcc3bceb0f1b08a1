"""Foreign weights become safetensors with the same bits, and what reads them can do little else."""

import collections
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
from resnet_rs.bridges.torch_file import convert, read_weights

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
    result = resnet_rs("convert", "a.pth", "--out", "a.safetensors", cwd=tmp_path)
    count = sum(t.numel() for n, t in state.items() if t.is_floating_point() and "running_" not in n)
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        f"a.safetensors: {len(state)} tensors, {count:,} parameters, taken from 'state_dict', "
        "'module.' taken off all names\n"
    )
    converted = safetensors.torch.load((tmp_path / "a.safetensors").read_bytes())
    assert converted.keys() == state.keys()
    for name, tensor in state.items():
        assert converted[name].dtype == tensor.dtype and torch.equal(converted[name], tensor), name
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("key", torch_file.KEYS)
def test_weights_are_found_under_the_usual_keys(key):
    weights = read_weights(saved({"epoch": 3, "optimizer": {"lr": 0.1}, key: WEIGHTS}))
    assert (weights.key, weights.prefix) == (key, "")
    assert weights.tensors.keys() == WEIGHTS.keys()


def test_of_several_weights_one_must_be_chosen():
    file = saved({"model": WEIGHTS, "model_ema": {"a": torch.zeros(1)}})
    with pytest.raises(ValueError, match=r"several weights: 'model', 'model_ema'. Choose with --key"):
        read_weights(file)
    assert read_weights(file, key="model_ema").tensors.keys() == {"a"}
    with pytest.raises(ValueError, match=r"no weights under 'ema'. There are: 'model', 'model_ema'"):
        read_weights(file, key="ema")
    with pytest.raises(ValueError, match=r"no weights under 'ema'. Its weights are at its top"):
        read_weights(saved(WEIGHTS), key="ema")


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["module.a", "module.b"], "module."),
        (["_orig_mod.a", "_orig_mod.b"], "_orig_mod."),
        (["_orig_mod.module.a", "_orig_mod.module.b"], "_orig_mod.module."),
        (["module.a", "b"], ""),
        (["modules.a"], ""),
    ],
)
def test_a_prefix_is_taken_off_only_if_all_names_have_it(names, prefix):
    weights = read_weights(saved({name: torch.ones(1) for name in names}))
    assert weights.prefix == prefix
    assert list(weights.tensors) == [name.removeprefix(prefix) for name in names]


def test_views_and_shared_tensors_get_memory_of_their_own():
    base = torch.arange(12.0).reshape(3, 4)
    given = {"a": base, "tied": base, "b": base.t(), "c": base[1:, ::2], "d": base[:0], "e": torch.tensor(3)}
    found = read_weights(saved(given)).tensors
    assert all(torch.equal(found[name], given[name]) for name in given)
    assert all(tensor.is_contiguous() for tensor in found.values())
    assert safetensors.torch.load(safetensors.torch.save(found)).keys() == given.keys()


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_types_are_kept(dtype):
    assert read_weights(saved({"a": torch.ones(3, dtype=dtype)})).tensors["a"].dtype == dtype


def test_parameters_are_tensors_and_old_formats_are_read():
    buffer = io.BytesIO()
    module = torch.nn.Linear(2, 3)
    torch.save(dict(module.named_parameters()), buffer, _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(buffer).tensors["weight"], module.weight)


@pytest.mark.filterwarnings("ignore")  # of sparse tensors
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "it holds a int"),
        ([torch.ones(1)], "it holds a list"),
        (torch.ones(1), "it holds a Tensor"),
        ({}, "expected names with tensors, but there is none"),
        ({"a": torch.ones(1), "epoch": 3, "lr": None}, "'epoch' is of type int; 'lr' is of type NoneType"),
        ({"state_dict": {"a": {"b": torch.ones(1)}}}, "'a' is of type dict"),
        ({3: torch.ones(1)}, "a name is of type int"),
        ({"__metadata__": torch.ones(1)}, "'__metadata__' is no name"),
        ({"a\x1b[2J": torch.ones(1)}, r"'a\x1b[2J' is no name"),
        ({"\ud800": torch.ones(1)}, r"'\ud800' is no name"),
        ({"a" * 1000: 3}, f"'{'a' * 100}' is of type int"),
        ({"a": torch.ones(3, device="meta")}, "'a' is a tensor without plain values"),
        ({"a": torch.eye(3).to_sparse()}, "'a' is a tensor without plain values"),
        ({"a": torch.ones(3, dtype=torch.complex64)}, "'a' holds torch.complex64"),
        ({"a": torch.ones(1).expand(10**12)}, "its tensors would fill 4,000,000,000,000 bytes"),
        ({"a": torch.ones(1).expand(10**6, 10**6), "b": torch.ones(1)}, "repeats the same memory"),
    ],
)
def test_anything_but_named_tensors_is_refused_by_name(value, said):
    with pytest.raises(ValueError) as error:
        read_weights(saved(value))
    assert said in str(error.value)


class Hung:
    """Pickled as a dictionary with attributes over its methods."""

    def __reduce__(self):
        hidden = dict.fromkeys(("items", "keys", "values", "__iter__", "__len__", "get"), 3)
        return (
            collections.OrderedDict,
            (),
            hidden,
            None,
            iter({**WEIGHTS, "c": tensor_with_attributes()}.items()),
        )


def tensor_with_attributes():
    tensor = torch.nn.Parameter(torch.ones(2))
    tensor.numel = tensor.element_size = tensor.clone = tensor.resolve_neg = 3
    return tensor


def test_attributes_that_hide_methods_change_nothing():
    file = saved(Hung())
    assert torch.load(io.BytesIO(file.getvalue()), weights_only=True).items == 3
    tensors = read_weights(file).tensors
    assert list(tensors) == ["a", "b.running_mean", "c"] and torch.equal(tensors["c"], torch.ones(2))


def test_bad_paths_are_refused_by_name_before_anything_is_read(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"")
    (tmp_path / "b.safetensors").write_bytes(b"kept")
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth is no file"):
        convert(tmp_path / "nothing.pth", tmp_path / "c.safetensors")
    with pytest.raises(FileNotFoundError, match="is no file"):
        convert(tmp_path, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match=r"must end in \.safetensors, got .*c\.pth\. Try .*c\.safetensors"):
        convert(tmp_path / "a.pth", tmp_path / "c.pth")
    with pytest.raises(FileExistsError, match=r"b\.safetensors exists already"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    with pytest.raises(FileNotFoundError, match=r"deep is no folder; c\.safetensors cannot be written there"):
        convert(tmp_path / "a.pth", tmp_path / "deep" / "c.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == b"kept"


class Evil:
    def __reduce__(self):
        return os.system, ("touch canary",)


def test_a_refusal_on_the_command_line_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "a.pth").write_bytes(saved({"state_dict": WEIGHTS, "args": Evil()}).getvalue())
    result = resnet_rs("convert", "a.pth", "--out", "a.safetensors", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: cannot convert a.pth: it asks for posix.system, which is")
    assert result.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("kill -SEGV $$", "its reader was ended by SIGSEGV"),
        ("kill -XCPU $$", "takes more than 1 seconds"),
        ("sleep 60", "takes more than 1 seconds"),
        ("exec cat /dev/zero", "its reader was ended by SIGKILL"),
        ("exit 1", "its reader failed with exit code 1"),
        ("exit 0", "its reader gave no safetensors"),
        ("echo weights", "its reader gave no safetensors"),
        (r"printf 'odd \033[2J'; exit 3", r"odd \?\[2J"),
    ],
)
def test_whatever_becomes_of_the_reader_is_said(tmp_path, monkeypatch, script, said):
    reader = tmp_path / "reader"
    reader.write_text(f"#!/bin/sh\n{script.replace('sleep', 'exec sleep')}\n")
    reader.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(reader))
    monkeypatch.setattr(torch_file, "_SECONDS_TO_START", 0)
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"cannot convert .*a\.pth: .*{said}"):
        convert(tmp_path / "a.pth", tmp_path / "a.safetensors", seconds=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pth", "reader"]


def test_a_file_that_is_a_trap_for_time_is_given_up(tmp_path):
    # A tuple of two tuples of two tuples ... as a name: its hash takes 2**60 steps.
    doubled = b"".join(bytes([ord("h"), i, ord("h"), i, 0x86, ord("q"), i + 1]) for i in range(60))
    trap = b"\x80\x02}(U\x01a()q\x00" + doubled + b"tu" + b"h" + bytes([60]) + b"U\x01bs."
    (tmp_path / "a.pth").write_bytes(saved({}, pickled=trap).getvalue())
    with pytest.raises(ValueError, match="reading it takes more than 1 seconds"):
        convert(tmp_path / "a.pth", tmp_path / "a.safetensors", seconds=1)


ATTEMPTS = """
import json, os, resource, socket, sys
from resnet_rs.bridges.torch_file import limit
is_root = os.getuid() == 0
can_leave_network = os.system("unshare -rn true 2>/dev/null") == 0
limit(seconds=5, num_bytes=1000)
done = {}
def attempt(name, action):
    try:
        action()
        done[name] = "done"
    except (OSError, MemoryError) as error:
        done[name] = type(error).__name__
def fill():
    with open("file", "wb", buffering=0) as file:
        file.write(b"x")
attempt("write", fill)
attempt("memory", lambda: bytearray(4 << 30))
attempt("some memory", lambda: bytearray(100 << 20))
if not is_root:  # whom no such limit binds
    attempt("fork", os.fork)
networks = [name for _, name in socket.if_nameindex()]
print(json.dumps([done, networks if can_leave_network else ["lo"], resource.getrlimit(resource.RLIMIT_CORE)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have fewer limits")
def test_the_reader_has_no_files_no_processes_no_network_and_little_memory(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", ATTEMPTS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    done, networks, core = json.loads(result.stdout)
    assert done.pop("fork", "BlockingIOError") == "BlockingIOError"
    assert done == {"write": "OSError", "memory": "MemoryError", "some memory": "done"}
    assert networks == ["lo"] and core == [0, 0]
