"""Renamings leave functions as they are, and matching undoes them."""

import numpy as np
import pytest

from pyro_compress.analysis.modes.alignment import agreement, canonical, match, rename_all
from pyro_compress.analysis.modes.symmetries import Renaming, hidden_spaces, rename
from pyro_compress.errors import InferenceError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, Conv2d, Flatten, Linear, Select
from tests.analysis.modes.symmetric_networks import NETWORKS, any_renamings, built, outputs, tensors_of

FLIPS = {
    "dense relu": [0, 0],
    "dense tanh": [1, 1],
    "dense without activation": [1, 1],
    "conv, pool, flatten": [0, 1, 0],
    "batch norm": [1, 2],
    "depthwise": [1],
    "transposed": [1, 1],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_renamed_networks_compute_the_same(name: str) -> None:
    network, architecture = built(name)
    tensors, spaces = tensors_of(network), hidden_spaces(architecture)
    assert [len(space.flips) for space in spaces] == FLIPS[name]
    generator = np.random.default_rng(0)
    before = outputs(network, tensors, architecture)
    for _ in range(5):
        renamed = rename_all(spaces, any_renamings(architecture, generator), tensors)
        assert not all(np.array_equal(renamed[key], tensors[key]) for key in tensors)
        np.testing.assert_allclose(outputs(network, renamed, architecture), before, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["dense relu", "conv, pool, flatten"])
def test_a_sign_flip_where_the_activation_is_not_odd_would_change_the_function(name: str) -> None:
    network, architecture = built(name)
    tensors = tensors_of(network)
    flipped = dict(tensors)
    for key, axis in (("a.weight", 0), ("a.bias", 0), ("b.weight", 1)):
        sign = np.ones(tensors[key].shape[axis])
        sign[0] = -1
        flipped[key] = tensors[key] * sign.reshape([-1 if i == axis else 1 for i in range(tensors[key].ndim)])
    difference = outputs(network, flipped, architecture) - outputs(network, tensors, architecture)
    assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_matching_undoes_a_renaming_exactly(name: str) -> None:
    network, architecture = built(name)
    tensors, spaces = tensors_of(network), hidden_spaces(architecture)
    generator = np.random.default_rng(1)
    for _ in range(3):
        renamed = rename_all(spaces, any_renamings(architecture, generator), tensors)
        found = rename_all(spaces, match(spaces, tensors, renamed), renamed)
        for key, array in tensors.items():
            np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize("name", NETWORKS)
def test_noisy_copies_are_matched_alike_whatever_their_names(name: str) -> None:
    network, architecture = built(name)
    tensors, spaces = tensors_of(network), hidden_spaces(architecture)
    generator = np.random.default_rng(2)
    noisy = {key: array + 0.7 * generator.standard_normal(array.shape) for key, array in tensors.items()}
    renamed = rename_all(spaces, any_renamings(architecture, generator), noisy)
    first = rename_all(spaces, match(spaces, tensors, noisy), noisy)
    second = rename_all(spaces, match(spaces, tensors, renamed), renamed)
    for key in tensors:
        np.testing.assert_array_equal(first[key], second[key])
    assert agreement(tensors, first) >= agreement(tensors, noisy)


@pytest.mark.parametrize("name", NETWORKS)
def test_canonical_names_do_not_depend_on_the_names_given(name: str) -> None:
    network, architecture = built(name)
    tensors, spaces = tensors_of(network), hidden_spaces(architecture)
    renamed = rename_all(spaces, any_renamings(architecture, np.random.default_rng(3)), tensors)
    first = rename_all(spaces, canonical(spaces, tensors), tensors)
    second = rename_all(spaces, canonical(spaces, renamed), renamed)
    for key in tensors:
        np.testing.assert_array_equal(first[key], second[key])
    np.testing.assert_allclose(
        outputs(network, first, architecture), outputs(network, tensors, architecture), rtol=1e-10, atol=1e-12
    )


def test_canonical_units_fall_in_norm_and_lead_with_a_positive_weight() -> None:
    network, architecture = built("dense tanh")
    spaces = hidden_spaces(architecture)
    weight = rename_all(spaces, canonical(spaces, tensors_of(network)), tensors_of(network))["a.weight"]
    norms = np.square(weight).sum(axis=1)
    assert (np.diff(norms) < 0).all()
    assert (weight[np.arange(7), np.abs(weight).argmax(axis=1)] > 0).all()
    gains = tensors_of(built("batch norm")[0])
    spaces = hidden_spaces(built("batch norm")[1])
    named = rename_all(spaces, canonical(spaces, gains), gains)
    assert (named["n.weight"] > 0).all() and (named["m.weight"] > 0).all()
    assert not (gains["n.weight"] > 0).all()


def test_renamings_combine() -> None:
    network, architecture = built("dense tanh")
    tensors, (space, _) = tensors_of(network), hidden_spaces(architecture)
    generator = np.random.default_rng(4)
    first, second = (Renaming(generator.permutation(7), generator.random((1, 7)) < 0.5) for _ in range(2))
    together = rename(space, first.then(second), tensors)
    one_by_one = rename(space, second, rename(space, first, tensors))
    for key in tensors:
        np.testing.assert_array_equal(together[key], one_by_one[key])


def test_spaces_that_cannot_be_renamed_are_left_out() -> None:
    pair = ((1, 1), (1, 1), (0, 0), (1, 1))
    grouped = Architecture(
        (4, 2, 2), (Conv2d("a", 4, 4, *pair, 1, True), Activation("tanh"), Conv2d("b", 4, 4, *pair, 2, True), Flatten())
    )
    chosen = Architecture((3,), (Linear("a", 3, 4, True), Select((0, 2)), Linear("b", 2, 2, True)))
    assert hidden_spaces(grouped) == hidden_spaces(chosen) == ()


def test_values_that_are_not_finite_are_refused() -> None:
    network, architecture = built("dense relu")
    tensors = tensors_of(network)
    broken = tensors | {"b.bias": np.full(4, np.nan)}
    with pytest.raises(InferenceError, match=r"draws of 'b\.bias' hold values that are not finite"):
        match(hidden_spaces(architecture), tensors, broken)
