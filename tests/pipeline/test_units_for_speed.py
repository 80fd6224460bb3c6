"""`decide` under a share of the multiply-adds: what it stores, says and notes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.errors import DecisionError
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.stored import architecture_left
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.pipeline.search import decide
from pyro_compress.pipeline.validation import Judge
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior
from tests.pipeline.test_draws_to_decision import classes


def certain_where_used(network: nn.Module, used: list[int]) -> Posterior:
    """Signal in the hidden units that are `used`, noise in all others; the inputs that matter are the first three."""
    sites = {}
    for name, parameter in network.named_parameters():
        mean = parameter.detach().numpy().copy()
        variance = np.full_like(mean, 1e-3 if parameter.ndim > 1 else 0)
        unused = np.setdiff1d(np.arange(10), used)
        if name == "a.weight":
            variance[unused], variance[:, 3:] = 100, 100
        if name == "b.weight":
            variance[:, unused] = 100
        sites[name] = ParameterPosterior(mean, variance, "Normal" if parameter.ndim > 1 else "point")
    return Posterior(sites)


def test_units_go_until_the_share_is_reached_and_are_said_and_noted() -> None:
    network, data = classes()
    posterior, lines = certain_where_used(network, [1, 4, 5, 8]), list[str]()
    before = copy.deepcopy(network.state_dict())
    settings = DecisionSettings(multiply_adds=0.3, snr=0.0, c=1e-4, fine_tune_epochs=0, refine=False)
    decision = decide(posterior, network, data, settings, say=lines.append)
    # 90 products before; 4 units with 3 inputs have 24, and the one that would go next costs evidence
    assert architecture_left(remove_dead(trace(network, (6,)), decision)) == [3, 4]
    assert decision.sites["a.weight"].kept().any(axis=1).tolist() == [n in (1, 4, 5, 8) for n in range(10)]
    assert decision.made_by["multiply_adds"] == 0.3
    errors = Judge(network, data, Categorical()).errors(decision).mean()
    assert any(line.startswith("3-4 for 30 % of the multiply-adds: ") for line in lines)
    assert f"{100 * errors:.2f} %" in next(line for line in lines if "multiply-adds" in line)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_snr_cut_is_judged_against_the_network_without_those_units() -> None:
    # a third of the hidden units is far too few, so no cut would be accepted against the whole network
    network, data = classes()
    posterior = certain_where_used(network, [1])
    settings = DecisionSettings(multiply_adds=0.1, tolerance_points=0.0, c=1e-4, fine_tune_epochs=0)
    judge = Judge(network, data, Categorical())
    decision = decide(posterior, network, data, settings)
    assert judge.errors(decision).mean() > 0.2
    assert decision.made_by["snr"] == 3.0
    alone = DecisionSettings(tolerance_points=0.0, c=1e-4, fine_tune_epochs=0)
    assert decide(posterior, network, data, alone).made_by["snr"] == 0.0


def test_batch_norm_is_gathered_again_without_those_units() -> None:
    network, data = classes(norm=True)
    sites = dict(certain_where_used(classes()[0], [1, 4, 5, 8]).parameters)
    for name, parameter in network.named_parameters():
        mean = parameter.detach().numpy().copy()
        old = sites.get(name)
        sites[name] = ParameterPosterior(mean, old.variance if old else 0 * mean, old.prior if old else "point")
    buffers = {name: b.numpy().copy() for name, b in network.named_buffers() if b.is_floating_point()}
    settings = DecisionSettings(multiply_adds=0.3, snr=0.0, c=1e-4, fine_tune_epochs=0)
    decision = decide(Posterior(sites, {}, buffers), network, data, settings)
    left = remove_dead(trace(network, (6,)), decision)
    assert architecture_left(left) == [3, 4]
    assert not decision.sites["n.weight"].kept()[[0, 2, 3, 6, 7, 9]].any()
    assert decision.sites["n.bias"].kept().sum() == 4
    assert not np.allclose(decision.buffers["n.running_mean"], buffers["n.running_mean"], atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 1.2])
def test_settings_refuse_what_is_no_share(share: float) -> None:
    with pytest.raises(DecisionError, match="multiply_adds is a share above 0 and at most 1"):
        DecisionSettings(multiply_adds=share)
