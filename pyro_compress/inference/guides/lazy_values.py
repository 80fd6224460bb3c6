"""Lazy random values: what local reparameterization (and flipout) hands to the model in place of weight samples.

A lazy value knows its distribution, not a number.  A dense layer or convolution that receives one as its weight
samples its OUTPUT instead (Kingma et al. 2015): for w ~ N(μ, σ²),

    (x w)_b ~ N(x_b μ, x_b² σ²)   independently per example b,

and with group scales w = z·w̃, z is drawn per example as well.  Every output then has the mean and variance that
weight sampling gives it; as in the paper, covariances between outputs that share weights (the positions of one
image under a convolution) are left out.  Any other operation materialises ONE sample, kept for every later use,
so ordinary model code stays correct: recurrent layers, attention and embeddings see one draw per step.  What would
need the noise of one value at two places is refused; `falling_back` finds such sites before the first step.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from pyro_compress.errors import InferenceError
from pyro_compress.models.parameters import along_axis, scale_groups
from pyro_compress.models.small_maps import convolved

# under the square root of a variance that may be exactly zero (an input that is zero everywhere)
FLOOR = 1e-8
# where the unit of outputs is that of real targets, of which nobody knows how small they are
FINE_FLOOR = 1e-16
CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
# what can be asked of a value without drawing it
_DESCRIPTIVE = ("dtype", "device", "ndim", "dim", "size", "numel")
_OPERATORS = (
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__"),
    *("__pow__", "__rpow__", "__matmul__", "__rmatmul__", "__neg__", "__abs__", "__getitem__", "__len__"),
    *("__lt__", "__le__", "__gt__", "__ge__"),
)


class Lazy:
    """Base: materialises on any operation that no subclass treats."""

    def materialise(self) -> torch.Tensor:
        """One sample, drawn at the first call and the same ever after."""
        raise InferenceError(f"{type(self).__name__} cannot be sampled")

    @property
    def like(self) -> torch.Tensor:
        """A tensor of the value's shape, type and device."""
        return self.materialise()

    @property
    def shape(self) -> torch.Size:
        return self.like.shape

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.like if name in _DESCRIPTIVE else self.materialise(), name)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.linear:
            return _linear(*args, **kwargs)
        if function in CONVOLUTIONS or function in TRANSPOSED:
            return _convolution(function, *args, **kwargs)
        if (
            function is scale_groups
            and (isinstance(args[0], LazyNormal) or not isinstance(args[0], Lazy))
            and isinstance(args[1], LazyNormal | LazyLogNormal | LazyGate)
        ):
            return LazyScaled(*args, **kwargs)
        if function in (torch.add, torch.Tensor.add) and not kwargs and isinstance(args[1], LazyNormal):
            return args[1] + args[0]
        return function(*_materialised(args), **{key: _plain(value) for key, value in kwargs.items()})


def _operator(name: str) -> Callable[..., Any]:
    def on_samples(self: Lazy, *others: Any) -> Any:
        return getattr(self.materialise(), name)(*_materialised(others))

    return on_samples


# Python looks operators up on the type, past __getattr__
for _name in _OPERATORS:
    setattr(Lazy, _name, _operator(_name))


class _Source:
    """One latent site's noise: not used yet, drawn once for all, or spent on noise per example.

    Attributes:
        lenient: a second use of what is spent is noted (`clashed`) and not refused.
    """

    def __init__(self) -> None:
        self.sample: torch.Tensor | None = None
        self.spent = self.lenient = self.clashed = False

    def refuse_spent(self) -> None:
        self.clashed |= self.spent
        if self.spent and not self.lenient:
            raise InferenceError(
                "one random value at two places (a weight that two layers share, say) cannot be served by the noise "
                "per example of local reparameterization and flipout; use SVI(estimator='shared')"
            )


