"""Tracing: what is described is exactly what the module computes, and everything else is refused by name."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.models import mobilenet_v2, resnet18

from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.errors import NetworkError
from pyro_compress.models.tracing.sequences import with_affines_joined
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import walk
from pyro_compress.network.further_layers import (
    AdaptiveMaxPool2d,
    Concatenate,
    Multiply,
    Pad,
    Resize,
    Softmax,
    Standardize,
    View,
)
from pyro_compress.network.layers import (
    Activation,
    AdaptiveAvgPool2d,
    Add,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    FixedAffine,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    PReLU,
    Recall,
    Select,
    Unflatten,
    Upsample,
)
from pyro_compress.network.stored import StoredNetwork

IMAGE = (2, 8, 8)


class Forward(nn.Module):
    """A convolution `conv` (2 to 4 channels, 8 × 8 kept), then whatever the function does."""

    def __init__(self, rest: Callable[[Any, Any], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.rest = rest
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: torch.Tensor) -> Any:
        return self.rest(self, self.conv(x))


def _twice(x: Any, y: Any) -> Any:
    return torch.cat([x, y, torch.cat([x, y], 1).relu()], 1)


CONV = Conv2d("conv", 2, 4, (3, 3), (1, 1), (1, 1), (1, 1), 1, True)
SAME = Conv2d("same", 4, 4, (3, 3), (1, 1), (1, 1), (1, 1), 1, True)


@pytest.mark.parametrize(
    ("module", "layers"),
    [
        (nn.Conv2d(2, 4, (3, 2), 2, (1, 0), bias=False), [Conv2d("0", 2, 4, (3, 2), (2, 2), (1, 0), (1, 1), 1, False)]),
        (nn.Conv2d(2, 4, 3, groups=2, dilation=2), [Conv2d("0", 2, 4, (3, 3), (1, 1), (0, 0), (2, 2), 2, True)]),
        (nn.Conv2d(2, 4, (3, 5), padding="same"), [Conv2d("0", 2, 4, (3, 5), (1, 1), (1, 2), (1, 1), 1, True)]),
        (nn.Conv2d(2, 4, 4, padding="valid"), [Conv2d("0", 2, 4, (4, 4), (1, 1), (0, 0), (1, 1), 1, True)]),
        (nn.Conv2d(2, 4, 1, padding_mode="circular"), [Conv2d("0", 2, 4, (1, 1), (1, 1), (0, 0), (1, 1), 1, True)]),
        (
            nn.ConvTranspose2d(2, 4, (3, 2), 2, (1, 0), (0, 1), groups=2, bias=False, dilation=(1, 3)),
            [ConvTranspose2d("0", 2, 4, (3, 2), (2, 2), (1, 0), (0, 1), (1, 3), 2, False)],
        ),
        (nn.Upsample(scale_factor=2), [Upsample((2, 2))]),
        (nn.Upsample(size=(8, 24)), [Upsample((1, 3))]),
        (nn.Upsample(size=5), [Resize((5, 5), "nearest")]),
        (nn.Upsample(scale_factor=2.1, recompute_scale_factor=True), [Upsample((2, 2))]),
        (nn.Upsample(scale_factor=(1.5, 2)), [Resize((12, 16), "nearest")]),
        (nn.Upsample(size=(3, 12), mode="nearest-exact"), [Resize((3, 12), "nearest-exact")]),
        (nn.Upsample(scale_factor=2, mode="bilinear"), [Resize((16, 16), "bilinear")]),
        (nn.UpsamplingBilinear2d(size=(9, 3)), [Resize((9, 3), "aligned")]),
        (nn.ZeroPad2d((1, 2, 3, 0)), [Pad((3, 1), (0, 2))]),
        (nn.ReflectionPad2d(2), [Pad((2, 2), (2, 2), "reflect")]),
        (nn.CircularPad2d((0, 1, 0, 0)), [Pad((0, 0), (0, 1), "circular")]),
        (
            nn.Conv2d(2, 4, 3, padding=(1, 0), padding_mode="reflect"),
            [Pad((1, 0), (1, 0), "reflect"), Conv2d("0", 2, 4, (3, 3), (1, 1), (0, 0), (1, 1), 1, True)],
        ),
        pytest.param(
            nn.Conv2d(2, 4, (2, 3), padding="same"),
            [Pad((0, 1), (1, 1)), Conv2d("0", 2, 4, (2, 3), (1, 1), (0, 0), (1, 1), 1, True)],
            marks=pytest.mark.filterwarnings("ignore:Using padding='same'"),
        ),
        # of 8 places, windows from 0, 2, 4 and 6 on, the last beyond the end; without padding none from 9 on
        (nn.MaxPool2d(3, 2, ceil_mode=True), [Pad((0, 0), (1, 1), "replicate"), MaxPool2d((3, 3), (2, 2), (0, 0))]),
        (nn.MaxPool2d(1, 3, ceil_mode=True), [MaxPool2d((1, 1), (3, 3), (0, 0))]),
        (nn.MaxPool2d(2, 2, ceil_mode=True), [MaxPool2d((2, 2), (2, 2), (0, 0))]),
        (nn.AdaptiveMaxPool2d((None, 3)), [AdaptiveMaxPool2d((8, 3))]),
        (nn.GroupNorm(2, 2, eps=0.5), [Standardize(2, 0.5), BatchNorm("0", 2, 0.0, True, running=False)]),
        (nn.InstanceNorm2d(2), [Standardize(2, 1e-5)]),
        (nn.LogSoftmax(1), [Softmax(log=True)]),
        (nn.Softmax2d(), [Softmax()]),
        (nn.LayerNorm(IMAGE, elementwise_affine=False), [Standardize(1, 1e-5)]),
        (nn.UpsamplingNearest2d(scale_factor=(2, 1)), [Upsample((2, 1))]),
        (nn.BatchNorm2d(2, eps=0.25), [BatchNorm("0", 2, 0.25, True)]),
        (nn.BatchNorm2d(2, affine=False), [BatchNorm("0", 2, 1e-5, False)]),
        (nn.MaxPool2d((2, 3), padding=(0, 1)), [MaxPool2d((2, 3), (2, 3), (0, 1))]),
        (nn.MaxPool2d(3, stride=1), [MaxPool2d((3, 3), (1, 1), (0, 0))]),
        (nn.AvgPool2d(2, padding=1), [AvgPool2d((2, 2), (2, 2), (1, 1))]),
        (nn.AdaptiveAvgPool2d((None, 3)), [AdaptiveAvgPool2d((8, 3))]),
        (nn.Flatten(), [Flatten()]),
        (nn.Dropout2d(0.3), []),
        (nn.Identity(), []),
        (nn.ReLU(), [Activation("relu")]),
        (nn.ReLU6(), [Activation("relu6")]),
        (nn.LeakyReLU(0.25), [Activation("leaky_relu", 0.25)]),
        (nn.ELU(0.5), [Activation("elu", 0.5)]),
        (nn.Tanh(), [Activation("tanh")]),
        (nn.Sigmoid(), [Activation("sigmoid")]),
        (nn.Softplus(), [Activation("softplus")]),
        (nn.GELU(), [Activation("gelu")]),
        (nn.SiLU(), [Activation("silu")]),
        (nn.PReLU(), [PReLU("0", 1)]),
        (nn.PReLU(2, init=0.1), [PReLU("0", 2)]),
        (nn.Hardswish(), [Activation("hardswish")]),
        (nn.Hardsigmoid(), [Activation("hardsigmoid")]),
        (nn.Mish(), [Activation("mish")]),
        (nn.Softsign(), [Activation("softsign")]),
        (nn.GELU("tanh"), [Activation("gelu_tanh")]),
        (nn.Hardtanh(-2, 0.5), [Activation("at_least", -2.0), Activation("at_most", 0.5)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_modules(module: nn.Module, layers: list[Layer]) -> None:
    assert trace(nn.Sequential(module), IMAGE).layers == tuple(layers)


@pytest.mark.parametrize(
    ("rest", "layers"),
    [
        (lambda m, x: F.relu(x), [Activation("relu")]),
        (lambda m, x: torch.relu(x), [Activation("relu")]),
        (lambda m, x: x.relu(), [Activation("relu")]),
        (lambda m, x: F.relu6(x), [Activation("relu6")]),
        (lambda m, x: F.leaky_relu(x, 0.25), [Activation("leaky_relu", 0.25)]),
        (lambda m, x: F.elu(x, alpha=0.5), [Activation("elu", 0.5)]),
        (lambda m, x: torch.sigmoid(x).tanh(), [Activation("sigmoid"), Activation("tanh")]),
        (lambda m, x: -x.clamp(-1), [Activation("at_least", -1.0), Activation("times", -1.0)]),
        (lambda m, x: torch.clamp(x, max=6), [Activation("at_most", 6.0)]),
        (lambda m, x: F.gelu(F.silu(F.softplus(x))), [Activation("softplus"), Activation("silu"), Activation("gelu")]),
        (lambda m, x: F.max_pool2d(x, 2), [MaxPool2d((2, 2), (2, 2), (0, 0))]),
        (lambda m, x: F.max_pool2d(x, 3, stride=2, padding=1), [MaxPool2d((3, 3), (2, 2), (1, 1))]),
        (lambda m, x: F.avg_pool2d(x, x.size()[2:]), [AvgPool2d((8, 8), (8, 8), (0, 0))]),
        (lambda m, x: F.adaptive_avg_pool2d(x, 1), [AdaptiveAvgPool2d((1, 1))]),
        (lambda m, x: x.mean((-2, -1)), [AdaptiveAvgPool2d((1, 1)), Flatten()]),
        (lambda m, x: x.mean(2, keepdim=True), [AdaptiveAvgPool2d((1, 8))]),
        (lambda m, x: x.sum(3), [AdaptiveAvgPool2d((8, 1)), Activation("times", 8.0), View((1, 8)), View((8,))]),
        (lambda m, x: x.mean(2).flatten(1), [AdaptiveAvgPool2d((1, 8)), Flatten()]),
        (lambda m, x: x.amax((2, 3), keepdim=True), [AdaptiveMaxPool2d((1, 1))]),
        (lambda m, x: F.pad(x, (1, 2)), [Pad((0, 1), (0, 2))]),
        (lambda m, x: F.pad(x, (0, 0, 2, 1), "circular"), [Pad((2, 0), (1, 0), "circular")]),
        (lambda m, x: x.flatten(2), [View((1, 64)), View((64,))]),
        (lambda m, x: x.flatten(2).view(-1, 4, 16, 4), [View((1, 64)), View((16, 4))]),
        (lambda m, x: x * 2 - 1, [Activation("times", 2.0), Activation("plus", -1.0)]),
        (lambda m, x: 1 - x / 4, [Activation("times", 0.25), Activation("times", -1.0), Activation("plus", 1.0)]),
        (lambda m, x: x[:, 1:3], [Select((1, 2))]),
        (lambda m, x: x[:, ::2, :, :].relu(), [Select((0, 2)), Activation("relu")]),
        (lambda m, x: x[..., :], []),
        (lambda m, x: x.split((1, 3), 1)[-1], [Select((1, 2, 3))]),
        (lambda m, x: torch.chunk(x, 2, dim=1)[0].tanh(), [Select((0, 1)), Activation("tanh")]),
        (lambda m, x: torch.flatten(x, 1), [Flatten()]),
        (lambda m, x: x.flatten(1), [Flatten()]),
        (lambda m, x: x.view(x.size(0), -1), [Flatten()]),
        (lambda m, x: x.view(-1, 4 * 8 * 8), [Flatten()]),
        (lambda m, x: x.reshape(x.shape[0], -1), [Flatten()]),
        (lambda m, x: F.dropout(x, 0.5, m.training), []),
        (lambda m, x: F.interpolate(x, scale_factor=3.0), [Upsample((3, 3))]),
        (lambda m, x: F.interpolate(x, size=16, mode="nearest-exact"), [Upsample((2, 2))]),
        (lambda m, x: x.view(-1, 16, 4, 4), [Flatten(), Unflatten((4, 4))]),
        (lambda m, x: x.flatten(1).view(-1, 4, 16, 4), [Flatten(), Unflatten((16, 4))]),
        (lambda m, x: x.flatten(1).unflatten(1, (8, 4, 8)), [Flatten(), Unflatten((4, 8))]),
    ],
)
def test_functions(rest: Callable[[Any, Any], Any], layers: list[Layer]) -> None:
    assert trace(Forward(rest), IMAGE).layers == (CONV, *layers)


@pytest.mark.parametrize(
    "module",
    [nn.CELU(1.7), nn.SELU(), nn.LogSigmoid(), nn.Softplus(beta=2.5), nn.Hardtanh()],
    ids=lambda module: type(module).__name__,
)
def test_functions_that_are_chains_of_others(module: nn.Module) -> None:
    architecture = trace(nn.Sequential(module), (401,))
    assert all(isinstance(layer, Activation) for layer in architecture.layers)
    x = torch.linspace(-12, 12, 401)[None]
    found = to_torch(StoredNetwork(architecture, {}))(x)
    torch.testing.assert_close(found, module(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("rest", "layers"),
    [
        (lambda m, x: x + m.same(x), [SAME, Add(1)]),
        (lambda m, x: torch.add(m.same(x), x), [SAME, Add(1)]),
        (lambda m, x: m.same(x).add_(x), [SAME, Add(1)]),
        (lambda m, x: F.dropout(x, training=False) + m.same(x).relu(), [SAME, Activation("relu"), Add(1)]),
        (
            lambda m, x: m.same(x) + F.silu(x),
            [SAME, Recall(1), Activation("silu"), Add(2)],
        ),
        (
            lambda m, x: (x.relu() + x.tanh()) + m.same(x),
            [Activation("relu"), Recall(1), Activation("tanh"), Add(2), Recall(1), SAME, Add(5)],
        ),
        (lambda m, x: (x.tanh(), m.same(x) + x)[1], [SAME, Add(1)]),
        (lambda m, x: x + m.same(x).mean((2, 3), True), [SAME, AdaptiveAvgPool2d((1, 1)), Add(1)]),
        (lambda m, x: m.same(x).amax((2, 3), True) * x, [SAME, AdaptiveMaxPool2d((1, 1)), Multiply(1)]),
        (lambda m, x: x - m.same(x), [SAME, Activation("times", -1.0), Add(1)]),
        (lambda m, x: m.same(x) * x, [SAME, Multiply(1)]),
        (lambda m, x: m.same(x) ** 2, [SAME, Activation("times", 1.0), Multiply(2)]),
        (lambda m, x: torch.cat([x, m.same(x)], 1), [SAME, Concatenate(1)]),
        (lambda m, x: torch.cat((m.same(x), x), dim=-3), [SAME, Recall(1), Concatenate(2)]),
        # what is concatenated already is taken as it is
        (
            lambda m, x: _twice(x, m.same(x)),
            [SAME, Concatenate(1), Activation("relu"), Concatenate(3)],
        ),
    ],
)
def test_sums_refer_back(rest: Callable[[Any, Any], Any], layers: list[Layer]) -> None:
    assert trace(Forward(rest, same=nn.Conv2d(4, 4, 3, padding=1)), IMAGE).layers == (CONV, *layers)


def test_channels_over_positions_are_an_image_of_height_one_from_where_one_is_needed() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(3, 3, 5, 2, 2, bias=False), nn.ConvTranspose1d(3, 3, 4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.tanh()
            return self.second(self.first(x).unsqueeze(2).squeeze(2)) * x

    assert trace(Positions(), (3, 8)).layers == (
        Activation("tanh"),
        View((1, 8)),
        Conv2d("first", 3, 3, (1, 5), (1, 2), (0, 2), (1, 1), 1, False),
        ConvTranspose2d("second", 3, 3, (1, 4), (1, 2), (0, 1), (0, 0), (1, 1), 1, True),
        Multiply(2),
        View((8,)),
    )
    pools = nn.Sequential(
        nn.MaxPool1d(3, 2, 1), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 2)
    )
    assert trace(pools, (3, 8)).layers[:4] == (
        *(View((1, 8)), MaxPool2d((1, 3), (1, 2), (0, 1)), AvgPool2d((1, 2), (1, 2), (0, 0))),
        AdaptiveAvgPool2d((1, 1)),
    )
    # what needs no image is described as before
    assert trace(nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(6, 1)), (2, 3)).shapes()[:3] == ((2, 3), (2, 3), (6,))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        *(
            (nn.MaxPool2d(k, s, p, ceil_mode=True), (2, 7, 10))
            for k, s, p in ((3, 2, 1), (2, 3, 0), (3, 3, 1), (2, 2, 1))
        ),
        (nn.MaxPool1d(4, 3, 2, ceil_mode=True), (2, 11)),
        (nn.AvgPool1d(3, 2, 1), (2, 11)),
        (nn.AdaptiveMaxPool1d(3), (2, 11)),
        *((nn.Upsample(size=(5, 13), mode=mode), (2, 7, 10)) for mode in ("nearest", "nearest-exact", "bilinear")),
        (nn.Upsample(size=(5, 13), mode="bilinear", align_corners=True), (2, 7, 10)),
        (nn.Upsample(size=(1, 1), mode="bilinear", align_corners=True), (2, 7, 10)),
        (nn.Upsample(scale_factor=1.5, mode="linear"), (2, 8)),
        (nn.Upsample(scale_factor=3), (2, 4)),
        (nn.ReflectionPad1d((3, 1)), (2, 4)),
        (nn.ReplicationPad2d((1, 0, 2, 3)), (2, 4, 3)),
        (nn.GroupNorm(2, 4, affine=False), (4, 3, 5)),
        (nn.InstanceNorm1d(3), (3, 6)),
        (nn.RMSNorm((3, 2, 2), elementwise_affine=False), (3, 2, 2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_layers_compute_what_the_module_does(module: nn.Module, shape: tuple[int, ...]) -> None:
    architecture = trace(nn.Sequential(module), shape)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_torch(StoredNetwork(architecture, {}))(x), module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("make", "sums", "recalls"), [(resnet18, 8, 3), (mobilenet_v2, 10, 0)])
def test_torchvision_networks_compute_what_their_description_says(
    make: Callable[..., nn.Module], sums: int, recalls: int
) -> None:
    torch.manual_seed(0)
    network = make(weights=None, num_classes=7).eval()
    found = trace(network, (3, 64, 64))
    kinds = [type(layer) for layer in found.layers]
    assert (kinds.count(Add), kinds.count(Recall)) == (sums, recalls)
    x = torch.randn(2, 3, 64, 64)

    def after(layer: Layer, value: torch.Tensor, earlier: torch.Tensor | None) -> torch.Tensor:
        """The module of a layer, and of what has none its meaning."""
        match layer:
            case Add():
                assert earlier is not None
                return value + earlier
            case Recall():
                assert earlier is not None
                return earlier
            case Activation():
                return getattr(F, layer.kind)(value)
            case MaxPool2d():
                return F.max_pool2d(value, layer.kernel_size, layer.stride, layer.padding)
            case AdaptiveAvgPool2d():
                return F.adaptive_avg_pool2d(value, layer.output_size)
            case Flatten():
                return value.flatten(1)
        return network.get_submodule(layer.name)(value)  # type: ignore[union-attr]

    with torch.no_grad():
        *_, result = walk(found.layers, x, after)
        assert torch.equal(result, network(x))


def test_nested_modules_keep_their_dotted_names_and_flags() -> None:
    norm = nn.BatchNorm1d(5)
    tail = nn.Sequential(nn.Linear(5, 2))
    network = nn.Sequential(nn.Sequential(nn.Linear(6, 5), norm, nn.ReLU()), tail)
    norm.eval()
    assert trace(network, (6,)).layers == (
        Linear("0.0", 6, 5, True),
        BatchNorm("0.1", 5, 1e-5, True),
        Activation("relu"),
        Linear("1.0", 5, 2, True),
    )
    assert network.training and tail.training and not norm.training


def test_one_activation_module_may_be_used_twice() -> None:
    relu = nn.ReLU()
    network = nn.Sequential(nn.Linear(2, 3), relu, nn.Linear(3, 1), relu)
    assert [type(layer) for layer in trace(network, (2,)).layers] == [Linear, Activation, Linear, Activation]


def test_subclass_without_a_forward_of_its_own_counts_as_its_base() -> None:
    class Mine(nn.Linear):
        pass

    assert trace(nn.Sequential(Mine(2, 3)), (2,)).layers == (Linear("0", 2, 3, True),)


class Half(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) / 2


def _hooked() -> nn.Module:
    module = nn.Linear(2, 3)
    module.register_forward_hook(lambda module, arguments, output: output * 2)
    return module


@pytest.mark.parametrize(
    ("module", "shape", "sentence"),
    [
        (
            nn.LocalResponseNorm(2),
            IMAGE,
            "module '0' (LocalResponseNorm) is not supported: supported are Linear, Conv1",
        ),
        (nn.Conv3d(2, 4, 3), (2, 8, 8, 8), "module '0' (Conv3d) is not supported"),
        (nn.LayerNorm(IMAGE), IMAGE, "normalises (2, 8, 8) with a weight for each entry, supported is the last axis"),
        (nn.InstanceNorm2d(2, track_running_stats=True), IMAGE, "(InstanceNorm2d) keeps running statistics"),
        (nn.ConstantPad2d(1, 2.0), IMAGE, "(ConstantPad2d) pads (1, 1, 1, 1) with 2.0, supported are zeros"),
        (nn.ZeroPad2d((-1, 0, 0, 0)), IMAGE, "pads (-1, 0, 0, 0) with 0.0, supported are zeros"),
        (nn.Upsample(scale_factor=2, mode="bicubic"), IMAGE, "(Upsample) has mode 'bicubic', supported are nearest"),
        (nn.Upsample(scale_factor=1.3, mode="bilinear"), IMAGE, "makes 10 places of 8 by the factor 1.3: give size=10"),
        (nn.Upsample(scale_factor=4.1), (2, 4, 4), "makes 16 places of 4 by the factor 4.1: give size=16"),
        (nn.Upsample(scale_factor=2.3, mode="nearest-exact"), (2, 3, 3), "makes 6 places of 3 by the factor 2.3: give"),
        (nn.MaxPool3d(1), (2, 8, 8, 8), "module '0' (MaxPool3d) is not supported"),
        (nn.Hardshrink(), IMAGE, "module '0' (Hardshrink) is not supported"),
        (nn.LSTM(8, 8), (8, 8), "module '0' (LSTM) works on the batch axis"),
        (nn.BatchNorm2d(2, track_running_stats=False), IMAGE, "module '0' (BatchNorm2d) keeps no running statistics"),
        (nn.AvgPool2d(3, ceil_mode=True), IMAGE, "module '0' (AvgPool2d) has ceil_mode=True"),
        (nn.MaxPool2d(2, dilation=2), IMAGE, "module '0' (MaxPool2d) has dilation 2"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), IMAGE, "has count_include_pad=False with padding"),
        (nn.AvgPool2d(2, divisor_override=3), IMAGE, "has divisor_override=3"),
        (nn.Softplus(threshold=5), IMAGE, "has threshold=5, supported is 20"),
        (nn.LogSoftmax(0), (3,), "module '0' (LogSoftmax) works on the batch axis"),
        (nn.Linear(3, 3), (4,), "does not accept examples of shape (4,): module '0' (Linear)"),
        (
            nn.Linear(2, 3).half(),
            (2,),
            "parameter 0.weight is torch.float16, expected torch.float32: call network.float",
        ),
        (nn.LazyLinear(3), (2,), "parameter 0.weight is not initialised"),
        (nn.Linear(2, 3, device="meta"), (2,), "parameter 0.weight is not initialised"),
        (parametrizations.weight_norm(nn.Linear(2, 3)), (2,), "computes its weight (parametrization, weight norm"),
        (prune.random_unstructured(nn.Linear(2, 3), "weight", 0.5), (2,), "computes its weight (parametrization,"),
        (_hooked(), (2,), "module '0' (Linear) has forward hooks"),
        (Half(2, 3), (2,), "function 'linear' in the forward pass of '0' uses 0.weight, 0.bias directly"),
    ],
)
def test_refused_modules(module: nn.Module, shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(NetworkError, match=re.escape(sentence)):
        trace(nn.Sequential(module), shape)


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        (lambda m, x: x.exp2(), "function 'exp2' in the forward pass of Forward is not supported"),
        (lambda m, x: 1 / x, "function 'truediv' in the forward pass of Forward divides by a result or by 0"),
        (lambda m, x: x**5, "function 'pow' in the forward pass of Forward has the exponent 5, supported are 2"),
        (lambda m, x: torch.add(x, x.relu(), alpha=2), "takes something else than two results, or a result and a num"),
        (lambda m, x: torch.stack([m.conv2(x), x]), "works on the batch axis"),
        (lambda m, x: x[:, [2, 0]], "takes entries in another order, supported are slices from the first to the last"),
        (lambda m, x: x[1:], "works on the batch axis"),
        (lambda m, x: x @ x.transpose(2, 3), "the result of Forward is a product of two results"),
        (lambda m, x: F.relu(x, inplace=True) + x, "function 'add' in the forward pass of Forward uses an earlier"),
        (
            lambda m, x: F.log_softmax(x, 0),
            "function 'log_softmax' in the forward pass of Forward works on the batch axis",
        ),
        (lambda m, x: x * m.conv2.weight[0, 0, 0, 0], "multiplies (11, 4, 8, 8) with conv2.weight, of shape ()"),
        (lambda m, x: x * m.conv2.bias[1:2], "multiplies (11, 4, 8, 8) with conv2.bias, of shape (1,)"),
        (lambda m, x: x.mean(0), "works on the batch axis"),
        (lambda m, x: x.mean(), "is supported over axes behind the channels only"),
        (lambda m, x: x.view(-1, 8, 8), "the result of Forward works on the batch axis"),
        (lambda m, x: x.view(-1, 128), "the result of Forward works on the batch axis"),
        (lambda m, x: F.dropout(x), "drops units at inference too"),
        (lambda m, x: F.avg_pool2d(x, 3, ceil_mode=True), "has ceil_mode=True"),
        (lambda m, x: x if x.sum() > 0 else -x, "forward pass of Forward cannot be traced at test_tracing.py:"),
        (lambda m, x: (x, x), "must return the result of its last layer"),
        (lambda m, x: (F.relu(x, inplace=True), x)[1], "the result of Forward uses an earlier result after it was"),
        (lambda m, x: x, "parameter conv2.weight is not used by the forward pass"),
    ],
)
def test_refused_forward_passes(rest: Callable[[Any, Any], Any], sentence: str) -> None:
    with pytest.raises(NetworkError, match=re.escape(sentence)):
        trace(Forward(rest, conv2=nn.Conv2d(4, 4, 3, padding=1)), IMAGE)


class Pooled(nn.Module):
    """Averages over height and width, then whatever takes the axes of size one away."""

    def __init__(self, rest: Callable[[Any], Any]) -> None:
        super().__init__()
        self.conv, self.last, self.rest = nn.Conv2d(2, 5, 3), nn.Linear(5, 3), rest

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.rest(F.adaptive_avg_pool2d(self.conv(x), 1)))


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        (lambda x: x.squeeze(), "function 'squeeze' in the forward pass of Pooled returns shape (5,) for a batch of 1"),
        (lambda x: torch.squeeze(x), "returns shape (5,) for a batch of 1 and (11, 5) for one of 11"),
        (
            lambda x: x.squeeze(0).flatten(-3),
            "function 'squeeze' in the forward pass of Pooled returns shape (5, 1, 1)",
        ),
        (lambda x: x.flatten(1).squeeze(0), "function 'squeeze' in the forward pass of Pooled returns shape (5,)"),
        (
            lambda x: x.reshape(11, 5),
            "does not accept a batch of 1 with examples of shape (2, 8, 8): function 'reshape'",
        ),
        (lambda x: x.view(11, -1), "does not accept a batch of 1 with examples of shape (2, 8, 8): function 'view'"),
    ],
)
def test_what_loses_the_batch_axis_is_refused(rest: Callable[[Any], Any], sentence: str) -> None:
    with pytest.raises(NetworkError, match=re.escape(sentence)):
        trace(Pooled(rest), IMAGE)


@pytest.mark.parametrize(
    "rest",
    [
        lambda x: x.squeeze((2, 3)),
        lambda x: x.view(x.shape[0], -1),
        # it is put right behind
        lambda x: x.squeeze().view(-1, 5),
    ],
)
def test_axes_that_are_named_may_be_squeezed(rest: Callable[[Any], Any]) -> None:
    assert trace(Pooled(rest), IMAGE).shapes()[-1] == (3,)


class Standardised(nn.Conv2d):
    """Takes the class's forward pass, which calls this."""

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        return super()._conv_forward(input, weight / weight.std(), bias)


