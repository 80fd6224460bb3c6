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
from pyro_compress.pipeline.compressing import compress
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


class Residual(nn.Module):
    """The network of `classes` with a block that is added to its hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.inner, self.b = nn.Linear(6, 10), nn.Linear(10, 10), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).relu()
        return self.b(x + self.inner(x).tanh())


@pytest.mark.filterwarnings("ignore:on validation the posterior mean does no better")
def test_units_of_a_residual_connection_leave_the_file_together() -> None:
    torch.manual_seed(0)
    network, data = Residual(), classes()[1]
    sites = dict(certain_where_used(network, [1, 4, 5, 8]).parameters)
    inner = sites["inner.weight"]
    sites["inner.weight"] = ParameterPosterior(inner.mean, np.full_like(inner.mean, 100), "Normal")
    settings = DecisionSettings(multiply_adds=0.22, snr=0.0, c=1e-4, fine_tune_epochs=0, refine=False)
    decision = decide(Posterior(sites), network, data, settings)
    # of 60 + 100 + 30 products 12 + 16 + 12
    for name in ("a.bias", "inner.bias"):
        assert np.flatnonzero(decision.sites[name].kept()).tolist() == [1, 4, 5, 8]
    artifact = compress(network, decision, (6,))
    assert [tensor.shape for name, tensor in artifact.numbers().items() if name.endswith("weight")] == [
        (4, 3), (4, 4), (3, 4),
    ]  # fmt: skip
    x = data.validation_x
    judge = Judge(network, data, Categorical())
    with torch.no_grad():
        found = artifact.to_torch()(x).argmax(1) != data.validation_y
    np.testing.assert_array_equal(found.numpy(), judge.errors(decision) > 0)


@pytest.mark.parametrize("share", [0.0, 1.2])
def test_settings_refuse_what_is_no_share(share: float) -> None:
    with pytest.raises(DecisionError, match="multiply_adds is a share above 0 and at most 1"):
        DecisionSettings(multiply_adds=share)
