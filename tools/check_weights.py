"""Convert the full-size weights that `make_foreign_weights.py OUT --depth D` has written, and compare their logits.

    python tools/check_weights.py OUT D

Prints the rows of the table in docs/WEIGHTS.md: source, network, largest difference over the largest logit, how far the
logits of two pictures differ, variables used, seconds and peak memory of the conversion.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from resnet_rs.training import checkpoint

NAMES = {50: "resnet-rs-50-i160", 152: "resnet-rs-152-i256", 420: "resnet-rs-420-i320"}
SOURCES = {"tf1": ("tf1", "tf1"), "tf2": ("garden", "garden"), "keras": ("keras.h5", "keras")}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("depth", type=int, choices=NAMES)
    given = parser.parse_args()
    expected = np.load(given.out / "expected.npz")
    images = torch.from_numpy(expected["images"]).permute(0, 3, 1, 2)
    for kind, (file, key) in SOURCES.items():
        folder = Path(tempfile.mkdtemp()) / "converted"
        command = [sys.executable, "-m", "resnet_rs", "convert", str(given.out / file), "--from", kind]
        command += [
            "--name",
            NAMES[given.depth],
            "--out",
            str(folder),
            *(["--background"] if kind == "tf2" else []),
        ]
        begin = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            said = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(process.returncode)
        seconds, peak = time.perf_counter() - begin, usage.ru_maxrss / 1024
        with torch.no_grad():
            logits = checkpoint.read(folder).load_model()(images).numpy()
        worst = np.abs(logits - expected[key]).max() / np.abs(expected[key]).max()
        moved = np.abs(expected[key][0] - expected[key][1]).max() / np.abs(expected[key]).max()
        used = said.split(", ")[1].split(" ")[0]
        row = f"| {kind} | {NAMES[given.depth]} | {worst:.1e} | {moved:.1e} | {used} |"
        print(f"{row} {seconds:.1f} s | {peak:,.0f} MiB |", flush=True)
        shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main()
