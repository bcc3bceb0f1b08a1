"""A validation part taken from the training samples."""

import pytest
from shapes import Shapes

from resnet_rs.data.builtin import builtin
from resnet_rs.data.source import Splits
from resnet_rs.data.subset import Subset, held_out, part_size, with_validation


def keys(source):
    return [source.key(i) for i in range(len(source))]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_both_parts_together_are_the_training_samples_in_their_order(share):
    whole = builtin()
    splits = with_validation(whole, share)
    train, held = keys(splits.train), set(keys(splits.validation))
    assert train == [key for key in keys(whole.train) if key not in held]
    assert len(held) == round(share * len(whole.train)) and splits.test is whole.test
    labels = [splits.validation.target(i).index for i in range(len(splits.validation))]
    assert [labels.count(i) for i in range(10)] == [round(share * 1000)] * 10
    assert splits.validation_or_test is splits.validation and whole.validation_or_test is whole.test


def test_the_part_is_the_same_in_any_order_and_among_more_samples():
    """It depends on the keys alone, so a recorded split gives the same part again."""
    few, many = (with_validation(splits(n), 0.2) for n in (200, 201))
    assert len(set(keys(few.validation)) & set(keys(many.validation))) >= 39


def splits(num_samples):
    """A source that does not know its targets without reading."""
    return Splits(train=Shapes(num_samples=num_samples), test=Shapes(num_samples=3, seed=1))


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(1, 0.5, 0), (2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 2), (10, 0.99, 9)]
)
def test_a_class_keeps_a_sample_and_gives_one_if_it_has_two(count, share, expected):
    assert part_size(count, share) == expected


def test_a_validation_part_of_its_own_and_too_few_images_are_refused():
    own = Splits(train=builtin().train, test=builtin().test, validation=builtin().test)
    with pytest.raises(ValueError, match=r"has a validation part of its own. Leave recipe.validation out"):
        with_validation(own, 0.1)
    with pytest.raises(
        ValueError, match=r"recipe.validation=0.1 needs a class with two or more training images"
    ):
        with_validation(splits(1), 0.1)


def test_every_class_keeps_a_sample_even_one_that_is_never_the_first():
    """Each third sample is the second class of an image."""
    classes = {f"{i}.png": ("common", "rare") if i % 10 == 0 else ("common",) for i in range(30)}
    for share in (0.2, 0.5, 0.9):
        chosen = held_out(classes, share)
        left = {name for key, present in classes.items() if key not in chosen for name in present}
        assert left == {"common", "rare"} and abs(len(chosen) - share * 30) <= 1


def test_a_subset_has_another_digest_where_its_source_or_its_samples_have():
    class Changed(Shapes):
        def digest(self):
            return "changed"

    digests = {
        Subset(source=source, indices=indices).digest()
        for source in (Shapes(num_samples=5), Changed(num_samples=5))
        for indices in ((0, 1), (0, 2))
    }
    assert len(digests) == 4
