"""Frozen parameters (requires_grad=False) are constants: no prior covers them, no method moves them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_compress import compress, fit
from pyro_compress.analysis import bit_widths, prune
from pyro_compress.analysis.modes.moments import one_mode
from pyro_compress.analysis.modes.weight_draws import WeightDraws
from pyro_compress.data.examples import as_data
from pyro_compress.errors import InferenceError, NetworkError, PriorError
from pyro_compress.inference import (
    HMC,
    MAP,
    NUTS,
    SGLD,
    SVI,
    ApproximateMetropolis,
    BayesByBackprop,
    Dropout,
    ImportanceSampling,
    MCDropout,
    Metropolis,
)
from pyro_compress.inference.results.pointwise import log_likelihoods
from pyro_compress.inference.results.predictive import posterior_predictive
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.pipeline.search import decide

METHODS = [
    SVI(epochs=2, batch_size=8),
    SVI(epochs=120, batch_size=24, compile="never"),
    SVI(epochs=2, batch_size=8, guide="full-rank", draws=5),
    BayesByBackprop(epochs=2, batch_size=8),
    MAP(epochs=2, batch_size=8),
    Dropout(epochs=2, batch_size=8),
    MCDropout(epochs=2, batch_size=8, draws=5),
    SGLD(epochs=4, batch_size=8, a=0.1),
    NUTS(chains=1, warmup=10, draws=5),
    HMC(chains=2, warmup=10, draws=5),
    Metropolis(chains=1, warmup=20, draws=5),
    ApproximateMetropolis(chains=1, warmup=20, draws=5),
    ImportanceSampling(draws=20, warn_below_percent=0.0),
]


def network() -> nn.Sequential:
    torch.manual_seed(3)
    found = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    found[2].requires_grad_(False)
    found[4].bias.requires_grad_(False)
    with torch.no_grad():
        found[4].bias.copy_(torch.tensor([0.3, -0.7, 0.1]))  # type: ignore[operator]
    return found


def examples() -> tuple[Tensor, Tensor]:
    return torch.randn(24, 4, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


FROZEN = ("2.weight", "2.bias", "4.bias")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{type(method).__name__}")
def test_no_method_moves_them(method: Any) -> None:
    given = network()
    model = BayesianNetwork(given, Normal())
    posterior = fit(model, examples(), method, seed=0)
    state = given.state_dict()
    assert list(posterior.parameters) == list(state)
    for name in FROZEN:
        found = posterior.parameters[name]
        assert found.is_point and not found.variance.any()
        assert np.array_equal(found.mean, state[name].numpy())
    assert not np.array_equal(posterior.parameters["0.weight"].mean, state["0.weight"].numpy())
    assert not set(FROZEN) & set(posterior.latents)
    if posterior.draws is not None:
        x, y = examples()
        found_nats = log_likelihoods(model, posterior, x, y)
        # by hand from the last draw
        with torch.no_grad():
            for name, value in given.named_parameters():
                if name not in FROZEN:
                    value.copy_(torch.tensor(np.asarray(posterior.draws.site(name)[-1, -1])))
            expected = torch.log_softmax(given(x), 1).gather(1, y[:, None])[:, 0]
        np.testing.assert_allclose(found_nats[-1, -1], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_predictions_hold_them() -> None:
    model = BayesianNetwork(network(), Normal())
    posterior = fit(model, examples(), SVI(epochs=1, batch_size=8), seed=0)
    for one in (posterior, fit(model, examples(), SGLD(epochs=4, batch_size=8, a=0.1), seed=0)):
        assert np.isfinite(posterior_predictive(model, one, examples()[0], draws=3).mean).all()


def test_priors_pass_over_them() -> None:
    model = BayesianNetwork(network(), {"*.weight": Normal()})
    assert [parameter.name for parameter, _ in model.parameters_covered] == ["0.weight", "4.weight"]
    assert list(model.free_values()) == ["0.bias"]
    assert list(model.frozen_values()) == list(FROZEN)
    with pytest.raises(PriorError, match=r"prior: '2\.\*' matches 2\.weight, 2\.bias alone, which is frozen"):
        BayesianNetwork(network(), {"2.*": Normal()})


def test_a_network_that_is_frozen_as_a_whole_is_refused() -> None:
    whole = network().requires_grad_(False)
    priors: tuple[Any, ...] = (Normal(), {})
    for prior in priors:
        with pytest.raises(NetworkError, match="every parameter of the network is frozen"):
            BayesianNetwork(whole, prior)
    weights = network()
    for layer in (weights[0], weights[4]):
        layer.weight.requires_grad_(False)
    with pytest.raises(PriorError, match=r"besides those that are frozen \(requires_grad=False\) for GroupHorseshoe"):
        BayesianNetwork(weights, GroupHorseshoe())
    # the noise is left
    BayesianNetwork(whole, {}, Gaussian())


def test_networks_with_frozen_parameters_keep_their_units() -> None:
    model = BayesianNetwork(network(), LogUniform())
    with pytest.raises(InferenceError, match=r"shrink=True needs a network .*, without frozen parameters"):
        fit(model, examples(), SVI(epochs=3, batch_size=8, shrink=True, kl_warmup=0.0))
    fit(model, examples(), SVI(epochs=3, batch_size=8, kl_warmup=0.0))


@pytest.mark.parametrize("method", [SVI(epochs=10, batch_size=8, learning_rate=0.05), MAP(epochs=10, batch_size=8)])
@pytest.mark.parametrize("normed", [False, True])
def test_fine_tuning_leaves_them(method: Any, normed: bool) -> None:
    torch.manual_seed(0)
    norm = [nn.BatchNorm1d(6)] if normed else []
    given = nn.Sequential(nn.Linear(4, 6), *norm, nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    name = f"{len(given) - 3}"
    given.get_submodule(name).requires_grad_(False)
    x, y = examples()
    data = as_data((x, y), validation=(x + 0.1, y), test=(x - 0.1, y))
    posterior = fit(BayesianNetwork(given, Normal()), data, method, seed=0)
    how = DecisionSettings(fine_tune_epochs=1, rate_weights=(0.5,))
    decision = decide(posterior, given, data, how, seed=0)
    weight, before = decision.sites[f"{name}.weight"], given.state_dict()
    np.testing.assert_array_equal(weight.value, before[f"{name}.weight"].numpy())


def test_they_are_stored_exactly_unless_a_grid_is_asked_for() -> None:
    given = network()
    posterior = fit(BayesianNetwork(given, Normal()), examples(), SVI(epochs=2, batch_size=8), seed=0)
    decision = prune(posterior) & bit_widths(posterior)
    file = compress(given, decision, (4,)).to_torch()
    values = [value.numpy() for value in file.state_dict().values()]
    assert any(np.array_equal(given.state_dict()["2.weight"].numpy(), value) for value in values)


def test_units_that_a_frozen_weight_reads_keep_their_places() -> None:
    given = network()
    posterior = fit(BayesianNetwork(given, Normal()), examples(), SGLD(epochs=8, batch_size=8, a=0.1), seed=0)
    assert posterior.draws is not None
    weights = WeightDraws.of(posterior, posterior.draws)
    found = one_mode(weights, trace(given, (4,)), moments="aligned")
    for name in FROZEN:
        np.testing.assert_allclose(found.mean[name], given.state_dict()[name].numpy(), rtol=1e-6)