class Doubled(nn.Linear):
    def __call__(self, *arguments: Any) -> Any:
        return 2 * super().__call__(*arguments)


@pytest.mark.parametrize("module", [Standardised(2, 4, 3), Doubled(8, 4)])
def test_a_subclass_that_computes_otherwise_is_not_its_base(module: nn.Module) -> None:
    with pytest.raises(NetworkError):
        trace(nn.Sequential(module, nn.Flatten()), IMAGE)


def test_a_method_of_a_layer_that_was_replaced_on_the_instance_is_seen() -> None:
    conv = nn.Conv2d(2, 4, 3)
    conv._conv_forward = lambda x, weight, bias: F.conv2d(x, 2 * weight, bias)  # type: ignore[method-assign,assignment]
    with pytest.raises(NetworkError, match="supported"):
        trace(nn.Sequential(conv), IMAGE)


def test_torch_functions_that_were_replaced_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: x.frac())
    with pytest.raises(NetworkError, match=r"function 'frac' in the forward pass of .*is not supported"):
        trace(Forward(lambda m, x: F.relu(x)), IMAGE)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: x @ self.weight.T)
    with pytest.raises(NetworkError):
        trace(nn.Sequential(nn.Linear(4, 3)), (4,))


def test_tracing_does_not_depend_on_the_default_type() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(128, 3))
    torch.set_default_dtype(torch.float64)
    try:
        assert trace(network, IMAGE).layers == (Flatten(), Linear("1", 128, 3, True))
    finally:
        torch.set_default_dtype(torch.float32)


