"""Quantizers against their definition: the nearest of their values, by looking at all of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_compress.errors import DecisionError
from pyro_compress.network.quantizers import Codebook, PerChannel, Quantizer, Uniform, bits_for, power_of_two, rounded
from pyro_compress.network.stored import StoredTensor

KINDS: dict[str, Quantizer] = {
    "power of two": power_of_two(-3),
    "step": Uniform(0.3),
    "steps": PerChannel((0.3, 0.125, 0.07)),
    "ternary": Codebook((-0.3, 0.2)),
    "positive": Codebook((0.1, 0.2, 0.9)),
    "empty": Codebook(()),
}


def all_values(quantizer: Quantizer, channel: int) -> np.ndarray:
    """Those within ±2 and a little more, float64."""
    match quantizer:
        case Codebook():
            return np.array([0, *quantizer.levels], np.float64)
        case PerChannel(steps):
            return np.arange(-40, 41) * np.float64(np.float32(steps[channel]))
        case Uniform(step):
            return np.arange(-40, 41) * np.float64(np.float32(step))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_nearest_value_is_taken(kind: str, dtype: type) -> None:
    quantizer = KINDS[kind]
    values: np.ndarray = np.random.default_rng(0).uniform(-2, 2, (3, 200)).astype(dtype)
    found = rounded(quantizer, values)
    assert found.dtype == np.float32
    for channel, (row, of_row) in enumerate(zip(values, found, strict=True)):
        every = all_values(quantizer, channel)
        least = np.abs(row[:, None] - every).min(axis=1)
        np.testing.assert_allclose(np.abs(row - of_row), least, atol=1e-6)
        assert np.isin(of_row, every.astype(np.float32)).mean() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_values_have_themselves_and_zero_has_index_zero(kind: str) -> None:
    quantizer = KINDS[kind]
    once = rounded(quantizer, np.random.default_rng(1).normal(size=(3, 7, 2)).astype(np.float32))
    np.testing.assert_array_equal(rounded(quantizer, once), once)
    assert not quantizer.index(np.zeros((3, 1), np.float32)).any()
    assert not quantizer.value(np.zeros((3, 1), np.int32)).any()
    held = StoredTensor(quantizer.index(once).astype(np.int32), quantizer)
    np.testing.assert_array_equal(held.dense(), once, strict=True)
    assert np.array_equal(held.integers != 0, once != 0)


def test_ties() -> None:
    assert Uniform(0.5).index(np.array([0.25, 0.75, -0.25])).tolist() == [0, 2, 0]
    assert Codebook((-1.0, 1.0)).index(np.array([-0.5, 0.5, 0.5001])).tolist() == [-1, 0, 1]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(2.0**-64, 2.0**63, width=32), min_size=1, max_size=4), st.integers(-(2**24), 2**24))
def test_a_value_is_the_product_of_two_float32_numbers(steps: list[float], integer: int) -> None:
    found = PerChannel(tuple(steps)).value(np.full((len(steps), 1), integer, np.int32))
    exact = [np.float32(float(integer) * step) for step in steps]  # exact in float64, rounded once
    assert found[:, 0].tolist() == exact
    assert Uniform(steps[0]).value(np.array([integer], np.int32)).tolist() == exact[:1]


def test_spacing_rows_and_coarser_steps() -> None:
    steps = PerChannel((1.0, 0.5, 3.0))
    assert steps.spacing(3).tolist() == [[[1.0]], [[0.5]], [[3.0]]]
    assert steps.rows(np.array([True, False, True])) == PerChannel((1.0, 3.0))
    assert steps.coarser(2) == PerChannel((4.0, 2.0, 12.0)) and Uniform(0.3).coarser(1).step == 2 * Uniform(0.3).step
    assert Codebook((-1.0, 0.25, 0.75)).spacing(1) == 0.25
    assert Uniform(0.1).exponent is None and power_of_two(-64).exponent == -64


def test_levels_that_are_not_used_can_be_left_out() -> None:
    book = Codebook((-3.0, -2.0, -1.0, 1.0, 2.0))
    indices = np.array([[0, -2], [2, -2]], np.int32)
    fewer, places = book.used(indices)
    assert fewer == Codebook((-2.0, 2.0)) and places.tolist() == [[0, -1], [1, -1]]
    np.testing.assert_array_equal(fewer.value(places), book.value(indices))
    assert book.used(np.zeros(3, np.int32))[0] == Codebook(())


@pytest.mark.parametrize("largest", [0, 1, 2, 127, 128])
def test_bits_hold_every_integer(largest: int) -> None:
    bits = bits_for(np.array([-largest, 1]))
    assert 2 ** (bits - 1) - 1 >= max(1, largest) and (bits == 2 or 2 ** (bits - 2) - 1 < largest)


@pytest.mark.parametrize("step", [0.0, -0.5, float("inf"), float("nan"), 2.0**64, 2.0**64 - 1, 2.0**-65])
def test_steps_out_of_range(step: float) -> None:
    for make in (Uniform, lambda each: PerChannel((1.0, each))):
        with pytest.raises(DecisionError, match=r"a grid step is at least 2\*\*-64 and below 2\*\*64"):
            make(step)


@pytest.mark.parametrize("levels", [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (float("nan"),), (1e300,), (1.0, 1.0 + 1e-12)])
def test_levels_that_are_none(levels: tuple[float, ...]) -> None:
    with pytest.raises(DecisionError, match="the levels of a codebook increase, are finite and not zero"):
        Codebook(levels)


def test_too_many_levels() -> None:
    with pytest.raises(DecisionError, match=r"at most 255 levels on either side of zero: \(0, 256\)"):
        Codebook(tuple(map(float, range(1, 257))))


def test_tensors_that_do_not_go_with_their_quantizer() -> None:
    ones = np.ones((2, 3), np.int32)
    with pytest.raises(ValueError, match=r"3 steps were given for a tensor of shape \(2, 3\)"):
        StoredTensor(ones, PerChannel((1.0, 2.0, 3.0)))
    with pytest.raises(ValueError, match="a codebook of 1 and 0 levels has no places 0 and 1"):
        StoredTensor(ones, Codebook((-1.0,)))
    with pytest.raises(ValueError, match="stored floats are rounded to nothing"):
        StoredTensor(quantizer=Uniform(1.0), floats=np.ones(3, np.float32))


def test_a_stored_tensor_takes_the_exponent_of_its_step() -> None:
    integers = np.array([[3, -1], [0, 2]], np.int32)
    held = StoredTensor(integers, step_exponent=-2)
    assert held.equals(StoredTensor(integers, Uniform(0.25)))
    np.testing.assert_array_equal(held.dense(), integers / np.float32(4))
    with pytest.raises(ValueError, match="a quantizer or the exponent of a step, not both"):
        StoredTensor(integers, Uniform(0.25), step_exponent=-2)
