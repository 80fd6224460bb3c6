"""One value for everything, or one for each pattern of names."""

import pytest

from pyro_compress.errors import DecisionError, InferenceError
from pyro_compress.network.name_patterns import by_name, matches

NAMES = ("conv1.weight", "conv2.weight", "fc[1].weight")


def test_one_value_is_everybodys() -> None:
    assert by_name("levels", 3, NAMES, "weight", DecisionError) == dict.fromkeys(NAMES, 3)


def test_values_go_by_pattern_in_the_order_of_the_patterns() -> None:
    found = by_name("levels", {"fc*": 5, "conv2.*": 2}, NAMES, "weight", DecisionError)
    assert [*found.items()] == [("fc[1].weight", 5), ("conv2.weight", 2)]
    # brackets are a pattern that does not match itself
    assert by_name("levels", {"fc[1].weight": 4}, NAMES, "weight", DecisionError) == {"fc[1].weight": 4}


def test_matches_by_pattern_may_overlap() -> None:
    found = matches("layers", ["conv*", "*1.weight"], NAMES, "layer", DecisionError)
    assert found == {"conv*": ["conv1.weight", "conv2.weight"], "*1.weight": ["conv1.weight"]}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"fc*": 1, "dense*": 2}, r"c: 'dense\*' matches no weight: there are conv1\.weight, conv2\.weight, fc\[1\]"),
        ({"*1.*": 1, "conv*": 2}, r"c: '\*1\.\*' and 'conv\*' both match weight conv1\.weight: make the patterns"),
        ({}, r"c: no weight has a value: give one for all, or for some of conv1\.weight, "),
        # a shell's patterns tell large letters from small ones
        ({"FC*": 1}, r"c: 'FC\*' matches no weight"),
    ],
)
def test_patterns_that_do_not_go_with_the_names(given: dict[str, int], sentence: str) -> None:
    with pytest.raises(InferenceError, match=sentence):
        by_name("c", given, NAMES, "weight", InferenceError)
