"""What says that a group is off, against the closed forms and against draws."""

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest
import torch
from pyro import poutine

from pyro_compress.errors import PriorError
from pyro_compress.inference.results.judged import with_criterion
from pyro_compress.models.parameters import Parameter, along_axis, scale_groups
from pyro_compress.models.priors.base import Moments, Prior, product_moments
from pyro_compress.models.priors.group_log_uniform import GroupLogUniform
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys
from pyro_compress.posterior.criterion import Criterion
from pyro_compress.posterior.posterior import ParameterPosterior

LINEAR = Parameter("fc.weight", torch.Size((2, 3)), "linear")
CONV = Parameter("conv.weight", torch.Size((3, 2, 2, 1)), "conv")
TRANSPOSED = Parameter("deconv.weight", torch.Size((2, 3, 2, 1)), "transposed")


def judged(prior: Prior, parameter: Parameter, sites: dict[str, Moments]) -> ParameterPosterior:
    none = np.zeros(parameter.shape, np.float32)
    return with_criterion(ParameterPosterior(none, none + 1, "AnyPrior"), parameter, prior, sites)


@pytest.mark.parametrize("parameter", [LINEAR, CONV, TRANSPOSED], ids=["linear", "conv", "transposed"])
def test_scales_multiply_input_units_or_filters(parameter: Parameter) -> None:
    assert parameter.groups == 3
    scale, axis = torch.tensor([2.0, 0.0, -1.0]), parameter.group_axis
    assert axis is not None
    scaled = scale_groups(torch.ones(parameter.shape), scale, axis)
    for group in range(3):
        assert bool((scaled.select(axis, group) == scale[group]).all())
    assert along_axis(scale, 4, 1).shape == (1, 3, 1, 1)


def test_product_moments_are_those_of_independent_factors() -> None:
    weight = Moments("normal", torch.tensor([0.5, -2.0]), torch.tensor([0.3, 0.1]))
    mean, variance = product_moments(weight, torch.tensor(1.5), torch.tensor(0.2))
    # E(zw)² − (E zw)² with E z² = 2.25 + 0.2 and E w² = mean² + variance
    second = (2.25 + 0.2) * (weight.mean.square() + weight.variance)
    torch.testing.assert_close(mean, 1.5 * weight.mean)
    torch.testing.assert_close(variance, second - mean.square())


def test_normal_jeffreys_statistic_is_the_dropout_rate_of_z() -> None:
    sites = {
        "fc.weight.z": Moments("normal", torch.tensor([1.0, -2.0, 0.1]), torch.tensor([0.01, 8.0, 1.0])),
        "fc.weight.unscaled": Moments("normal", torch.zeros(2, 3), torch.ones(2, 3)),
    }
    found = judged(GroupNormalJeffreys(threshold=0.25), LINEAR, sites)
    assert found.criterion is not None and found.criterion.rule() == "log α > 0.25" and found.statistic is not None
    np.testing.assert_allclose(found.statistic, np.log([0.01, 2.0, 100.0]), rtol=1e-5, atol=1e-6)
    assert found.groups is not None and found.groups.unscaled == "fc.weight.unscaled" and found.groups.axis == 1
    assert found.groups.scale == pytest.approx([1.0, 2.0, 0.1])
    assert found.on().tolist() == [[True, False, False]] * 2


def test_weights_of_a_group_have_both_dropout_rates() -> None:
    alpha_z, alpha_w = torch.tensor([0.01, 0.5, 40.0]), torch.tensor([[0.02, 30.0, 0.1], [3.0, 0.2, 0.5]])
    z, w = torch.tensor([1.0, -2.0, 0.1]), torch.tensor([[0.3, 1.0, -0.2], [2.0, 0.1, -3.0]])
    sites = {
        "fc.weight.z": Moments("normal", z, alpha_z * z.square()),
        "fc.weight.unscaled": Moments("normal", w, alpha_w * w.square()),
    }
    prior = GroupLogUniform()
    mean, variance = prior.weight_moments(LINEAR, sites)
    torch.testing.assert_close(mean, z * w)
    torch.testing.assert_close(variance / mean.square(), (1 + alpha_z) * (1 + alpha_w) - 1)
    found = judged(prior, LINEAR, sites)
    assert found.criterion is not None and found.criterion.rule() == "log α > 0"
    assert found.on().tolist() == [[True, True, False]] * 2


