"""What says that a group is off, against the closed forms and against draws."""

import math

import pytest
import torch

from pyro_compress.models.parameters import Parameter, along_axis, scale_groups
from pyro_compress.models.priors.base import Moments, product_moments
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys

LINEAR = Parameter("fc.weight", torch.Size((2, 3)), "linear")
CONV = Parameter("conv.weight", torch.Size((3, 2, 2, 1)), "conv")


@pytest.mark.parametrize("parameter", [LINEAR, CONV], ids=["linear", "conv"])
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
    statistic = GroupNormalJeffreys(threshold=0.25).group_statistic(LINEAR, sites)
    torch.testing.assert_close(statistic.value, torch.tensor([0.01, 2.0, 100.0]).log())
    assert (statistic.name, statistic.threshold) == ("log_alpha", 0.25)
    assert statistic.scale.tolist() == pytest.approx([1.0, 2.0, 0.1])


def test_horseshoe_statistic_is_the_variance_of_log_z() -> None:
    torch.manual_seed(0)
    names = ("s_a", "s_b", "z_a", "z_b")
    shapes = ((), (), (3,), (3,))
    sites = {
        f"conv.weight.{n}": Moments("lognormal", torch.randn(s), 0.1 + torch.rand(s))
        for n, s in zip(names, shapes, strict=True)
    }
    statistic = GroupHorseshoe(threshold=0.4).group_statistic(CONV, sites)
    count = 200000
    logs = [
        site.mean + site.variance.sqrt() * torch.randn(count, *(site.mean.shape or (1,))) for site in sites.values()
    ]
    log_scale = 0.5 * sum(logs, torch.zeros(()))
    # standard error of a normal's variance is variance · √(2/n); 5 of them
    error = 5 * statistic.value * math.sqrt(2 / count)
    assert bool(((log_scale.var(0) - statistic.value).abs() < error).all())
    torch.testing.assert_close(log_scale.mean(0).exp(), statistic.scale, rtol=0.02, atol=0.0)
    assert (statistic.name, statistic.threshold) == ("variance_log_scale", 0.4)


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
