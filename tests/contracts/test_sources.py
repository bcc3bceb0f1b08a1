"""Laws of every source: what it gives depends on its arguments alone, in any process."""

import pickle
from dataclasses import dataclass
from inspect import isabstract

import numpy as np
import pytest
from PIL import Image
from seams.test_mixture import MIXTURE
from shapes import Shapes

from resnet_rs.data import imagenet
from resnet_rs.data.balance import Balanced
from resnet_rs.data.builtin import Builtin
from resnet_rs.data.cache import cached
from resnet_rs.data.folders import ClassFolders
from resnet_rs.data.loader import TrainingBatches, load, split_range
from resnet_rs.data.pipeline import Data
from resnet_rs.data.sample import Request, map_targets
from resnet_rs.data.source import Source, WrappedSource, match_classes
from resnet_rs.data.subset import Joined, Subset
from resnet_rs.data.tables import read_table
from resnet_rs.tasks.classification import Classification
from resnet_rs.tasks.classification_multi_label import task_for

DRAWN = Shapes(num_samples=20, size=16)


@dataclass(frozen=True, kw_only=True)
class Digits(Shapes):
    """Shapes in folders called by numbers, as ImageNet-V2's."""

    @property
    def classes(self):
        return tuple(map(str, range(1000)))


def table(root, *labels):
    """A table of the cats and dogs, with the `labels` of each."""
    rows = [
        f"{folder}/{i}.png,{label}"
        for folder, label in zip(("cat", "dog"), labels, strict=True)
        for i in range(6)
    ]
    path = root / f"{'-'.join(labels).replace('|', '+')}.csv"
    path.write_text("\n".join(["path,label", *rows]))
    return path


SOURCES = {
    "builtin": lambda root: Builtin(split="test"),
    "shapes": lambda root: DRAWN,
    "renumbered": lambda root: match_classes(DRAWN, ("triangle", "square", "disc", "star")),
    "folders": lambda root: ClassFolders(root).splits().train,
    "cached": lambda root: cached(ClassFolders(root).splits().train, root / ".cache"),
    "table": lambda root: read_table(str(table(root, "cat", "dog"))).splits().train,
    "multi-label table": lambda root: read_table(str(table(root, "cat|dog", ""))).splits().train,
    "numbered": lambda root: imagenet.labeled(Digits(num_samples=12), "imagenet-v2"),
    "mixture": lambda root: MIXTURE,
    "wrapped": lambda root: WrappedSource(source=DRAWN),
    "subset": lambda root: Subset(source=DRAWN, indices=tuple(range(3, 17))),
    "joined": lambda root: Joined(
        sources=tuple(Subset(source=DRAWN, indices=indices) for indices in ((4, 2), (5,), (0, 9, 1)))
    ),
    "balanced": lambda root: Balanced(source=ClassFolders(root).splits().train),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(6):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(params=SOURCES.values(), ids=SOURCES)
def source(request, root):
    return request.param(root)


def test_every_source_of_the_package_is_here(root):
    kinds = {type(build(root)) for build in SOURCES.values()}
    ours = list(Source.__subclasses__())
    for kind in ours:  # which grows meanwhile
        ours += kind.__subclasses__()
    public = {kind for kind in ours if kind.__module__.startswith("resnet_rs.") and kind.__name__[0] != "_"}
    assert {kind for kind in public if not isabstract(kind)} <= kinds


def same(one, other):
    return (
        np.array_equal(one.input, other.input)
        and one.key == other.key
        and all(
            np.array_equal(a, b)
            for a, b in zip(vars(one.target).values(), vars(other.target).values(), strict=True)
        )
    )


def test_reading_twice_and_in_another_process_gives_the_same(source):
    copy = pickle.loads(pickle.dumps(source))
    for index in (0, len(source) - 1):
        sample = source.read(index, Request(3))
        assert same(sample, source.read(index, Request(3))) and same(sample, copy.read(index, Request(3)))
        assert sample.key == source.key(index) and sample.input.shape[-1] == 3
    assert copy.digest() == source.digest()


def test_keys_are_unique(source):
    assert len({source.key(i) for i in range(len(source))}) == len(source)


def test_the_order_can_be_asked_for_in_any_parts(source):
    whole = source.order(0, 3 * len(source), seed=5)
    parts = [source.order(first, 7, seed=5) for first in range(0, 3 * len(source) - 7, 7)]
    for name in ("samples", "passes"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name)[: 7 * len(parts)])
    assert whole.samples.min() >= 0 and whole.samples.max() < len(source)
    assert not np.array_equal(whole.samples, source.order(0, 3 * len(source), seed=6).samples)


def test_a_sample_is_never_shown_twice_in_the_same_pass(source):
    """Its crop and augmentation would be the same."""
    order = source.order(0, 3 * len(source), seed=5)
    pairs = set(zip(order.samples.tolist(), order.passes.tolist(), strict=True))
    assert len(pairs) == 3 * len(source)


def test_batches_are_the_same_for_any_number_of_workers(source):
    task = task_for(Classification(num_classes=len(source.classes)), source)
    data = Data(size=16, mean=(0.5,), std=(0.25,))
    batches = TrainingBatches(source, data, collate=task.collate, seed=0)
    here, there = (list(load(split_range(3, 40, at_most=9), batches, workers=n)) for n in (0, 2))
    for one, other in zip(here, there, strict=True):
        assert (one.inputs == other.inputs).all() and (one.indices == other.indices).all()
        assert (map_targets(lambda t: t, one.targets) == other.targets).all()
