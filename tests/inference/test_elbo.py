"""The ELBO from two traces against Pyro's own."""

import math

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_compress.inference.elbo import ElboTerms, elbo_terms
from pyro_compress.inference.guides import Guide
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys
from pyro_compress.models.priors.scale_mixture import ScaleMixture


def problem(prior: Prior) -> tuple[BayesianNetwork, Guide, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))
    model = BayesianNetwork(network, prior, Gaussian())
    guide = Guide(model)
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


def test_objective_tempers_the_complexity_alone() -> None:
    terms = ElboTerms(torch.tensor(-7.0), torch.tensor(10.0), {})
    assert float(terms.objective(0.3)) == pytest.approx(10.0)
