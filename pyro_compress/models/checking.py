"""What a network must not hold, told from its modules alone: the same for fitting, describing and writing it.

A fit runs the network with values of its own in place of the parameters, and a file holds what a module's class
computes.  So what a module computes by itself, what runs beside its class's forward pass, and numbers of other types
would be lost in one place or the other without a word.
"""

import sys
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from pyro_compress.errors import NetworkError
from pyro_compress.models.module_calls import user_hooks

_HOOKS = {
    "_forward_hooks": "forward hooks",
    "_forward_pre_hooks": "forward hooks",
    "_backward_hooks": "backward hooks",
    "_backward_pre_hooks": "backward hooks",
}
_GLOBAL_HOOKS = {
    "_global_forward_hooks": "forward hooks",
    "_global_forward_pre_hooks": "forward hooks",
    "_global_backward_hooks": "backward hooks",
    "_global_backward_pre_hooks": "backward hooks",
}
# what torch runs when a module is called
CALLED = ("forward", "__call__", "_call_impl", "_wrapped_call_impl")
# hooks of these make a weight of other parameters before every call
_COMPUTING = ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm", "torch.nn.utils.prune")


class OwnHook:
    """Base of hooks that this package places itself, in networks of its own."""


def check_network(network: Any) -> None:
    """Refuse what could be fitted or written only wrongly: see the head of this module.

    Raises:
        NetworkError: it is no `torch.nn.Module`, is wrapped or scripted, a forward pass was replaced on an instance,
            there are hooks, a parameter is computed, or a parameter or buffer is no dense float32 tensor.
    """
    if not isinstance(network, nn.Module):
        raise NetworkError(f"the network is a {type(network).__name__}, expected a torch.nn.Module")
    modules = [(_label(name, module), name, module) for name, module in network.named_modules()]
    for where, name, module in modules:
        _check_kind(where, f"network.{name}" if name else "network", module)
    _check_tensors(network)
    for where, _, module in modules:
        _check_computed(where, module)
        _check_calls(where, module)
    for attribute, what in _GLOBAL_HOOKS.items():
        if user_hooks(attribute):
            raise NetworkError(
                f"{what} for all modules are registered with torch (torch.nn.modules.module.register_module_...), "
                "whose effect cannot be described: remove them first"
            )


def check_numbers(network: nn.Module) -> None:
    """Refuse a network with numbers that are not finite; buffers may hold ±∞, as masks of attention do.

    Raises:
        NetworkError: names the first such parameter or buffer.
    """
    for kind, name, tensor in _tensors(network):
        held = tensor.detach()
        if kind == "buffer" and not name.endswith(("running_mean", "running_var")):
            if bool(held.isnan().any()):
                raise NetworkError(f"{kind} {name} holds NaN")
        elif not bool(torch.isfinite(held).all()):
            raise NetworkError(f"{kind} {name} holds NaN or infinite values")


def _label(name: str, module: nn.Module) -> str:
    return f"module '{name}' ({type(module).__name__})" if name else f"the network ({type(module).__name__})"


def _check_kind(where: str, path: str, module: nn.Module) -> None:
    inside = _wrapped(module)
    if inside is not None:
        raise NetworkError(f"{where} is a wrapper around a network: give the one inside, `{path}.{inside}`")
    if isinstance(module, torch.jit.ScriptModule):
        raise NetworkError(f"{where} is scripted or traced by torch.jit: give the module that it was made from")
    if type(module).__name__.startswith(("FSDP", "FullyShardedDataParallel")):
        raise NetworkError(f"{where} is sharded (FSDP): give the network before it was sharded")


def _wrapped(module: nn.Module) -> str | None:
    """Name of the module inside of a wrapper."""
    # torch._dynamo takes seconds to import, and who has wrapped a network has imported it
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        return "_orig_mod"
    swa = sys.modules.get("torch.optim.swa_utils")
    wrappers: list[Any] = [nn.DataParallel, nn.parallel.DistributedDataParallel]
    if swa is not None:
        wrappers.append(swa.AveragedModel)
    return "module" if isinstance(module, tuple(wrappers)) else None


def _check_computed(where: str, module: nn.Module) -> None:
    names: list[Any] = []
    if parametrize.is_parametrized(module) and isinstance(module.parametrizations, nn.ModuleDict):
        names += module.parametrizations
    for hook in module._forward_pre_hooks.values():
        if type(hook).__module__ in _COMPUTING:
            names.append(getattr(hook, "name", None) or getattr(hook, "_tensor_name", "weight"))
    if names:
        raise NetworkError(
            f"{where} computes its {', '.join(dict.fromkeys(names))} (parametrization, weight norm or torch pruning): "
            "make it permanent first"
        )


def _check_calls(where: str, module: nn.Module) -> None:
    for attribute, what in _HOOKS.items():
        if any(not isinstance(hook, OwnHook) for hook in getattr(module, attribute).values()):
            raise NetworkError(f"{where} has {what}, whose effect cannot be described: remove them first")
    replaced = [name for name in CALLED if name in module.__dict__]
    if replaced:
        raise NetworkError(
            f"{where} has a {replaced[0]} of its own on the instance, which a file cannot hold: write it as the "
            "forward pass of a class"
        )


def _check_tensors(network: nn.Module) -> None:
    for kind, name, tensor in _tensors(network):
        if nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise NetworkError(f"{kind} {name} is not initialised: run the network once on data before compressing it")
        if tensor.dtype != torch.float32:
            raise NetworkError(f"{kind} {name} is {tensor.dtype}, expected torch.float32: call network.float() first")
        if tensor.layout != torch.strided or type(tensor.data) is not torch.Tensor:
            what = type(tensor.data).__name__ if tensor.layout == torch.strided else str(tensor.layout)
            raise NetworkError(f"{kind} {name} is a tensor of the kind {what}, expected a plain dense one")
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            raise NetworkError(f"{kind} {name} has hooks on its gradient, which a fit does not run: remove them first")


def _tensors(network: nn.Module) -> list[tuple[str, str, torch.Tensor]]:
    """Parameters and real buffers, as (kind, name, tensor)."""
    buffers = [
        ("buffer", name, buffer)
        for name, buffer in network.named_buffers()
        if nn.parameter.is_lazy(buffer) or buffer.is_floating_point() or buffer.is_complex()
    ]
    return [("parameter", name, parameter) for name, parameter in network.named_parameters()] + buffers
