"""What exactness and checkpoints cost, as shares of a training step.

`exact` is an update of our loop: random draws by sample, batch-norm statistics that can be restored, a check for NaN
and infinity, and a sum in a fixed order. `plain` is the same update without these, with torch's random numbers; model,
optimizer, EMA and batch are the same. Both are timed in turn, and the medians are compared. Run on an idle machine:

    PYTHONPATH=tests python benchmarks/exactness.py
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from shapes import Shapes

from resnet_rs.config import edit
from resnet_rs.data.loader import TrainingBatches
from resnet_rs.methods.ema import ramped_decay, update_ema
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.loop import Loop
from resnet_rs.training.state import new_state
from resnet_rs.zoo import EXPERIMENTS

CASES = {
    "resnet-rs-small": {"arch.drop_path": 0.1, "task.dropout": 0.25, "recipe.batch_size": 64},
    "resnet-rs-50-i160": {"recipe.batch_size": 16, "recipe.ema_decay": 0.9},
}
"""Experiments with dropout and stochastic depth, and batches that fit a small machine."""


def plain_update(experiment, device, state, batch, step):
    """Take the update without what is measured; its loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = 1e-3
    state.model.train()
    state.optimizer.zero_grad(set_to_none=True)
    inputs = device.layout(experiment.data.normalize(batch.inputs))
    loss = experiment.task.loss(state.model(inputs), batch.targets, batch.indices).mean()
    loss.backward()
    state.optimizer.step()
    decay = ramped_decay(step, decay=experiment.recipe.ema_decay)
    update_ema(state.ema.state_dict(), state.model.state_dict(), decay=decay)
    return loss.item()


def measure(name, edits, *, repeats):
    """Medians in seconds of an exact and of a plain update, and of a checkpoint; and its size in bytes."""
    size = EXPERIMENTS[name].data.size
    experiment = edit(EXPERIMENTS[name], {**edits, "data.randaugment": None}).with_classes(
        ("disc", "square", "triangle")
    )
    device, count = Device.choose("cpu"), experiment.recipe.batch_size
    source = Shapes(num_samples=count, size=size)
    batch = TrainingBatches(source, experiment.data, collate=experiment.task.collate, seed=0)[range(count)]
    exact, plain = new_state(experiment, device, seed=0), new_state(experiment, device, seed=0)
    loop = Loop(
        experiment=experiment,
        timetable=experiment.recipe.timetable(10**6),
        device=device,
        seed=0,
        micro_batches=1,
    )
    updates = loop.updates(exact, iter(lambda: batch, None))
    times = {"exact": [], "plain": [], "save": []}
    for step in range(repeats + 3):
        for kind in ("exact", "plain") if step % 2 else ("plain", "exact"):
            begin = time.perf_counter()
            if kind == "exact":
                next(updates)
            else:
                plain_update(experiment, device, plain, batch, step)
            times[kind].append(time.perf_counter() - begin)
    provenance = checkpoint.Provenance(experiment=experiment, classes=source.classes, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(7):
            exact.step += 1
            begin = time.perf_counter()
            checkpoint.save(Path(folder), exact, provenance)
            times["save"].append(time.perf_counter() - begin)
    medians = {kind: statistics.median(found[3:]) for kind, found in times.items()}
    return medians, checkpoint.num_bytes(exact)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=100, help="of the smallest case; larger ones take fewer"
    )
    most = parser.parse_args().repeats
    say = sys.stdout.write
    say(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians\n")
    for name, edits in CASES.items():
        repeats = max(7, most * 28**2 // EXPERIMENTS[name].data.size ** 2)
        medians, num_bytes = measure(name, edits, repeats=repeats)
        exact, plain, save = (1000 * medians[kind] for kind in ("exact", "plain", "save"))
        say(
            f"{name}, batch {edits['recipe.batch_size']}: exact {exact:.1f} ms, plain {plain:.1f} ms "
            f"(ratio {exact / plain:.3f}); checkpoint of {num_bytes / 2**20:.0f} MiB {save:.0f} ms = "
            f"{save / exact:.1f} steps, {save / 6000:.3f} % of ten minutes\n"
        )


if __name__ == "__main__":
    main()
