"""Cox's partial likelihood against its formula in a double loop, and what it must refuse."""

import math
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.errors import DataError, DecisionError, InferenceError
from pyro_compress.inference.results.pointwise import draws_of_guide, log_likelihoods
from pyro_compress.models.likelihoods.cox import Cox, breslow
from pyro_compress.pipeline.validation import Judge

Ties = Literal["efron", "breslow"]
GENERATOR = torch.Generator().manual_seed(0)
SCORE = torch.randn(40, generator=GENERATOR, dtype=torch.float64)
# every time several times over, with and without events
TIME = torch.randint(1, 9, (40,), generator=GENERATOR).double()
EVENT = (torch.rand(40, generator=GENERATOR) < 0.6).double()
TARGET = torch.stack([TIME, EVENT], 1)


def written_out(score: np.ndarray, time: np.ndarray, event: np.ndarray, ties: Ties) -> float:
    """The sum over times of events, as in the papers, without a logarithm of sums."""
    total = 0.0
    for t in np.unique(time[event > 0]):
        here = (time == t) & (event > 0)
        risk, deaths, count = np.exp(score[time >= t]).sum(), np.exp(score[here]).sum(), here.sum()
        total += score[here].sum()
        for rank in range(count):
            total -= math.log(risk - (rank / count if ties == "efron" else 0.0) * deaths)
    return total


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_partial_likelihood_with_ties(ties: Ties) -> None:
    expected = written_out(SCORE.numpy(), TIME.numpy(), EVENT.numpy(), ties)
    found = Cox(ties).log_prob(SCORE[:, None], TARGET)
    assert float(found.sum()) == pytest.approx(expected, rel=1e-12)
    # each term belongs to its example: the order of the rows does not matter, and the censored have none
    order = torch.randperm(40, generator=GENERATOR)
    torch.testing.assert_close(Cox(ties).log_prob(SCORE[order], TARGET[order]).sum(), found.sum())
    assert not found[EVENT == 0].any()
    torch.testing.assert_close(Cox(ties).error(SCORE, TARGET), -found)


def test_without_ties_both_are_one() -> None:
    target = torch.stack([torch.randperm(40, generator=GENERATOR).double(), EVENT], 1)
    torch.testing.assert_close(Cox("efron").log_prob(SCORE, target), Cox("breslow").log_prob(SCORE, target))


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_gradients_are_those_of_differences(ties: Ties) -> None:
    assert torch.autograd.gradcheck(
        lambda score: Cox(ties).log_prob(score, TARGET).sum(), SCORE.clone().requires_grad_(), atol=1e-6
    )
    hessian = torch.autograd.functional.hessian(lambda score: Cox(ties).log_prob(score, TARGET).sum(), SCORE)
    # a constant added to all scores changes nothing, and the log likelihood is concave
    torch.testing.assert_close(hessian.sum(1), torch.zeros(40, dtype=torch.float64), atol=1e-10, rtol=0)
    assert float(torch.linalg.eigvalsh(hessian).max()) < 1e-10


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_scores_far_apart_neither_overflow_nor_vanish(ties: Ties) -> None:
    far = (200 * SCORE).float().requires_grad_()
    found = Cox(ties).log_prob(far, TARGET.float()).sum()
    (gradient,) = torch.autograd.grad(found, far)
    assert bool(torch.isfinite(gradient).all())
    with np.errstate(over="raise"):
        expected = written_out(200 * SCORE.numpy(), TIME.numpy(), EVENT.numpy(), ties)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(Cox(ties).log_prob(far + 3e4, TARGET.float()).sum(), found, rtol=1e-4, atol=0)


def test_breslows_baseline_is_a_sum_over_events() -> None:
    times, hazard = breslow(SCORE[:, None], TARGET)
    score, time, event = SCORE.numpy(), TIME.numpy(), EVENT.numpy()
    assert times.tolist() == np.unique(time[event > 0]).tolist()
    for t, value in zip(times.tolist(), hazard.tolist(), strict=True):
        each = [1 / np.exp(score[time >= time[i]]).sum() for i in np.flatnonzero((event > 0) & (time <= t))]
        assert value == pytest.approx(sum(each))
    assert all(a < b for a, b in pairwise(hazard.tolist()))


def network() -> pc.BayesianNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return pc.BayesianNetwork(nn.Linear(3, 1, bias=False), pc.models.Normal(), "cox")


X = torch.randn(40, 3, generator=GENERATOR)
Y = TARGET.float()


