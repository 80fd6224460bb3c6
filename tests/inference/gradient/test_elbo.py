"""The ELBO from two traces against Pyro's own."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_compress.inference.gradient.elbo import ElboTerms, closed_form, elbo_terms, sampled
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.variational.score_function import Baseline, score_terms
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys
from pyro_compress.models.priors.scale_mixture import ScaleMixture


def problem(prior: Prior) -> tuple[BayesianNetwork, DeclaredGuide, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))
    model = BayesianNetwork(network, prior, Gaussian())
    guide = DeclaredGuide(model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model, guide, torch.randn(4, 1, 3, 4), torch.randn(4, 2)


@pytest.mark.parametrize(
    "prior",
    [Normal(scale=0.5), LogUniform(), LogUniform(alpha=0.3, tied="layer"), GroupNormalJeffreys(), GroupHorseshoe()],
    ids=["normal", "log-uniform", "dropout", "group-normal-jeffreys", "group-horseshoe"],
)
def test_value_is_pyros_where_every_kl_is_closed(prior: Prior) -> None:
    model, guide, x, y = problem(prior)
    with torch.no_grad():
        torch.manual_seed(1)
        terms = elbo_terms(model.forward, guide.forward, None, x, y, size=1000)
        torch.manual_seed(1)
        pyros = TraceMeanField_ELBO().loss(model.forward, guide.forward, x, y, size=1000)
    assert float(terms.objective(1.0)) == pytest.approx(pyros, rel=1e-5)
    assert set(terms.by_site) == set(guide.sites)
    torch.testing.assert_close(terms.complexity, sum(terms.by_site.values(), torch.zeros(())))
    # n = 4 of N = 1000: only the data term knows of N
    torch.manual_seed(1)
    with torch.no_grad():
        alone = elbo_terms(model.forward, guide.forward, None, x, y)
    torch.testing.assert_close(terms.data, 250 * alone.data)
    torch.testing.assert_close(terms.complexity, alone.complexity)


def test_expectation_is_pyros_where_a_kl_is_sampled() -> None:
    model, guide, x, y = problem(ScaleMixture(mixture=0.3, wide=1.0, narrow=0.1))
    count = 250
    with torch.no_grad():
        ours = [elbo_terms(model.forward, guide.forward, None, x, y, size=40).objective(1.0) for _ in range(count)]
        pyros = [Trace_ELBO().loss(model.forward, guide.forward, x, y, size=40) for _ in range(count)]
    left, right = torch.stack(ours), torch.tensor(pyros)
    # 5 standard errors: about 6e-7 false failures, seed fixed
    assert abs(float(left.mean() - right.mean())) < 5 * math.sqrt(float(left.var() + right.var()) / count)
    assert float(left.var()) < float(right.var()), "the entropy in closed form must save variance"


LOC, SPREAD, PRIOR = torch.tensor([0.3, -1.2, 0.8]), torch.tensor([0.5, 0.2, 1.1]), torch.tensor([1.0, 2.0, 0.4])
SCALES = torch.tensor([0.5, 2.0, 3.0])
MASK = cast(torch.BoolTensor, torch.tensor([True, False, True]))


@contextmanager
def handled(scale: Any, mask: Any) -> Iterator[None]:
    with poutine.scale(scale=scale), poutine.mask(mask=mask):
        yield


@pytest.mark.parametrize("estimate", [closed_form, sampled, "score"], ids=["closed form", "sampled", "score"])
@pytest.mark.parametrize("family", ["closed", "without closed form"])
@pytest.mark.parametrize(
    ("of_guide", "of_model"),
    [((1.0, True), (SCALES, True)), ((1.0, True), (2.0, MASK)), ((SCALES, MASK), (SCALES, MASK)), ((2.0, True),) * 2],
    ids=["scaled", "masked", "both", "number"],
)
def test_scales_and_masks_of_latent_sites_count(estimate: Any, family: str, of_guide: Any, of_model: Any) -> None:
    """E_q [s_q log q − s_p log p], whose gradient is that of its closed form."""
    loc, spread = LOC.clone().requires_grad_(), SPREAD.clone().requires_grad_()

    def guide() -> None:
        with handled(*of_guide), pyro.plate("places", 3):
            pyro.sample("z", dist.Normal(loc, spread))

    def model() -> None:
        prior: Any = dist.Normal(0.0, PRIOR)
        if family != "closed":
            # the same density under a name for which no KL is registered
            prior = dist.TransformedDistribution(prior, [torch.distributions.transforms.AffineTransform(0.0, 1.0)])
        with handled(*of_model), pyro.plate("places", 3):
            pyro.sample("z", prior)

    def each() -> ElboTerms:
        if estimate == "score":
            return score_terms(model, guide, Baseline())
        return elbo_terms(model, guide, None, divergence=estimate)

    (s_q, m_q), (s_p, m_p) = of_guide, of_model
    expected = (s_q * torch.as_tensor(m_q) * -dist.Normal(loc, spread).entropy()).sum()
    cross = 0.5 * (spread**2 + loc**2) / PRIOR**2 + PRIOR.log() + 0.5 * math.log(2 * math.pi)
    expected = expected + (s_p * torch.as_tensor(m_p) * cross).sum()
    torch.manual_seed(0)
    count = 1 if family == "closed" and estimate is closed_form else 100
    with pyro.validation_enabled(False):
        found = torch.stack([each().complexity for _ in range(count)])
    groups = found.split(max(1, count // 20))
    gradients = torch.stack(
        [torch.cat(torch.autograd.grad(one.mean(), [loc, spread], retain_graph=True)) for one in groups]
    )
    right = torch.cat(torch.autograd.grad(expected, [loc, spread]))
    for ours, true in ((found.detach()[:, None], expected.detach()[None]), (gradients, right)):
        error = ours.std(0) / math.sqrt(len(ours)) if len(ours) > 1 else torch.zeros(())
        assert bool(((ours.mean(0) - true).abs() <= 5 * error + 1e-4).all())


def test_objective_tempers_the_complexity_alone() -> None:
    terms = ElboTerms(torch.tensor(-7.0), torch.tensor(10.0), {})
    assert float(terms.objective(0.3)) == pytest.approx(10.0)
