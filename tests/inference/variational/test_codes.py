"""Importance-weighted bounds and free bits: terms and gradients against the formulas written out."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.speed.recording import programs_alone
from pyro_compress.inference.variational import base, recorded_step
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.generative.codes import GaussianCodes
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal

INPUTS, WIDTH, SIZE, BATCH, SAMPLES = 6, 3, 40, 7, 4


def network() -> EncoderDecoder:
    torch.manual_seed(3)
    return EncoderDecoder(
        nn.Sequential(nn.Linear(INPUTS, 2 * WIDTH)), nn.Sequential(nn.Linear(WIDTH, INPUTS)), GaussianCodes(WIDTH)
    )


def examples() -> torch.Tensor:
    return torch.rand(SIZE, INPUTS, generator=torch.Generator().manual_seed(1)).round()


def data() -> DataSet:
    return as_data((examples(), examples()), validation=10)


def gradients(state: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [*state.guide.parameters(), *state.model.free.parameters()]))


@pytest.mark.parametrize("prior", [{}, Normal(scale=0.5)], ids=["points", "normal"])
def test_the_importance_weighted_bound_and_its_gradient_are_those_of_the_formula(prior: Any) -> None:
    method = SVI(code_samples=SAMPLES)
    state = method.init(VAE(network(), prior), SIZE, 0)
    x = examples()[:BATCH]
    torch.manual_seed(1)
    terms = method.terms(state, (x, x))

    torch.manual_seed(1)
    trace = poutine.trace(state.guide.forward).get_trace(x, size=SIZE)
    drawn = {name: site["value"] for name, site in trace.nodes.items() if name.startswith("decoder.")}
    values = state.model.free_values() | drawn
    mean, log_variance = (x @ values["encoder.0.weight"].T + values["encoder.0.bias"]).chunk(2, 1)
    noise = torch.randn(SAMPLES, BATCH, WIDTH)
    z = mean + (0.5 * log_variance).exp() * noise
    logit = z @ values["decoder.0.weight"].T + values["decoder.0.bias"]
    likelihood = (x * logit - torch.nn.functional.softplus(logit)).sum(2)
    # the normalising constants of p(z) and q(z | x) cancel
    weights = likelihood + (-0.5 * z.square() + 0.5 * noise.square() + 0.5 * log_variance).sum(2)
    bound = SIZE / BATCH * torch.log(weights.exp().mean(0)).sum()
    kl = torch.zeros(())
    for name in drawn:
        location, scale = state.guide.location_and_scale(name)
        kl = (
            kl
            + torch.distributions.kl_divergence(
                torch.distributions.Normal(location, scale), torch.distributions.Normal(0.0, 0.5)
            ).sum()
        )
    torch.testing.assert_close(terms.data, bound)
    torch.testing.assert_close(terms.complexity, kl)
    found, expected = gradients(state, terms.objective(0.7)), gradients(state, 0.7 * kl - bound)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_one_code_gives_the_elbo_in_expectation_and_more_give_more() -> None:
    x, found = examples()[:BATCH], []
    model = VAE(network(), {}, Gaussian(noise=0.5))
    for method in (SVI(), SVI(code_samples=2), SVI(code_samples=20)):
        state = method.init(model, SIZE, 0)
        torch.manual_seed(0)
        with torch.no_grad():
            draws = torch.stack([-method.terms(state, (x, x)).objective(1.0) for _ in range(300)])
        found.append((float(draws.mean()), float(draws.std()) / math.sqrt(len(draws))))
    for (former, error), (later, another) in itertools.pairwise(found):
        assert later - former > 4 * math.hypot(error, another)


def test_free_bits_are_a_floor_under_the_mean_kl_of_every_number_of_a_code() -> None:
    free = 0.2
    method, plain = SVI(free_bits=free), SVI()
    state = method.init(VAE(network(), {}), SIZE, 0)
    free_parameters: Any = state.model.free
    bias = free_parameters.encoder__0__bias
    with torch.no_grad():
        # the first number's KL is near 0, the others' are above
        bias.copy_(torch.tensor([0.0, 1.5, 2.0, 0.0, 0.0, -1.0]))
        free_parameters.encoder__0__weight.mul_(0.1)
    x = examples()[:BATCH]
    values = state.model.free_values()
    mean, log_variance = (x @ values["encoder.0.weight"].T + values["encoder.0.bias"]).chunk(2, 1)
    each = (0.5 * (log_variance.exp() + mean.square() - 1 - log_variance)).mean(0)
    assert each[0] < free < each[1:].min()
    torch.manual_seed(1)
    terms = method.terms(state, (x, x))
    torch.manual_seed(1)
    usual = plain.terms(state, (x, x))
    torch.testing.assert_close(terms.by_site["z"], SIZE * (free + each[1:].sum()))
    torch.testing.assert_close(usual.by_site["z"], SIZE * each.sum())
    torch.testing.assert_close(terms.data, usual.data)
    (slope,) = torch.autograd.grad(terms.complexity, bias)
    (full,) = torch.autograd.grad(usual.complexity, bias)
    assert slope[0] == slope[WIDTH] == 0 and full[WIDTH] != 0
    kept = [1, 2, WIDTH + 1, WIDTH + 2]
    torch.testing.assert_close(slope[kept], full[kept])


@pytest.mark.parametrize(
    "options", [{"code_samples": 3}, {"free_bits": 0.1}, {"code_samples": 3, "guide": "full-rank"}], ids=str
)
def test_steps_that_are_recorded_are_those_of_the_program(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, original = [], recorded_step.TracedTerms._traced

    def noted(*arguments: Any, **more: Any) -> Any:
        recorded.append(original(*arguments, **more))
        return recorded[-1]

    monkeypatch.setattr(recorded_step.TracedTerms, "_traced", noted)
    for module in (base, recorded_step):
        monkeypatch.setattr(module, "TRACE_AFTER", 3)
    method = SVI(epochs=3, batch_size=10, compile="never", **options)
    found = fit(VAE(network(), Normal()), data(), method)
    assert recorded and all(one is not None and not one.draws for one in recorded)
    with programs_alone():
        again = fit(VAE(network(), Normal()), data(), method)
    for name, site in found.parameters.items():
        assert np.array_equal(site.mean, again.parameters[name].mean), name


def test_what_does_not_go_together_is_refused() -> None:
    for options, text in (
        ({"code_samples": 0}, "code_samples of at least 1 and free_bits ≥ 0, found code_samples=0"),
        ({"free_bits": -0.5}, "found code_samples=1, free_bits=-0.5"),
        ({"code_samples": 2, "estimator": "local"}, "estimator 'local' draws others for each"),
        ({"code_samples": 2, "free_bits": 0.1}, "has no KL of codes"),
    ):
        with pytest.raises(InferenceError, match=text):
            SVI(**options)
    plain = BayesianNetwork(nn.Sequential(nn.Linear(INPUTS, INPUTS)), Normal(), Gaussian(noise=1.0))
    for method in (SVI(code_samples=2), SVI(free_bits=0.1)):
        with pytest.raises(InferenceError, match="of the codes of a VAE, which a BayesianNetwork has not"):
            fit(plain, data(), method)
