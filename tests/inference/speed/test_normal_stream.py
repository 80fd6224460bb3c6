"""The stream of normal numbers: distribution, independence, resume."""

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_compress.inference.speed.normal_stream import CELLS, MANY, SHARED, DrawnFrom, Noise, _table

# one beyond a multiple of 4, and one that numpy's own numbers serve
LOOKED_UP, FEW, HALVES = 4 * MANY + 3, 37, SHARED + 5


def numbers(seed: int, shape: tuple[int, ...], times: int = 1) -> np.ndarray:
    stream, out = Noise(seed), torch.empty(shape)
    return np.stack([stream.fill(out).numpy().copy() for _ in range(times)])


@pytest.mark.parametrize(
    ("count", "times"), [(LOOKED_UP, 60), (FEW, 4000), (HALVES, 30)], ids=["looked-up", "ziggurat", "two-halves"]
)
def test_moments_and_distribution_are_those_of_a_normal(count: int, times: int) -> None:
    x = numbers(3, (count,), times).ravel().astype(np.float64)
    n = x.size
    # variances of x, x², x³, x⁴ and x⁶ are 1, 2, 15, 96 and 10170
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((x**power).mean() - mean) < 4.5 * np.sqrt(variance / n)
    assert stats.kstest(x, "norm").pvalue > 1e-3
    for bound in (3.0, 4.0, 4.4):
        expected = 2 * n * stats.norm.sf(bound)
        assert abs((np.abs(x) > bound).sum() - expected) < 4.5 * np.sqrt(expected) + 1


def test_the_table_is_off_by_less_than_it_says() -> None:
    table = _table().astype(np.float64)
    assert len(table) == CELLS and np.array_equal(table, -table[::-1]) and (np.diff(table) > 0).all()
    edge = stats.norm.ppf(1 / CELLS)
    outermost = 1 - edge * stats.norm.pdf(edge) * CELLS  # E[z² | z < edge] = 1 − edge φ(edge) / Φ(edge)
    variance = (np.square(table[1:-1]).sum() + 2 * outermost) / CELLS
    assert variance == pytest.approx(1.0, abs=1e-6)


def test_tails_go_on_beyond_the_table() -> None:
    x = numbers(4, (2**16,), 60).ravel()
    beyond = x[np.abs(x) > _table()[-1]]
    assert len(np.unique(np.abs(beyond))) > 0.9 * len(beyond) and beyond.min() < 0 < beyond.max()
    assert np.abs(x).max() > 4.8


@pytest.mark.parametrize(("chains", "width", "times"), [(3, LOOKED_UP, 24), (3, FEW, 4000)])
def test_steps_chains_and_parameters_are_independent(chains: int, width: int, times: int) -> None:
    x = numbers(5, (chains, width), times).astype(np.float64)  # (step, chain, parameter)

    def correlation(left: np.ndarray, right: np.ndarray) -> float:
        return float((left * right).mean() * np.sqrt(left.size))

    for lag in (1, 2, 3, 4, 5, 8):
        assert abs(correlation(x[lag:], x[:-lag])) < 4.5  # a parameter over steps
        assert abs(correlation(x[..., lag:], x[..., :-lag])) < 4.5  # neighbours in one step
        squares = (np.square(x) - 1) / np.sqrt(2)
        assert abs(correlation(squares[lag:], squares[:-lag])) < 4.5
        assert abs(correlation(squares[..., lag:], squares[..., :-lag])) < 4.5
    for one in range(chains):
        assert abs(correlation(x[:, one], x[:, (one + 1) % chains])) < 4.5
    # no two steps, and no two chains, hold the same stretch of numbers
    starts = x.reshape(times * chains, width)[:, :8]
    assert len(np.unique(starts, axis=0)) == times * chains


@pytest.mark.parametrize("count", [LOOKED_UP, FEW, HALVES])
def test_streams_resume_and_differ_by_seed(count: int) -> None:
    stream, out = Noise(7), torch.empty(count)
    stream.fill(torch.empty(FEW))
    stream.fill(out)
    captured = stream.capture()
    ahead = stream.fill(out).clone()
    other = Noise(8)
    assert not torch.equal(ahead, other.fill(out))
    other.restore(captured)
    assert torch.equal(ahead, other.fill(out))
    assert not torch.equal(ahead, Noise(7).fill(out))
    assert not np.array_equal(numbers(-7, (FEW,)), numbers(7, (FEW,)))


def test_the_process_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    numbers(1, (LOOKED_UP,))
    assert torch.equal(before, torch.get_rng_state())


def test_numbers_do_not_depend_on_threads() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(numbers(3, (HALVES,), 3))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[0], found[1])
    left, right = found[0][:, : HALVES // 2], found[0][:, HALVES // 2 : 2 * (HALVES // 2)]
    assert abs((left * right).mean() * np.sqrt(left.size)) < 4.5


def test_a_program_draws_from_the_stream() -> None:
    """Its standard normal numbers, in the order and the memory layout of the program; nothing else."""
    like = torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    before = torch.get_rng_state()
    with DrawnFrom(Noise(5)):
        found = [torch.randn(7, 2), torch.randn_like(like), torch.empty(3).normal_(), torch.zeros(2).add(1.0)]
        found.append(torch.randn(4, dtype=torch.float64))
    assert torch.equal(before, torch.get_rng_state())
    stream = Noise(5)
    assert torch.equal(found[0], stream.fill(torch.empty(7, 2)))
    in_memory = stream.fill(torch.empty(2, 4, 5, 3))
    assert torch.equal(found[1], in_memory.permute(0, 3, 1, 2)) and found[1].stride() == like.stride()
    assert torch.equal(found[2], stream.fill(torch.empty(3)))
    assert found[3].tolist() == [1.0, 1.0] and found[4].dtype == torch.float64
    with DrawnFrom(Noise(5)):
        torch.empty(3).normal_(1.0, 2.0)
    assert not torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [100, 10_000, 100_000])
def test_narrower_types_take_the_numbers_of_float32_rounded(dtype: torch.dtype, count: int) -> None:
    found = Noise(3).fill_like(torch.empty(count, dtype=dtype))
    assert found.dtype == dtype and torch.equal(found, Noise(3).fill(torch.empty(count)).to(dtype))
