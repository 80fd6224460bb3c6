"""One weight in the place of several of the same shape."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pyro_compress.errors import NetworkError
from pyro_compress.models.rewrites.base import Rewrite
from pyro_compress.network.name_patterns import by_pattern

LAYER = "dense layer or convolution"
Layer = nn.Linear | nn.Conv1d | nn.Conv2d


@dataclass(frozen=True)
class Tie(Rewrite):
    """Layers of the same kind and shape share one weight, which is that of the first; biases stay their own.

    A network whose layers repeat becomes a recurrence (Eigen et al. 2014): the weight has one prior and one draw, and
    stands in a file once.  What the network computes is another function than before, so train it again
    (`retrain_epochs`).

    Args:
        layers: patterns of names, each of which names one set of layers; all layers that can, where it is not given.

    Raises:
        NetworkError: a pattern that matches no dense layer or convolution or one alone, two that match the same layer,
            layers of different shapes or groups under one pattern; no pattern, or no two layers that are alike.
    """

    layers: tuple[str, ...] | None = None

    def rewrite(self, network: nn.Module, input_shape: tuple[int, ...] | None) -> nn.Module:
        found = copy.deepcopy(network)
        for first, *others in self._sets(found):
            for name in others:
                found.get_submodule(name).weight = found.get_submodule(first).weight
        return found

    def _sets(self, network: nn.Module) -> list[list[str]]:
        """Names of the layers that will share a weight, set by set, in the order of the network."""
        weighted = {name: module for name, module in network.named_modules() if isinstance(module, Layer)}
        if self.layers is None:
            alike: dict[object, list[str]] = {}
            for name, module in weighted.items():
                alike.setdefault(_kind(module), []).append(name)
            sets = [names for names in alike.values() if len(names) > 1]
            if not sets:
                raise NetworkError("tie: no two dense layers or convolutions of the network have weights of one shape")
            return sets
        by_set = {pattern: list[str]() for pattern in self.layers}
        if not by_set:
            raise NetworkError("tie: layers names no set: leave it out, or give a pattern for each set")
        for name, pattern in by_pattern("tie", {each: each for each in by_set}, weighted, LAYER, NetworkError).items():
            by_set[pattern].append(name)
        for pattern, names in by_set.items():
            _check_alike(pattern, {name: weighted[name] for name in names})
        return list(by_set.values())


def _kind(module: Layer) -> tuple[object, ...]:
    return (type(module), tuple(module.weight.shape), getattr(module, "groups", 1))


def _check_alike(pattern: str, layers: Mapping[str, Layer]) -> None:
    (first, module), *others = layers.items()
    if not others:
        raise NetworkError(f"tie: '{pattern}' matches {first} alone, and a weight is shared by two layers or more")
    for name, other in others:
        if _kind(other) != _kind(module):
            raise NetworkError(
                f"tie: '{pattern}' matches {first}, a {type(module).__name__} with a weight of shape "
                f"{tuple(module.weight.shape)}, and {name}, a {type(other).__name__} with one of shape "
                f"{tuple(other.weight.shape)}: only layers that are alike can share one"
            )
