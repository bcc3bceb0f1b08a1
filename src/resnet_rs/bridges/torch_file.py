"""Foreign PyTorch files (`.pt`, `.pth`, `.bin`) -> safetensors, read where they can do little harm.

Such a file is a pickle, and a pickle is a program. Torch's own reader (`weights_only=True`) runs nothing but the
calls that rebuild tensors, yet it was broken twice (CVE-2025-32434, CVE-2026-24747). So it reads in a child process:
limited in processor time and memory, unable to write to any file, on Linux without network where the system allows
that, and without our environment. The child answers through a pipe, with safetensors or with a reason.

    convert        here: starts the child, checks its answer, writes it
    read_weights   in the child: the only `torch.load` of this package

Source: ours.
"""

from __future__ import annotations

import ctypes
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from resnet_rs import storage

KEYS = ("state_dict", "model", "model_ema", "state_dict_ema")
"""Where training programs put the weights beside other things."""

_ENDING = ".safetensors"
_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and `torch.compile` put before every name."""
_STATISTICS = ("running_mean", "running_var")
_RESERVED = "__metadata__"
_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
_MAX_GROWTH = 4
"""Tensors that share memory are written one by one, so the result may be larger than the file; this many times."""
_SECONDS = 300
_SECONDS_TO_START = 60
_MEBIBYTE = 1 << 20
_REFUSED = 3
"""Exit code of a child whose answer is a reason."""
_MAX_SHOWN = 5
_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT")
_NEW_NETWORK, _NEW_USER = 0x40000000, 0x10000000


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was converted."""

    path: Path
    """Of the safetensors file."""
    num_tensors: int
    num_parameters: int
    """Values that are trained: those of all floating-point tensors but the running statistics of norms."""
    key: str | None
    """Where in the foreign file the weights were; none: at its top."""
    prefix: str
    """What was taken off the beginning of all names."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors by name, each in memory of its own, and where they were found."""

    tensors: dict[str, Tensor]
    key: str | None
    prefix: str


def convert(file: Path, out: Path, *, key: str | None = None, seconds: int = _SECONDS) -> Conversion:
    """Write the weights in the PyTorch file `file` to the new safetensors file `out`.

    The weights are a mapping of names to tensors, at the top of the file or under `key`; without one, under the one of
    `KEYS` that is there. Raises `ValueError` for a file that holds anything else, or that takes more than `seconds`.
    """
    _refuse_paths(file, out)
    content = _read_apart(file, key=key, seconds=seconds)
    try:
        tensors = load(content)
        origin = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])[_RESERVED]
        key, prefix = origin["key"] or None, origin["prefix"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"cannot convert {file}: its reader gave no safetensors ({error}).") from None
    storage.write_bytes(out, content)
    trained = [t for n, t in tensors.items() if t.is_floating_point() and not n.endswith(_STATISTICS)]
    return Conversion(
        path=out,
        num_tensors=len(tensors),
        num_parameters=sum(tensor.numel() for tensor in trained),
        key=key,
        prefix=prefix,
    )


