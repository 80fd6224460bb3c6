"""A module that holds a network outside its tree of modules, and still answers for it.

The network's values are replaced at every call, and those that are learned lie elsewhere; as a submodule its parameters
would be listed, and trained by others, twice.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import nn

_NAME = "network."


class HoldsNetwork(PyroModule):
    """Training mode, device, buffers and state dict are the network's too; its parameters are not listed.

    The state dict has, beside the module's own tensors, 'network.NAME' for buffers and for those parameters of the
    network that are no trained parameters of the module: what priors cover and what is frozen, as they were given.
    State dicts from before version 2 have none of these and leave them as they are.
    """

    _version = 2

    def hold(self, network: nn.Module) -> None:
        """Take the network; once, before its first use."""
        # a tuple, so that it is not registered
        self._held = (network,)

    @property
    def network(self) -> nn.Module:
        """The private copy of the network; its own parameter values are the ones it was given."""
        return self._held[0]

    def held_elsewhere(self) -> frozenset[str]:
        """Names of the network's parameters that this module trains in a place of its own."""
        return frozenset()

    def train(self, mode: bool = True) -> Any:
        self.network.train(mode)
        return super().train(mode)

    def apply(self, fn: Callable[[nn.Module], Any]) -> Any:
        self.network.apply(fn)
        return super().apply(fn)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.network._apply(fn)
        return super()._apply(fn, recurse)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, torch.Tensor]]:
        yield from super().named_buffers(prefix, recurse, remove_duplicate)
        if recurse:
            place = f"{prefix}.{_NAME[:-1]}" if prefix else _NAME[:-1]
            yield from self.network.named_buffers(place, True, remove_duplicate)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        elsewhere = self.held_elsewhere()
        for name, value in self.network.state_dict(keep_vars=keep_vars).items():
            if name not in elsewhere:
                destination[f"{prefix}{_NAME}{name}"] = value

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        place = f"{prefix}{_NAME}"
        of_network = {key.removeprefix(place): value for key, value in state_dict.items() if key.startswith(place)}
        rest: Any = {key: value for key, value in state_dict.items() if not key.startswith(place)}
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if not of_network and (local_metadata.get("version") or 1) < 2:
            return
        try:
            found = self.network.load_state_dict(of_network, strict=False)
        except RuntimeError as error:
            error_msgs.append(str(error))
            return
        elsewhere = self.held_elsewhere()
        missing_keys.extend(f"{place}{key}" for key in found.missing_keys if key not in elsewhere)
        unexpected_keys.extend(f"{place}{key}" for key in found.unexpected_keys)
