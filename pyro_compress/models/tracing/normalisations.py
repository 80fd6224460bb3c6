"""Normalisations of traced networks as layers: by running statistics, or by those of each example.

Where the example's own statistics count, the weight and bias behind them are a layer of their own.
"""

from typing import Any

import torch
from torch import nn

from pyro_compress.models.tracing.rules import Layers, RefusedError, Rule, Shape
from pyro_compress.network.further_layers import Standardize
from pyro_compress.network.layers import BatchNorm


def _batch_norm(module: Any, name: str, before: Shape) -> Layers:
    if module.running_mean is None or module.running_var is None:
        raise RefusedError("keeps no running statistics: set track_running_stats=True and train it")
    return [BatchNorm(name, module.num_features, module.eps, module.affine)]


def _by_groups(module: Any, name: str, channels: int, groups: int, eps: float, *, centred: bool = True) -> Layers:
    layers: Layers = [Standardize(groups, eps, centred)]
    if module.weight is not None:
        bias = getattr(module, "bias", None) is not None
        layers.append(BatchNorm(name, channels, 0.0, True, bias=bias, running=False))
    return layers


def _group_norm(module: Any, name: str, before: Shape) -> Layers:
    return _by_groups(module, name, module.num_channels, module.num_groups, module.eps)


def _instance_norm(module: Any, name: str, before: Shape) -> Layers:
    if module.running_mean is not None:
        raise RefusedError("keeps running statistics: set track_running_stats=False")
    if len(before) < 2:
        raise RefusedError(f"takes {before} of an example, which torch reads as channels of one example without batch")
    return _by_groups(module, name, module.num_features, module.num_features, module.eps)


def _layer_norm(module: Any, name: str, before: Shape) -> Layers:
    centred = not isinstance(module, nn.RMSNorm)
    shape = tuple(module.normalized_shape)
    if shape != before or (len(shape) > 1 and module.weight is not None):
        raise RefusedError(
            f"normalises {shape} of {before}, supported are all entries of a vector, or of an image without a weight "
            "for each pixel: GroupNorm(1, channels) has one for each channel"
        )
    eps = torch.finfo(torch.float32).eps if module.eps is None else module.eps
    return _by_groups(module, name, shape[0], 1, eps, centred=centred)


MODULES: dict[type[nn.Module], Rule] = {
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.InstanceNorm1d: _instance_norm,
    nn.InstanceNorm2d: _instance_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
}
