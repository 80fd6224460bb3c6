"""The posterior on disk and back, draws from it, and which weights it keeps."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.from_guide import posterior_from_guide
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys
from pyro_compress.network.quantizers import Codebook
from pyro_compress.posterior.criterion import Criterion
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import Groups, Latent, ParameterPosterior, Posterior


def example() -> Posterior:
    """Of a network with a convolution, batch norm and a dense layer under different priors, no two moments alike."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, (3, 2)), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.Linear(5, 4)
    )
    rules = {"0.weight": GroupHorseshoe(), "4.weight": GroupNormalJeffreys(), "5.weight": LogUniform()}
    model = BayesianNetwork(network, rules)
    guide = DeclaredGuide(model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found = posterior_from_guide(model, guide)
    provenance = {"seed": 3, "kl_weight": 0.5, "history": [{"epoch": 0, "data_nats": -1.5}]}
    masked = replace(
        found.parameters["5.weight"], off=np.arange(20).reshape(4, 5) % 3 == 0, quantizer=Codebook((-0.5, 0.25))
    )
    parameters = {**found.parameters, "5.weight": masked}
    return Posterior(parameters, found.latents, found.buffers, "iid", provenance, {"elbo_nats": -2.0})


def same(left: Posterior, right: Posterior) -> bool:
    np.testing.assert_equal(
        {n: (p.mean, p.variance, p.prior) for n, p in left.parameters.items()},
        {n: (p.mean, p.variance, p.prior) for n, p in right.parameters.items()},
    )
    for name, parameter in left.parameters.items():
        np.testing.assert_equal(parameter.statistic, right.parameters[name].statistic)
        np.testing.assert_equal(parameter.off, right.parameters[name].off)
        assert parameter.quantizer == right.parameters[name].quantizer
        assert parameter.criterion == right.parameters[name].criterion
        ours, theirs = parameter.groups, right.parameters[name].groups
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            np.testing.assert_equal(vars(ours), vars(theirs))
    for name, latent in left.latents.items():
        assert latent.loc.shape == right.latents[name].loc.shape
        np.testing.assert_equal(vars(latent), vars(right.latents[name]))
    np.testing.assert_equal(dict(left.buffers), dict(right.buffers))
    return (
        list(left.parameters) == list(right.parameters)
        and list(left.latents) == list(right.latents)
        and (left.kind, left.provenance, left.statistics) == (right.kind, right.provenance, right.statistics)
    )


def test_posterior_survives_the_disk(tmp_path: Path) -> None:
    posterior = example()
    posterior.save(tmp_path / "posterior.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["posterior.safetensors"]
    loaded = Posterior.load(tmp_path / "posterior.safetensors")
    assert same(posterior, loaded)
    # a scale of shape () stays one: its draws are (count,), not (count, 1)
    assert loaded.sample_latents(7, seed=0)["0.weight.s_a"].shape == (7,)
    assert set(loaded.buffers) == {"1.running_mean", "1.running_var"}


def test_each_posterior_has_draws_of_its_own_beside_it(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        draws = Draws(np.full((2, 3, 1), value, np.float32), {"x": (1,)})
        Posterior({}, kind="chains", draws=draws).save(str(tmp_path / f"fit.v{value}"))
    for value in (1.0, 2.0):
        held = Posterior.load(str(tmp_path / f"fit.v{value}")).draws
        assert held is not None and (held.flat == value).all()


def test_a_part_of_draws_takes_the_place_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "posterior.safetensors"
    draws = Draws(np.arange(6, dtype=np.float32).reshape(2, 3, 1), {"x": (1,)})
    Posterior({}, kind="chains", draws=draws).save(path)
    held = Posterior.load(path)
    assert held.draws is not None
    replace(held, draws=held.draws.select(1)).save(path)
    again = Posterior.load(path).draws
    assert again is not None and again.flat.ravel().tolist() == [3, 4, 5]


def test_posterior_that_is_not_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "posterior.safetensors"
    with pytest.raises(InferenceError, match=r"posterior.safetensors does not hold a posterior .*`pyro-compress fit`"):
        Posterior.load(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(InferenceError, match="does not hold a posterior"):
        Posterior.load(path)


def test_latent_draws_have_the_guides_moments() -> None:
    normal = Latent("normal", np.array([0.5, -2.0], np.float32), np.array([0.1, 3.0], np.float32))
    lognormal = Latent("lognormal", np.array([[0.3], [-1.0]], np.float32), np.array([[0.5], [0.2]], np.float32))
    posterior = Posterior({}, {"w": normal, "s": lognormal})
    count = 40000
    draws = posterior.sample_latents(count, seed=1)
    assert draws["w"].shape == (count, 2) and draws["s"].shape == (count, 2, 1)
    # 5 standard errors of the mean, and of a normal's standard deviation
    assert (np.abs(draws["w"].mean(0) - normal.loc) < 5 * normal.scale / math.sqrt(count)).all()
    assert (np.abs(draws["w"].std(0) - normal.scale) < 5 * normal.scale / math.sqrt(2 * count)).all()
    logs = np.log(draws["s"])
    assert (np.abs(logs.mean(0) - lognormal.loc) < 5 * lognormal.scale / math.sqrt(count)).all()
    assert (np.abs(logs.std(0) - lognormal.scale) < 5 * lognormal.scale / math.sqrt(2 * count)).all()
    assert abs(float(np.corrcoef(draws["w"].T)[0, 1])) < 5 / math.sqrt(count)
    again = posterior.sample_latents(count, seed=1)
    assert all(np.array_equal(draws[name], again[name]) for name in draws)


def test_point_estimates_have_nothing_to_draw() -> None:
    point = Posterior({"w": ParameterPosterior(np.ones(2, np.float32), np.zeros(2, np.float32), "point")}, kind="point")
    with pytest.raises(InferenceError, match=r"a point estimate has no distribution to draw from: fit with SVI"):
        point.sample_latents(3, seed=0)
    assert point.parameters["w"].is_point
    assert point.parameters["w"].kept().all()
    assert (point.parameters["w"].log_alpha() == -np.inf).all()


def test_kept_weights_are_those_below_the_cuts() -> None:
    mean = np.array([[1.0, 1.0, 0.1], [1.0, 1.0, 1.0]], np.float32)
    variance = np.array([[0.1, 100.0, 0.1], [0.1, 0.1, 0.1]], np.float32)
    groups, statistic = Groups(1, np.ones(3, np.float32)), np.array([-1.0, 0.5, 0.0], np.float32)
    plain = ParameterPosterior(mean, variance, "AnyPrior", criterion=Criterion("log_alpha", "weight", 3.0))
    # log α: ln 0.1, ln 100 = 4.6, ln 10 = 2.3; the published cut for log-uniform priors is 3
    assert plain.kept().tolist() == [[True, False, True], [True, True, True]]
    assert plain.kept(log_alpha_threshold=2.0).tolist() == [[True, False, False], [True, True, True]]
    of_scale = Criterion("log_alpha", "scale", 0.0)
    grouped = ParameterPosterior(mean, variance, "AnyPrior", groups, criterion=of_scale, statistic=statistic)
    assert grouped.kept().tolist() == [[True, False, True]] * 2
    assert grouped.kept(group_threshold=-0.5).tolist() == [[True, False, False]] * 2
    assert grouped.kept(1.0, 2.0).tolist() == [[True, False, False], [True, True, True]]


def test_horseshoe_shrinkage_is_one_where_the_scale_vanishes() -> None:
    scale = np.array([0.0, 1.0, 3.0], np.float32)
    assert Groups(0, scale).shrinkage().tolist() == [1.0, 0.5, 0.1]