def test_modules_that_are_called_again_are_equal_layers() -> None:
    network = Forward(lambda m, x: m.same(torch.relu(m.same(x))), same=nn.Conv2d(4, 4, 3, padding=1))
    found = trace(network, IMAGE)
    assert found.layers == (CONV, SAME, Activation("relu"), SAME)
    assert found.reused == {"same"} and found.places == {"conv": [0], "same": [1, 3]}


def test_modules_that_are_called_again_as_other_layers_are_refused() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.head = nn.Parameter(torch.randn(5, 3)), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.own
            return self.head((x[:, :2] + self.own[:2]).mean(1))

    with pytest.raises(
        NetworkError, match=r"'own' is used again as another layer: PositionBias\(name=own, positions=5"
    ):
        trace(Positions(), (5, 3))


class Counting(nn.Module):
    """Scales by a buffer, which training may move."""

    scale: torch.Tensor

    def __init__(self, moves: bool) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([2.0, 3.0, 0.5]))
        self.layer, self.moves = nn.Linear(3, 2), moves

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.moves:
            self.scale.mul_(0.5)
        return self.layer((x - self.scale) / self.scale + self.scale)


def test_numbers_of_buffers_are_one_affine_layer() -> None:
    (affine, _) = trace(Counting(moves=False), (3,)).layers
    assert isinstance(affine, FixedAffine)
    np.testing.assert_allclose(affine.scale, [0.5, 1 / 3, 2.0], rtol=1e-6)
    np.testing.assert_allclose(affine.shift, [1.0, 2.0, -0.5], rtol=1e-6)