class LazyNormal(Lazy):
    """x ~ N(loc, scale²), elementwise independent; made of the noise of one or more sites."""

    floor: ClassVar[float] = FLOOR

    def __init__(
        self,
        loc: torch.Tensor,
        scale: torch.Tensor,
        sources: frozenset[_Source] | None = None,
        rebuild: Callable[[], torch.Tensor] | None = None,
    ) -> None:
        self.loc, self.scale = loc, scale
        self.sources = frozenset((_Source(),)) if sources is None else sources
        self._rebuild = rebuild

    @property
    def like(self) -> torch.Tensor:
        return self.loc

    def gated(self, gate: "LazyGate") -> Any:
        """w = g·x elementwise, as the normal of its mean and variance; outputs are sums over many of these."""
        if self.is_drawn or gate.source.sample is not None:
            return self.materialise() * gate.materialise()
        mean, square = gate.distribution.mean, gate.distribution.mean.square() + gate.distribution.variance
        variance = square * (self.scale.square() + self.loc.square()) - (mean * self.loc).square()
        sources = self.sources | {gate.source}
        scale = torch.sqrt(variance.clamp(min=0) + FLOOR**2)
        return type(self)(mean * self.loc, scale, sources, lambda: self.materialise() * gate.materialise())

    @property
    def is_drawn(self) -> bool:
        """Whether a sample of it, or of a part of it, is already fixed."""
        return any(source.sample is not None for source in self.sources)

    def materialise(self) -> torch.Tensor:
        if self._rebuild is not None:
            return self._rebuild()
        (source,) = self.sources
        source.refuse_spent()
        if source.sample is None:
            source.sample = self.loc + self.scale * torch.randn_like(self.loc)
        return source.sample

    def spend(self) -> None:
        """Note that its noise is about to be drawn per example."""
        for source in self.sources:
            source.refuse_spent()
            source.spent = True

    def draw(self, examples: int) -> torch.Tensor:
        """Independent samples per example, (examples, *shape); the fixed one for all where there is one."""
        if self.is_drawn:
            return self.materialise().expand(examples, *self.shape)
        self.spend()
        return self.draw_open(examples)

    def draw_open(self, examples: int) -> torch.Tensor:
        """`draw` where nothing is fixed yet."""
        noise = torch.randn((examples, *self.loc.shape), dtype=self.loc.dtype, device=self.loc.device)
        return torch.addcmul(self.loc, self.scale, noise)

    def outputs(self, layer: Callable[..., torch.Tensor], x: torch.Tensor, bias: Any) -> torch.Tensor:
        """Outputs of a dense layer or convolution `layer(x, weight, bias)` with this as its weight.

        A lazy bias adds its variance to every example's.
        """
        self.spend()
        mean_bias, variance_bias = bias, None
        if is_open(bias):
            bias.spend()
            mean_bias, variance_bias = bias.loc, bias.scale.square()
        variance = layer(x.square(), self.scale.square(), variance_bias)
        mean = layer(x, self.loc, mean_bias)
        return torch.addcmul(mean, torch.sqrt(variance + self.floor), torch.randn_like(mean))

    def __add__(self, other: Any) -> Any:
        if isinstance(other, LazyNormal):
            _refuse_shared(self, other)
            if self.shape == other.shape:
                scale = torch.sqrt(self.scale.square() + other.scale.square())
                sources = self.sources | other.sources
                return type(self)(
                    self.loc + other.loc, scale, sources, lambda: self.materialise() + other.materialise()
                )
        elif not isinstance(other, Lazy):
            loc = self.loc + other
            # broadcasting to more elements would make elements that are equal look independent
            if loc.shape == self.shape:
                return type(self)(loc, self.scale, self.sources, lambda: self.materialise() + other)
        return self.materialise() + _plain(other)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, float | int):
            loc, scale = self.loc * other, self.scale * abs(other)
            return type(self)(loc, scale, self.sources, lambda: self.materialise() * other)
        if isinstance(other, LazyGate) and other.shape == self.shape:
            return self.gated(other)
        return self.materialise() * _plain(other)

    __rmul__ = __mul__

    def exp(self) -> "LazyLogNormal":
        return LazyLogNormal(self)


class FineLazyNormal(LazyNormal):
    """The same for outputs of any unit."""

    floor = FINE_FLOOR


class LazyLogNormal(Lazy):
    """ln x ~ N(loc, scale²); products and powers of independent log-normals are one log-normal."""

    def __init__(self, logarithm: LazyNormal) -> None:
        self.logarithm = logarithm

    @property
    def like(self) -> torch.Tensor:
        return self.logarithm.like

    def materialise(self) -> torch.Tensor:
        return self.logarithm.materialise().exp()

    def draw(self, examples: int) -> torch.Tensor:
        """Independent samples per example, (examples, *shape)."""
        return self.logarithm.draw(examples).exp()

    def log(self) -> LazyNormal:
        return self.logarithm

    def sqrt(self) -> "LazyLogNormal":
        return (self.logarithm * 0.5).exp()

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, LazyLogNormal):
            return (self.logarithm + other.logarithm).exp()
        if isinstance(other, torch.Tensor) and bool((other > 0).all()):
            return (self.logarithm + other.log()).exp()
        return self.materialise() * _plain(other)

    __rmul__ = __mul__


class LazyGate(Lazy):
    """x of any distribution that is drawn through its parameters: once for all, or per example.

    Args:
        distribution: elementwise independent.
    """

    def __init__(self, distribution: Any) -> None:
        self.distribution, self.source = distribution, _Source()

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.distribution.batch_shape)

    def materialise(self) -> torch.Tensor:
        self.source.refuse_spent()
        if self.source.sample is None:
            self.source.sample = self.distribution.rsample()
        return self.source.sample

    def draw(self, examples: int) -> torch.Tensor:
        """Independent samples per example, (examples, *shape); the fixed one for all where there is one."""
        if self.source.sample is not None:
            return self.source.sample.expand(examples, *self.source.sample.shape)
        self.source.refuse_spent()
        self.source.spent = True
        drawn: torch.Tensor = self.distribution.rsample((examples,))
        return drawn


