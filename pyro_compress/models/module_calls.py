"""Which modules run: noted by torch's hooks for all modules, in one thread, and told from hooks of the user's."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

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
