"""The piecewise-exponential likelihood against Poisson's, integrals of its hazard, draws, and Cox's hazard ratios."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from pyro_compress.errors import DataError, InferenceError
from pyro_compress.models.likelihoods import Cox, PiecewiseExponential
from pyro_compress.models.likelihoods.piecewise_exponential import quantile_breaks

GENERATOR = torch.Generator().manual_seed(1)
BREAKS = (0.5, 1.2, 3.0)
LOG_HAZARDS = torch.randn(6, 3, generator=GENERATOR, dtype=torch.float64)
LIKELIHOOD = PiecewiseExponential(BREAKS)
TARGET = torch.tensor([[0.3, 1], [0.5, 1], [0.51, 0], [2.0, 1], [3.0, 0], [4.5, 1]], dtype=torch.float64)


def hazard(log_hazards: Tensor, t: float) -> float:
    return float(log_hazards[min(int(np.searchsorted(BREAKS, t)), 2)].exp())


def test_density_is_that_of_the_hazard() -> None:
    found = LIKELIHOOD.log_prob(LOG_HAZARDS, TARGET)
    for row, (t, event), value in zip(LOG_HAZARDS, TARGET.tolist(), found.tolist(), strict=True):
        steps = np.linspace(0, t, 200_001)
        cumulative = np.mean([hazard(row, (a + b) / 2) for a, b in zip(steps[:-1:50], steps[50::50], strict=True)]) * t
        assert value == pytest.approx(event * np.log(hazard(row, t)) - cumulative, abs=2e-3)


def test_it_is_poissons_of_the_events_in_every_interval() -> None:
    # an event at a break belongs to the interval that ends there
    ends = [(0.0, 0.5), (0.5, 1.2), (1.2, float("inf"))]
    total = 0.0
    for row, (t, event) in zip(LOG_HAZARDS, TARGET.tolist(), strict=True):
        for log_rate, (start, end) in zip(row, ends, strict=True):
            spent = max(0.0, min(t, end) - start)
            if spent:
                happened = float(event and start < t <= end)
                rate = log_rate.exp() * spent
                total += float(torch.distributions.Poisson(rate).log_prob(torch.tensor(happened).double()))
                total -= happened * np.log(spent)
    assert float(LIKELIHOOD.log_prob(LOG_HAZARDS, TARGET).sum()) == pytest.approx(total)


def test_curves_densities_and_draws_agree() -> None:
    times = torch.tensor([0.2, 0.5, 1.0, 2.9, 5.0], dtype=torch.float64)
    curves = LIKELIHOOD.survival(LOG_HAZARDS, times)
    at_times = torch.stack([LIKELIHOOD.log_prob(LOG_HAZARDS, torch.tensor([[t, 0.0]] * 6)) for t in times.tolist()], 1)
    torch.testing.assert_close(curves.log(), at_times)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        drawn = LIKELIHOOD.distribution(LOG_HAZARDS).sample((40_000,))
    assert bool((drawn[..., 1] == 1).all())
    shares = (drawn[..., :1] > times).double().mean(0)
    torch.testing.assert_close(shares, curves, atol=0.012, rtol=0)


def test_mean_is_the_curve_and_link_its_inverse() -> None:
    mean = LIKELIHOOD.mean(LOG_HAZARDS)
    torch.testing.assert_close(mean, LIKELIHOOD.survival(LOG_HAZARDS, torch.tensor(BREAKS)))
    torch.testing.assert_close(LIKELIHOOD.link(mean), LOG_HAZARDS)
    torch.testing.assert_close(LIKELIHOOD.variance(LOG_HAZARDS), mean * (1 - mean))
    torch.testing.assert_close(LIKELIHOOD.error(LOG_HAZARDS, TARGET), -LIKELIHOOD.log_prob(LOG_HAZARDS, TARGET))
    assert LIKELIHOOD.error_scale(TARGET) == 1.0


def test_cross_entropy_is_a_mean_over_times_censored_at_the_end() -> None:
    other = LOG_HAZARDS.flip(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        drawn = LIKELIHOOD.distribution(LOG_HAZARDS).sample((100_000,))
    time = drawn[..., 0]
    censored = torch.stack([time.clamp(max=BREAKS[-1]), (time <= BREAKS[-1]).double()], -1)
    expected = -LIKELIHOOD.distribution(other).log_prob(censored).mean(0)
    found = LIKELIHOOD.cross_entropy(other, LIKELIHOOD.mean(LOG_HAZARDS))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.01)
    with pytest.raises(DataError, match=r"user: .* at index 0 is no survival curve"):
        LIKELIHOOD.check_teacher(torch.tensor([[0.5, 0.6, 0.4]]), "user")


def test_proportional_hazards_are_at_the_optimum_that_scipy_finds_and_near_coxs() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    # Weibull times, so no baseline of constant pieces is the truth
    rate = (x @ torch.tensor([0.8, -0.5], dtype=torch.float64)).exp()
    time = (torch.empty(300, dtype=torch.float64).exponential_(generator=generator) / rate).sqrt()
    end = torch.full((300,), 1.2, dtype=torch.float64)
    target = torch.stack([torch.minimum(time, end), (time <= end).double()], 1)
    breaks = quantile_breaks(target, 12)
    likelihood = PiecewiseExponential(breaks)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(flat, requires_grad=True)
        loss = -likelihood.log_prob((x @ at[:2])[:, None] + at[2:], target).sum()
        loss.backward()
        assert at.grad is not None
        return loss.item(), at.grad.numpy()

    found = optimize.minimize(objective, np.zeros(14), jac=True, method="BFGS", options={"gtol": 1e-8})
    slopes, baseline = torch.from_numpy(found.x[:2]), torch.from_numpy(found.x[2:])
    # given the slopes, the hazard of an interval is events over weighted time, in closed form
    edges = [*zip((0.0, *breaks[:-1]), breaks, strict=True)]
    spent = torch.stack([_spent(target[:, 0], a, b) for a, b in edges], 1)
    events = torch.stack([_events(target, a, b) for a, b in edges])
    torch.testing.assert_close(baseline.exp(), events / (spent * (x @ slopes).exp()[:, None]).sum(0), rtol=1e-5, atol=0)

    def partial(flat: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(flat, requires_grad=True)
        loss = -Cox().log_prob(x @ at, target).sum()
        loss.backward()
        assert at.grad is not None
        return loss.item(), at.grad.numpy()

    cox = optimize.minimize(partial, np.zeros(2), jac=True, method="BFGS").x
    # a tenth of a standard error
    np.testing.assert_allclose(slopes.numpy(), cox, atol=0.01)


def _spent(time: Tensor, start: float, end: float) -> Tensor:
    return (time.clamp(max=end) - start).clamp(min=0)


def _events(target: Tensor, start: float, end: float) -> Tensor:
    time, event = target.unbind(-1)
    return event[(time > start) & (time <= end)].sum()


def test_quantile_breaks_share_the_events() -> None:
    generator = torch.Generator().manual_seed(5)
    time, uniform = torch.rand(2, 1000, generator=generator)
    target = torch.stack([time, (uniform < 0.4).float()], 1)
    breaks = quantile_breaks(target, 5)
    edges = (0.0, *breaks)
    counts = [int(_events(target.double(), a, b)) for a, b in pairwise(edges)]
    assert len(breaks) == 5 and breaks[-1] == float(target[:, 0].max()) and max(counts) - min(counts) <= 1
    with pytest.raises(DataError, match="2 intervals cannot be told apart by the times of 0 events"):
        quantile_breaks(torch.tensor([[1.0, 0.0]]), 2)


@pytest.mark.parametrize("breaks", [(), (0.0, 1.0), (2.0, 1.0), (1.0, float("inf"))])
def test_breaks_that_make_no_intervals_are_refused(breaks: tuple[float, ...]) -> None:
    with pytest.raises(InferenceError, match="positive and ascending"):
        PiecewiseExponential(breaks)


def test_outputs_of_another_number_of_intervals_are_refused() -> None:
    with pytest.raises(DataError, match=r"outputs of shape \(6, 2\), expected one log hazard for each of 3 intervals"):
        LIKELIHOOD.check(LOG_HAZARDS[:, :2], TARGET)
    constant = PiecewiseExponential((1.0,))
    constant.check(LOG_HAZARDS[:, 0], TARGET)
    expected = torch.distributions.Exponential(LOG_HAZARDS[:, 0].exp()).log_prob(TARGET[:, 0])
    events = torch.stack([TARGET[:, 0], torch.ones(6).double()], 1)
    torch.testing.assert_close(constant.log_prob(LOG_HAZARDS[:, 0], events), expected)
