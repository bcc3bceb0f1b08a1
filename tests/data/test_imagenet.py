"""Class lists and labels of the test sets that were made after ImageNet."""

from dataclasses import dataclass

import numpy as np
import pytest
from timm.data import ImageNetInfo
from timm.data.real_labels import RealLabelsImagenet

from resnet_rs.data import imagenet
from resnet_rs.data.sample import Request, Sample
from resnet_rs.data.source import Source, match_classes
from resnet_rs.data.target import Label


@dataclass(frozen=True, kw_only=True)
class Named(Source):
    names: tuple[str, ...]

    @property
    def classes(self):
        return self.names

    def __len__(self):
        return len(self.names)

    def key(self, index):
        return f"{self.names[index]}/{index}.jpg"

    def read(self, index, request):
        return Sample(np.zeros((8, 8, request.channels), np.uint8), Label(index), self.key(index))


def numbers():
    """As folders are listed: by number."""
    return tuple(str(i) for i in range(1000))


def test_the_lists_are_timms():
    assert imagenet.classes() == tuple(ImageNetInfo().label_names())
    for labels, count in (
        ("imagenet-r", 200),
        ("imagenet-a", 200),
        ("imagenet-v2", 1000),
        ("imagenet-real", 1000),
    ):
        found = imagenet.classes_of(labels)
        places = [imagenet.classes().index(name) for name in found]
        assert len(set(found)) == count and places == sorted(places)


def test_answers_are_judged_as_by_timms_copy_of_real():
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 50_001)]
    theirs = RealLabelsImagenet(names).real_labels
    guessed = np.random.default_rng(0).integers(0, 1000, 50_000)
    last = np.array([(theirs[name] or [0])[-1] for name in names])
    for answers, is_right in ((guessed, False), (last, True)):
        correct = imagenet.reassess([f"val/n01440764/{name}" for name in names], answers)
        expected = [answers[i] in theirs[name] for i, name in enumerate(names) if theirs[name]]
        assert correct.tolist() == expected and len(names) - len(correct) == 3163
        assert correct.all() == is_right


def test_numbers_become_names_in_imagenets_order():
    source = imagenet.labeled(Named(names=numbers()), "imagenet-v2")
    matched = match_classes(source, imagenet.classes())
    assert source.classes == imagenet.classes() and matched.read(10, Request(3)).target == Label(10)
    # A listing by code point has "10" before "2"; names are what counts.
    by_text = imagenet.labeled(Named(names=tuple(sorted(numbers()))), "imagenet-v2")
    matched = match_classes(by_text, imagenet.classes())
    assert [matched.read(i, Request(3)).target.index for i in range(4)] == [0, 1, 10, 100]
    assert matched.key(2) == "10/2.jpg" and len(matched) == 1000


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (numbers()[:-1], "imagenet-v2", "got 1 missing, such as '999'"),
        ((*numbers()[:-1], "cat"), "imagenet-v2", "1 unexpected, such as 'cat' and 1 missing, such as '999'"),
        (imagenet.classes(), "imagenet-r", "800 unexpected, such as 'n01440764'"),
        (imagenet.classes_of("imagenet-a"), "imagenet-r", "unexpected, such as"),
        (imagenet.classes_of("imagenet-r"), "imagenet-real", "800 missing"),
        (numbers(), "imagenet-a", "must be 200 identifiers such as n01498041"),
    ],
)
def test_folders_of_another_set_are_refused(names, labels, said):
    with pytest.raises(ValueError, match=said):
        imagenet.labeled(Named(names=names), labels)


@pytest.mark.parametrize("name", ["cat.jpg", "ILSVRC2012_val_00050001.JPEG", "ILSVRC2012_val_00000000.JPEG"])
def test_images_that_are_not_imagenets_have_no_labels(name):
    with pytest.raises(ValueError, match="is not one of ImageNet's validation images"):
        imagenet.reassess([name], np.array([3]))
