"""A traced graph as it runs: every value, and what uses a result after it was changed in place."""

from typing import Any

import torch
from torch import fx, nn


class Recorder(fx.Interpreter):
    """Runs a graph and keeps every value.

    `at` is the node that ran last, `stale` the first one that uses a result after it was changed in place.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}
        self.at: fx.Node | None = None
        self.stale: fx.Node | None = None
        self._versions: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.at = n
        if any(_version(self.values[source]) != self._versions[source] for source in n.all_input_nodes):
            self.stale = self.stale or n
        self.values[n] = super().run_node(n)
        self._versions[n] = _version(self.values[n])
        return self.values[n]

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Rows of an embedding that follow one another are a part of its weight, and stay that."""
        module = self.fetch_attr(target)
        if type(module) is nn.Embedding and len(args) == 1 and args[0].numel() and module.max_norm is None:
            rows = args[0].flatten()
            first, last = int(rows[0]), int(rows[-1])
            if last - first + 1 == len(rows) and bool(
                (rows == torch.arange(first, last + 1, device=rows.device)).all()
            ):
                return module.weight[first : last + 1].view(*args[0].shape, -1)
        return super().call_module(target, args, kwargs)


def _version(value: Any) -> int:
    """How often a tensor, or what it is a view of, was changed in place."""
    return value._version if isinstance(value, torch.Tensor) else 0
