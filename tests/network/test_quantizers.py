"""Quantizers against their definition: the nearest of their values, by looking at all of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_compress.errors import DecisionError
from pyro_compress.network.quantizers import (
    Affine,
    Codebook,
    PerChannel,
    Quantizer,
    Uniform,
    bits_for,
    bits_on,
    described,
    from_described,
    power_of_two,
    rounded,
    stored_as,
)
from pyro_compress.network.stored import StoredTensor

KINDS: dict[str, Quantizer] = {
    "power of two": power_of_two(-3),
    "step": Uniform(0.3),
    "steps": PerChannel((0.3, 0.125, 0.07)),
    "affine": Affine(Uniform(0.3), 3, (2,)),
    "affine steps": Affine(PerChannel((0.3, 0.125, 0.07)), 4, (0, 15, 6)),
    "ternary": Codebook((-0.3, 0.2)),
    "positive": Codebook((0.1, 0.2, 0.9)),
    "empty": Codebook(()),
}


def all_values(quantizer: Quantizer, channel: int) -> np.ndarray:
    """Those within ±2 and a little more, float64."""
    match quantizer:
        case Codebook():
            return np.array([0, *quantizer.levels], np.float64)
        case Affine():
            least, largest = (limit.ravel() for limit in quantizer.limits(1))
            place = channel if len(least) > 1 else 0
            every = np.arange(least[place], largest[place] + 1)
            return every * quantizer.spacing(1).astype(np.float32).astype(np.float64).ravel()[place]
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
    held = StoredTensor(quantizer.index(once).astype(np.int32), stored_as(quantizer))
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


def test_an_affine_quantizer_holds_its_bits_around_the_zero_point() -> None:
    affine = Affine(Uniform(0.5), 3, (2,))
    assert affine.index(np.array([-9.0, -1.0, 0.2, 2.5, 9.0])).tolist() == [-2, -2, 0, 5, 5]
    assert bits_on(affine, np.array([1])) == 3 and bits_on(Uniform(0.5), np.array([5])) == 4
    steps = Affine(PerChannel((0.5, 1.0)), 8, (0, 255))
    assert steps.index(np.array([[-1.0, 200.0], [3.0, -300.0]])).tolist() == [[0, 255], [0, -255]]
    assert steps.rows(np.array([False, True])) == Affine(PerChannel((1.0,)), 8, (255,))


@pytest.mark.parametrize("zero", [0, 1, 5, 7, 8, 14, 15])
@pytest.mark.parametrize("octaves", [1, 2, 3, 4])
def test_a_coarser_affine_quantizer_has_the_values_that_are_left(zero: int, octaves: int) -> None:
    affine = Affine(Uniform(1.0), 4, (zero,))
    every = np.arange(-zero, 16 - zero)
    coarser = affine.coarser(octaves)
    held = [q for q in every.tolist() if q % 2**octaves == 0]
    if octaves < 4:  # one bit is the fewest
        assert (
            coarser.value(np.arange(-coarser.zero_points[0], 2**coarser.bits - coarser.zero_points[0])).tolist() == held
        )
    assert coarser.bits == max(4 - octaves, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_description_says_all(kind: str) -> None:
    assert from_described(described(KINDS[kind])) == KINDS[kind]
    assert from_described(None) is None


@pytest.mark.parametrize(
    ("bits", "zero_points", "sentence"),
    [
        (0, (0,), "has 1 to 16 bits, found 0"),
        (17, (0,), "has 1 to 16 bits, found 17"),
        (4, (16,), r"as many zero points from 0 to 15, found \(16,\)"),
        (4, (1, 2), r"of 4 bits and 1 steps has as many zero points from 0 to 15, found \(1, 2\)"),
    ],
)
def test_affine_quantizers_that_are_none(bits: int, zero_points: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(DecisionError, match=sentence):
        Affine(Uniform(0.5), bits, zero_points)
