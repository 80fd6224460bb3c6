"""A traced graph as it runs: every value, and what uses a result after it was changed in place."""

from typing import Any

import torch
from torch import fx


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


def _version(value: Any) -> int:
    """How often a tensor, or what it is a view of, was changed in place."""
    return value._version if isinstance(value, torch.Tensor) else 0
