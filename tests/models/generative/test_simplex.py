"""Codes on the simplex: densities, gradients of draws and divergences against closed forms and integrals."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.data.examples import as_data
from pyro_compress.errors import NetworkError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.speed.recording import programs_alone
from pyro_compress.inference.variational import base, recorded_step
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.generative.activity import active_units, code_variances
from pyro_compress.models.generative.bounds import log_likelihood
from pyro_compress.models.generative.codes import Codes, GaussianCodes
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.generative.simplex import AdditiveLogistic, DirichletCodes, LogisticNormalCodes
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.priors.log_uniform import LogUniform

INPUTS, SIZE = 6, 30


def vae(codes: Codes, prior: Any = None) -> VAE:
    torch.manual_seed(3)
    decoder = nn.Sequential(nn.Linear(codes.width, INPUTS))
    return VAE(EncoderDecoder(nn.Linear(INPUTS, codes.outputs), decoder, codes), prior or {})


def inputs() -> torch.Tensor:
    return torch.rand(SIZE, INPUTS, generator=torch.Generator().manual_seed(1)).round()


def second_moments(alpha: torch.Tensor) -> torch.Tensor:
    total = alpha.sum()
    return alpha * (alpha + 1) / (total * (total + 1))


@pytest.mark.parametrize(
    ("gradient", "output", "tolerance"),
    # the approximate inverse is the better the smaller the concentrations are
    [
        ("implicit", [-2.0, 0.5, 2.5], 0.02),
        ("implicit", [-4.0, -2.5, -3.0], 0.02),
        ("inverse-cdf", [-4.0, -2.5, -3.0], 0.03),
        ("inverse-cdf", [-2.0, -1.0, -0.5], 0.15),
    ],
)
def test_draws_of_dirichlet_codes_have_its_moments_and_their_gradients(
    gradient: str, output: list[float], tolerance: float
) -> None:
    codes = DirichletCodes(3, gradient=gradient)
    given = torch.tensor([output], requires_grad=True)
    alpha = torch.nn.functional.softplus(given[0]) + 0.01
    exact, factor = second_moments(alpha), torch.tensor([1.0, -2.0, 0.5])
    (expected,) = torch.autograd.grad((factor * exact).sum(), given, retain_graph=True)
    torch.manual_seed(0)
    z = codes.posterior(given).rsample(torch.Size([200_000]))[:, 0]
    assert float((z.detach().sum(1) - 1).abs().max()) < 1e-5
    (found,) = torch.autograd.grad((factor * z.square()).mean(0).sum(), given)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))
    torch.testing.assert_close(z.square().mean(0), exact, rtol=0, atol=tolerance)
    torch.testing.assert_close(codes.mean(given)[0], alpha / alpha.sum())


def test_the_kl_of_dirichlet_codes_is_the_closed_form() -> None:
    codes = DirichletCodes(3, concentration=0.7)
    model, x = vae(codes), inputs()[:5]
    method = SVI()
    state = method.init(model, SIZE, 0)
    terms = method.terms(state, (x, x))
    alpha = torch.nn.functional.softplus(model.encode(model.free_values(), x)) + 0.01
    total, prior = alpha.sum(1), torch.full((3,), 0.7)
    kl = torch.lgamma(total) - torch.lgamma(alpha).sum(1) - torch.lgamma(prior.sum()) + torch.lgamma(prior).sum()
    kl = kl + ((alpha - prior) * (torch.digamma(alpha) - torch.digamma(total)[:, None])).sum(1)
    torch.testing.assert_close(terms.by_site["z"], SIZE / 5 * kl.sum())
    # a code whose numbers depend on each other is one group of free bits
    free = SVI(free_bits=2.0).terms(state, (x, x)).by_site["z"]
    assert float(kl.detach().mean()) < 2 and float(free.detach()) == pytest.approx(2.0 * SIZE)


def test_the_density_of_logistic_normal_codes_is_the_normals_over_the_jacobian() -> None:
    codes = LogisticNormalCodes(4, scale=1.3)
    output = torch.tensor([[0.3, -1.0, 2.0, 0.1, -0.4, 0.8]])
    q, p = codes.posterior(output), codes.prior()
    torch.manual_seed(1)
    z = q.rsample()
    h = (z[0, :3] / z[0, 3]).log()
    normal = torch.distributions.Normal(output[0, :3], (0.5 * output[0, 3:]).exp())
    jacobian = torch.autograd.functional.jacobian(lambda one: torch.softmax(torch.cat([one, one.new_zeros(1)]), 0), h)
    logarithm = jacobian[:3].det().abs().log()
    torch.testing.assert_close(q.log_prob(z)[0], normal.log_prob(h).sum() - logarithm)
    prior = torch.distributions.Normal(0.0, 1.3)
    torch.testing.assert_close(p.log_prob(z)[0], prior.log_prob(h).sum() - logarithm)
    torch.testing.assert_close(AdditiveLogistic()(AdditiveLogistic().inv(z)), z)
    model, x = vae(codes), inputs()[:5]
    state = SVI().init(model, SIZE, 0)
    terms = SVI().terms(state, (x, x))
    mean, log_variance = model.encode(model.free_values(), x).split(3, 1)
    kl = 0.5 * ((log_variance.exp() + mean.square()) / 1.3**2 - 1 - log_variance + 2 * math.log(1.3))
    torch.testing.assert_close(terms.by_site["z"], SIZE / 5 * kl.sum())
    torch.testing.assert_close(codes.mean(output)[0], torch.softmax(torch.tensor([0.3, -1.0, 2.0, 0.0]), 0))


@pytest.mark.parametrize("codes", [DirichletCodes(2, concentration=0.8), LogisticNormalCodes(2, scale=1.5)], ids=repr)
def test_the_likelihood_is_the_integral_over_the_simplex(codes: Any) -> None:
    model, x = vae(codes), inputs()[:4]
    values = {name: value.detach() for name, value in model.network.named_parameters()}
    # a guide no narrower than the posterior, or importance weights have heavy tails
    values["encoder.weight"] = 0.3 * values["encoder.weight"]
    if isinstance(codes, LogisticNormalCodes):
        values["encoder.bias"] = torch.tensor([0.0, 2 * math.log(codes.scale)])
    first = ((torch.arange(100_000).double() + 0.5) / 100_000).float()
    z = torch.stack([first, 1 - first], 1)
    with torch.no_grad():
        likelihood = model.likelihood.distribution(model.decode(values, z)[:, None]).base_dist
        joint = torch.distributions.Bernoulli(logits=likelihood.logits).log_prob(x).sum(2)
        # the density in the first number
        density = codes.prior().log_prob(z)
    exact = (joint + density[:, None]).double().logsumexp(0) - math.log(len(first))
    found = log_likelihood(model, values, x, samples=5000)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "codes", [DirichletCodes(3), DirichletCodes(3, gradient="inverse-cdf"), LogisticNormalCodes(3)], ids=repr
)
def test_recorded_steps_are_those_of_the_program(codes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, original = [], recorded_step.TracedTerms._traced

    def noted(*arguments: Any, **more: Any) -> Any:
        recorded.append(original(*arguments, **more))
        return recorded[-1]

    monkeypatch.setattr(recorded_step.TracedTerms, "_traced", noted)
    for module in (base, recorded_step):
        monkeypatch.setattr(module, "TRACE_AFTER", 3)
    data, method = as_data((inputs(), inputs()), validation=10), SVI(epochs=4, batch_size=5, compile="never")
    found = fit(vae(codes, LogUniform()), data, method)
    # torch draws the Gamma numbers of implicit gradients itself
    inside = getattr(codes, "gradient", None) == "implicit"
    assert recorded and all(one is not None and one.draws == inside for one in recorded)
    with programs_alone():
        again = fit(vae(codes, LogUniform()), data, method)
    for name, site in found.parameters.items():
        assert np.array_equal(site.mean, again.parameters[name].mean), name


@pytest.mark.parametrize("codes", [GaussianCodes(3), DirichletCodes(3), LogisticNormalCodes(4)], ids=repr)
def test_units_are_active_where_the_mean_code_varies_over_examples(codes: Any) -> None:
    model, x = vae(codes), inputs()
    values = {name: value.detach().clone() for name, value in model.network.named_parameters()}
    values["encoder.weight"][1] = 0.0
    means = codes.mean(x @ values["encoder.weight"].T + values["encoder.bias"])
    expected = (means - means.mean(0)).square().sum(0) / (SIZE - 1)
    found = code_variances(model, values, x, chunk=7)
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-7)
    threshold = float(expected.sort().values[:2].mean())
    active = active_units(model, values, x, threshold=threshold)
    assert active.tolist() == (expected > threshold).tolist() and int(active.sum()) == codes.width - 1
    if isinstance(codes, GaussianCodes):
        assert active_units(model, values, x).tolist() == [True, False, True]


def test_what_is_no_code_is_refused() -> None:
    for make, text in (
        (lambda: DirichletCodes(1), "a code on the simplex has at least 2 numbers, found width=1"),
        (lambda: LogisticNormalCodes(1), "at least 2 numbers, found width=1"),
        (lambda: DirichletCodes(3, concentration=0.0), "concentration > 0, found concentration=0.0"),
        (lambda: LogisticNormalCodes(3, scale=-1.0), "scale > 0, found scale=-1.0"),
        (lambda: DirichletCodes(3, gradient="inverse"), "unknown gradient of DirichletCodes 'inverse'.*inverse-cdf"),
    ):
        with pytest.raises(NetworkError, match=text):
            make()
