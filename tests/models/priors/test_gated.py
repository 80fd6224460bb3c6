"""What priors with gates say of groups and weights, and the sentences for options without meaning."""

from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_compress.errors import PriorError
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.from_guide import posterior_from_guide
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.generalized_dropout import GeneralizedDropout
from pyro_compress.models.priors.l0 import L0
from pyro_compress.models.priors.spike_and_slab import SpikeAndSlab


def guide_of(prior: Prior, layer: nn.Module) -> tuple[BayesianNetwork, DeclaredGuide]:
    torch.manual_seed(0)
    model = BayesianNetwork(layer, {"weight": prior})
    return model, DeclaredGuide(model)


@pytest.mark.parametrize(("layer", "axis"), [(nn.Linear(4, 3), 1), (nn.Conv2d(2, 4, 3), 0)])
def test_l0_stores_the_gate_that_predicts_and_closed_ones_are_zero(layer: nn.Module, axis: int) -> None:
    model, guide = guide_of(L0(), layer)
    with torch.no_grad():
        guide.loc.weight__z.copy_(torch.tensor([-4.0, -2.41, -2.38, 4.0]))
    site = posterior_from_guide(model, guide).parameters["weight"]
    other = tuple(a for a in range(site.mean.ndim) if a != axis)
    for present in (site.to_store != 0, site.kept()):
        assert np.any(present, axis=other).tolist() == [False, False, True, True]
    unscaled = guide.loc.weight__unscaled.detach().numpy()
    # wide open gates predict with 1, and are 1 in most draws
    assert (site.to_store.take(3, axis) == unscaled.take(3, axis)).all()
    assert (abs(site.mean.take(3, axis)) < abs(unscaled.take(3, axis))).all()


@pytest.mark.parametrize(("prior", "bound"), [(L0(), 4.6052), (GeneralizedDropout(), 6.9068)])
def test_gates_stay_within_reach(prior: Prior, bound: float) -> None:
    _, guide = guide_of(prior, nn.Linear(2, 3))
    with torch.no_grad():
        guide.loc.weight__z.copy_(torch.tensor([-40.0, 40.0]))
    guide.project()
    torch.testing.assert_close(guide.loc.weight__z.detach(), torch.tensor([-bound, bound]), rtol=1e-4, atol=0)


def test_an_l0_group_is_charged_by_the_weights_that_it_has() -> None:
    model, _ = guide_of(L0(cost=0.2), nn.Linear(4, 3))
    ((parameter, prior),) = model.parameters_covered
    program: Any = poutine.trace(prior.sample).get_trace(parameter)
    assert program.nodes["weight.z"]["fn"].base_dist.cost == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: L0(cost=0.0), "cost is the price of an open gate in nats per weight, above 0; found 0.0"),
        (lambda: L0(initial_dropout=1.0), "initial_dropout must lie between 0.01 and 0.99, found 1.0"),
        (lambda: GeneralizedDropout(alpha=0.0), "needs alpha > 0 and beta > 0, found alpha=0.0, beta=5.0"),
        (lambda: GeneralizedDropout(initial_rate=0.0), "initial_rate must lie between 0.001 and 0.999, found 0.0"),
        (lambda: SpikeAndSlab(inclusion=1.0), "inclusion and initial_inclusion between 0 and 1 .* inclusion=1.0"),
        (lambda: SpikeAndSlab(slab=0.0), "a slab above 0; found .* slab=0.0"),
    ],
)
def test_options_without_meaning_are_refused(build: Any, message: str) -> None:
    with pytest.raises(PriorError, match=message):
        build()


def test_groups_are_needed_for_gates_of_groups() -> None:
    with pytest.raises(PriorError, match="L0 ties groups of inputs or filters and cannot cover"):
        BayesianNetwork(nn.Linear(2, 3), {"bias": L0()})
