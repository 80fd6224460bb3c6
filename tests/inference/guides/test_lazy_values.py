"""Lazy values against ordinary weight samples: mean, variance, gradient, and what is refused.

Monte Carlo comparisons allow 5 standard errors, about 6e-7 false failures per number; seeds are fixed.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_compress.errors import InferenceError
from pyro_compress.inference.guides.lazy_values import Lazy, LazyLogNormal, LazyNormal, LazyScaled
from pyro_compress.models.parameters import scale_groups

DRAWS = 5000
SIGMAS = 5.0

Layer = Callable[[torch.Tensor, Any, Any], torch.Tensor]


def spread(*shape: int) -> torch.Tensor:
    return 0.2 + 0.5 * torch.rand(*shape)


class Parts:
    """Distributions of w̃, z and b; lazily, or as one ordinary sample."""

    def __init__(self, shape: tuple[int, ...], axis: int, scale: str | None, bias: str | None) -> None:
        self.weight, self.weight_scale = torch.randn(shape), spread(*shape)
        self.scale = scale
        self.axis = axis
        self.z, self.z_scale = 0.5 + torch.rand(shape[axis]), spread(shape[axis])
        self.bias = bias
        self.b, self.b_scale = torch.randn(4), spread(4)

    def tensors(self) -> list[torch.Tensor]:
        found = [self.weight, self.weight_scale]
        found += [self.z, self.z_scale] if self.scale else []
        return found + ([self.b, self.b_scale] if self.bias == "lazy" else [])

    def lazily(self) -> tuple[Any, Any]:
        weight: Any = LazyNormal(self.weight, self.weight_scale)
        if self.scale is not None:
            z = LazyNormal(self.z, self.z_scale)
            weight = scale_groups(weight, z if self.scale == "normal" else z.exp(), self.axis)
            assert isinstance(weight, LazyScaled)
        return weight, {None: None, "plain": self.b, "lazy": LazyNormal(self.b, self.b_scale)}[self.bias]

    def sampled(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight = self.weight + self.weight_scale * torch.randn_like(self.weight)
        if self.scale is not None:
            z = self.z + self.z_scale * torch.randn_like(self.z)
            weight = scale_groups(weight, z if self.scale == "normal" else z.exp(), self.axis)
        noisy = self.b + self.b_scale * torch.randn_like(self.b)
        return weight, {None: None, "plain": self.b, "lazy": noisy}[self.bias]


LINEAR = pytest.param(lambda x, w, b: F.linear(x, w, b), (4, 3), 1, (2, 3), id="linear")
SEQUENCE = pytest.param(lambda x, w, b: F.linear(x, w, b), (4, 3), 1, (2, 5, 3), id="linear-over-positions")
CONV1D = pytest.param(lambda x, w, b: F.conv1d(x, w, b, stride=2), (4, 2, 3), 0, (2, 2, 7), id="conv1d")
CONV2D = pytest.param(
    lambda x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 0)), (4, 2, 3, 2), 0, (2, 2, 5, 4), id="conv2d"
)
GROUPED = pytest.param(lambda x, w, b: F.conv2d(x, w, b, groups=2), (4, 2, 2, 2), 0, (2, 4, 3, 3), id="conv2d-groups")
TRANSPOSED = pytest.param(
    lambda x, w, b: F.conv_transpose2d(x, w, b, stride=(2, 1), padding=(1, 0), output_padding=(1, 0), dilation=(1, 2)),
    (2, 4, 3, 2),
    1,
    (2, 2, 2, 3),
    id="transposed",
)
DEPTHWISE = pytest.param(
    lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, groups=4),
    (4, 1, 3, 3),
    0,
    (2, 4, 2, 2),
    id="transposed-groups",
)
LAYERS = pytest.mark.parametrize(
    ("layer", "shape", "axis", "input_shape"), [LINEAR, SEQUENCE, CONV1D, CONV2D, GROUPED, TRANSPOSED, DEPTHWISE]
)
SCALES = pytest.mark.parametrize("scale", [None, "normal", "lognormal"], ids=["no-z", "normal-z", "lognormal-z"])
BIASES = pytest.mark.parametrize("bias", [None, "plain", "lazy"], ids=["no-bias", "plain-bias", "lazy-bias"])


def repeated(x: torch.Tensor, times: int) -> torch.Tensor:
    return x.repeat(times, *([1] * (x.ndim - 1)))


@LAYERS
@SCALES
@BIASES
def test_outputs_have_the_moments_of_weight_sampling(
    layer: Layer, shape: tuple[int, ...], axis: int, input_shape: tuple[int, ...], scale: str | None, bias: str | None
) -> None:
    torch.manual_seed(0)
    parts, x = Parts(shape, axis, scale, bias), torch.randn(input_shape)
    # examples are independent, so one call on copies of x gives all draws; a lazy bias beside z is one sample per call
    calls = 100 if scale and bias == "lazy" else 1
    local = torch.cat([layer(repeated(x, DRAWS // calls), *parts.lazily()) for _ in range(calls)])
    local = local.reshape(DRAWS, *input_shape[:1], *local.shape[1:])
    plain = torch.vmap(lambda _: layer(x, *parts.sampled()), randomness="different")(torch.arange(DRAWS))
    independent = DRAWS if calls == 1 else calls
    assert_same_moments(local, plain, independent)


def assert_same_moments(local: torch.Tensor, plain: torch.Tensor, independent: int) -> None:
    error = (local.var(0) / independent + plain.var(0) / DRAWS).sqrt()
    assert bool(((local.mean(0) - plain.mean(0)).abs() < SIGMAS * error + 1e-6).all())
    squares = [(part - part.mean(0)).square() for part in (local, plain)]
    error = (squares[0].var(0) / independent + squares[1].var(0) / DRAWS).sqrt()
    assert bool(((local.var(0) - plain.var(0)).abs() < SIGMAS * error + 1e-6).all())


@pytest.mark.parametrize(("layer", "shape", "axis", "input_shape"), [LINEAR, CONV2D])
@SCALES
def test_value_and_gradient_of_the_expected_data_term_agree(
    layer: Layer, shape: tuple[int, ...], axis: int, input_shape: tuple[int, ...], scale: str | None
) -> None:
    """E log p(y | output) with a nonlinear p of every output alone, by both estimators."""
    torch.manual_seed(1)
    parts, x = Parts(shape, axis, scale, "lazy" if scale is None else "plain"), 0.5 * torch.randn(input_shape)
    for tensor in parts.tensors():
        tensor.requires_grad_()
    # Bernoulli targets at the outputs: curved, so that the variance counts as well as the mean
    found: list[list[torch.Tensor]] = [[], []]
    for _ in range(600):
        for kind, draw in enumerate((parts.lazily, parts.sampled)):
            value = -F.softplus(2 * layer(x, *draw())).sum()
            gradients = torch.autograd.grad(value, parts.tensors())
            found[kind].append(torch.cat([value.detach().reshape(1), *(g.flatten() for g in gradients)]))
    local, plain = (torch.stack(rows) for rows in found)
    error = ((local.var(0) + plain.var(0)) / 600).sqrt()
    assert bool(((local.mean(0) - plain.mean(0)).abs() < SIGMAS * error).all())
    # and it is worth it: less variance in all
    assert float(local.var(0).sum()) < float(plain.var(0).sum())


@pytest.mark.parametrize(("layer", "shape", "axis", "input_shape"), [LINEAR, CONV2D])
@SCALES
def test_noise_is_independent_between_examples(
    layer: Layer, shape: tuple[int, ...], axis: int, input_shape: tuple[int, ...], scale: str | None
) -> None:
    torch.manual_seed(2)
    parts = Parts(shape, axis, scale, None)
    x = repeated(torch.randn(1, *input_shape[1:]), 2)
    outputs = torch.stack([layer(x, *parts.lazily()).flatten(1) for _ in range(1000)])
    centred = outputs - outputs.mean(0)
    correlation = (centred[:, 0] * centred[:, 1]).mean(0) / outputs[:, 0].std(0) / outputs[:, 1].std(0)
    # heavy tails of z·w̃ widen the correlation's error beyond 1/√n
    assert float(correlation.abs().max()) < 2 * SIGMAS / math.sqrt(1000)
    plain = torch.stack([layer(x, *parts.sampled()).flatten(1) for _ in range(10)])
    torch.testing.assert_close(plain[:, 0], plain[:, 1])


def normal(*shape: int) -> Any:
    """A lazy value; `Any`, since it stands where type checkers expect tensors."""
    return LazyNormal(torch.randn(*shape), spread(*shape))


def test_products_of_log_normals_stay_one_log_normal() -> None:
    left, right = normal(3), normal(3)
    product = left.exp() * right.exp() * torch.tensor([1.0, 2.0, 3.0])
    assert isinstance(product, LazyLogNormal)
    torch.testing.assert_close(product.logarithm.loc, left.loc + right.loc + torch.tensor([1.0, 2.0, 3.0]).log())
    torch.testing.assert_close(product.logarithm.scale, (left.scale**2 + right.scale**2).sqrt())
    root = product.sqrt()
    torch.testing.assert_close(root.logarithm.loc, product.logarithm.loc / 2)
    torch.testing.assert_close(root.logarithm.scale, product.logarithm.scale / 2)
    # the same numbers, once they are drawn
    assert torch.equal(
        product.materialise(), (left.materialise() + right.materialise() + torch.tensor([1.0, 2.0, 3.0]).log()).exp()
    )
    torch.testing.assert_close(root.materialise(), product.materialise().sqrt())


def test_sums_with_numbers_scalars_and_each_other_stay_normal() -> None:
    left, right, offset = normal(3), normal(3), torch.tensor(2.0)
    total = ((offset + left) + right) * -0.5 + 1
    assert isinstance(total, LazyNormal)
    torch.testing.assert_close(total.loc, (2.0 + left.loc + right.loc) * -0.5 + 1)
    torch.testing.assert_close(total.scale, 0.5 * (left.scale**2 + right.scale**2).sqrt())
    torch.testing.assert_close(total.materialise(), (2.0 + left.materialise() + right.materialise()) * -0.5 + 1)


@pytest.mark.parametrize(
    "operation",
    [
        lambda w: w - 1,
        lambda w: 1 - w,
        lambda w: w / 2,
        lambda w: -w,
        lambda w: w**2,
        lambda w: w[0],
        lambda w: w @ torch.ones(3),
        lambda w: torch.ones(2) @ w,
        lambda w: w * torch.tensor([1.0, -1.0, 2.0]),
        lambda w: torch.ones(3) * w,
        lambda w: w + torch.ones(4, 2, 3),
        lambda w: torch.add(w, w, alpha=2),
        lambda w: torch.add(torch.ones(2, 3), w, alpha=2),
        lambda w: torch.cat([w, w]),
        lambda w: w.norm(dim=1),
        lambda w: w.t(),
        lambda w: F.softmax(w, dim=1),
        lambda w: F.conv_transpose1d(torch.ones(1, 2, 4), w.reshape(2, 1, 3)),
        lambda w: w > 0,
    ],
)
def test_anything_else_sees_one_sample(operation: Callable[[Any], Any]) -> None:
    torch.manual_seed(3)
    lazy = normal(2, 3)
    result = operation(lazy)
    assert not isinstance(result, Lazy)
    assert torch.equal(torch.as_tensor(result), operation(lazy.materialise()))
    assert torch.equal(torch.as_tensor(operation(lazy)), result), "a second use must see the same sample"


def test_a_value_that_was_drawn_stays_drawn_in_layers() -> None:
    weight, x = normal(4, 3), torch.randn(5, 3)
    sample = (weight - 0).clone()
    assert torch.equal(F.linear(x, weight), F.linear(x, sample))
    z, unscaled = normal(3), normal(4, 3)
    scaled = scale_groups(unscaled, z, 1)
    fixed = z.materialise()
    # z is fixed, w̃ is still open: conditionally on z the output has mean (x z) μ
    torch.manual_seed(4)
    outputs = F.linear(repeated(x[:1], 20000), scaled)
    expected = F.linear(x[:1] * fixed, unscaled.loc)[0]
    error = outputs.std(0) / math.sqrt(20000)
    assert bool(((outputs.mean(0) - expected).abs() < SIGMAS * error).all())


def test_keywords_reach_the_layers() -> None:
    weight, x = normal(4, 3), torch.randn(5, 3)
    assert F.linear(input=x, weight=weight, bias=None).shape == (5, 4)
    assert F.conv1d(input=torch.randn(2, 3, 6), weight=normal(4, 3, 2), stride=2).shape == (2, 4, 3)


def test_asking_for_shape_draws_nothing() -> None:
    weight = normal(4, 3)
    scaled = scale_groups(weight, normal(3).exp(), 1)
    for value in (weight, scaled):
        assert value.shape == (4, 3) and value.ndim == 2 and value.size(1) == 3 and value.dtype == torch.float32
    assert not weight.is_drawn


@pytest.mark.parametrize("power", [lambda z: z * z, lambda z: z * z.sqrt()], ids=["square", "square-root"])
def test_product_with_itself_is_refused(power: Callable[[LazyLogNormal], Any]) -> None:
    with pytest.raises(InferenceError, match=r"a product of a random value with itself.*SVI\(estimator='shared'\)"):
        power(normal(3).exp())


def test_one_weight_in_two_layers_is_refused() -> None:
    weight, x = normal(3, 3), torch.randn(2, 3)
    hidden = F.linear(x, weight)
    with pytest.raises(InferenceError, match=r"one random value at two places.*SVI\(estimator='shared'\)"):
        F.linear(hidden, weight)
    with pytest.raises(InferenceError, match="one random value at two places"):
        weight.norm()
    bias = normal(3)
    hidden = F.linear(x, normal(3, 3), bias)
    with pytest.raises(InferenceError, match="one random value at two places"):
        F.linear(hidden, normal(3, 3), bias)


def test_means_and_variances_of_filters_over_one_channel_lie_alike() -> None:
    # channels last by strides; what is computed of such filters is channels first by them
    loc = torch.empty_strided((6, 1, 3, 3), (9, 1, 3, 1)).normal_()
    seen = []

    def function(x: torch.Tensor) -> torch.Tensor:
        weight: Any = LazyNormal(loc, torch.exp(0.5 * loc))
        return F.conv2d(x, weight)

    for node in make_fx(function)(torch.rand(2, 1, 8, 8)).graph.nodes:
        if node.target is torch.ops.aten.convolution.default:
            seen.append(node.meta["val"].stride())
    assert seen == [(36 * 6, 1, 6 * 6, 6)] * 2
