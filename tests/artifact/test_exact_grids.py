"""Numbers on a grid are found to be, exactly and at the grid that costs least; others are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_compress.artifact.writing.exact_grids import common_exponent, common_step, estimated_bits, on_grid
from pyro_compress.network.quantizers import Codebook, PerChannel, Uniform, power_of_two
from pyro_compress.network.stored import StoredTensor
from pyro_compress.network.stored_weights import in_type

TYPES = ["float32", "float16", "bfloat16", "float64"]


def values(integers: np.ndarray, quantizer: Uniform | PerChannel | Codebook, dtype: str = "float32") -> np.ndarray:
    return in_type(quantizer.value(integers), dtype)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.floats(2.0**-20, 2.0**20, width=32),
    st.integers(1, 2000),
    st.integers(3, 300),
    st.randoms(use_true_random=False),
)
def test_a_step_is_found_from_the_numbers_alone(step: float, largest: int, count: int, random: st.DataObject) -> None:
    """Of all integers up to the largest some occur; what is found gives back all numbers, to the bit."""
    integers = np.array([random.randint(-largest, largest) for _ in range(count)], np.int32)  # type: ignore[attr-defined]
    integers[:2] = 1, 2  # so that the least gap is one step
    numbers = values(integers, Uniform(step))
    found = common_step(np.unique(numbers[numbers != 0]), "float32")
    assert found is not None
    np.testing.assert_array_equal(np.rint(numbers / np.float64(found)).astype(np.float32) * np.float32(found), numbers)


@pytest.mark.parametrize("dtype", TYPES)
def test_grids_of_every_kind(dtype: str) -> None:
    random = np.random.default_rng(0)
    integers = (random.integers(-7, 8, (40, 60)) * (random.random((40, 60)) < 0.3)).astype(np.int32)
    steps = PerChannel(tuple(random.uniform(0.01, 0.02, 40).tolist()))
    levels = Codebook((-0.731, -0.2, 0.111, 0.35, 1.7))
    places = random.integers(-2, 4, (40, 60)).astype(np.int32)
    for quantizer, held in ((power_of_two(-6), integers), (Uniform(0.0137), integers), (levels, places)):
        numbers = values(held, quantizer, dtype)
        found = on_grid(numbers, dtype)
        assert found is not None and found.integers is not None
        np.testing.assert_array_equal(in_type(found.dense(), dtype), numbers, strict=True)
        np.testing.assert_array_equal(np.sign(found.integers), np.sign(held))
        assert estimated_bits(found) <= estimated_bits(StoredTensor(held, quantizer)) + 1
    if dtype in ("float32", "float64"):
        found = on_grid(values(integers, steps, dtype), dtype)
        assert found is not None and isinstance(found.quantizer, PerChannel)
        np.testing.assert_array_equal(found.integers, integers)


def test_the_cheapest_of_those_that_fit_is_taken() -> None:
    random = np.random.default_rng(1)
    integers = random.integers(-7, 8, (64, 64)).astype(np.int32)
    assert on_grid(values(integers, power_of_two(-4)), "float32").quantizer == power_of_two(-4)  # type: ignore[union-attr]
    far = np.array([-3.1, 0.013, 2.7], np.float32)[random.integers(0, 3, (64, 64))]
    assert on_grid(far, "float32").quantizer == Codebook((-3.1, 0.013, 2.7))  # type: ignore[union-attr]
    # 255 different numbers, each of them once: their levels would cost what they cost
    assert on_grid(random.normal(size=255).astype(np.float32), "float32") is None


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (300,), (30, 40), (200, 1), (500, 2)])
def test_numbers_on_no_grid_stay_as_they_are(dtype: str, shape: tuple[int, ...]) -> None:
    numbers = in_type(np.asarray(np.random.default_rng(2).normal(size=shape)), dtype)
    found = on_grid(numbers, dtype)
    # of few digits are multiples of a power of two, which may pay
    if dtype in ("float32", "float64"):
        assert found is None
    elif found is not None:
        np.testing.assert_array_equal(in_type(found.dense(), dtype), numbers)


def test_nearly_is_not_on_a_grid() -> None:
    """One number a single bit away."""
    integers = np.random.default_rng(3).integers(-90, 91, 400).astype(np.int32)
    numbers = values(integers, Uniform(0.0123))
    found = on_grid(numbers, "float32")
    assert found is not None and np.array_equal(found.integers, integers)  # type: ignore[arg-type]
    numbers[17] = np.nextafter(numbers[17], np.float32(9))
    moved = on_grid(numbers, "float32")
    assert moved is None or np.array_equal(moved.dense(), numbers)
    assert moved is None or isinstance(moved.quantizer, Codebook)


def test_zeros_infinities_and_numbers_beyond_float32() -> None:
    zeros = on_grid(np.array([0.0, -0.0], np.float32), "float32")
    assert zeros is not None and not zeros.dense().any()
    assert on_grid(np.array([-np.inf, 0.0], np.float32), "float32") is None
    assert on_grid(np.array([0.1, 0.2] * 50), "float64") is None
    assert on_grid(np.array([0.5, 0.25] * 50), "float64") is not None


def test_the_exponent_that_all_share() -> None:
    assert common_exponent(np.array([0.75, -12.0], np.float32)) == -2
    assert common_exponent(np.array([96.0, 64.0], np.float32)) == 5
    assert common_exponent(np.array([2.0**-64, 3 * 2.0**-64], np.float32)) == -64
    assert common_exponent(np.array([2.0**-65], np.float32)) is None
    assert common_exponent(np.array([1.0, 2.0**-24], np.float32)) == -24
    assert common_exponent(np.array([1.0, 2.0**-25], np.float32)) is None
    assert common_exponent(np.array([2.0**100], np.float32)) is None  # at most 2**63 times 2**24
    assert common_exponent(np.array([2.0**80], np.float32)) == 63
