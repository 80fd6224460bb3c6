"""Which modules run: noted by torch's hooks for all modules, in one thread, and told from hooks of the user's.

And what one of them puts out.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from pyro_compress.errors import NetworkError, unknown_name

_OURS: set[int] = set()


@contextmanager
def calls_noted(note: Callable[..., None], *, before: bool = False) -> Iterator[None]:
    """Within it `note(module, inputs, output)` is called after every module of this thread that runs.

    Args:
        note: sees the call, and changes nothing.
        before: call `note(module, inputs)` before the module runs instead.
    """
    thread = threading.get_ident()

    def hook(*call: Any) -> None:
        if threading.get_ident() == thread:
            note(*call)

    handle = (register_module_forward_pre_hook if before else register_module_forward_hook)(hook)
    _OURS.add(handle.id)
    try:
        yield
    finally:
        handle.remove()
        _OURS.discard(handle.id)


def user_hooks(attribute: str) -> bool:
    """Whether torch has hooks for all modules, of the kind that it keeps under that name, that are not from here."""
    return bool(set(getattr(nn.modules.module, attribute)) - _OURS)


def with_output_of(network: nn.Module, name: str, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What `run` returns, and what a module of the network puts out while it runs.

    Args:
        network: runs within `run`.
        name: dotted name of the module; of several calls the last counts.

    Raises:
        NetworkError: there is no such module, or it is not called.
    """
    refuse_unknown_module(network, name)
    seen: list[Tensor] = []
    with network.get_submodule(name).register_forward_hook(lambda module, given, found: seen.append(found)):
        output = run()
    if not seen:
        raise NetworkError(f"'{name}' names a module that the forward pass does not call: name another")
    return output, seen[-1]


def refuse_unknown_module(network: nn.Module, name: str) -> None:
    """Say which modules there are.

    Raises:
        NetworkError: none has that name.
    """
    known = dict(network.named_modules())
    if name not in known:
        raise NetworkError(unknown_name("module", name, filter(None, known)))