class LazyScaled(Lazy):
    """w = z·w̃ with z along `axis`: kept apart until a layer asks, so that z can be drawn per example.

    w̃ is lazy, or a tensor where it is a point estimate.
    """

    def __init__(
        self, weight: LazyNormal | torch.Tensor, scale: LazyNormal | LazyLogNormal | LazyGate, axis: int
    ) -> None:
        self.weight, self.scale, self.axis = weight, scale, axis

    @property
    def like(self) -> torch.Tensor:
        return self.weight.like if isinstance(self.weight, Lazy) else self.weight

    def materialise(self) -> torch.Tensor:
        scale = along_axis(self.scale.materialise(), self.weight.ndim, self.axis)
        whole: torch.Tensor = _plain(self.weight) * scale
        return whole


def _refuse_shared(left: LazyNormal, right: LazyNormal) -> None:
    if left.sources & right.sources:
        raise InferenceError(
            "a product of a random value with itself, whose factors are not independent, cannot be served by local "
            "reparameterization and flipout: materialise the value first, or use SVI(estimator='shared')"
        )


def _plain(value: Any) -> Any:
    return value.materialise() if isinstance(value, Lazy) else value


def _materialised(values: Any) -> Any:
    if isinstance(values, list | tuple):
        return type(values)(_materialised(value) for value in values)
    return _plain(values)


def sources_of(value: Any) -> frozenset[_Source]:
    """Where the noise of a site's value comes from; of a tensor from nowhere."""
    match value:
        case LazyNormal():
            return value.sources
        case LazyLogNormal():
            return value.logarithm.sources
        case LazyGate():
            return frozenset((value.source,))
    return frozenset()


def is_open(value: Any) -> bool:
    """A lazy normal whose noise is still to be drawn."""
    return isinstance(value, LazyNormal) and not value.is_drawn


def _linear(input: Any, weight: Any, bias: Any = None) -> torch.Tensor:
    x = _plain(input)
    if isinstance(weight, LazyScaled) and weight.axis == 1:
        scale = weight.scale.draw(len(x))
        x, weight = x * scale.reshape(len(x), *([1] * (x.ndim - 2)), x.shape[-1]), weight.weight
    if not is_open(weight):
        return F.linear(x, _plain(weight), _plain(bias))
    return weight.outputs(F.linear, x, bias)


def _convolution(
    function: Callable[..., Any], input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any
) -> torch.Tensor:
    x = _plain(input)
    makes, reads = (1, 0) if function in TRANSPOSED else (0, 1)
    if isinstance(weight, LazyScaled) and weight.axis == reads and makes == 1:
        scale = weight.scale.draw(len(x))
        x, weight = x * scale.reshape(*scale.shape, *([1] * (x.ndim - 2))), weight.weight
    scaled = isinstance(weight, LazyScaled) and weight.axis == makes
    inner = weight.weight if scaled else weight
    if not is_open(inner) and (not scaled or isinstance(inner, Lazy)):
        return function(x, _plain(weight), _plain(bias), *args, **kwargs)

    def layer(values: torch.Tensor, filters: torch.Tensor, offset: Any) -> torch.Tensor:
        return convolved(function, values, _laid_out(filters, inner.loc), offset, *args, **kwargs)

    if not scaled:
        return inner.outputs(layer, x, bias)
    # z multiplies what comes before the bias
    output = inner.outputs(layer, x, None) if isinstance(inner, Lazy) else function(x, inner, None, *args, **kwargs)
    scale = weight.scale.draw(len(x))
    output = output * scale.reshape(*scale.shape, *([1] * (output.ndim - 2)))
    if is_open(bias):
        return output + bias.draw(len(x)).reshape(*scale.shape, *([1] * (output.ndim - 2)))
    plain_bias = _plain(bias)
    return output if plain_bias is None else output + along_axis(plain_bias, output.ndim, 1)


def _laid_out(filters: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Filters with the strides of others, where these lie channels last.

    What is computed of filters over one channel lies both ways at once, and torch takes that for channels first: means
    and variances of an image would then lie differently, and whatever reads both goes through one of them in strides.
    """
    if (
        filters.ndim != 4
        or filters.stride() == like.stride()
        or not like.is_contiguous(memory_format=torch.channels_last)
    ):
        return filters
    turned = filters.permute(0, 2, 3, 1).contiguous()
    # through one axis, because a view of the same shape keeps the strides that it has
    return turned.view(-1).view(turned.shape).permute(0, 3, 1, 2)
