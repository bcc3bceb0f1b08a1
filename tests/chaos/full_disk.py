"""Runs on a small file system of its own: refused when it is too small, filled for a while, filled for good.

Prints what happened as JSON; to be started in a mount namespace.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from chaos.conftest import tiny_job

from resnet_rs.training import checkpoint
from resnet_rs.training.events import Saved, SaveFailed
from resnet_rs.training.run import CannotSave, run
from resnet_rs.training.state import new_state

BLOCK = 4096


def mount(place, num_bytes):
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", place], check=True)
    return place


def fill(file):
    """Write until nothing fits."""
    with file.open("wb", buffering=0) as opened:
        try:
            while True:
                opened.write(b"x" * BLOCK)
        except OSError:
            return


def main(root):
    job = tiny_job(root / "nowhere", save_every=1)
    size = checkpoint.num_bytes(new_state(job.experiment, job.machine.device, seed=0))
    said = {}
    small = mount(root / "small", int(1.5 * size) // BLOCK * BLOCK)
    begin = time.monotonic()
    try:
        list(run(tiny_job(small / "run")))
    except ValueError as error:
        said |= {"preflight": str(error), "preflight_seconds": time.monotonic() - begin}

    place = mount(root / "place", 6 * size // BLOCK * BLOCK)
    said["failed"] = []
    for event in run(tiny_job(place / "run", save_every=1)):
        if isinstance(event, Saved) and event.step == 2:
            fill(place / "filler")
        if isinstance(event, SaveFailed):
            said["failed"].append(event.reason)
            said["verified_while_full"] = checkpoint.read(place / "run").step
            (place / "filler").unlink()
    said["last"] = type(event).__name__

    try:
        for event in run(tiny_job(place / "again", save_every=1)):
            if isinstance(event, Saved) and event.step == 2:
                fill(place / "filler")
    except CannotSave as error:
        said["given_up"] = str(error)
    said["verified_after"] = checkpoint.read(place / "again").step
    said["leftovers"] = [str(path) for path in place.rglob(".partial-*")]
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
