"""What `processes.keep_freed_memory` gains on a CPU: training and scoring without it and with it, in turns.

python benchmarks/freed_memory.py [EXPERIMENT] [ROUNDS]

It measures on the built-in images. Each measurement is a process of its own, because freed memory stays kept.
"""

import subprocess
import sys
from statistics import median

MEASURE = """
import sys
from resnet_rs import zoo
from resnet_rs.config import edit
from resnet_rs.data.builtin import builtin
from resnet_rs.training import device
from resnet_rs.training.speed import measure_scoring, measure_speed

name, is_kept = sys.argv[1], sys.argv[2] == "with"
if not is_kept:
    device.keep_freed_memory = lambda: None
here, splits = device.Device.choose("cpu"), builtin()
experiment = edit(zoo.experiment(name).with_classes(splits.train.classes), {"recipe.batch_size": 16})
speed, _ = measure_speed(experiment, splits.train, device=here, micro_batch=16, workers=0)
print(speed, 1000 * measure_scoring(experiment, splits.test, device=here, workers=0))
"""


def main(name: str = "efficientnet-lite0-i224", rounds: str = "3") -> None:
    found = {"without": [], "with": []}
    for _ in range(int(rounds)):
        for mode, measured in found.items():
            run = [sys.executable, "-c", MEASURE, name, mode]
            output = subprocess.run(run, check=True, capture_output=True, text=True).stdout
            measured.append([float(number) for number in output.split()])
    for mode, measured in found.items():
        speed, scoring = (median(values) for values in zip(*measured, strict=True))
        print(f"{mode:8} {speed:6.1f} images/s in training, {scoring:5.1f} ms to score an image")


if __name__ == "__main__":
    main(*sys.argv[1:])