class TorchFile:
    """The weights in a file of PyTorch or of safetensors, as arrays."""

    def __init__(self, path: Path, *, key: str | None = None) -> None:
        self._tensors = _read_tensors(path, key=key)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays of `names`, one at a time; those of 16 bits are widened."""
        for name in names:
            tensor = self._tensors[name]
            yield name, (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _read_tensors(path: Path, *, key: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is no file; expected weights such as model.pth or model.safetensors."
        )
    try:
        return load(
            path.read_bytes() if path.suffix == _ENDING else _read_apart(path, key=key, seconds=_SECONDS)
        )
    except SafetensorError as error:
        raise ValueError(f"{path} holds no safetensors: {error}.") from None


def read_weights(opened: io.BufferedReader | io.BytesIO, *, key: str | None = None) -> Weights:
    """The weights in a PyTorch file; raises `ValueError` for everything else that such a file may hold."""
    num_bytes = opened.seek(0, os.SEEK_END)
    opened.seek(0)
    try:
        loaded = torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # of damaged or hostile bytes torch raises nearly every kind of exception
        raise ValueError(_reason(error)) from None
    found, key = _choose(loaded, key)
    _refuse_others(found, at_most=_MAX_GROWTH * num_bytes + _MEBIBYTE)
    prefix = ""
    while found and (
        common := [p for p in _PREFIXES if all(name.startswith(p, len(prefix)) for name in found)]
    ):
        prefix += common[0]
    tensors = {name[len(prefix) :]: _alone(tensor) for name, tensor in found.items()}
    return Weights(tensors=tensors, key=key, prefix=prefix)


def _refuse_paths(file: Path, out: Path) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file; expected weights that PyTorch saved, such as model.pth.")
    if out.suffix != _ENDING:
        raise ValueError(
            f"the converted file must end in {_ENDING}, got {out}. Try {out.with_suffix(_ENDING)}."
        )
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"{out} exists already. Choose another name, or remove it first.")
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f"{out.parent} is no folder; {out.name} cannot be written there. Make it first."
        )


def _read_apart(file: Path, *, key: str | None, seconds: int) -> bytes:
    """The weights in `file` as safetensors, read by a child process."""
    # -P: a torch.py in the working folder, perhaps come with the file, is never imported.
    command = [sys.executable, "-P", "-B", "-m", "resnet_rs.bridges.torch_file", str(seconds)]
    command += [] if key is None else [key]
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # One thread, since a process of several cannot leave the network.
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    at_most = _MAX_GROWTH * file.stat().st_size + 64 * _MEBIBYTE
    begin = time.monotonic()
    with (
        file.open("rb") as opened,
        subprocess.Popen(
            command, stdin=opened, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        ) as child,
    ):
        timer = Timer(seconds + _SECONDS_TO_START, child.kill)
        timer.start()
        try:
            answer = _received(child, at_most=at_most)
            code = child.wait()
        finally:
            timer.cancel()
    if code == 0:
        return answer
    is_late = time.monotonic() - begin > seconds + _SECONDS_TO_START
    raise ValueError(f"cannot convert {file}: {_why(code, answer, is_late=is_late, seconds=seconds)}")


def _received(child: subprocess.Popen[bytes], *, at_most: int) -> bytes:
    """All that the child says; it is ended if that is more than `at_most` bytes, or a little more."""
    received = io.BytesIO()
    while child.stdout and (chunk := child.stdout.read(_MEBIBYTE)):
        received.write(chunk)
        if received.tell() > at_most:
            child.kill()
            break
    return received.getvalue()


def _why(code: int, answer: bytes, *, is_late: bool, seconds: int) -> str:
    """In words, how a child came to its end."""
    if code == _REFUSED:
        said = answer[: _MEBIBYTE // 256].decode("utf-8", "replace")
        return "".join(letter if letter.isprintable() else "?" for letter in said)
    if is_late or code == -getattr(signal, "SIGXCPU", 0):
        return f"reading it takes more than {seconds} seconds, which no weights do. Do not trust this file."
    if code < 0:
        name = signal.Signals(-code).name
        return f"its reader was ended by {name}. The file is damaged, or too large for this machine."
    return f"its reader failed with exit code {code}. Is torch installed where {sys.executable} finds it?"


def _reason(error: Exception) -> str:
    """Why torch could not read a file, without its advice to read it unsafely."""
    said = str(error)
    if asked := re.search(r"GLOBAL ([\w.]+)", said):
        return (
            f"it asks for {asked[1]}, which is no tensor but code, and is not run. Ask its author for the bare "
            "weights, a `state_dict`, or for safetensors."
        )
    if "TorchScript" in said:
        return "it is a TorchScript archive, which is a program. Ask its author for its `state_dict`."
    if isinstance(error, MemoryError) or "allocate memory" in said:
        return "it asks for more memory than a file of its size may need."
    return f"it is not what `torch.save` writes, or it is damaged ({type(error).__name__})."


def _choose(loaded: Any, key: str | None) -> tuple[dict[Any, Any], str | None]:  # noqa: ANN401 - any pickled value
    """The mapping that holds the weights, and the key it was under."""
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}; expected a mapping of names to tensors.")
    top = _plain(loaded)
    inside = [name for name, value in top.items() if isinstance(name, str) and isinstance(value, dict)]
    if key is None:
        present = [name for name in KEYS if name in inside]
        if len(present) > 1:
            raise ValueError(
                f"it holds several weights: {_listed(present)}. Choose with --key, such as --key {present[0]}."
            )
        key = present[0] if present else None
    elif key not in inside:
        there = f"There are: {_listed(inside)}." if inside else "Its weights are at its top; leave --key out."
        raise ValueError(f"it has no weights under {key!r}. {there}")
    return (top if key is None else _plain(top[key])), key


def _plain(mapping: dict[Any, Any]) -> dict[Any, Any]:
    """A mapping without the attributes that a pickle may hang on it and its tensors, even over their methods."""
    return {
        name: Tensor.detach(value) if type(value) in (Tensor, torch.nn.Parameter) else value
        for name, value in dict.items(mapping)
    }


def _refuse_others(found: dict[Any, Any], *, at_most: int) -> None:
    """Refuse what is not a mapping of names to plain tensors of at most that many bytes together."""
    odd = [fault for name, value in found.items() if (fault := _fault(name, value))]
    if odd or not found:
        raise ValueError(
            f"expected names with tensors, but {'; '.join(odd[:_MAX_SHOWN]) or 'there is none'}."
        )
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
    if num_bytes > at_most:
        raise ValueError(
            f"its tensors would fill {num_bytes:,} bytes, more than the {at_most:,} that a file of its size may need: "
            "it repeats the same memory many times."
        )


def _fault(name: Any, value: Any) -> str | None:  # noqa: ANN401 - any pickled values
    """What keeps an entry from being a named tensor."""
    if not isinstance(name, str):
        return f"a name is of type {type(name).__name__}"
    shown = repr(name[:100])
    if name == _RESERVED or not name.isprintable():
        return f"{shown} is no name"
    if type(value) is not Tensor:
        return f"{shown} is of type {type(value).__name__}"
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_nested:
        return f"{shown} is a tensor without plain values"
    return None if value.dtype in _DTYPES else f"{shown} holds {value.dtype}, which is not supported"


def _alone(tensor: Tensor) -> Tensor:
    """The same values in memory of their own, one after the other."""
    return tensor.resolve_neg().clone(memory_format=torch.contiguous_format)


def _listed(names: list[str]) -> str:
    rest = len(names) - _MAX_SHOWN
    return ", ".join(repr(name[:100]) for name in names[:_MAX_SHOWN]) + (
        f" and {rest} more" if rest > 0 else ""
    )


def limit(*, seconds: int, num_bytes: int) -> None:
    """Give up what reading a file of `num_bytes` does not need: time, memory, files, processes, the network.

    What a system does not know is left out: Windows all of it, others than Linux the network and mostly the memory.
    Root keeps its processes.
    """
    if os.name == "nt":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {
        resource.RLIMIT_CPU: math.ceil(used.ru_utime + used.ru_stime) + seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    with suppress(FileNotFoundError):  # other systems than Linux do not tell how much is taken
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + 8 * num_bytes + 1024 * _MEBIBYTE
    for kind, most in limits.items():
        with suppress(ValueError, OSError):  # stricter already, or not known here
            # A second after the soft limit of time, which has a signal of its own, comes the hard one.
            resource.setrlimit(kind, (most, most + 1 if kind == resource.RLIMIT_CPU else most))
    with suppress(AttributeError):  # only Linux has it
        ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NETWORK)


def _answer(seconds: int, key: str | None = None) -> int:
    """The child: read from standard input, answer on standard output; its exit code."""
    limit(seconds=seconds, num_bytes=os.fstat(0).st_size)
    try:
        with os.fdopen(0, "rb") as opened:
            weights = read_weights(opened, key=key)
        origin = {"format": "pt", "key": weights.key or "", "prefix": weights.prefix}
        answer, code = save(weights.tensors, metadata=origin), 0
    except (ValueError, MemoryError, RuntimeError) as error:
        said = str(error) if isinstance(error, ValueError) else _reason(error)
        answer, code = said.encode("utf-8", "backslashreplace"), _REFUSED
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return code


if __name__ == "__main__":
    sys.exit(_answer(int(sys.argv[1]), *sys.argv[2:]))
