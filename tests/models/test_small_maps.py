"""Convolutions of small images in bfloat16: products of matrices that are torch's convolutions up to rounding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_compress.inference.guides.lazy_values import LazyNormal
from pyro_compress.models import small_maps
from pyro_compress.models.precision import called, networks_in

# of sums over some hundred products of numbers with eight significant bits
ROUNDING = 2e-2


def in_bfloat16(network: Callable[[], Any]) -> Any:
    with networks_in("bfloat16"):
        return called(network, torch.device("cpu"))


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what is convolved as a product from now on."""
    found: list[tuple[int, ...]] = []
    product = small_maps._product

    def noted(input: Tensor, *others: Any, **named: Any) -> Tensor:
        found.append(tuple(input.shape))
        return product(input, *others, **named)

    monkeypatch.setattr(small_maps, "_product", noted)
    return found


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (4, 4), (3, 5)])
def test_outputs_and_gradients_are_those_of_a_convolution(
    height: int, width: int, products: list[tuple[int, ...]]
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(128, 160, 3, padding=1)
    x = torch.randn(5, 128, height, width).contiguous(memory_format=torch.channels_last).requires_grad_()
    along = torch.randn(5, 160, height, width)
    assert layer.bias is not None
    inputs = [x, layer.weight, layer.bias]
    exact = layer(x)
    expected = torch.autograd.grad(exact, inputs, along)
    output = in_bfloat16(lambda: layer(x))
    found = torch.autograd.grad(output, inputs, along)

    assert products == [(5, 128, height, width)]
    assert relative(output, exact) < ROUNDING
    for gradient, of_torch in zip(found, expected, strict=True):
        assert gradient.dtype == torch.float32
        assert relative(gradient, of_torch) < ROUNDING


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(128, 128, 3, padding=1), 8),
        (nn.Conv2d(128, 128, 3), 4),
        (nn.Conv2d(128, 128, 3, padding=1, stride=2), 4),
        (nn.Conv2d(128, 128, 3, padding=2, dilation=2), 4),
        (nn.Conv2d(256, 256, 3, padding=1, groups=2), 4),
        (nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"), 4),
        (nn.Conv2d(128, 128, 1), 4),
        (nn.Conv2d(64, 128, 3, padding=1), 4),
    ],
)
def test_other_convolutions_are_left_to_torch(layer: nn.Conv2d, size: int, products: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, layer.in_channels, size, size)
    assert relative(in_bfloat16(lambda: layer(x)), layer(x)) < ROUNDING
    assert products == []


def test_single_precision_has_torchs_own_bits(products: list[tuple[int, ...]]) -> None:
    layer, x = nn.Conv2d(128, 128, 3, padding=1), torch.randn(2, 128, 4, 4)
    assert torch.equal(called(lambda: layer(x), torch.device("cpu")), layer(x))
    assert products == []


def test_mean_and_variance_of_lazy_filters(products: list[tuple[int, ...]]) -> None:
    """Under local reparameterization both convolutions are products, and what is drawn has their mean and variance."""
    torch.manual_seed(0)
    mean, scale = torch.randn(128, 128, 3, 3) / 30, torch.rand(128, 128, 3, 3) / 10
    x = torch.randn(1, 128, 2, 2)
    filters: Any = LazyNormal(mean, scale)
    draws = in_bfloat16(lambda: F.conv2d(x.expand(4000, -1, -1, -1), filters, None, 1, 1))
    expected = F.conv2d(x, mean, padding=1)[0]
    deviation = F.conv2d(x.square(), scale.square(), padding=1)[0].sqrt()

    assert products == [(4000, 128, 2, 2)] * 2
    again: Any = LazyNormal(mean, scale)
    named = in_bfloat16(lambda: F.conv2d(x.expand(2, -1, -1, -1), weight=again, padding=1))
    assert not again.is_drawn and not torch.equal(named[0], named[1])
    standard_error = deviation / 4000**0.5
    rounding = ROUNDING * float(expected.abs().max())
    assert ((draws.mean(0) - expected).abs() < 5 * standard_error + rounding).all()
    assert ((draws.std(0) / deviation - 1).abs() < 0.06).all()
