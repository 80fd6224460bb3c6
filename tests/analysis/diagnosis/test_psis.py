"""k-hat, the guide's density and leave-one-out against closed forms; needs no torch."""

import math

import numpy as np
import pytest

from pyro_compress.analysis.diagnosis.arviz_export import to_arviz
from pyro_compress.analysis.diagnosis.arviz_versions import arviz
from pyro_compress.analysis.diagnosis.psis import guide_log_density, loo, psis_k_hat
from pyro_compress.errors import InferenceError
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import Latent, Posterior


def test_k_hat_grows_as_the_guide_narrows() -> None:
    x = np.random.default_rng(0).normal(size=4000)
    found = [psis_k_hat(-0.5 * (x / scale) ** 2 + 0.5 * x**2) for scale in (1.05, 1.5, 3.0)]
    # ratios of N(0, s²) over N(0, 1) have the tail index 1 − 1/s²
    assert found == sorted(found) and found[0] < 0.4 and found[2] > 0.7


@pytest.mark.filterwarnings("error")
def test_ratios_that_span_thousands_of_nats_are_told_by_k_hat_alone() -> None:
    x = np.random.default_rng(0).standard_t(4, size=20_000)
    assert psis_k_hat(0.5 * x**2) > 0.7


def test_draws_outside_the_support_count_nothing_until_they_are_half() -> None:
    ratios = np.random.default_rng(0).normal(size=1000)
    lowest = np.argsort(ratios)
    some, most = ratios.copy(), ratios.copy()
    some[lowest[:300]], most[lowest[:500]] = -np.inf, -np.inf
    assert psis_k_hat(some) == pytest.approx(psis_k_hat(ratios))
    assert psis_k_hat(most) == math.inf


@pytest.mark.parametrize("bad", [np.zeros(24), np.zeros((2, 50)), np.append(np.zeros(50), np.nan)])
def test_ratios_that_cannot_be_used_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(InferenceError, match=r"log (importance )?ratios"):
        psis_k_hat(bad)


def test_the_guides_density_integrates_to_one() -> None:
    latents = {
        "w": Latent("normal", np.array([0.5], np.float32), np.array([0.7], np.float32)),
        "s": Latent("lognormal", np.array(-0.2, np.float32), np.array(0.4, np.float32)),
    }
    w, s = np.linspace(-6, 7, 4001), np.linspace(1e-4, 12, 8001)
    fixed = {"w": np.full((len(s), 1), 0.5), "s": s}
    peak = -math.log(0.7 * math.sqrt(2 * math.pi))
    assert np.trapezoid(np.exp(guide_log_density(latents, fixed) - peak), s) == pytest.approx(1.0, abs=1e-4)
    alone = guide_log_density({"w": latents["w"]}, {"w": w[:, None]})
    assert np.trapezoid(np.exp(alone), w) == pytest.approx(1.0, abs=1e-4)


def normal_model(kind: str = "chains") -> tuple[Posterior, np.ndarray, np.ndarray]:
    """y_i ~ N(θ, 1) with a flat prior: draws of θ | y, log-likelihoods (chain, draw, example), y."""
    generator = np.random.default_rng(3)
    y = generator.normal(0.7, 1.0, size=30)
    theta = y.mean() + generator.normal(size=(2 if kind == "chains" else 1, 2000)) / math.sqrt(30)
    log_likelihood = -0.5 * (y - theta[..., None]) ** 2 - 0.5 * math.log(2 * math.pi)
    return Posterior({}, kind=kind, draws=Draws(theta[..., None], {"theta": ()})), log_likelihood, y


@pytest.mark.parametrize("kind", ["chains", "iid"])
def test_leave_one_out_agrees_with_the_closed_form(kind: str) -> None:
    """p(y_i | y_−i) = N(mean of the others, 1 + 1/(n − 1))."""
    posterior, log_likelihood, y = normal_model(kind)
    found = loo(to_arviz(posterior, log_likelihood={"y": log_likelihood}))
    others, variance = (y.sum() - y) / 29, 1 + 1 / 29
    expected = float((-0.5 * (y - others) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)).sum())
    assert found.elpd_nats == pytest.approx(expected, abs=0.2)
    assert found.effective_parameters == pytest.approx(1.0, abs=0.5)
    assert (found.examples, found.unreliable) == (30, 0)
    assert (found.waic_nats is not None) == hasattr(arviz(), "waic")
    if found.waic_nats is not None:
        assert found.waic_nats == pytest.approx(expected, abs=0.2)


def test_leave_one_out_needs_log_likelihoods_of_one_variable() -> None:
    posterior, log_likelihood, _ = normal_model()
    with pytest.raises(InferenceError, match="LOO needs pointwise log-likelihoods"):
        loo(to_arviz(posterior))
    both = to_arviz(posterior, log_likelihood={"a": log_likelihood, "b": log_likelihood})
    with pytest.raises(InferenceError, match="log-likelihoods of a, b: name one"):
        loo(both)
    assert loo(both, "b").examples == 30
