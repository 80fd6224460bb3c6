"""Modules of layers that torch itself has none of."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_compress.artifact.runtimes.inputs import check_shape
from pyro_compress.network import further_layers as further
from pyro_compress.network import layers as kinds
from pyro_compress.network.architecture import walk


class Select(nn.Module):
    """Keeps entries of axis 1: x (batch, n, ...) → x[:, indices] (batch, len(indices), ...)."""

    indices: Tensor

    def __init__(self, indices: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("indices", torch.tensor(indices, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.indices)

    def extra_repr(self) -> str:
        return f"{len(self.indices)} indices"


class ChannelAffine(nn.Module):
    """y[:, c] = scale[c] · x[:, c] + shift[c] over axis 1, what a batch normalisation computes at inference time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *(1 for _ in range(x.dim() - 2)))
        return x * self.scale.view(shape) + self.shift.view(shape)


class PReLU(nn.Module):
    """y = x where x > 0, else slope · x: one slope, or one for each entry of axis 1."""

    def __init__(self, slopes: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(slopes))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.prelu(x, self.slope)


class Function(nn.Module):
    """One of the elementwise functions that torch has no module of."""

    def __init__(self, kind: str, slope: float) -> None:
        super().__init__()
        self.kind, self.slope = kind, slope

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "times":
                return x * self.slope
            case "plus":
                return x + self.slope
            case "at_least":
                return x.clamp(min=self.slope)
        return x.clamp(max=self.slope)

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.slope:g}"


class SparseLinear(nn.Module):
    """y = x Wᵀ + b with W as compressed sparse rows, for inference only."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        with warnings.catch_warnings():  # torch says once per process that this layout is in beta state
            warnings.filterwarnings("ignore", message="Sparse CSR", category=UserWarning)
            self.register_buffer("weight", weight.detach().to_sparse_csr())
        column = weight.new_zeros(len(weight)) if bias is None else bias.detach()
        self.register_buffer("bias", column[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, self.weight, x.T).T

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape
        return f"in_features={inputs}, out_features={outputs}, nonzero={self.weight.values().numel()}"


class Add(nn.Module):
    """The sum of what reaches it and an earlier result of the same shape."""

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        return x + earlier


class Recall(nn.Module):
    """An earlier result in place of what reaches it."""

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        return earlier


class Concatenate(nn.Module):
    """An earlier result and what reaches it, along axis 1."""

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        return torch.cat([earlier, x], 1)


class Multiply(nn.Module):
    """The product of what reaches it and an earlier result."""

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        return x * earlier


class View(nn.Module):
    """The numbers of every entry along axis 1 in another shape."""

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], *self.size)

    def extra_repr(self) -> str:
        return f"{self.size}"


class Standardize(nn.Module):
    """Every group of entries along axis 1 less its mean, divided by its deviation: of all places, or of each."""

    def __init__(self, groups: int, eps: float, centred: bool, by_place: bool) -> None:
        super().__init__()
        self.groups, self.eps, self.centred, self.by_place = groups, eps, centred, by_place

    def forward(self, x: Tensor) -> Tensor:
        entries, places = x.shape[1] // self.groups, math.prod(x.shape[2:])
        groups = x.reshape(len(x), self.groups, *((entries, places) if self.by_place else (entries * places, 1)))
        for _ in range(further.CENTRINGS * self.centred):
            groups = groups - groups.mean(2, keepdim=True)
        return (groups * torch.rsqrt(groups.square().mean(2, keepdim=True) + self.eps)).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, eps={self.eps:g}, centred={self.centred}, by_place={self.by_place}"


class Softmax(nn.Module):
    """Shares along axis 1, or their logarithms."""

    def __init__(self, log: bool) -> None:
        super().__init__()
        self.log = log

    def forward(self, x: Tensor) -> Tensor:
        return x.log_softmax(1) if self.log else x.softmax(1)

    def extra_repr(self) -> str:
        return f"log={self.log}"


class Squeeze(nn.Module):
    """The one number of every example."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x))


class Pad(nn.Module):
    """Rows and columns around an image."""

    def __init__(self, layer: further.Pad) -> None:
        super().__init__()
        (above, left), (below, right) = layer.before, layer.after
        self.sides, self.mode = (left, right, above, below), layer.mode.replace("zeros", "constant")

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, self.sides, self.mode)

    def extra_repr(self) -> str:
        return f"{self.sides}, {self.mode}"


class Layers(nn.Sequential):
    """Modules in order, which take examples of one shape; a part of them takes what it is given.

    Attributes:
        input_shape: of one example, None where any will do.
        by_last_axis: whether all of them treat the last axis alone, whatever stands in front of it.
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__(*modules)
        self.input_shape: Any = None
        self.by_last_axis = False

    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self._check(input)
        for module in self:
            input = module(input)
        return input

    @torch.jit.unused
    def _check(self, x: Tensor) -> None:
        # who records the forward pass gives something else than a tensor
        if self.input_shape is None or not isinstance(x, Tensor) or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return
        shape = tuple(x.shape)
        # what is flattened first may be flat already
        is_flat = isinstance(next(iter(self), None), nn.Flatten) and math.prod(shape[1:]) == math.prod(self.input_shape)
        if not (shape and is_flat) and not (self.by_last_axis and shape[-1:] == self.input_shape):
            check_shape(shape, self.input_shape)


class Residual(Layers):
    """The same, of which those of `architecture.Referring` take the result of an earlier one too."""

    def __init__(self, modules: Sequence[nn.Module], layers: Sequence[kinds.Layer]) -> None:
        super().__init__(*modules)
        self._layers = tuple(layers)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        modules = iter(self)

        def after(_: kinds.Layer, value: Tensor, earlier: Tensor | None) -> Tensor:
            module = next(modules)
            result: Tensor = module(value) if earlier is None else module(value, earlier)
            return result

        for value in walk(self._layers, x, after):  # noqa: B007 (the last one counts)
            pass
        return value
