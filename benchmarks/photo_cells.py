"""Make a small data set of real colour photographs: each photo is a class, its images are cells of a grid.

A photo is cropped to 3:2 about its middle, made 1152 x 768 pixels (768 x 1152 if it stands) and cut into 24 x 16 cells
of 48 pixels. A keyed draw takes a quarter of each photo's cells for the test and others for training, so no pixel is in
both halves. What is measured is which scene a cell comes from: texture, colour and light, not objects. With
`--num-train` few of the others are taken, so that networks can overfit as in the paper's long runs. The photographs are
Debian's:

    apt-get download lomiri-wallpapers-16.04 mate-backgrounds
    for package in *.deb; do dpkg-deb -x $package photos; done
    python benchmarks/photo_cells.py photos/usr/share/backgrounds photo-cells --num-train 72
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

LONG, SHORT, CELL = 24, 16, 48
NUM_TEST = LONG * SHORT // 4
MOST_TRAIN = LONG * SHORT - NUM_TEST
SEED = 0


def photographs(folder):
    """The photos of both packages below `folder`; their other images are drawn."""
    found = [path for place in (folder, folder / "mate/nature") for path in sorted(place.glob("*.jpg"))]
    names = [path.stem for path in found]
    if not found or len(set(names)) < len(names):
        raise SystemExit(f"error: {folder} does not hold the photographs of the two packages.")
    return found


def cells(path):
    """The cells of a photo, in the order of reading."""
    with Image.open(path) as opened:
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    columns, rows = (LONG, SHORT) if photo.width >= photo.height else (SHORT, LONG)
    photo = ImageOps.fit(photo, (columns * CELL, rows * CELL), Image.Resampling.LANCZOS)
    corners = [(CELL * column, CELL * row) for row in range(rows) for column in range(columns)]
    return [photo.crop((x, y, x + CELL, y + CELL)) for x, y in corners]


def main(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder of the photographs")
    parser.add_argument("out", type=Path, help="data folder to make; it must not exist")
    parser.add_argument("--num-train", type=int, default=MOST_TRAIN, help="training cells of each photo")
    options = parser.parse_args(arguments)
    if not 1 <= options.num_train <= MOST_TRAIN:
        raise SystemExit(f"error: --num-train must be 1 to {MOST_TRAIN}, got {options.num_train}.")
    if options.out.exists():
        raise SystemExit(f"error: {options.out} exists. Name a new folder, or remove it.")
    paths = photographs(options.photos)
    for number, path in enumerate(paths):
        order = np.random.default_rng([SEED, number]).permutation(LONG * SHORT)
        all_cells = cells(path)
        chosen = {"test": order[:NUM_TEST], "train": order[NUM_TEST:][: options.num_train]}
        for split, places in chosen.items():
            folder = options.out / split / path.stem
            folder.mkdir(parents=True)
            for place in places:
                all_cells[place].save(folder / f"{place:03}.png")
    print(
        f"{len(paths)} classes, {len(paths) * options.num_train:,} images to train, "
        f"{len(paths) * NUM_TEST:,} to test: {options.out}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
