"""Layers of low rank: one dense layer or convolution becomes two narrower ones."""

import copy
import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from pyro_compress.errors import NetworkError, unknown_name
from pyro_compress.models.rewrites.base import Rewrite
from pyro_compress.models.rewrites.factors import SCHEMES, Factors
from pyro_compress.models.rewrites.vbmf import evbmf
from pyro_compress.network.name_patterns import by_name, matches

LAYER = "dense layer or convolution"


@dataclass(frozen=True)
class LowRank(Rewrite):
    """W ≈ (U √Σ)(√Σ Vᵀ) of rank r in two layers, `NAME.first` and `NAME.second` (`models/rewrites/factors.py`).

    With none of `rank`, `energy` and `size` each layer gets the rank that variational Bayesian matrix factorisation
    finds (`models/rewrites/vbmf.py`; Kim et al. 2016 choose ranks so), at least 1.

    Args:
        rank: r of every layer that is taken, or by pattern of names, which then says which are taken.
        energy: the smallest r that keeps this share of Σ σ_i².
        size: share of the weights of the layers taken that may stay: components go in by the share of their layer's
            Σ σ_i² that each of their numbers keeps, the largest first.
        layers: patterns of the names of those that are taken; every layer that fits where it is not given.
        scheme: of convolutions larger than 1 × 1: 'channel' (k × k, then 1 × 1) or 'spatial' (k × 1, then 1 × k).

    A layer whose two factors would have no fewer weights stays as it is, except where `rank` says its rank.

    Raises:
        NetworkError: two of `rank`, `energy` and `size`, or one out of range; a pattern that matches no dense layer or
            convolution, or one that does not fit (grouped, padded otherwise than by zeros, of a class of its own, one
            that torch's encoder layers read); a rank above full; a size that rank 1 everywhere does not reach.
    """

    rank: int | Mapping[str, int] | None = None
    energy: float | None = None
    size: float | None = None
    layers: tuple[str, ...] | None = None
    scheme: str = "channel"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("rank", "energy", "size") if getattr(self, name) is not None]
        if len(given) > 1:
            raise NetworkError(f"low rank is told by one of rank, energy and size, found {' and '.join(given)}")
        for name in ("energy", "size"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise NetworkError(f"{name} is a share above 0 and at most 1, found {share}")
        ranks = self.rank if isinstance(self.rank, Mapping) else {"": 1 if self.rank is None else self.rank}
        for name, rank in ranks.items():
            if rank < 1:
                raise NetworkError(f"rank{f' of {name}' if name else ''} is at least 1, found {rank}")
        if isinstance(self.rank, Mapping) and self.layers is not None:
            raise NetworkError("rank says by name which layers are taken: leave out layers")
        if self.scheme not in SCHEMES:
            raise NetworkError(unknown_name("scheme of low rank", self.scheme, SCHEMES))

    def rewrite(self, network: nn.Module, input_shape: tuple[int, ...] | None) -> nn.Module:
        found = copy.deepcopy(network)
        for name, (factors, rank) in self._chosen(found).items():
            pair = factors.layers(rank)
            if not name:
                return pair
            parent, _, local = name.rpartition(".")
            setattr(found.get_submodule(parent), local, pair)
        return found

    def ranks(self, network: nn.Module) -> dict[str, int]:
        """Rank by name of the layer; layers that stay as they are have none."""
        return {name: rank for name, (_, rank) in self._chosen(network).items()}

    def _chosen(self, network: nn.Module) -> dict[str, tuple[Factors, int]]:
        taken = self._taken(network)
        if self.rank is not None:
            told = by_name("rank", self.rank, taken, LAYER, NetworkError)
            return {name: (factors, _within(told[name], name, factors)) for name, factors in taken.items()}
        if self.size is not None:
            ranks = _ranks_by_size(taken, self.size)
        else:
            ranks = {name: self._found(factors) for name, factors in taken.items()}
        smaller = {name: rank for name, rank in ranks.items() if rank <= _most(taken[name])}
        return {name: (taken[name], rank) for name, rank in smaller.items()}

    def _taken(self, network: nn.Module) -> dict[str, Factors]:
        """Decompositions of the layers that are taken, by name."""
        weighted = {
            name: module for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
        }
        patterns = tuple(self.rank) if isinstance(self.rank, Mapping) else self.layers
        asked = {
            name
            for each in matches("low rank", patterns or (), weighted, LAYER, NetworkError).values()
            for name in each
        }
        found, read = {}, _read_elsewhere(network)
        for name, module in weighted.items():
            named, reason = name in asked, _why_not(module) or read.get(name, "")
            if named and reason:
                raise NetworkError(f"low rank: layer {name} {reason}: leave it out of the layers that are taken")
            if named or (patterns is None and not reason):
                found[name] = Factors.of(module, "channel" if _is_pointwise(module) else self.scheme)
        if not found:
            raise NetworkError("low rank: the network has no dense layer or convolution that fits")
        return found

    def _found(self, factors: Factors) -> int:
        if self.energy is None:
            return max(1, evbmf(factors.values.numpy(), factors.shape).rank)
        kept = np.cumsum(factors.values.numpy() ** 2)
        return 1 + int(np.searchsorted(kept[:-1], self.energy * kept[-1]))


def _within(rank: int, name: str, factors: Factors) -> int:
    """That rank, if the layer's weight can have it."""
    if rank > factors.full_rank:
        rows, columns = factors.shape
        raise NetworkError(
            f"low rank: rank {rank} of layer {name} is above {factors.full_rank}, the full rank of its weight, a "
            f"{rows} × {columns} matrix: give a smaller one, or other layers"
        )
    return rank


def _why_not(module: nn.Linear | nn.Conv2d) -> str:
    """What of a layer does not fit, as the rest of a sentence; empty where it fits."""
    if type(module) not in (nn.Linear, nn.Conv2d):
        return f"is a {type(module).__name__}, expected a plain Linear or Conv2d"
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        return f"is a convolution in {module.groups} groups, expected one"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"pads by '{module.padding_mode}', expected zeros"
    return ""


def _read_elsewhere(network: nn.Module) -> dict[str, str]:
    """By name, layers whose weight another module reads by itself, as the rest of a sentence."""
    return {
        f"{name}.{own}".removeprefix("."): "has a weight that torch's TransformerEncoderLayer reads by name"
        for name, module in network.named_modules()
        if isinstance(module, nn.TransformerEncoderLayer)
        for own in ("linear1", "linear2")
    }


def _is_pointwise(module: nn.Linear | nn.Conv2d) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)


