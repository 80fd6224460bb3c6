"""Forward passes that were once described as something else, or refused with a traceback: right now, or a sentence."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.errors import NetworkError, UnstorableError
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.layers import Activation
from pyro_compress.pipeline import as_layers
from pyro_compress.pipeline.as_layers import as_it_is


class Mixed(nn.Module):
    """A parameter as it is, and what the forward pass computes from it and another one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)
        self.share, self.sum = nn.Parameter(torch.full((5,), 0.5)), nn.Parameter(torch.ones(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.share * self.left(x) + (self.sum - self.share) * self.right(x))
        return found


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(x) / self.last.weight.norm()
        return found


class NormedByAnotherName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.first(x)) / self.last.weight.norm()
        return found


class Repeated(nn.Module):
    """A class token that is repeated for every example, and a share by magnitude."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.share = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.tensor(-0.5))
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.token.repeat(x.shape[0], 1, 1), x], 1)
        found: torch.Tensor = self.last(x / self.share.abs()).flatten(1)
        return found


def test_a_parameter_may_be_repeated() -> None:
    x = torch.randn(6, 5, 4)
    network = Repeated().eval()
    torch.testing.assert_close(to_torch(as_it_is(network, (5, 4)))(x), network(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("network", "named"),
    [(Mixed(), "sum, share"), (Normed(), "last.weight"), (NormedByAnotherName(), "(last|first).weight")],
)
def test_what_is_computed_from_a_parameter_is_refused(network: nn.Module, named: str) -> None:
    with pytest.raises(UnstorableError, match=f"takes what the forward pass computes from {named}: supported"):
        trace(network, (4,))


class Shaped(nn.Module):
    """A forward pass over some layers."""

    def __init__(self, forward: Any, *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self._own = nn.ModuleList(layers), forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._own(self.layers, x)
        return found


def _stacked(m: Any, x: torch.Tensor) -> Any:
    return m[1](m[0](torch.stack([x, x.tanh()], 1)).mean((2, 3)).relu())


def _joined(m: Any, x: torch.Tensor) -> Any:
    return m[2](m[1](torch.cat([x, m[0](x)], 1)).mean((2, 3)).relu())


def _by_numpys_names(m: Any, x: Any) -> Any:
    x = m[0](x).contiguous(memory_format=torch.channels_last).softmax(axis=1)
    cat: Any = torch.cat
    means = [x.mean(axis=(2, 3)), x.mean(dim=(2, 3), keepdims=True, dtype=torch.float32).flatten(1)]
    return m[1](cat(means, axis=1))


def _normed_and_added(m: Any, x: torch.Tensor) -> Any:
    x = m[0](x).permute(0, 2, 3, 1)
    return m[2]((x + m[1](torch.nn.functional.layer_norm(x, (8,)))).mean((1, 2)))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        # places of a stack and of a concatenation that are no ordinary image's
        (Shaped(_stacked, nn.Conv2d(2, 3, 3, padding=1), nn.Linear(3, 2)), (4, 6)),
        (Shaped(_joined, nn.Linear(6, 6), nn.Conv2d(4, 3, 3, padding=1), nn.Linear(3, 2)), (2, 4, 6)),
        # of two axes with as many entries the one that is named
        (Shaped(lambda m, x: m[0](x.unbind(2)[0]), nn.Linear(3, 2)), (3, 3)),
        (Shaped(lambda m, x: m[0](x.unbind(dim=-2)[1]), nn.Linear(7, 2)), (7, 7)),
        # an extent that might be the batch's
        (Shaped(lambda m, x: sum(m[0](x[:, i]) for i in range(x.shape[1])), nn.Linear(11, 2)), (11, 11)),
        (Shaped(_by_numpys_names, nn.Conv2d(2, 3, 3), nn.Linear(6, 3)), (2, 8, 8)),
        # what was refused, by other layers
        (Shaped(lambda m, x: m[0](torch.abs(x - 1) * abs(x).abs()), nn.Linear(4, 2)), (4,)),
        (Shaped(lambda m, x: m[0](x[:, :, 1::2, :-1:3]).flatten(1), nn.Conv2d(2, 3, 1)), (2, 6, 8)),
        (Shaped(lambda m, x: m[0](x[..., 2:, ::2]).flatten(1), nn.Conv2d(2, 3, 1)), (2, 6, 8)),
        (Shaped(lambda m, x: m[0](torch.nn.functional.pad(x, (2, 5))), nn.Linear(11, 2)), (4,)),
        (Shaped(lambda m, x: m[0](torch.nn.functional.pad(x, (0, 0, 1, 7))), nn.Conv1d(11, 2, 2)), (3, 5)),
        (Shaped(lambda m, x: m[0](x) * x[:, :1].expand(-1, 3, -1, -1), nn.Conv2d(2, 3, 1)), (2, 6, 8)),
        (Shaped(lambda m, x: (m[0](x) if x.size() == m[0](x).size() else x).sum(-1), nn.Conv2d(2, 2, 1)), (2, 6, 8)),
        # an axis of extent 1
        (Shaped(_normed_and_added, nn.Conv2d(1, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 2)), (1, 4, 16)),
    ],
)
def test_what_was_taken_for_something_else_is_described_as_it_is(network: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    decoded = to_torch(as_it_is(network, shape))
    x = torch.randn(5, *shape)
    torch.testing.assert_close(decoded(x), network.eval()(x), atol=1e-5, rtol=1e-5)


def _cast(m: Any, x: torch.Tensor) -> Any:
    x = m[0](x.clone()).to(torch.float32)
    return torch.clone(x.relu().type(torch.float32)).to("cpu").to(x.dtype)


def _clamped(m: Any, x: torch.Tensor) -> Any:
    return torch.clamp_max(m[0](x).clamp_min(-0.1), max=0.3)


def _by_name(m: Any, x: torch.Tensor) -> Any:
    x = torch.nn.functional.max_pool2d(input=m[0](input=x), kernel_size=2)
    return m[1](input=torch.flatten(input=torch.relu(input=x), start_dim=1))


@pytest.mark.parametrize(
    ("network", "shape", "kinds"),
    [
        (Shaped(_cast, nn.Linear(4, 3)), (4,), ["Linear", "Activation"]),
        (Shaped(_clamped, nn.Linear(4, 3)), (4,), ["Linear", "Activation", "Activation"]),
        (
            Shaped(_by_name, nn.Conv2d(1, 2, 3), nn.Linear(8, 3)),
            (1, 6, 6),
            ["Conv2d", "MaxPool2d", "Activation", "Flatten", "Linear"],
        ),
        (nn.Linear(4, 3), (4,), ["Linear"]),
        (nn.Linear(4, 3), (5, 4), ["Rearrange", "Conv2d", "Rearrange"]),
        (nn.Conv2d(2, 3, 3, bias=False), (2, 5, 6), ["Conv2d"]),
        (nn.Conv1d(2, 3, 3), (2, 5), ["View", "Conv2d", "View"]),
    ],
)
def test_the_same_said_otherwise_is_described(network: nn.Module, shape: tuple[int, ...], kinds: list[str]) -> None:
    torch.manual_seed(0)
    assert [type(layer).__name__ for layer in as_layers.checked(network, shape).layers] == kinds
    x = torch.randn(5, *shape)
    torch.testing.assert_close(to_torch(as_it_is(network, shape))(x), network.eval()(x), atol=1e-5, rtol=1e-5)


def test_a_type_that_is_not_float32_is_refused() -> None:
    network = Shaped(lambda m, x: m[0](x).to(torch.float16).to(torch.float32), nn.Linear(4, 3))
    with pytest.raises(UnstorableError, match="function 'to' in the forward pass of Shaped is not supported"):
        trace(network, (4,))


class Named1(nn.Module):
    """A layer that has the name which numbers of a buffer once had."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fixed1 = nn.Linear(4, 3)
        self.register_buffer("mean", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.fixed1(x - self.mean)
        return found


def test_names_of_modules_stay_theirs() -> None:
    network, x = Named1(), torch.randn(3, 4)
    torch.testing.assert_close(to_torch(as_it_is(network, (4,)))(x), network(x), atol=1e-5, rtol=1e-5)


class Starred(nn.Linear):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs[0])


