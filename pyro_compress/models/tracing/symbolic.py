"""A forward pass as a graph of operations, recorded while it runs on examples, so that sizes are numbers in it.

`torch.fx` calls the forward pass with proxies.  Here each proxy knows what its operation gives for the examples, and
`x.shape` is a tuple of numbers that a forward pass can loop over, multiply and decide on.  The batch's own size stays a
proxy: an operation that takes it serves any batch.
"""

import dis
import inspect
import operator
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyro_compress.models.tracing.describing import known_type

_MODULES_OWN = {"__call__": nn.Module.__call__, "__getattr__": nn.Module.__getattr__}


class SizedProxy(fx.Proxy):
    """A proxy of a `Tracer`, whose tensor has a known shape."""

    tracer: "Tracer"

    @property
    def shape(self) -> Any:
        sizes = self._sizes()
        return fx.proxy.Attribute(self, "shape") if sizes is None else sizes

    @property
    def ndim(self) -> Any:
        found = self._value()
        return found.ndim if isinstance(found, Tensor) else fx.proxy.Attribute(self, "ndim")

    def dim(self) -> Any:
        found = self._value()
        return found.ndim if isinstance(found, Tensor) else self.tracer.create_proxy("call_method", "dim", (self,), {})

    def size(self, dim: int | None = None) -> Any:
        sizes = self._sizes()
        if sizes is None:
            return self.tracer.create_proxy("call_method", "size", (self,) if dim is None else (self, dim), {})
        return sizes if dim is None else sizes[dim]

    def numel(self) -> Any:
        found = self._value()
        if isinstance(found, Tensor) and self.tracer.batch not in found.shape:
            return found.numel()
        return self.tracer.create_proxy("call_method", "numel", (self,), {})

    def __iter__(self) -> Iterator[Any]:
        found = self._value()
        if not isinstance(found, tuple | list):
            return super().__iter__()
        parts = range(len(found))
        return iter([self.tracer.create_proxy("call_function", operator.getitem, (self, at), {}) for at in parts])

    def __len__(self) -> int:
        found = self._value()
        # a number that is the batch's is found out when the network is called with other batches
        sized = isinstance(found, tuple | list) or (isinstance(found, Tensor) and found.ndim)
        return len(found) if sized else super().__len__()

    def _value(self) -> Any:
        return self.tracer.values.get(self.node)

    def _sizes(self) -> tuple[Any, ...] | None:
        found = self._value()
        if not isinstance(found, Tensor):
            return None
        return tuple(
            self.tracer.create_proxy("call_method", "size", (self, axis), {}) if extent == self.tracer.batch else extent
            for axis, extent in enumerate(found.shape)
        )


class Tracer(fx.Tracer):
    """Records what a network does with examples.

    Args:
        x: examples, as many as no other axis has entries if that can be.

    Attributes:
        values: of each operation that could be run.
        batch: number of examples.
    """

    proxy_buffer_attributes = True

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self._x, self.batch = x, len(x)
        self.values: dict[fx.Node, Any] = {}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return SizedProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        made = super().create_proxy(kind, target, args, kwargs, *more, **options)
        try:
            given, named = fx.node.map_aggregate((args, kwargs), self._known)
            with _as_called():
                self.values[made.node] = self._run(kind, target, given, named)
        except Exception:
            # whoever runs the whole graph says what is wrong
            pass
        return made

    def to_bool(self, obj: fx.Proxy) -> bool:
        """An assertion about sizes holds, as the network is run as well; all else that branches is refused.

        So does that two sizes are one where both are the batch's, as in `x.shape == y.shape`.
        """
        if obj.node.target is operator.eq and all(self._is_batch(one) for one in obj.node.args):
            return True
        return _is_asserted(sys._getframe(1)) or super().to_bool(obj)

    def _is_batch(self, one: Any) -> bool:
        """Whether something is the size of an axis that counts the examples."""
        sizes = isinstance(one, fx.Node) and one.op == "call_method" and one.target == "size"
        return sizes and len(one.args) == 2 and self.values.get(one) == self.batch

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return known_type(module) is not None or super().is_leaf_module(module, qualified_name)

    def _known(self, one: Any) -> Any:
        return self.values[one.node] if isinstance(one, fx.Proxy) else one

    def _run(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        match kind:
            case "placeholder":
                return args[0] if args else self._x.clone()
            case "get_attr":
                found: Any = self.root
                for name in target.split("."):
                    found = getattr(found, name)
                return found
            case "call_module":
                return self.root.get_submodule(target)(*args, **kwargs)
            case "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)


@contextmanager
def _as_called() -> Iterator[None]:
    """Within this context modules run, where torch.fx has made their calls record them."""
    recording = {name: getattr(nn.Module, name) for name in _MODULES_OWN}
    for name, function in _MODULES_OWN.items():
        setattr(nn.Module, name, function)
    try:
        yield
    finally:
        for name, function in recording.items():
            setattr(nn.Module, name, function)


def recorded(network: nn.Module, x: Tensor) -> fx.Graph:
    """The graph of a network's forward pass, and whatever torch raises where there is none.

    Arguments behind the first have their defaults, as when the network is called with examples alone.
    """
    parameters = [*inspect.signature(network.forward).parameters.values()][1:]
    defaults = {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}
    with torch.no_grad(), _followed(), warnings.catch_warnings():
        # torch.fx says that it holds some of them to be what they are
        warnings.filterwarnings("ignore", message="Was not able to add assertion")
        return Tracer(x).trace(network, defaults or None)


def _is_asserted(frame: FrameType | None) -> bool:
    """Whether the first frame that is none of torch's decides on an assertion."""
    while frame is not None and frame.f_globals.get("__name__", "").startswith("torch."):
        frame = frame.f_back
    if frame is None:
        return False
    code = list(dis.get_instructions(frame.f_code))
    at = next((place for place, one in enumerate(code) if one.offset == frame.f_lasti), len(code))
    following = [one for one in code[at : at + 4] if one.opname != "TO_BOOL"]
    jumps = any("IF_TRUE" in one.opname for one in following)
    return jumps and any("AssertionError" in f"{one.argval}" or "ASSERTION" in one.opname for one in following)


@contextmanager
def _followed(names: tuple[str, ...] = ("arange", "ones", "zeros", "full")) -> Iterator[None]:
    """Within this context functions of torch that take sizes alone are traced where a size is."""
    originals = {name: getattr(torch, name) for name in names}

    def following(function: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            sizes: list[fx.Proxy] = []
            fx.node.map_aggregate((args, kwargs), lambda one: sizes.append(one) if isinstance(one, fx.Proxy) else None)
            if not sizes:
                return function(*args, **kwargs)
            return sizes[0].tracer.create_proxy("call_function", function, args, kwargs)

        return called

    for name, function in originals.items():
        setattr(torch, name, following(function))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(torch, name, function)
