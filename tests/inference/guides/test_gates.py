"""Gates under local reparameterization: drawn per example, the same moments as one draw, refused at two places."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pyro_compress.errors import InferenceError
from pyro_compress.inference.guides.lazy_values import LazyGate, LazyNormal
from pyro_compress.models.gates.truncated_log_normal import TruncatedLogNormal
from pyro_compress.models.parameters import along_axis, scale_groups

DRAWS = 4000


def gate(count: int) -> TruncatedLogNormal:
    return TruncatedLogNormal(torch.linspace(-3, 0, count), torch.linspace(0.3, 2, count))


@pytest.mark.parametrize(
    ("layer", "shape", "axis", "x"),
    [
        (F.linear, (2, 3), 1, torch.tensor([[1.0, -2.0, 0.5]])),
        (F.conv2d, (2, 1, 2, 2), 0, torch.arange(9.0).reshape(1, 1, 3, 3)),
    ],
)
@pytest.mark.parametrize("weight_is_lazy", [False, True])
def test_outputs_per_example_have_the_moments_of_one_draw(
    layer: Any, shape: tuple[int, ...], axis: int, x: torch.Tensor, weight_is_lazy: bool
) -> None:
    torch.manual_seed(0)
    weight, bias, z = torch.randn(shape), torch.randn(shape[0]), gate(shape[axis])
    held: Any = LazyNormal(weight, torch.full(shape, 1e-3)) if weight_is_lazy else weight
    per_example = layer(x.expand(DRAWS, *x.shape[1:]), scale_groups(held, LazyGate(z), axis), bias)
    scales = z.rsample((DRAWS,))
    once = torch.cat([layer(x, weight * along_axis(one, len(shape), axis), bias) for one in scales])
    error = (per_example.var(0) / DRAWS + once.var(0) / DRAWS).sqrt()
    assert bool(((per_example.mean(0) - once.mean(0)).abs() < 5 * error + 1e-3).all())
    torch.testing.assert_close(per_example.var(0), once.var(0), rtol=0.2, atol=1e-4)
    assert len(torch.unique(per_example[:, 0])) > DRAWS / 2


def test_elsewhere_one_draw_serves_all() -> None:
    torch.manual_seed(0)
    lazy = LazyGate(gate(3))
    weight = scale_groups(torch.ones(2, 3), lazy, 1)
    one = weight + 0.0
    torch.testing.assert_close(one, lazy.materialise().expand(2, 3))
    x = torch.randn(5, 3)
    torch.testing.assert_close(F.linear(x, weight), F.linear(x, one))


def test_noise_per_example_at_two_places_is_refused() -> None:
    weight = scale_groups(torch.ones(2, 3), LazyGate(gate(3)), 1)
    F.linear(torch.randn(5, 3), weight)
    for again in (lambda: F.linear(torch.randn(5, 3), weight), lambda: weight + 0.0):
        with pytest.raises(InferenceError, match="at two places"):
            again()
