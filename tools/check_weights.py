"""Convert full-size weights and compare their logits with those of the library that they are of.

    python tools/check_weights.py foreign OUT NAME    what `make_foreign_weights.py OUT --depth D` has written
    python tools/check_weights.py peers NAME...       of timm and torchvision, made here; round trips as well

Prints rows of the table in docs/WEIGHTS.md: source, network, largest difference over the largest logit, how far the
logits of two images differ, variables used, seconds and peak memory of the conversion.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from torch import nn

import resnet_rs as rs
from resnet_rs.training import checkpoint
from resnet_rs.zoo import EXPERIMENTS

SOURCES = {"tf1": ("tf1", "tf1"), "tf2": ("garden", "garden"), "keras": ("keras.h5", "keras")}


# The most memory of the process itself: what the kernel counts for children begins with that of their parent.
PROGRAM = """
import atexit, sys
from resnet_rs.cli import main
lines = lambda: open("/proc/self/status")
atexit.register(lambda: print(*(line for line in lines() if line.startswith("VmHWM")), file=sys.stderr))
main()
"""


def convert(source, kind, name, out, *more):
    """Run the command; variables used, seconds and peak memory in MiB."""
    command = [sys.executable, "-c", PROGRAM, "convert", str(source), "--from", kind, "--out", str(out)]
    command += [*(["--name", name] if name else []), *more]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    used = done.stdout.split(", ")[1].split(" ")[0]
    return used, time.perf_counter() - begin, int(done.stderr.split()[-2]) / 1024


def show(kind, name, folder, images, expected, converted):
    """Print a row."""
    with torch.no_grad():
        logits = checkpoint.read(folder).load_model()(images).numpy()
    largest = np.abs(expected).max()
    worst, moved = (
        np.abs(logits - expected).max() / largest,
        np.abs(expected[0] - expected[1]).max() / largest,
    )
    used, seconds, peak = converted
    row = f"| {kind} | {name} | {worst:.1e} | {moved:.1e} | {used} | {seconds:.1f} s | {peak:,.0f} MiB |"
    print(row, flush=True)


def check_foreign(out, name):
    """Weights that TensorFlow's libraries wrote."""
    expected = np.load(out / "expected.npz")
    images = torch.from_numpy(expected["images"]).permute(0, 3, 1, 2)
    for kind, (file, key) in SOURCES.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "converted")
            done = convert(out / file, kind, name, folder, *(["--background"] if kind == "tf2" else []))
            show(kind, name, folder, images, expected[key], done)


def check_peer(name):
    """Weights of timm, or for other networks of torchvision, with statistics that suit two images."""
    torch.manual_seed(0)
    experiment = EXPERIMENTS[name]
    patches = nn.functional.interpolate(torch.randn(2, 3, 4, 4), (experiment.data.size,) * 2)
    images = patches + 0.5 * torch.randn_like(patches)
    is_timms = name.startswith("resnet-rs")
    if is_timms:
        theirs = timm.create_model(f"resnetrs{name.split('-')[2]}")
    else:
        theirs = torchvision.models.get_model(
            name.replace("-2015", "").replace("-b", "_b").replace("-50", "50")
        )
    settle(theirs, images)
    with torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        file, folder, hub = (Path(scratch, part) for part in ("theirs.pth", "ours", "hub"))
        torch.save(theirs.state_dict(), file)
        done = convert(file, "timm" if is_timms else "torchvision", name if is_timms else None, folder)
        show("timm" if is_timms else "torchvision", name, folder, images, theirs(images).numpy(), done)
        ours = checkpoint.read(folder).load_model().state_dict()
        rs.save_pretrained(folder, hub)
        convert(hub, "hub", None, Path(scratch, "back"))
        back = checkpoint.read(Path(scratch, "back")).load_model().state_dict()
        print(f"    ours -> Hub -> ours: {count_same(ours, back)} bit for bit", flush=True)
        if is_timms:
            again = timm.create_model(f"local-dir:{hub}", pretrained=True).state_dict()
            print(
                f"    timm -> ours -> timm: {count_same(theirs.state_dict(), again)} bit for bit", flush=True
            )


def settle(network, images):
    """Random norms, so that every variable matters, and the statistics of the images, a little moved."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
        for norm in norms:
            norm.running_mean += 0.05 * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.5)
    network.eval()


def count_same(a, b):
    """How many of all tensors are the same in both."""
    same = sum(name in b and torch.equal(tensor, b[name]) for name, tensor in a.items())
    return f"{same:,} of {len(a.keys() | b.keys()):,} tensors"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="command")
    foreign = commands.add_parser("foreign")
    foreign.add_argument("out", type=Path)
    foreign.add_argument("name", choices=EXPERIMENTS)
    commands.add_parser("peers").add_argument("names", nargs="+", choices=EXPERIMENTS)
    given = parser.parse_args()
    if given.command == "foreign":
        check_foreign(given.out, given.name)
    else:
        for name in given.names:
            check_peer(name)


if __name__ == "__main__":
    main()