class HalfLinear(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) / 2


class HalfNorm(nn.LayerNorm):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) / 2


class TwiceAttention(nn.MultiheadAttention):
    def forward(self, *given: Any, **named: Any) -> Any:
        found, weights = super().forward(*given, **named)
        return 2 * found, weights


def _encoder(**parts: nn.Module) -> nn.Module:
    """An encoder's layer, of which some modules are others."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    for name, part in parts.items():
        setattr(layer, name, part)
    return Shaped(lambda m, x: m[0](x), layer)


@pytest.mark.filterwarnings("ignore:input's size at dim=0 does not match num_features")
@pytest.mark.parametrize(
    ("network", "shape", "said"),
    [
        (
            Shaped(lambda m, x: m[0](x, output_size=(8, 8)), nn.ConvTranspose2d(2, 3, 3, stride=2)),
            (2, 3, 3),
            "is called with more than its input",
        ),
        (nn.Sequential(nn.Linear(4, 5), nn.InstanceNorm1d(5)), (4,), "channels of one example without batch"),
        (Starred(4, 2), (4,), r"forward takes \*inputs: name the one tensor"),
        (
            Shaped(lambda m, x: m[0](x[:, [0, 2], [0, 1]]), nn.Linear(2, 2)),
            (3, 4),
            "whose lists go together",
        ),
        (
            Shaped(lambda m, x: m[0](x)[1][0], nn.GRU(4, 3, 2, batch_first=True)),
            (5, 4),
            "0.bias_hh_l1 counts for nothing",
        ),
        (_encoder(linear1=HalfLinear(8, 16)), (5, 8), "holds a HalfLinear as layers.0.linear1, supported is Linear"),
        (
            _encoder(self_attn=TwiceAttention(8, 2, batch_first=True)),
            (5, 8),
            "holds a TwiceAttention as layers.0.self_",
        ),
        (_encoder(norm2=HalfNorm(8)), (5, 8), "holds a HalfNorm as layers.0.norm2, supported is LayerNorm"),
        (Shaped(lambda m, x: m[0](x).mean(1, True, bad=3), nn.Linear(4, 2)), (4,), "unexpected keyword argument"),
    ],
)
def test_calls_that_no_layer_describes_are_refused(network: nn.Module, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(NetworkError, match=said):
        trace(network, shape)


def test_masks_of_attention_may_hold_minus_infinity_and_nothing_may_hold_nan() -> None:
    class Causal(nn.Module):
        def __init__(self, mask: torch.Tensor) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.register_buffer("mask", mask)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.layer(x, src_mask=self.mask)
            return found

    mask, x = nn.Transformer.generate_square_subsequent_mask(5), torch.randn(3, 5, 8)
    network = Causal(mask).eval()
    torch.testing.assert_close(to_torch(as_it_is(network, (5, 8)))(x), network(x), atol=1e-5, rtol=1e-4)
    with pytest.raises(NetworkError, match="buffer mask holds NaN"):
        trace(Causal(mask * math.nan), (5, 8))


def test_a_description_is_held_against_the_network_with_other_numbers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a mistaken rule makes of a parameter may be right at the numbers that it has: zeros hide what they scale."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)
            self.scale = nn.Parameter(torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.last(self.scale * self.first(x).tanh())
            return found

    right = trace(Scaled(), (4,))
    assert as_layers.checked(Scaled(), (4,)) == right
    wrong = tuple(layer for layer in right.layers if layer != Activation("tanh"))
    monkeypatch.setattr(as_layers, "trace", lambda network, shape: replace(right, layers=wrong))
    with pytest.raises(NetworkError, match=r"compute something else: outputs of up to .* differ by"):
        as_layers.checked(Scaled(), (4,))


def _rms(m: Any, x: torch.Tensor) -> Any:
    return m[0](x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-2))


def _layer_norm(m: Any, x: torch.Tensor) -> Any:
    return m[0]((x - x.mean(-1, True)) / (1e-2 + torch.var(x, -1, unbiased=False, keepdim=True)) ** 0.5)


def _instance_norm(m: Any, x: torch.Tensor) -> Any:
    x = m[0](x)
    deviation = torch.pow(x.var((2, 3), correction=0, keepdim=True) + 1e-2, -0.5)
    return ((x - x.mean((2, 3), keepdim=True)) * deviation).flatten(1)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Shaped(_rms, nn.Linear(4, 3)), (5, 4)),
        (Shaped(_rms, nn.Linear(4, 3)), (4,)),
        (Shaped(_instance_norm, nn.Conv2d(2, 3, 1)), (2, 4, 5)),
        (Shaped(_layer_norm, nn.Linear(4, 3)), (4,)),
        (Shaped(_layer_norm, nn.Linear(4, 3)), (2, 5, 4)),
        (Shaped(lambda m, x: torch.nn.functional.normalize(m[0](x)), nn.Conv2d(2, 2, 1)), (2, 4, 3)),
        (Shaped(lambda m, x: m[0](torch.nn.functional.normalize(x, dim=1)), nn.Linear(4, 3)), (5, 4)),
    ],
)
def test_norms_that_are_written_out(network: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, *shape)
    torch.testing.assert_close(to_torch(as_it_is(network, shape))(x), network.eval()(x), atol=1e-5, rtol=1e-5)


def _mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(-1, keepdim=True)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m[0](x / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5)),  # not less its mean
        lambda m, x: m[0]((x - _mean(x)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5)),  # by n - 1
        lambda m, x: m[0]((x - _mean(x)) / torch.sqrt(m[0](x).var(-1, unbiased=False, keepdim=True) + 1e-5)),
        lambda m, x: m[0](m[0](x) * torch.rsqrt(_mean(x.pow(2)) + 1e-5)),  # of something else
        lambda m, x: m[0](x / torch.rsqrt(_mean(x.pow(2)) + 1e-5)),
        lambda m, x: m[0](x * torch.sqrt(_mean(x.pow(2)) + 1e-5)),
        lambda m, x: m[0](torch.sqrt(_mean(x.pow(2)) + 1e-5) / x),
        lambda m, x: m[0](x) + torch.sqrt(_mean(x.pow(2)) + 1e-5),
        lambda m, x: torch.sqrt(_mean(m[0](x).pow(2)) + 1e-5),
        lambda m, x: m[0](x * torch.rsqrt(_mean(x.pow(3)) + 9.0)),
        lambda m, x: m[0](torch.nn.functional.normalize(x, p=1, dim=-1)),
    ],
)
def test_other_deviations_are_refused(forward: Any) -> None:
    with pytest.raises(UnstorableError, match=r"takes a deviation, which is supported in|is not supported|has p=1"):
        trace(Shaped(forward, nn.Linear(4, 4)), (4,))