def test_log_density_of_groups_and_weights_is_log_uniform_in_both() -> None:
    """−ln|z| − ln|w̃| up to a constant, between the bounds."""
    prior = GroupLogUniform(low=1e-6, high=10.0)
    values = {"fc.weight.z": torch.tensor([0.5, -2.0, 0.1]), "fc.weight.unscaled": torch.full((2, 3), 0.3)}

    def density(**changed: torch.Tensor) -> float:
        given = values | {f"fc.weight.{name}": value for name, value in changed.items()}
        traced = poutine.trace(poutine.condition(lambda: prior.sample(LINEAR), data=given)).get_trace()
        return float(traced.log_prob_sum())

    base = density()
    assert density(z=2 * values["fc.weight.z"]) == pytest.approx(base - 3 * math.log(2), abs=1e-4)
    assert density(unscaled=0.5 * values["fc.weight.unscaled"]) == pytest.approx(base + 6 * math.log(2), abs=1e-4)


class Widest(Normal):
    """Judged by the largest variance in a group, or of single weights by the variance: statistics of its own."""

    of: ClassVar[str] = "group"

    @property
    def criterion(self) -> Criterion:
        return Criterion("widest", self.of, 2.0, off="below")

    def statistic(self, parameter: Parameter, sites: Mapping[str, Moments]) -> torch.Tensor:
        variance = sites[parameter.name].variance
        return variance.amax(0) if self.of == "group" else variance


class WidestWeights(Widest):
    of = "weight"


def test_a_prior_may_have_a_statistic_of_its_own() -> None:
    variance = torch.tensor([[1.0, 2.0, 5.0], [1.5, 1.0, 1.0]])
    sites = {"fc.weight": Moments("normal", torch.zeros(2, 3), variance)}
    assert judged(Widest(), LINEAR, sites).kept().tolist() == [[False, True, True]] * 2
    assert judged(WidestWeights(), LINEAR, sites).kept().tolist() == [[False, True, True], [False, False, False]]
    wrong = {"conv.weight": Moments("normal", torch.zeros(2, 3), variance)}
    with pytest.raises(PriorError, match=r"statistic\(parameter, sites\) must return a tensor of shape \(3, 2, 2, 1\)"):
        judged(WidestWeights(), CONV, wrong)
    # biases have no groups, so nothing judges them
    bias = Parameter("fc.bias", torch.Size((2,)), "bias")
    assert judged(Widest(), bias, sites).criterion is None


def test_horseshoe_statistic_is_the_variance_of_log_z() -> None:
    torch.manual_seed(0)
    names = ("s_a", "s_b", "z_a", "z_b")
    shapes = ((), (), (3,), (3,))
    sites = {
        f"conv.weight.{n}": Moments("lognormal", torch.randn(s), 0.1 + torch.rand(s))
        for n, s in zip(names, shapes, strict=True)
    }
    found = judged(GroupHorseshoe(threshold=0.4), CONV, sites)
    assert found.statistic is not None and found.groups is not None and found.groups.scale is not None
    statistic, scale = torch.from_numpy(found.statistic), torch.from_numpy(found.groups.scale)
    count = 200000
    logs = [
        site.mean + site.variance.sqrt() * torch.randn(count, *(site.mean.shape or (1,))) for site in sites.values()
    ]
    log_scale = 0.5 * sum(logs, torch.zeros(()))
    # standard error of a normal's variance is variance · √(2/n); 5 of them
    error = 5 * statistic * math.sqrt(2 / count)
    assert bool(((log_scale.var(0) - statistic).abs() < error).all())
    torch.testing.assert_close(log_scale.mean(0).exp(), scale, rtol=0.02, atol=0.0)
    assert found.criterion is not None and found.criterion.rule() == "Var(ln z) > 0.4"
    assert found.criterion.shrinkage


@pytest.mark.parametrize(
    ("parameter", "tied", "shape"),
    [
        (LINEAR, "unit", (1, 3)),
        (CONV, "unit", (3, 1, 1, 1)),
        (LINEAR, "layer", (1, 1)),
        (CONV, "layer", (1, 1, 1, 1)),
        (LINEAR, "weight", None),
    ],
)
def test_dropout_rates_are_tied_as_declared(parameter: Parameter, tied: str, shape: tuple[int, ...] | None) -> None:
    prior = LogUniform(alpha=0.25, tied=tied, learned=False)
    (site,) = prior.latents(parameter, torch.zeros(parameter.shape))
    assert (None if site.tied is None else tuple(site.tied)) == shape
    assert site.family == "dropout" and not site.learned
    assert site.log_variance == pytest.approx(math.log(0.25))
