"""Where a network's parameters sit: their layer's kind and the axis along which a group prior ties them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import handle_torch_function, has_torch_function

from pyro_compress.errors import NetworkError

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BY_BATCH, _BY_INSTANCE = (nn.BatchNorm1d, nn.BatchNorm2d), (nn.InstanceNorm1d, nn.InstanceNorm2d)
_GROUP_AXES = {
    **dict.fromkeys(("linear", "transposed", "recurrent", "attention"), 1),
    **dict.fromkeys(("conv", "embedding", "bilinear"), 0),
}
NORMALISATION = (*_BY_BATCH, *_BY_INSTANCE, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor of a network.

    Attributes:
        name: dotted name, e.g. 'fc1.weight'.
        shape: of the tensor.
        kind: of a weight 'linear', 'conv', 'transposed' (by a convolution of one group), 'recurrent', 'attention',
            'embedding' or 'bilinear'; else 'norm', or 'bias' for all that is no weight of a known module.
        hyper: present values of the hyper-parameters that its prior declares, by the prior's own names.
    """

    name: str
    shape: torch.Size
    kind: str
    hyper: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def group_axis(self) -> int | None:
        """Input units of dense layers (axis 1), output filters of convolutions (axis 0); Louizos et al. 2017.

        The output filters of a transposed convolution lie along axis 1, but those of one in groups along no axis: it
        has its input channels (axis 0), which are the filters too where it is depthwise.

        Matrices of recurrent layers and projections of attention are dense layers: a group is what one input, or one
        hidden unit of the step before, feeds to all gates, or to all of queries, keys and values (axis 1).  A group
        of an embedding is a token (axis 0), one of a bilinear layer an output (axis 0).
        """
        return _GROUP_AXES.get(self.kind)

    @property
    def groups(self) -> int:
        """Number of groups along `group_axis`."""
        assert self.group_axis is not None
        return self.shape[self.group_axis]


def parameters_of(network: nn.Module) -> tuple[Parameter, ...]:
    """All parameters of a network in registration order, each with its layer's kind; tied ones by their first name."""
    found: dict[int, Parameter] = {}
    for name, module, local, tensor in _slots(network):
        found.setdefault(id(tensor), Parameter(name, tensor.shape, _kind(module, local, tensor)))
    return tuple(found.values())


def slots_of(network: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Where every parameter is registered, as modules and attributes: tied ones at several places, by one name."""
    found: dict[int, tuple[str, list[tuple[nn.Module, str]]]] = {}
    for name, module, local, tensor in _slots(network):
        slots = found.setdefault(id(tensor), (name, []))[1]
        # a module that has two names is one place
        if (module, local) not in slots:
            slots.append((module, local))
    return dict(found.values())


def other_names(network: nn.Module) -> dict[str, str]:
    """Further names of parameters, by that the one that they are listed by.

    Several modules have such a parameter, or one module that has several names itself.
    """
    listed = {id(tensor): name for name, tensor in network.named_parameters()}
    return {name: listed[id(tensor)] for name, _, _, tensor in _slots(network) if listed[id(tensor)] != name}


def weights_beside(network: nn.Module) -> dict[str, str]:
    """By name of a bias the weight of its module, where that is listed by the name of another module."""
    listed, found = {id(tensor): name for name, tensor in network.named_parameters()}, {}
    for prefix, module in network.named_modules():
        weight, bias = (module._parameters.get(kind) for kind in ("weight", "bias"))
        if weight is not None and bias is not None and listed[id(weight)] != f"{prefix}.weight".removeprefix("."):
            found[listed[id(bias)]] = listed[id(weight)]
    return found


def _slots(network: nn.Module) -> Iterator[tuple[str, nn.Module, str, torch.Tensor]]:
    """Every name of every parameter, with the module that has it: both of a module that has two names itself."""
    for prefix, module in network.named_modules(remove_duplicate=False):
        for local, tensor in module._parameters.items():
            if tensor is not None:
                yield f"{prefix}.{local}" if prefix else local, module, local, tensor


def place_in_memory(tensor: torch.Tensor) -> tuple[int, int]:
    """Storage and offset: the same for two tensors that begin at the same number."""
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())


def refuse_tied(parameters: Iterable[tuple[str, torch.Tensor]]) -> dict[tuple[int, int], str]:
    """Refuse two tensors at one place in memory; names by place otherwise.

    Raises:
        NetworkError: names both.
    """
    owners: dict[tuple[int, int], str] = {}
    for name, tensor in parameters:
        place = place_in_memory(tensor)
        if place in owners and tensor.numel():
            raise NetworkError(
                f"{owners[place]} and {name} lie at the same place in memory and are two parameters: make them one "
                "(b.weight = a.weight), or give each its own numbers"
            )
        owners[place] = name
    return owners


def refuse_shared_memory(network: nn.Module) -> None:
    """Refuse networks in which two parameters lie at the same place, without being one and the same.

    Raises:
        NetworkError: names both.
    """
    refuse_tied(network.named_parameters())


def refuse_tied_modules(network: nn.Module) -> None:
    """Refuse networks in which two modules, or two names of one, hold the same parameter, or two at one place.

    Raises:
        NetworkError: names both.
    """
    for name, listed in other_names(network).items():
        raise NetworkError(
            f"{listed} and {name} are one parameter, and a rewrite takes layers with weights of their own: make it "
            "before weights are shared"
        )
    refuse_shared_memory(network)


def _kind(module: nn.Module, local: str, tensor: torch.Tensor) -> str:
    if isinstance(module, NORMALISATION):
        return "norm"
    if local == "weight" and isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and local.startswith("weight_"):
        return "recurrent"
    if isinstance(module, nn.MultiheadAttention) and local.endswith("proj_weight"):
        return "attention"
    # with max_norm a call writes into the table, which is then no value that a prior has drawn
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is None:
        return "embedding"
    if local == "weight" and isinstance(module, nn.Bilinear):
        return "bilinear"
    if local == "weight" and tensor.ndim >= 3:
        transposed = isinstance(module, TRANSPOSED) and module.groups == 1
        return "transposed" if transposed else "conv"
    return "bias"


def scale_groups(weight: Any, scale: Any, axis: int) -> Any:
    """w = z·w̃: multiply slice i of `weight` along `axis` by `scale[i]`.

    Stays symbolic under local reparameterization, where z is drawn per example.
    """
    if has_torch_function((weight, scale)):
        return handle_torch_function(scale_groups, (weight, scale), weight, scale, axis)
    return weight * along_axis(scale, weight.ndim, axis)


def along_axis(vector: torch.Tensor, ndim: int, axis: int) -> torch.Tensor:
    """View a vector as a tensor of `ndim` axes that broadcasts along `axis`."""
    shape = [1] * ndim
    shape[axis] = -1
    return vector.reshape(shape)
