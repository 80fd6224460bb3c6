"""MAP beyond the ridge estimate (which test_svi.py holds): which priors count, and what is returned."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from pyro_compress.data.examples import as_data
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.results.predictive import posterior_predictive
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.distributions import ScaleMixtureNormal
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys
from pyro_compress.models.priors.scale_mixture import ScaleMixture
from pyro_compress.posterior.posterior import Posterior


def model_of(prior: Prior) -> BayesianNetwork:
    torch.manual_seed(0)
    return BayesianNetwork(nn.Linear(4, 3), {"weight": prior}, Gaussian(noise=0.5))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(8, 4), torch.randn(8, 3)


def test_complexity_is_minus_the_log_prior() -> None:
    weight = model_of(Normal()).network.get_parameter("weight").detach()
    expected = {
        Normal(scale=0.3): -torch.distributions.Normal(0.0, 0.3).log_prob(weight).sum(),
        ScaleMixture(): -ScaleMixtureNormal(0.5, 1.0, math.exp(-6)).log_prob(weight).sum(),
        LogUniform(low=1e-3, high=10.0): (weight.abs().log() + math.log(2 * (1 + math.log(1e4)))).sum(),
    }
    for prior, value in expected.items():
        method = MAP(batch_size=8)
        terms = method.terms(method.init(model_of(prior), 80, 0), batch())
        torch.testing.assert_close(terms.complexity.detach(), value, rtol=1e-5, atol=1e-4)
        assert set(terms.by_site) == {"weight"}


@pytest.mark.parametrize("prior", [GroupHorseshoe(), GroupNormalJeffreys(), LogUniform(low=0.0)])
def test_priors_without_a_density_at_the_weight_are_flat(prior: Prior) -> None:
    method = MAP(batch_size=8)
    with pytest.warns(UserWarning, match="MAP takes the prior of weight as flat: it is improper, or its density grows"):
        state = method.init(model_of(prior), 80, 0)
    info = method.step(state, batch())
    assert method.draw(state).provenance == {"priors": {"flat": ["weight"]}}
    assert info.complexity_nats == 0.0
    assert info.elbo_nats == info.data_nats


@dataclass(frozen=True)
class UnknownScale(Prior):
    """w ~ N(0, s²) with s ~ Gamma(concentration, rate)."""

    concentration: float = 12.0
    rate: float = 4.0

    def sample(self, parameter: Parameter) -> Any:
        s = pyro.sample(f"{parameter.name}.s", dist.Gamma(self.concentration, self.rate))
        return pyro.sample(parameter.name, dist.Normal(0.0, s).expand(parameter.shape).to_event(len(parameter.shape)))

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        return (
            LatentSite(f"{parameter.name}.s", "lognormal", torch.Size(()), torch.zeros(()), -4.0, "scale"),
            LatentSite(parameter.name, "normal", parameter.shape, value, -4.0, "weight"),
        )

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        return sites[parameter.name].mean, sites[parameter.name].variance


def regression(prior: Prior) -> tuple[BayesianNetwork, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    x = torch.randn(30, 4)
    y = x @ torch.tensor([[0.5], [-1.0], [0.2], [0.8]]) + 0.5 * torch.randn(30, 1)
    return BayesianNetwork(nn.Sequential(nn.Linear(4, 1, bias=False)), prior, Gaussian(noise=0.5)), x, y


def test_priors_with_several_sites_have_the_mode_of_their_joint_density() -> None:
    model, x, y = regression(UnknownScale())
    posterior = fit(model, (x, y), MAP(epochs=600, batch_size=30, learning_rate=0.05, schedule="linear"), seed=0)

    def minus_log_density(at: np.ndarray) -> float:
        w, s = at[:4], at[4]
        misfit = ((y.numpy().ravel() - x.numpy() @ w) ** 2).sum() / (2 * 0.5**2)
        return float(misfit + (w**2).sum() / (2 * s**2) + 4 * np.log(s) - 11 * np.log(s) + 4 * s)

    mode = minimize(minus_log_density, np.array([0.1] * 4 + [1.0]), bounds=[(None, None)] * 4 + [(1e-3, None)]).x
    np.testing.assert_allclose(posterior.parameters["0.weight"].mean.ravel(), mode[:4], atol=2e-3)
    assert posterior.provenance["priors"] == {"joint mode of all sites": ["0.weight"]}
    assert set(posterior.parameters) == {"0.weight"}


def test_runs_with_several_sites_resume(tmp_path: Path) -> None:
    def stop(record: Any, state: Any) -> None:
        if record.epoch == 3:
            raise KeyboardInterrupt

    (model, x, y), method, path = regression(UnknownScale()), MAP(epochs=8, batch_size=10), tmp_path / "checkpoint.pt"
    whole = fit(model, (x, y), method, seed=1)
    with pytest.raises(KeyboardInterrupt):
        fit(model, (x, y), method, seed=1, checkpoint=path, callbacks=[stop])
    again = fit(model, (x, y), method, seed=1, checkpoint=path, resume=True)
    assert (again.parameters["0.weight"].mean == whole.parameters["0.weight"].mean).all()


def test_data_term_is_the_total_log_likelihood() -> None:
    model, (x, y) = model_of(Normal()), batch()
    method = MAP(batch_size=8)
    found = method.terms(method.init(model, 80, 0), (x, y)).data.detach()
    expected = 10 * torch.distributions.Normal(model.network(x), 0.5).log_prob(y).sum().detach()
    torch.testing.assert_close(found, expected)


def test_the_weight_of_the_prior_rises() -> None:
    data = batch()

    def run(steps: int, **options: Any) -> tuple[list[float], torch.Tensor]:
        model = model_of(Normal(scale=0.1))
        method = MAP(epochs=4, batch_size=len(data[0]), learning_rate=0.01, schedule="constant", **options)
        state = method.init(model, len(data[0]), seed=0)
        weights = [method.step(state, data).kl_weight for _ in range(steps)]
        return weights, torch.cat([each.detach().flatten() for each in state.points.unmade_weights().values()])

    assert run(4, kl_weight=0.4, kl_warmup=0.5)[0] == pytest.approx([0.0, 0.2, 0.4, 0.4])
    assert run(2, kl_weight=0.4)[0] == [0.4, 0.4]
    # at first there is the likelihood alone, and a step later the prior too
    torch.testing.assert_close(run(1, kl_weight=4.0, kl_warmup=0.5)[1], run(1, kl_weight=0.0)[1], rtol=0, atol=0)
    assert (run(2, kl_weight=4.0, kl_warmup=0.5)[1] != run(2, kl_weight=0.0)[1]).any()
    with pytest.raises(InferenceError, match=r"kl_warmup is a share of the run, from 0 to 1, found 1\.5"):
        MAP(kl_warmup=1.5)


def test_every_parameter_is_trained_and_returned_as_a_point() -> None:
    x, y = batch()
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    model = BayesianNetwork(network, {"3.weight": Normal()}, Gaussian(noise=0.5))
    posterior = fit(model, as_data((x, y)), MAP(epochs=3, batch_size=8, learning_rate=0.01))
    assert list(posterior.parameters) == [name for name, _ in network.named_parameters()]
    for name, value in network.named_parameters():
        site = posterior.parameters[name]
        assert site.prior == "point" and site.is_point and not site.variance.any()
        assert site.mean.shape == value.shape
        moved = not torch.equal(torch.from_numpy(site.mean), value.detach())
        assert moved or name == "0.bias"  # which batch norm makes void
    assert posterior.kind == "point" and not posterior.latents
    assert float(posterior.buffers["1.running_mean"].std()) > 0


def _kept(posterior: Posterior, folder: Path) -> Posterior:
    posterior.save(folder / "kept.safetensors")
    return Posterior.load(folder / "kept.safetensors")


def test_unknown_noise_is_estimated_too(tmp_path: Path) -> None:
    """With a wide prior on ln σ the MAP of σ is close to the residuals' root mean square."""
    torch.manual_seed(2)
    x = torch.randn(400, 2)
    y = x @ torch.tensor([[1.0], [-0.5]]) + 0.3 * torch.randn(400, 1)
    model = BayesianNetwork(nn.Linear(2, 1), {"weight": Normal(scale=10.0)}, Gaussian(noise_log_scale=10.0))
    method = MAP(epochs=400, batch_size=400, learning_rate=0.03, schedule="linear")
    states: list[Any] = []
    posterior = fit(model, (x, y), method, callbacks=[lambda record, state: states.append(state)])
    weight, bias = (torch.from_numpy(posterior.parameters[name].mean) for name in ("weight", "bias"))
    residual = (y - x @ weight.T - bias).square().mean().sqrt()
    sigma = states[-1].points.latents()["noise"]
    assert float(sigma.detach()) == pytest.approx(float(residual), rel=0.01)
    # and predictions have it, after a posterior was kept too
    for kept in (posterior, _kept(posterior, tmp_path)):
        assert kept.kind == "point" and not kept.is_distribution
        spread = posterior_predictive(model, kept, x, y).aleatoric_variance
        np.testing.assert_allclose(spread, float(sigma.detach()) ** 2, rtol=1e-5)
    with pytest.raises(InferenceError, match="a point estimate has no"):
        posterior.sample_latents(3, 0)
