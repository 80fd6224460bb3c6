"""Spike and slab on a regression small enough that all patterns of gates can be written down.

y = X (z ∘ w̃) + noise with z ~ Bernoulli(π)^k and w̃ ~ N(0, s²): given z everything is normal, so the posterior of z is a
sum over 2^k patterns, and so is the ELBO.
"""

import math
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from scipy.stats import multivariate_normal
from torch import nn

from pyro_compress.inference.fit import fit
from pyro_compress.inference.gradient.elbo import elbo_terms
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.local_reparameterization import LocalReparameterization
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.spike_and_slab import SpikeAndSlab

PRIOR, NOISE, COUNT, INPUTS = SpikeAndSlab(inclusion=0.3, slab=0.8), 0.5, 40, 4
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(COUNT, INPUTS, generator=GENERATOR)
Y = X @ torch.tensor([[0.9], [0.0], [-0.12], [0.2]]) + NOISE * torch.randn(COUNT, 1, generator=GENERATOR)
PATTERNS = [torch.tensor(pattern) for pattern in product((0.0, 1.0), repeat=INPUTS)]


def model() -> BayesianNetwork:
    torch.manual_seed(1)
    return BayesianNetwork(nn.Linear(INPUTS, 1, bias=False), {"weight": PRIOR}, Gaussian(noise=NOISE))


def moved(guide: DeclaredGuide) -> DeclaredGuide:
    with torch.no_grad():
        guide.loc.weight__z.copy_(torch.tensor([[2.0, -1.0, 0.0, 0.5]]))
        guide.loc.weight__slab.copy_(torch.tensor([[0.8, 0.3, -0.2, 0.4]]))
        guide.log_variance.weight__slab.fill_(-2.0)
    return guide


def exact_inclusion() -> np.ndarray:
    """P(z_j = 1 | data), by enumeration of all patterns."""
    logs = []
    for z in PATTERNS:
        active = (X * z).double().numpy()
        covariance = PRIOR.slab**2 * active @ active.T + NOISE**2 * np.eye(COUNT)
        prior = sum(math.log(PRIOR.inclusion if one else 1 - PRIOR.inclusion) for one in z)
        logs.append(prior + multivariate_normal.logpdf(Y[:, 0].double().numpy(), cov=covariance))
    weights = np.exp(np.array(logs) - max(logs))
    found: np.ndarray = weights / weights.sum() @ torch.stack(PATTERNS).numpy()
    return found


def enumerated_elbo(logits: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """E_q log p(y | z, w̃) over all patterns, and over w̃ in closed form, less both KLs; arguments (k,) float64."""
    rho, variance = torch.sigmoid(logits), log_variance.exp()
    expected = torch.zeros((), dtype=torch.float64)
    for z in PATTERNS:
        chance = torch.where(z == 1, rho, 1 - rho).prod()
        squares = (Y[:, 0] - X.double() @ (z * mean)).square() + (X.double().square() @ (z * variance))
        expected = expected + chance * (-0.5 * squares / NOISE**2 - 0.5 * math.log(2 * math.pi * NOISE**2)).sum()
    kl_gates = rho * (rho / PRIOR.inclusion).log() + (1 - rho) * ((1 - rho) / (1 - PRIOR.inclusion)).log()
    ratio = (variance + mean.square()) / PRIOR.slab**2
    kl_slabs = 0.5 * (ratio - 1 - (variance / PRIOR.slab**2).log())
    return expected - (kl_gates + kl_slabs).sum()


@cache
def best_elbo() -> float:
    """The largest that a guide of this family reaches, by gradients of the sum over patterns."""
    tensors = [torch.full((INPUTS,), start, dtype=torch.float64, requires_grad=True) for start in (1.0, 0.3, -3.0)]
    optimizer = torch.optim.Adam(tensors, lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = -enumerated_elbo(*tensors)
        loss.backward()
        optimizer.step()
    return -float(loss.detach())


@torch.no_grad()
def test_the_elbo_is_that_of_enumeration_by_hand_and_by_pyro() -> None:
    network = model()
    guide = moved(DeclaredGuide(network))
    numbers = (guide.loc.weight__z, guide.loc.weight__slab, guide.log_variance.weight__slab)
    exact = float(enumerated_elbo(*(tensor[0].double() for tensor in numbers)))
    for handler in (None, LocalReparameterization()):
        torch.manual_seed(0)
        terms = [elbo_terms(network.forward, guide.forward, handler, X, Y) for _ in range(500)]
        draws = torch.stack([one.data - one.complexity for one in terms])
        assert abs(float(draws.mean()) - exact) < 5 * float(draws.std()) / math.sqrt(500)

    def program() -> None:
        gates = [pyro.sample(f"z{j}", dist.Bernoulli(PRIOR.inclusion)) for j in range(INPUTS)]
        z = torch.stack(torch.broadcast_tensors(*gates), -1)
        slab = pyro.sample("slab", dist.Normal(torch.zeros(INPUTS), PRIOR.slab).to_event(1))
        output = (X * (z * slab).unsqueeze(-2)).sum(-1)
        pyro.sample("y", dist.Normal(output, NOISE).to_event(1), obs=Y[:, 0])

    def beliefs() -> None:
        for j in range(INPUTS):
            pyro.sample(f"z{j}", dist.Bernoulli(logits=guide.loc.weight__z[0, j]))
        mean, scale = guide.loc.weight__slab[0], (0.5 * guide.log_variance.weight__slab[0]).exp()
        pyro.sample("slab", dist.Normal(mean, scale).to_event(1))

    torch.manual_seed(0)
    elbo: Any = TraceEnum_ELBO(max_plate_nesting=0)
    pyros = torch.tensor([-elbo.loss(program, config_enumerate(beliefs, "parallel")) for _ in range(200)])
    assert abs(float(pyros.mean()) - exact) < 5 * float(pyros.std()) / math.sqrt(200)


@pytest.mark.parametrize(("estimator", "lost_nats"), [("shared", 2.0), ("local", 0.5)])
def test_a_fit_comes_near_the_best_of_its_family_and_the_exact_posterior(estimator: str, lost_nats: float) -> None:
    method = SVI(epochs=250, batch_size=COUNT, learning_rate=0.03, particles=2, estimator=estimator, averaging=0.25)
    posterior = fit(model(), (X, Y), method, seed=0)
    gates, slabs = posterior.latents["weight.z"], posterior.latents["weight.slab"]
    fitted = [torch.from_numpy(part[0]).double() for part in (gates.loc, slabs.loc, 2 * np.log(slabs.scale))]
    found = float(enumerated_elbo(*fitted))

    # gradients through gates that are drawn are biased
    assert best_elbo() - lost_nats < found
    exact, inclusion = exact_inclusion(), posterior.parameters["weight"].statistic
    assert exact[0] > 0.99 and exact[1] < 0.2 < 0.5 < exact[3] and inclusion is not None
    assert ((inclusion[0] > 0.5) == (exact > 0.5)).all()