def test_numbers_of_buffers_that_training_moves_are_refused() -> None:
    network = Counting(moves=True)
    with pytest.raises(NetworkError, match="the forward pass moves buffer scale in training, and a file has it as a"):
        trace(network, (3,))
    assert network.scale.tolist() == [2.0, 3.0, 0.5]


def test_affine_layers_are_joined_where_nothing_else_reads_between() -> None:
    a, b = FixedAffine("a", (2.0,), (1.0,)), FixedAffine("b", (3.0,), (-1.0,))
    one = FixedAffine("a", (6.0,), (2.0,))
    assert with_affines_joined([a, b, Activation("relu"), Add(2)]) == (one, Activation("relu"), Add(1))
    assert with_affines_joined([a, b, Activation("relu"), Add(1)]) == (a, b, Activation("relu"), Add(1))
    assert with_affines_joined([a, b, b]) == (FixedAffine("a", (18.0,), (5.0,)),)


def test_a_weight_of_several_modules_has_the_name_that_the_network_lists_it_by() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    network = nn.Sequential(first, nn.ReLU(), second)
    found = trace(network, (3,))
    assert found.aliases == (("2.weight", "0.weight"),) and found.tied == {"0.weight"}
    assert found.parameter("2.weight") == "0.weight" and found.parameter("2.bias") == "2.bias"


def test_weights_that_share_memory_are_refused_by_both_names() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = nn.Parameter(first.weight.data)
    with pytest.raises(NetworkError, match=r"0.weight and 2.weight lie at the same place in memory"):
        trace(nn.Sequential(first, nn.ReLU(), second), (3,))


def test_numbers_that_are_not_finite_are_refused() -> None:
    network = nn.Sequential(nn.Linear(3, 3))
    network.state_dict()["0.bias"][1] = float("inf")
    with pytest.raises(NetworkError, match=r"parameter 0.bias holds NaN or infinite values"):
        trace(network, (3,))


def test_two_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(NetworkError, match="forward takes the arguments x, mask, expected one tensor"):
        trace(Two(), (3,))
