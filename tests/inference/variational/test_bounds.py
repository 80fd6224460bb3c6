"""What has a bound: it stays within it, and log-variances come back from it when the gradient says so."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.gradient.elbo import ElboTerms
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.multi_spike import MultiSpike
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys

BOUND = math.log(0.04)
X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.8, -1.0], [2.0, 0.1, 0.4], [-0.7, 1.1, 0.9]])
SETTINGS: dict[str, Any] = {"batch_size": 40, "learning_rate": 0.03, "kl_warmup": 0.0, "schedule": "constant"}
UP, DOWN = (torch.full((40, 4), pull) for pull in (-1.0, 1.0))


class Pulled(SVI):
    """Log-variances go where the batch pulls them, and nothing else moves."""

    def terms(self, state: Any, batch: Any) -> ElboTerms:
        spreads = sum(
            (state.guide.location_and_scale(name)[1].log().sum() for name in state.guide.sites), torch.zeros(())
        )
        locations = sum((0.0 * loc.sum() for loc in state.trained()), torch.zeros(()))
        pull = batch[0].mean() * spreads * 100.0 + locations
        return ElboTerms(torch.zeros(()), pull, {"pull": pull})


def model() -> BayesianNetwork:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 3))
    # the second layer has no bound, so that one vector holds several; the third one's means have one that moves with σ
    priors: dict[str, Prior | str] = {
        "0.weight": GroupNormalJeffreys(max_log_variance=BOUND),
        "2.weight": GroupNormalJeffreys(),
        "4.weight": MultiSpike(level=0.05, min_log_variance=-9.0),
    }
    return BayesianNetwork(network, priors, Gaussian(noise=0.3))


def share_of_bound(state: Any) -> float:
    """The largest mean of the third layer as a share of what it may be."""
    loc, scale = state.guide.location_and_scale("4.weight")
    bound = state.model.hyper.value("4.weight.steps") + math.exp(-1.5) * scale
    return float((loc.abs() / bound).max().detach())


def spread(state: Any, layer: int = 0) -> torch.Tensor:
    found: torch.Tensor = state.guide.log_variance.get_parameter(f"{layer}__weight__unscaled").detach().clone()
    return found


WAYS: dict[str, dict[str, Any]] = {
    "adam": {},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1},
    "callable": {"optimizer": torch.optim.AdamW},
    "clip": {"clip": 1.0},
    "particles": {"particles": 2},
    "compiled": {"compile": "always"},
}


@pytest.mark.parametrize("way", WAYS)
def test_variances_that_are_driven_to_the_bound_come_back(way: str) -> None:
    method = Pulled(**{**SETTINGS, **WAYS[way]})
    state = method.init(model(), len(X), 0)
    assert share_of_bound(state) > 5
    method.step(state, (DOWN, Y))
    assert share_of_bound(state) == pytest.approx(1.0, abs=1e-6)
    for _ in range(90):
        method.step(state, (UP, Y))
    assert torch.equal(spread(state), torch.full((6, 4), BOUND)) and float(spread(state, 2).min()) > BOUND + 0.1
    assert share_of_bound(state) < 0.5
    captured = state.capture()
    for _ in range(30):
        method.step(state, (DOWN, Y))
    assert float(spread(state).max()) < BOUND - 0.1
    again = method.init(model(), len(X), 0)
    again.restore(captured)
    assert torch.equal(spread(again), torch.full((6, 4), BOUND))
    for _ in range(30):
        method.step(again, (DOWN, Y))
    for one, other in zip(again.trained(), state.trained(), strict=True):
        assert torch.equal(one, other)
    if way == "compiled":
        plain = Pulled(**SETTINGS)
        expected = plain.init(model(), len(X), 0)
        for batch in (DOWN, *(UP,) * 90, *(DOWN,) * 30):
            plain.step(expected, (batch, Y))
        for one, other in zip(state.trained(), expected.trained(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_means_of_iterates_and_resumed_runs_keep_the_bound(tmp_path: Any) -> None:
    method = SVI(**{**SETTINGS, "epochs": 40, "learning_rate": 0.1, "kl_weight": 50.0, "averaging": 0.2})

    def stop(record: Any, state: Any) -> None:
        if record.epoch == 35:
            raise KeyboardInterrupt

    path = tmp_path / "checkpoint.pt"
    whole = fit(model(), (X, Y), method, seed=1)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), (X, Y), method, seed=1, checkpoint=path, callbacks=[stop])
    again = fit(model(), (X, Y), method, seed=1, checkpoint=path, resume=True)
    for name, latent in whole.latents.items():
        assert (again.latents[name].loc == latent.loc).all() and (again.latents[name].scale == latent.scale).all()
    scale = whole.latents["0.weight.unscaled"].scale
    assert scale.max() == pytest.approx(0.2, rel=1e-6) and (scale > 0.1999).sum() > 1


def test_a_guide_starts_within_its_bound_and_keeps_it_under_any_optimizer() -> None:
    guide = DeclaredGuide(
        BayesianNetwork(nn.Linear(4, 3), {"weight": GroupNormalJeffreys(max_log_variance=-10.0)}, Gaussian())
    )
    held = guide.log_variance.get_parameter("weight__unscaled")
    assert torch.equal(held, torch.full((3, 4), -10.0))
    with torch.no_grad():
        held.fill_(3.0)
    scale = guide.location_and_scale("weight.unscaled")[1]
    torch.testing.assert_close(scale, torch.full((3, 4), math.exp(-5.0)))
    # what has been put beyond it knows the way back
    (slope,) = torch.autograd.grad(scale.sum(), held)
    torch.testing.assert_close(slope, 0.5 * scale.detach())


@pytest.mark.parametrize("kind", ["full-rank", "low-rank"])
def test_guides_over_all_sites_cannot_keep_a_bound_and_say_so(kind: str) -> None:
    text = rf"bounds the mean or log-variance of site '0\.weight\.unscaled', which guide '{kind}' cannot keep"
    with pytest.raises(InferenceError, match=text):
        SVI(guide=kind).init(model(), len(X), 0)
