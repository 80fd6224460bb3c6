"""Flipout against weight sampling: moments, covariance within an example, none between examples.

Monte Carlo comparisons allow 5 standard errors, about 6e-7 false failures per number; seeds are fixed.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.gradient.elbo import elbo_terms
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.flipout import Flipout, FlipoutNormal
from pyro_compress.inference.guides.lazy_values import LazyLogNormal
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.parameters import scale_groups
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.normal import Normal

DRAWS, SIGMAS = 2000, 5.0

Layer = Callable[..., torch.Tensor]
LAYERS = pytest.mark.parametrize(
    ("layer", "shape", "axis", "input_shape"),
    [
        pytest.param(lambda x, w, b: F.linear(x, w, b), (4, 3), 1, (2, 3), id="linear"),
        pytest.param(lambda x, w, b: F.linear(x, w, b), (4, 3), 1, (2, 2, 3), id="linear-over-positions"),
        pytest.param(lambda x, w, b: F.conv1d(x, w, b, stride=2), (4, 2, 3), 0, (2, 2, 5), id="conv1d"),
        pytest.param(
            lambda x, w, b: F.conv2d(x, w, b, padding=(1, 0), groups=2), (4, 1, 3, 2), 0, (2, 2, 2, 3), id="conv2d"
        ),
        pytest.param(
            lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1),
            (2, 4, 3, 2),
            1,
            (2, 2, 1, 2),
            id="transposed",
        ),
    ],
)


def spread(*shape: int) -> torch.Tensor:
    return 0.2 + 0.4 * torch.rand(*shape)


class Parts:
    """Distributions of w̃, z and b, handed on as the handler would."""

    def __init__(self, shape: tuple[int, ...], axis: int, scale: str | None) -> None:
        self.weight, self.bias = (torch.randn(shape), spread(*shape)), (torch.randn(4), spread(4))
        self.z = (0.5 + torch.rand(shape[axis]), spread(shape[axis]))
        self.axis, self.scale = axis, scale

    def lazily(self) -> tuple[Any, Any]:
        weight: Any = FlipoutNormal(*self.weight)
        if self.scale is not None:
            z: Any = FlipoutNormal(*self.z)
            weight = scale_groups(weight, z if self.scale == "normal" else z.exp(), self.axis)
        return weight, FlipoutNormal(*self.bias)

    def sampled(self) -> tuple[torch.Tensor, torch.Tensor]:
        weight, bias = self.lazily()
        return weight.materialise(), bias.materialise()


@LAYERS
@pytest.mark.parametrize("scale", [None, "normal", "lognormal"], ids=["no-z", "normal-z", "lognormal-z"])
def test_each_example_has_the_moments_of_weight_sampling_and_examples_are_uncorrelated(
    layer: Layer, shape: tuple[int, ...], axis: int, input_shape: tuple[int, ...], scale: str | None
) -> None:
    torch.manual_seed(0)
    distributions, x = Parts(shape, axis, scale), torch.randn(input_shape)
    found = [
        torch.stack([layer(x, *draw()).flatten(1) for _ in range(DRAWS)])
        for draw in (distributions.sampled, distributions.lazily)
    ]
    plain, flipout = found
    assert_same_mean(flipout, plain)
    plain, flipout = plain - plain.mean(0), flipout - flipout.mean(0)
    # within an example all covariances are those of weight sampling: the outputs' own and between positions
    assert_same_mean(*(torch.einsum("sbi,sbj->sbij", part, part) for part in (flipout, plain)))
    between = torch.einsum("si,sj->sij", flipout[:, 0], flipout[:, 1])
    assert bool((between.mean(0).abs() < SIGMAS * between.std(0) / math.sqrt(DRAWS) + 1e-6).all())
    shared = torch.einsum("si,sj->sij", plain[:, 0], plain[:, 1])
    assert bool((shared.mean(0).abs() > SIGMAS * shared.std(0) / math.sqrt(DRAWS)).any())


def assert_same_mean(left: torch.Tensor, right: torch.Tensor) -> None:
    error = ((left.var(0) + right.var(0)) / len(left)).sqrt()
    assert bool(((left.mean(0) - right.mean(0)).abs() < SIGMAS * error + 1e-6).all())


def test_derived_values_stay_flipout() -> None:
    left, right = FlipoutNormal(torch.zeros(3), torch.ones(3)), FlipoutNormal(torch.zeros(3), torch.ones(3))
    for value in (left + right, left * 0.5, left + 2.0, (left.exp() * right.exp()).logarithm):
        assert isinstance(value, FlipoutNormal)


def test_the_handler_hands_on_flipout_values_under_every_kind_of_site() -> None:
    model = BayesianNetwork(nn.Linear(4, 3), {"weight": GroupHorseshoe(), "bias": Normal()}, Gaussian())
    guide = DeclaredGuide(model)
    with Flipout():
        trace: Any = poutine.trace(guide.forward).get_trace()
    values = {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}
    assert isinstance(values["weight.unscaled"], FlipoutNormal) and isinstance(values["bias"], FlipoutNormal)
    assert isinstance(values["weight.z_a"], LazyLogNormal)
    assert isinstance(values["weight.z_a"].logarithm, FlipoutNormal)
    assert isinstance(values["noise"], torch.Tensor)


def test_a_network_that_uses_a_weight_twice_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.fc(x))

    model = BayesianNetwork(Twice(), {"fc.weight": Normal()}, Gaussian(noise=1.0))
    x = torch.randn(2, 3)
    with pytest.raises(InferenceError, match=r"one random value at two places.*SVI\(estimator='shared'\)"):
        elbo_terms(model.forward, DeclaredGuide(model).forward, Flipout(), x, x)