def _most(factors: Factors) -> int:
    """The largest rank at which the factors have fewer weights than the layer; 0 if none has."""
    rows, columns = factors.shape
    return (rows * columns - 1) // (rows + columns)


def _ranks_by_size(taken: Mapping[str, Factors], size: float) -> dict[str, int]:
    """Ranks whose factors have that share of the weights, of the layers that can have fewer."""
    able = {name: factors for name, factors in taken.items() if _most(factors)}
    whole = sum(factors.shape[0] * factors.shape[1] for factors in taken.values())
    as_they_are = whole - sum(factors.shape[0] * factors.shape[1] for factors in able.values())
    ranks = dict.fromkeys(able, 1)
    left = size * whole - as_they_are - sum(factors.weights(1) for factors in able.values())
    if left < 0:
        least = size - left / whole
        raise NetworkError(f"low rank: size {size:g} is out of reach: rank 1 everywhere has {least:.2g} of the weights")
    gains = {name: _shares(factors.values.numpy() ** 2) for name, factors in able.items()}
    queue = [(-gains[name][1] / able[name].weights(1), name) for name in able if _most(able[name]) > 1]
    heapq.heapify(queue)
    while queue:
        _, name = heapq.heappop(queue)
        if able[name].weights(1) > left:
            continue
        left -= able[name].weights(1)
        ranks[name] += 1
        if ranks[name] < _most(able[name]):
            heapq.heappush(queue, (-gains[name][ranks[name]] / able[name].weights(1), name))
    return ranks


def _shares(squares: np.ndarray) -> np.ndarray:
    return np.asarray(squares / max(squares.sum(), np.finfo(np.float64).tiny))
