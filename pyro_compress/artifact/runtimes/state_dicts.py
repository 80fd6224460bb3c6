"""State dicts of torch modules from and to what a file of weights stores."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_compress.errors import ArtifactError, listed
from pyro_compress.network.stored_weights import ELEMENT_TYPES, Given

TYPES = {getattr(torch, name): name for name in ELEMENT_TYPES}


def given_of(state: Mapping[str, Any]) -> dict[str, Given]:
    """The tensors of a state dict, on whatever device; those that are one tensor, as tied parameters, are one object.

    Raises:
        ArtifactError: an entry is no tensor, or of a kind or type that a file does not hold.
    """
    found: dict[str, Given] = {}
    seen: dict[tuple[Any, ...], tuple[Given, Tensor]] = {}
    for name, tensor in state.items():
        _check(name, tensor)
        where = _place(name, tensor)
        if where not in seen:
            held = tensor.detach().cpu()
            held = held.float() if held.dtype == torch.bfloat16 else held
            # beside the tensor itself: where one lies that is gone, a mapping may make the next
            seen[where] = Given(TYPES[tensor.dtype], held.resolve_neg().numpy().copy()), tensor
        found[name], _ = seen[where]
    return found


def _place(name: str, tensor: Tensor) -> tuple[Any, ...]:
    """The same for two tensors that are the same numbers in memory."""
    # where two tensors of no numbers lie is the same place
    if not tensor.numel() or tensor.is_meta or tensor.layout != torch.strided:
        return (name,)
    # negatives of tensors, as in conjugates, are lazy
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.is_neg())


def _check(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise ArtifactError(
            f"entry '{name}' is a {type(tensor).__name__}, and a file holds tensors alone: leave it out"
        )
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested or tensor.is_quantized:
        raise ArtifactError(
            f"tensor {name} is no plain dense one: give tensor.to_dense() or .dequantize(), with numbers"
        )
    if tensor.dtype not in TYPES:
        known = ", ".join(ELEMENT_TYPES)
        raise ArtifactError(f"tensor {name} is of type {tensor.dtype}, and a file holds {known}: convert it first")


def to_tensors(numbers: Mapping[str, np.ndarray], dtypes: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of their element types, each with memory of its own."""
    return {name: torch.from_numpy(np.array(held)).to(getattr(torch, dtypes[name])) for name, held in numbers.items()}


def whole_state(module: nn.Module) -> dict[str, Any]:
    """A module's state dict, and behind it the buffers that torch leaves out of it (`persistent=False`).

    These may be random, or move while the module is trained, and then a module built again has others.  What is of
    a type that no file holds, such as uint16, is not among them.
    """
    listed_in_it = module.state_dict()
    others = {
        name: buffer
        for name, buffer in module.named_buffers(remove_duplicate=False)
        if name not in listed_in_it and buffer.dtype in TYPES and buffer.layout == torch.strided
    }
    return {**listed_in_it, **others}


def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a state dict into a module; either all numbers are taken over or none.

    Buffers that are not in the module's own state dict are taken over where the file has them.

    Raises:
        ArtifactError: names, shapes or kinds of numbers differ, what is one tensor in the module is not in the file, or
            a type in the module cannot hold a number; names the first difference.
    """
    own, needed = whole_state(module), module.state_dict()
    missing, unknown = [name for name in needed if name not in state], [name for name in state if name not in own]
    if missing or unknown:
        said = [f"the file lacks {listed(missing)}"] if missing else []
        said += [f"the module lacks {listed(unknown)}"] if unknown else []
        raise ArtifactError(
            f"the file is not of this module: {' and '.join(said)}; build the module as it was when the file was made"
        )
    own = {name: tensor for name, tensor in own.items() if name in state}
    for name, tensor in own.items():
        if not isinstance(tensor, Tensor):
            raise ArtifactError(f"entry '{name}' of the module's state is no tensor, and a file holds nothing else")
        if tensor.shape != state[name].shape:
            raise ArtifactError(
                f"the file is not of this module: {name} has shape {tuple(tensor.shape)} in the module, "
                f"{tuple(state[name].shape)} in the file; build the module as it was when the file was made"
            )
        if tensor.is_floating_point() != state[name].is_floating_point():
            raise ArtifactError(
                f"the file is not of this module: {name} is {tensor.dtype} in the module, "
                f"{state[name].dtype} in the file"
            )
        _check_fits(name, state[name], tensor.dtype)
    _check_tied(own, state)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _check_fits(name: str, given: Tensor, dtype: torch.dtype) -> None:
    """Floats may be rounded, but not to infinity, and whole numbers stay what they are."""
    taken = given.to(dtype)
    lost = given.isfinite() & ~taken.isfinite() if given.is_floating_point() else taken.to(given.dtype) != given
    if bool(lost.any()):
        raise ArtifactError(
            f"{name} is {dtype} in the module, which cannot hold {given[lost][0].item():g} of the file: make it "
            f"{given.dtype} in the module"
        )


def _check_tied(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """What is one tensor in the module is one in the file, or has the same numbers there."""
    firsts: dict[tuple[Any, ...], str] = {}
    for name, tensor in own.items():
        first = firsts.setdefault(_place(name, tensor), name)
        if not torch.equal(state[first].to(tensor.dtype), state[name].to(tensor.dtype)):
            raise ArtifactError(
                f"the file is not of this module: {first} and {name} are one tensor in the module and have different "
                "numbers in the file; build the module as it was when the file was made"
            )