def test_parts_of_the_data_are_refused() -> None:
    with pytest.raises(InferenceError, match=r"so 16 of 40 have another one.*batch_size=40.*'piecewise-exponential'"):
        pc.fit(network(), (X, Y), pc.inference.SVI(epochs=2, batch_size=16))
    with pytest.raises(InferenceError, match="so 40 of 400 have another one"):
        pc.fit(network(), pc.data.as_data((X, Y), N=400), pc.inference.SVI(epochs=2, batch_size=64))
    data = pc.data.as_data((X, Y), validation=10)
    with pytest.raises(DecisionError, match=r"Cox's likelihood is no product.*'piecewise-exponential'"):
        Judge(nn.Linear(3, 1), data, Cox())


def test_a_fit_on_all_the_data() -> None:
    # 20 held out: their error is that of all of them together, however many a pass takes
    data = pc.data.as_data((X, Y), validation=20, split_seed=1)
    model, errors = network(), []
    posterior = pc.fit(
        model,
        data,
        pc.inference.SVI(epochs=3, batch_size=20),
        callbacks=[lambda record, state: errors.append(record.validation_error)],
    )
    values = {name: torch.from_numpy(site.mean) for name, site in posterior.parameters.items()}
    x, y = data.part("validation")
    expected = -Cox().log_prob(x @ values["weight"].mT, y)
    torch.testing.assert_close(model.errors(values, x, y, chunk=7), expected)
    assert errors[-1] == pytest.approx(float(expected.mean()), rel=1e-5)
    draws = draws_of_guide(model, posterior, 3, seed=0)
    with pytest.raises(InferenceError, match=r"no product over examples: none has one of its own to leave out"):
        log_likelihoods(model, pc.Posterior(posterior.parameters, {}, draws=draws), X, Y)


@pytest.mark.parametrize(
    ("outputs", "target", "text"),
    [
        (2, Y, r"outputs of shape \(11, 2\), expected one log hazard ratio per example"),
        (1, Y[:, :1], r"targets of shape \(11, 2\), found \(11, 1\)"),
        (1, Y * 2, r"the target \[.*\] at index \(\d+,\).*targets are pairs \(time, event\) of a time from 0"),
        (1, Y * torch.tensor([-1.0, 1.0]), r"the target \[-.*pairs \(time, event\)"),
    ],
)
def test_what_does_not_fit_is_refused(outputs: int, target: torch.Tensor, text: str) -> None:
    with pytest.raises(DataError, match=text):
        pc.fit(
            pc.BayesianNetwork(nn.Linear(3, outputs), pc.models.Normal(), Cox()),
            (X, target),
            pc.inference.SVI(epochs=1, batch_size=40),
        )


def test_it_gives_no_times() -> None:
    with pytest.raises(InferenceError, match="leaves the baseline hazard open, so it gives no times"):
        network()(X)


def test_svi_draws_the_weights_once_for_all_examples() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(300, 2, generator=generator)
    rate = torch.exp(0.5 * (x[:, 0] - 3) - 0.3 * (x[:, 1] - 3))
    time = -torch.log(torch.rand(300, generator=generator)) / rate
    y = torch.stack([time, (torch.rand(300, generator=generator) < 0.8).float()], 1)
    torch.manual_seed(0)
    model = pc.BayesianNetwork(nn.Linear(2, 1), pc.models.Normal(), "cox")
    method = pc.inference.SVI(epochs=1500, batch_size=300, learning_rate=0.02, averaging=0.3)
    posterior = pc.fit(model, (x, y), method, seed=0)
    weight = torch.from_numpy(posterior.parameters["weight"].mean[0]).double()

    def log_joint(w: torch.Tensor) -> torch.Tensor:
        return Cox().log_prob((x.double() @ w)[:, None], y.double()).sum() - 0.5 * w @ w

    steps = 0.01 * torch.eye(2).double()
    curvature = [(2 * log_joint(weight) - log_joint(weight + h) - log_joint(weight - h)) / 1e-4 for h in steps]
    sd = np.sqrt(posterior.parameters["weight"].variance[0])
    # a mean field has the conditional variances
    np.testing.assert_allclose(sd, torch.stack(curvature).rsqrt(), rtol=0.15)
    # nothing is said of a constant that all hazards have in common: it keeps its prior
    assert posterior.parameters["bias"].variance[0] == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("estimator", ["local", "flipout"])
def test_noise_per_example_is_refused(estimator: str) -> None:
    x, model = torch.randn(40, 2, generator=GENERATOR), pc.BayesianNetwork(nn.Linear(2, 1), pc.models.Normal(), "cox")
    with pytest.raises(InferenceError, match=f"estimator '{estimator}' has noise of its own for every example"):
        pc.fit(model, (x, TARGET.float()), pc.inference.SVI(epochs=1, batch_size=40, estimator=estimator))
    with pytest.raises(InferenceError, match="MC dropout has a mask for every example"):
        pc.fit(model, (x, TARGET.float()), pc.inference.MCDropout(epochs=1, batch_size=40))
