"""Functions as graphs of the operations that they do on tensors."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx


def graph_of(function: Callable[..., Any], *examples: Tensor) -> fx.GraphModule:
    """The operations that `function` does on tensors like `examples`, as `make_fx` finds them."""
    # one mode for all shapes that are noted: without a context torch makes one, and walks the stack, per operation
    with tracing(TracingContext(FakeTensorMode())):
        graph: fx.GraphModule = make_fx(function)(*examples)
    return graph
